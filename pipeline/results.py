"""What a sweep has found so far, read from its ledger: study, arms, trials, comparison, exports.

Needs neither torch nor the data. Knows no worker and no tracker.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .comparison import Against, Comparison, Side, compare, compare_sweeps
from .config import HYPERPARAMETERS, Study, resolved, study_mapping, study_of
from .data.dataset import DataSet
from .errors import UserError
from .ledger.soundness import damaged
from .ledger.store import Ledger, SweepRecord
from .own_code import admit_known, is_own
from .picking import Pick, parse_where, pick
from .records import Params, TrialKey, TrialRecord
from .search.pruners import PRUNERS
from .space import Arm, arms, baseline_arm, hyperparameters
from .stages import standing
from .study_file.identity import study_hash
from .study_file.values import TRUSTED


def why_not_reproducible(study: Study) -> str:
    """Of a sweep that is tagged so, in words."""
    if PRUNERS[study.search.pruner].looks_at_rivals:
        return f"the stopping rule {study.search.pruner} looks at trials that happen to run"
    return "workers with different numerics took part"


@dataclass(frozen=True, slots=True)
class Results:
    """One sweep as its ledger has it."""

    sweep: SweepRecord
    study: Study
    arms: tuple[Arm, ...]
    records: tuple[TrialRecord, ...]
    """in key order"""
    comparison: Comparison

    def arm(self, arm_id: str) -> Arm:
        """An arm by its id."""
        return next(arm for arm in self.arms if arm.id == arm_id)

    def hyperparameters(self, record: TrialRecord) -> Params:
        """Every hyperparameter of a trial, flat."""
        return hyperparameters(self.study, self.arm(record.key.arm), record.params)

    @property
    def own_code(self) -> dict[str, str | None]:
        """What the sweep names of its user's own: name -> hash; None for what loads the data, which have their own."""
        data = [self.study.data.name] if is_own(self.study.data.name) else []
        return {**json.loads(self.sweep.study).get("code", {}), **dict.fromkeys(map(str, data))}

    def admit_code(self, folder: Path | None, *, data_only: bool = False) -> None:
        """Lets this process import the user's own code that the sweep names, from `folder`. Raises UserError."""
        known = self.own_code
        admit_known({name: known[name] for name in known if not data_only or name == self.study.data.name}, folder)

    def record(self, text: str) -> TrialRecord:
        """A trial by its key, or by the beginning of it where that is clear. Raises UserError."""
        found = [record for record in self.records if str(record.key) == text]
        found = found or [record for record in self.records if str(record.key).startswith(text)]
        if len(found) == 1:
            return found[0]
        alike = sorted(self.records, key=lambda record: -_common(str(record.key), text))
        some = ", ".join(str(record.key) for record in (found or alike)[:3])
        what = f"{len(found)} trials begin so" if found else "there is none such"
        raise UserError(
            f"A trial is named ARM/REPLICATE/PHASE/NUMBER, but got {text!r}: {what}. Some: {some or '(none yet)'}."
        )

    def every_pair(self) -> Comparison:
        """The comparison with every pair of arms that is matched, not only those with a baseline."""
        return compare_records(self.study, json.loads(self.sweep.study)["data"], self.records, all_pairs=True)

    def against(self, other: Results) -> Against:
        """This sweep against another one. Raises UserError where their numbers cannot be compared."""
        return compare_sweeps(self._side, other._side)

    @property
    def _side(self) -> Side:
        return Side(self.sweep.name, json.loads(self.sweep.study), self.comparison, self.sweep.fingerprint)

    def pick(self, rule: str = "max", where: Sequence[str] = (), objectives: Sequence[str] = ()) -> Pick:
        """The configuration to take; see picking/. `where`: `factor=value`. Raises UserError."""
        return pick(
            self.comparison,
            self.records,
            search_metric=self.study.search.metric,
            rule=rule,
            where=parse_where(where, self.study.scientific),
            objectives=objectives,
            fixed=hyperparameters(self.study, Arm("", {}), {}),
            domains=self.study.nuisance,
        )


def describe(study: Study, dataset: DataSet) -> dict[str, Any]:
    """The resolved study with the facts of its data, ready for the ledger."""
    images = [len(part) for part in (dataset.train, dataset.val, dataset.test)]
    bins = {} if dataset.bins is None else {"bins": dataset.bins}
    return resolved(
        study,
        data_sha256=dataset.sha256,
        data_id=dataset.id,
        kind=dataset.kind,
        pixels=dataset.pixels,
        images=images,
        **bins,
    )


