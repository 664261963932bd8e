"""What a larger study adds to a smaller one of the same name, and whether a sweep of the smaller can become one of it.

It can where all that was proposed and trained is also part of the larger sweep: seeds know neither the arm nor how many
there are of anything, and no sampler looks at how many trials are to come. The result is then that of a fresh sweep of
the larger study, byte for byte. Pure: studies in, words out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .config import study_of
from .records import canonical_json, digest
from .space import arms, has_shortlist
from .study_file.identity import study_differences, study_hash

GROWING: Mapping[tuple[str, str], str] = {
    ("search", "trials"): "trials of every search",
    ("search", "replicates"): "replicates of every arm",
    ("confirm", "candidates"): "candidates of every shortlist",
    ("confirm", "candidate_seeds"): "seeds of every candidate",
    ("confirm", "repeats"): "repeats of every chosen configuration",
}
"""What may become more, never less."""

_REASONS: Mapping[str, str] = {
    "seed": "all numbers follow from it",
    "data": "what has been trained has seen other images",
    "model": "what has been trained had the former value",
    "train": "what has been trained had the former value",
    "nuisance": "earlier proposals come from the former space",
    "search": "earlier proposals would have been others",
}


@dataclass(frozen=True, slots=True)
class Extension:
    """The way from one study to another."""

    added: tuple[str, ...]
    """what the new one asks for beyond the old one; empty: nothing"""
    again: str
    """what of the old one is decided anew; empty: nothing"""
    refused: tuple[str, ...]
    """differences that no extension can bridge, each with its reason"""


def extension_of(old: Mapping[str, Any], new: Mapping[str, Any]) -> Extension:
    """From the `resolved` study of a sweep to another one of its name."""
    added, refused = list(_question(old, new)), list(_fixed(old, new))
    for part in (_arms, _counts):
        part(old, new, added.append, refused.append)
    return Extension(tuple(added), _again(old, new), tuple(refused))


def lasting_hash(resolved: Mapping[str, Any]) -> str:
    """Digest of what no extension changes: equal for all sizes of a sweep."""
    return digest([study_hash(_without_sizes(resolved)), sorted(resolved["scientific"])])


def _without_sizes(resolved: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in resolved.items() if key not in ("scientific", "compare", "code")}
    for section, name in GROWING:
        rest[section] = {key: value for key, value in rest[section].items() if key != name}
    return rest


def _fixed(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    moved = set(old["scientific"]) ^ set(new["scientific"])
    for line in study_differences(_without_sizes(old), _without_sizes(new)):
        path = line.split(":")[0]
        if path.split(".")[-1] not in moved:  # a factor's former or later fixed value
            yield f"{line} ({_REASONS.get(path.split('.')[0], 'it must stay as it is')})"
    before, after = old.get("code", {}), new.get("code", {})
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name]:
            yield f"code.{name}: {before[name]} -> {after[name]} (what has been trained ran the former code)"


def _question(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    if old["question"] != new["question"]:
        yield "the question's wording"
    for name in sorted(new["compare"]):
        if old["compare"].get(name) != new["compare"][name]:
            yield f"compare.{name}: {old['compare'].get(name)!r} -> {new['compare'][name]!r}"


def _arms(
    old: Mapping[str, Any], new: Mapping[str, Any], add: Callable[[str], None], refuse: Callable[[str], None]
) -> None:
    before, after = old["scientific"], new["scientific"]
    for factor in sorted({*before, *after}):
        if factor not in before or factor not in after:
            kind = "a new factor" if factor in after else "a factor that is gone"
            refuse(f"scientific.{factor}: {kind} (it makes other arms of all; a sweep of its own can ask that)")
            continue
        gone = sorted({canonical_json(value) for value in before[factor]} - set(map(canonical_json, after[factor])))
        if gone:
            refuse(f"scientific.{factor}: without {', '.join(gone)} (values may come, none may go)")
    if set(before) != set(after):
        return
    former, latter = (arms(study_of(resolved)) for resolved in (old, new))
    known = {arm.id for arm in former}
    labels = [arm.label for arm in latter if arm.id not in known]
    if labels:
        more = f" and {len(labels) - 4} more" if len(labels) > 4 else ""
        add(f"{len(labels)} arm{'s' if len(labels) > 1 else ''}: {'; '.join(labels[:4])}{more}")
    elif len(former) == len(latter) and canonical_json(before) != canonical_json(after):
        add("the order of the arms")


def _counts(
    old: Mapping[str, Any], new: Mapping[str, Any], add: Callable[[str], None], refuse: Callable[[str], None]
) -> None:
    for (section, name), words in GROWING.items():
        before, after = old[section][name], new[section][name]
        if after > before:
            add(f"{words}: {before} -> {after}")
        elif after < before:
            refuse(f"{section}.{name}: {before} -> {after} (it may grow, not shrink)")


def _again(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Shortlists and repeats follow from the trials of the search and from the candidates."""
    deciding = [("search", "trials"), ("confirm", "candidates"), ("confirm", "candidate_seeds")]
    grown = [(section, name) for section, name in deciding if new[section][name] > old[section][name]]
    if not grown or not has_shortlist(study_of(new)):
        return ""
    return "shortlists and repeats are decided anew: those that come out as before are kept, the others trained again"
