"""One trial in this process: a single configuration, or a trial of a sweep once more, to the same numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..config import Study
from ..data.dataset import DataSet
from ..errors import UserError
from ..paths import write_atomically
from ..records import Phase, TrialEnded, TrialOutcome, TrialRecord, TrialTask, derive_seed
from ..results import Results, trial_of
from ..stages import stopping_of
from .where import load_study_data


def train_single(study: Study, *, slots: int = 1) -> TrialOutcome:
    """Trains a single-configuration study in this process: the same engine, the same numbers."""
    if not study.is_single:
        raise UserError(
            "train takes one configuration: a file without `scientific` and `nuisance`, such as "
            "`vae-sweep best NAME --export FILE` writes. A study with arms is for `vae-sweep run`."
        )
    key, params, seed = trial_of(study)
    return train_alone(study, load_study_data(study), TrialTask(key, params, seed, (), True, True))


def train_again(results: Results, record: TrialRecord) -> TrialOutcome:
    """Trains one trial of a sweep again, alone, in this process."""
    task = TrialTask(
        key=record.key,
        hyperparameters=results.hyperparameters(record),
        seed=record.seed,
        thresholds=record.thresholds,
        stopping=stopping_of(results.study, record.key.phase),
        evaluate_test=record.key.phase is Phase.REPEAT,
        keep_weights=True,
    )
    return train_alone(results.study, load_study_data(results.study), task)


def train_alone(study: Study, dataset: DataSet, task: TrialTask) -> TrialOutcome:
    """One trial in one slot of the inline executor."""
    from ..execution.inline import InlineExecutor

    executor = InlineExecutor(dataset, workers=1, slots=1, bank_seed=derive_seed(study.seed, "bank"))
    executor.submit("inline-0", [task])
    while True:
        for event in executor.poll(0.0):
            if isinstance(event, TrialEnded):
                return event.outcome


def save_outcome(folder: Path, outcome: TrialOutcome) -> None:
    """Writes a trial's files and `result.json` into `folder`."""
    for name, content in outcome.files.items():
        write_atomically(folder / name, content)
    summary: Mapping[str, object] = {
        "state": outcome.state,
        "cause": outcome.cause,
        "epochs": outcome.epochs,
        "metrics": dict(outcome.metrics),
        "curves": {name: list(values) for name, values in outcome.curves.items()},
    }
    write_atomically(folder / "result.json", (json.dumps(summary, indent=1, sort_keys=True) + "\n").encode())


def same_numbers(outcome: TrialOutcome, record: TrialRecord) -> bool | None:
    """Whether a trial trained again gave the ledger's numbers, bit for bit; None where it had not ended."""
    if record.outcome is None:
        return None
    mine, theirs = ((o.state, dict(o.metrics), dict(o.curves), o.cause) for o in (outcome, record.outcome))
    return mine == theirs