def load_results(ledger: Ledger, name: str) -> Results:
    """Reads one sweep. Raises UserError when there is none of that name."""
    sweep = ledger.sweep(name)
    if sweep is None:
        known = ", ".join(found.name for found in ledger.sweeps()) or "none yet"
        raise UserError(f"No sweep named {name!r} in this working directory; there are: {known}. See --workdir.")
    plain, study = asked(sweep)
    every = arms(study)
    ids = {arm.id for arm in every}
    records = tuple(record for record in ledger.trials(name) if record.key.arm in ids)
    if sweep.status != "finished":
        records = tuple(standing(study, records))
    return Results(sweep, study, every, records, compare_records(study, plain["data"], records))


def asked(sweep: SweepRecord) -> tuple[dict[str, Any], Study]:
    """What a sweep of the ledger asks: the resolved study and the study.

    Raises LedgerError when it is not what the sweep was begun with, or was last extended to.
    """
    whose = f"sweep {sweep.name!r}"
    try:
        plain: dict[str, Any] = json.loads(sweep.study)
        study, data = study_of(plain), plain["data"]
        images, digest = data["images"], study_hash(plain)
        facts = [data["kind"], data["pixels"], *images, data["sha256"], data["id"], plain["name"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(whose, f"has a study that cannot be read ({str(error).splitlines()[0]})") from error
    if digest != sweep.study_hash or plain["name"] != sweep.name:
        raise damaged(whose, f"has the study {plain['name']!r} with the hash {digest} and not {sweep.study_hash!r}")
    if list(map(type, facts)) != [str, int, int, int, int, str, str, str] or data["pixels"] < 1 or min(images) < 1:
        raise damaged(whose, f"has these facts of its data: {data}")
    return plain, study


def compare_records(
    study: Study, data: Mapping[str, Any], records: tuple[TrialRecord, ...], *, all_pairs: bool = False
) -> Comparison:
    """The comparison of a study's arms. `data`: the facts that `describe` noted."""
    every = arms(study)
    return compare(
        arms=every,
        baselines={arm.id: baseline_arm(study, arm).id for arm in every},
        records=records,
        metric=study.compare.metric,
        factors=tuple(study.compare.baseline),
        replicates=study.search.replicates,
        repeats=study.confirm.repeats,
        alpha=study.compare.alpha,
        margin_nats=study.compare.equivalence_margin_nats,
        pixels=None if data["kind"] == "real" and "bins" not in data else int(data["pixels"]),
        bins=data.get("bins"),
        test_images=int(data["images"][2]),
        likelihood=study.model.likelihood,
        streams=study.search.streams,
        all_pairs=all_pairs,
    )


def single_study(results: Results, record: TrialRecord, name: str) -> Study:
    """A study of nothing but one trial's configuration, with its seed: `train` repeats it to the same bytes."""
    values = results.hyperparameters(record)
    sections: dict[str, dict[str, Any]] = {"model": {}, "train": {"seed": record.seed}}
    for hyperparameter, value in values.items():
        sections[HYPERPARAMETERS[hyperparameter].section][hyperparameter] = value
    plain = study_mapping(results.study)
    return Study.model_validate(
        {
            **{key: plain[key] for key in ("version", "seed", "data")},
            "name": name,
            "question": f"trial {record.key} of sweep {results.sweep.name}",
            **sections,
        },
        context=TRUSTED,  # names are the ledger's: to look them up would load torch
    )


def export_yaml(study: Study) -> str:
    """A single-configuration study as a file for people: only what it says."""
    plain = study_mapping(study)
    kept = {key: plain[key] for key in ("version", "name", "question", "seed", "data", "model", "train")}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def trial_of(study: Study) -> tuple[TrialKey, Params, int]:
    """Key, hyperparameters and seed of a single-configuration study."""
    from .records import Phase
    from .space import trial_seed

    arm = arms(study)[0]
    key = TrialKey(arm.id, 0, Phase.REPEAT, 0)
    return key, hyperparameters(study, arm, {}), trial_seed(study, Phase.REPEAT, 0, 0)


def _common(one: str, other: str) -> int:
    """Characters that two texts begin with together."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
