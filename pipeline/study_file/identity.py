"""Which studies ask the same question: the hash of a resolved study, and what makes two of them differ.

Works on plain mappings, as `config.resolved` makes them; knows no model of a section.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..records import digest

LATER: Mapping[str, Mapping[str, Any]] = {
    "data": {"side": None, "take": None},
    "model": {"posterior": "diagonal"},
    "train": {
        "samples": 1,
        "beta_cycles": 0,
        "free_bits": 0.1,
        "capacity": 10.0,
        "capacity_epochs": 0,
        "capacity_weight": 10.0,
        "protocol": "as_shipped",
    },
    "search": {
        "streams": "common",
        "pruner_percentile": 25.0,
        "pruner_threshold_nats": None,
        "pruner_patience_epochs": 5,
        "pruner_min_delta_nats": 0.0,
    },
}
"""Fields that earlier versions had not, with what they did: at that value a study asks the same question as theirs."""


def _question(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked, whatever it is called. The data are their digest, not where they came from."""
    asked = {key: value for key, value in resolved.items() if key not in ("name", "question")}
    unasked = ("name", "path", "id", "kind", "pixels", "images", "bins")
    asked["data"] = {k: v for k, v in resolved["data"].items() if k not in unasked}
    for section, before in LATER.items():
        asked[section] = {k: v for k, v in asked[section].items() if k not in before or v != before[k]}
    return asked


def study_hash(resolved: Mapping[str, Any]) -> str:
    """Digest of a `resolved` study, the same for equal questions.

    Left out: the name, the question's wording, where the data came from, the order of factors.
    """
    return digest(_question(resolved))


def study_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One `path: old -> new` line per value that makes the hashes of two `resolved` studies differ."""
    before, after = _flat(_question(old)), _flat(_question(new))
    return [
        f"{path}: {before.get(path, '(absent)')} -> {after.get(path, '(absent)')}"
        for path in {**before, **after}
        if before.get(path) != after.get(path)
    ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, Mapping) and inner else {prefix + key: repr(inner)}
    return flat
