"""The executors' contract, placement, and the driver over simulated workers: real loop, Optuna and ledger."""

from __future__ import annotations

import cProfile
import os
import pstats
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load_study
from pipeline.errors import SweepConflictError
from pipeline.execution.base import Executor
from pipeline.execution.inline import InlineExecutor
from pipeline.execution.process_pool import ProcessPool
from pipeline.execution.simulated import SimulatedExecutor
from pipeline.execution.worker_server import WorkerServer
from pipeline.ledger.store import Holder, Ledger
from pipeline.packed.structure import Structure, structure_of
from pipeline.packing import Placement
from pipeline.paths import WorkPaths
from pipeline.records import (
    ENDED,
    EpochReport,
    Event,
    Phase,
    State,
    Stopping,
    TrialEnded,
    TrialKey,
    TrialOutcome,
    TrialRecord,
    TrialsReturned,
    WorkerJoined,
    WorkerLost,
)
from pipeline.report.observer import Observer
from pipeline.report.progress import ProgressSnapshot, SilentProgress
from pipeline.results import compare_records
from pipeline.space import arms
from pipeline.stages import Stages
from pipeline.sweep import LOSSES_ALLOWED, Sweep, tally

from .kit import hyperparameters, task, tiny_dataset
from .sweeps import MEDIAN, check_budgets, json_of, run_here, study_file

# ------------------------------------------------------------------------------------------ contract

WORKERS, SLOTS = 2, 2
FACTS = {"kind": "counts", "pixels": 64, "images": [150, 70, 50]}


def _ray_pool() -> Executor:
    from pipeline.execution.environment import prepare_ray

    prepare_ray(None)
    from pipeline.execution.ray_pool import RayPool

    return RayPool(tiny_dataset(), workers=WORKERS, slots=SLOTS, bank_seed=0)


def _process_pool() -> Executor:
    nowhere = Path(os.devnull)
    return ProcessPool(WorkerServer(), tiny_dataset(), workers=WORKERS, slots=SLOTS, bank_seed=0, log=nowhere)


EXECUTORS: Mapping[str, Callable[[], Executor]] = {
    "simulated": lambda: SimulatedExecutor(workers=WORKERS, slots=SLOTS),
    "inline": lambda: InlineExecutor(tiny_dataset(), workers=WORKERS, slots=SLOTS, bank_seed=0),
    "processes": _process_pool,
    "ray": _ray_pool,
}


def events_until(executor: Executor, enough: Callable[[list[Event]], bool]) -> list[Event]:
    events: list[Event] = []
    deadline = time.monotonic() + 120
    while not enough(events):
        assert time.monotonic() < deadline, events
        events += executor.poll(0.1)
    return events


def joined(events: list[Event]) -> list[str]:
    return [event.worker for event in events if isinstance(event, WorkerJoined)]


def outcomes(events: list[Event]) -> dict[TrialKey, TrialOutcome]:
    ended = [event for event in events if isinstance(event, TrialEnded)]
    assert len({event.key for event in ended}) == len(ended), "a trial ended twice"
    return {event.key: event.outcome for event in ended}


def begun(events: list[Event]) -> set[TrialKey]:
    return {event.key for event in events if isinstance(event, EpochReport)}


@pytest.mark.parametrize("name", ["simulated", "inline", "processes", pytest.param("ray", marks=pytest.mark.slow)])
class TestExecutor:
    @pytest.fixture
    def executor(self, name: str) -> Iterator[Executor]:
        executor = EXECUTORS[name]()
        yield executor
        executor.close()
        executor.close()

    def workers(self, executor: Executor) -> list[str]:
        """All workers; nothing but their joining may come before there is a trial."""
        events = events_until(executor, lambda events: len(joined(events)) >= WORKERS)
        assert len(joined(events)) == len(events) == len(set(joined(events))) == WORKERS
        assert executor.poll(0.01) == []
        return joined(events)

    def test_every_trial_ends_once_however_many_are_submitted(self, executor: Executor) -> None:
        first, second = self.workers(executor)
        tasks = [task(number) for number in range(11)]
        executor.submit(first, tasks[:7])
        executor.submit(second, tasks[7:9])
        executor.submit(first, [])
        events = events_until(executor, lambda events: bool(outcomes(events)))
        executor.submit(second, tasks[9:])
        events += events_until(executor, lambda more: len(outcomes(events + more)) == len(tasks))
        assert outcomes(events).keys() == {task.key for task in tasks}
        assert executor.poll(0.3) + executor.poll(0.3) == []

    def test_gives_back_what_has_not_begun(self, executor: Executor) -> None:
        first, second = self.workers(executor)
        tasks = {task(number).key: task(number, epochs=400) for number in range(7)}
        executor.submit(first, list(tasks.values()))
        events = events_until(executor, lambda events: len(begun(events)) >= SLOTS)
        executor.withdraw(first, [*tasks, task(99).key])
        events += events_until(executor, lambda more: any(isinstance(event, TrialsReturned) for event in more))
        (returned,) = [event.keys for event in events if isinstance(event, TrialsReturned)]
        assert 0 < len(returned) <= len(tasks) - SLOTS and set(returned) == tasks.keys() - begun(events)
        executor.submit(second, [tasks[key] for key in returned])
        events += events_until(executor, lambda more: len(outcomes(events + more)) == len(tasks))
        assert executor.poll(0.3) + executor.poll(0.3) == []

    def test_reports_every_epoch_before_the_end(self, executor: Executor) -> None:
        first, _ = self.workers(executor)
        executor.submit(first, [task(0, epochs=4), task(1, epochs=2)])
        events = events_until(executor, lambda events: len(outcomes(events)) == 2)
        for key, outcome in outcomes(events).items():
            mine = [event for event in events if isinstance(event, EpochReport | TrialEnded) and event.key == key]
            assert isinstance(mine.pop(), TrialEnded)
            epochs = 4 - 2 * key.number
            assert [event.epoch for event in mine if isinstance(event, EpochReport)] == list(range(1, epochs + 1))
            curve = outcome.curves["val/elbo"]
            assert tuple(event.value for event in mine if isinstance(event, EpochReport)) == curve
            assert (outcome.state, outcome.epochs, len(outcome.epoch_times)) == (State.COMPLETE, epochs, epochs)
            assert {len(values) for values in outcome.curves.values()} == {epochs}
            assert outcome.metrics["val/elbo"] == curve[-1] and "test/elbo" in outcome.metrics
            assert list(outcome.epoch_times) == sorted(outcome.epoch_times)
            assert outcome.started_at <= outcome.epoch_times[0] <= outcome.ended_at

    def test_stops_by_the_rule_that_travels_with_the_trial(self, executor: Executor) -> None:
        first, _ = self.workers(executor)
        impatient = Stopping(patience_epochs=0, min_delta_nats=-1e9)  # nothing is good enough
        executor.submit(
            first,
            [
                task(0, epochs=3, thresholds=(None, 1e9, None)),
                task(1, epochs=3),
                task(2, epochs=3, thresholds=(1e9, None, None), stopping=Stopping(by_latest=True)),
                task(3, epochs=3, stopping=impatient),
            ],
        )
        found = outcomes(events_until(executor, lambda events: len(outcomes(events)) == 4))
        for number, epochs, words in ((2, 1, "latest "), (3, 2, "best of 1 epochs ")):
            one = found[task(number).key]
            assert (one.state, one.epochs) == (State.STOPPED, epochs) and (one.cause or "").startswith(words)
        stopped = found[task(0).key]
        assert (stopped.state, stopped.epochs) == (State.STOPPED, 2)
        assert stopped.cause is not None and stopped.cause.endswith("below 1000000000.000 after epoch 2")
        assert found[task(1).key].state is State.COMPLETE

    def test_numbers_depend_on_the_trial_alone(self, executor: Executor) -> None:
        first, second = self.workers(executor)
        executor.submit(second, [task(number, seed=5) for number in (1, 2)])
        executor.submit(first, [task(0, seed=5), task(3, seed=6)])
        found = outcomes(events_until(executor, lambda events: len(outcomes(events)) == 4))
        curves = [str(sorted(found[task(number).key].curves.items())) for number in range(4)]
        assert curves[0] == curves[1] == curves[2] != curves[3]


# ------------------------------------------------------------------------------------- the simulation


def test_time_is_virtual() -> None:
    executor = SimulatedExecutor(workers=3, slots=2, seconds_per_epoch=1e6)
    executor.poll(0.0)
    executor.submit("simulated-1", [task(number, epochs=10) for number in range(4)])
    began = time.monotonic()
    ends = outcomes(events_until(executor, lambda events: len(outcomes(events)) == 4))
    assert time.monotonic() - began < 5 < 1e7 <= executor.now
    assert len({outcome.ended_at for outcome in ends.values()}) == 4, "each trial has a pace of its own"
    assert [ends[task(number).key].started_at for number in (0, 1)] == [0.0, 0.0]
    assert all(ends[task(number).key].started_at > 0 for number in (2, 3)), "two slots only"


def test_lost_workers_take_their_trials_along_and_are_replaced() -> None:
    executor = SimulatedExecutor(workers=2, slots=2, losses={"simulated-0": 2.5, "simulated-2": 0.0}, start_seconds=7.0)
    executor.poll(0.0)
    for worker in (0, 1):
        executor.submit(f"simulated-{worker}", [task(worker, epochs=40)])
    events = events_until(executor, lambda events: bool(outcomes(events)))
    assert outcomes(events).keys() == {task(1).key}
    assert [event.worker for event in events if isinstance(event, WorkerLost)] == ["simulated-0", "simulated-2"]
    assert joined(events) == ["simulated-2", "simulated-3"]


def test_made_up_training_has_an_optimum_noise_and_divergence() -> None:
    executor = SimulatedExecutor(workers=1, slots=100)
    executor.poll(0.0)
    rates = [10 ** (-5 + i / 20) for i in range(100)]
    executor.submit("simulated-0", [task(i, seed=i % 7, learning_rate=rate) for i, rate in enumerate(rates)])
    found = outcomes(events_until(executor, lambda events: len(outcomes(events)) == 100))
    ends = [found[task(i).key] for i in range(100)]
    assert all(end.state is State.COMPLETE for end in ends[:60])
    assert all(end.state is State.DIVERGED and end.epochs < 3 for end in ends[-5:])
    best = max(range(100), key=lambda i: ends[i].metrics["val/elbo"] if ends[i].state is State.COMPLETE else -1e9)
    assert 1e-3 < rates[best] < 1e-2


# ----------------------------------------------------------------------------------------- placement

STRUCTURES = [structure_of(hyperparameters(latent_dim=latent)) for latent in (2, 3, 5)]


def test_workers_first_slots_second_one_structure_side_by_side() -> None:
    placement = Placement()
    for worker in "ab":
        placement.join(worker, 4)
    keys = [TrialKey("arm", 0, Phase.SEARCH, number) for number in range(20)]
    for number, key in enumerate(keys):
        placement.wait(key, STRUCTURES[number % 2])
    assert placement.place() == {
        "a": [keys[0], keys[4], keys[8], keys[12], keys[16], keys[1]],
        "b": [keys[2], keys[6], keys[10], keys[14], keys[18], keys[3]],
    }, "4 slots and half as many again in reserve"
    placement.join("c", 4)
    assert placement.place() == {"c": [keys[number] for number in (5, 7, 9, 11, 13, 15)]}
    assert placement.end(keys[1]) == "a" and placement.end(keys[1]) is None
    assert placement.leave("b") == [keys[number] for number in (2, 3, 6, 10, 14, 18)] and placement.leave("b") == []
    assert placement.place() == {"a": [keys[17]]}
    assert (placement.workers, placement.running) == (2, 12)


def test_the_first_worker_to_join_leaves_the_others_their_share() -> None:
    placement = Placement()
    keys = [TrialKey("arm", 0, Phase.SEARCH, number) for number in range(24)]
    for key in keys:
        placement.wait(key, STRUCTURES[0])
    placement.join("a", 32)
    assert placement.place(among=2) == {"a": keys[:12]} and placement.place(among=2) == {}
    placement.join("b", 32)
    assert placement.place(among=2) == {"b": keys[12:]}
    assert placement.leave("b") == keys[12:]
    for key in keys[12:]:
        placement.wait(key, STRUCTURES[0])
    assert placement.place(among=1) == {"a": keys[12:]}, "nobody else is on the way"


@pytest.mark.parametrize("seed", range(5))
def test_places_as_a_look_at_all_workers_would(seed: int) -> None:
    draw = random.Random(seed)
    slots = draw.choice([4, 8, 16])
    placement, checked = Placement(), 0
    loads, structures = dict[str, dict[TrialKey, Structure]](), dict[TrialKey, Structure]()
    for number in range(600):
        match draw.randrange(10):
            case 0 if len(loads) < 8:
                placement.join(f"w{number}", slots)
                loads[f"w{number}"] = {}
            case 1 if len(loads) > 3:
                worker = draw.choice(list(loads))
                assert placement.leave(worker) == sorted(loads.pop(worker))
            case 2 | 3 | 4 | 5 | 6 if any(loads.values()) and number // 40 % 2:
                worker = draw.choice([name for name, load in loads.items() if load])
                key = draw.choice(list(loads[worker]))
                del loads[worker][key]
                assert placement.end(key) == worker
            case _:
                key, structure = TrialKey("arm", 0, Phase.SEARCH, number), draw.choice(STRUCTURES)
                placement.wait(key, structure)
                handed = placement.place()
                if list(handed.values()) == [[key]]:
                    ranks = {name: (len(load), -list(load.values()).count(structure)) for name, load in loads.items()}
                    assert ranks[next(iter(handed))] == min(ranks.values())
                    checked += 1
                structures[key] = structure
                for worker, keys in handed.items():
                    loads[worker] |= {taken: structures[taken] for taken in keys}
        assert placement.running == sum(map(len, loads.values()))
        assert all(len(load) <= slots + slots // 2 for load in loads.values())
    assert checked > 20


# ------------------------------------------------------------------------------------------ the driver


FAR = {"learning_rate": {"low": 1.0e-4, "high": 1.0, "log": True}}
"""so far that some made-up trainings diverge"""


class Recorder(SilentProgress):
    """Remembers the last snapshot and all lines."""

    last: ProgressSnapshot | None = None

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    def start(self, snapshot: ProgressSnapshot) -> None:
        self.last = snapshot

    update = start


def driven(
    file: Path,
    workdir: Path,
    *,
    workers: int,
    slots: int,
    stop_after: int | None = None,
    around: Callable[[Sweep], bool] = Sweep.run,
    **options: Any,
) -> tuple[list[TrialRecord], ProgressSnapshot]:
    """The ledger's trials, and the last snapshot, of a sweep over simulated workers; goes on where there is one."""
    paths, study, progress = WorkPaths.at(workdir), load_study(file), Recorder()
    paths.workdir.mkdir(exist_ok=True)
    with Ledger.open(paths.ledger_url) as ledger:
        known = ledger.trials(study.name)
        if ledger.sweep(study.name) is None:
            ledger.create_sweep(name=study.name, study="{}", study_hash="", created_at=0.0)
        holder = Holder.current()
        ledger.acquire_lease(study.name, "driver", holder=holder, now=time.time())
        searches = [(arm, replicate) for arm in arms(study) for replicate in range(study.search.replicates)]
        observer = Observer(study, slots, progress)

        def observe(sweep: Sweep) -> None:
            observer(sweep)
            if stop_after is not None and sum(r.state in ENDED for r in sweep.records()) >= stop_after:
                sweep.stop()

        sweep = Sweep(
            name=study.name,
            stages=[
                Stages(study, a, n, [r for r in known if (r.key.arm, r.key.replicate) == (a.id, n)])
                for a, n in searches
            ],
            ledger=ledger,
            holder=holder,
            executor=SimulatedExecutor(workers=workers, slots=slots, **options),
            paths=paths,
            observe=observe,
        )
        assert around(sweep) == (stop_after is None)
        assert progress.last is not None
        named = [line for line in progress.lines if line.endswith("is ready") or "gets no trials" in line]
        assert len(named) >= workers, "all that join are named"
        trials = ledger.trials(study.name)
        if stop_after is None:
            check_budgets(study, compare_records(study, FACTS, tuple(trials)))
        return trials, progress.last


def logged(records: list[TrialRecord]) -> list[Any]:
    """All that a trial logs but places and times."""
    return [
        (str(r.key), r.state, r.seed, r.params, r.thresholds, r.proposal)
        + ((r.outcome.curves, r.outcome.metrics, r.outcome.cause, r.outcome.epochs) if r.outcome else ())
        for r in records
    ]


@pytest.mark.parametrize("search", [{}, MEDIAN, {"sampler": "random"}], ids=["tpe", "median", "random"])
class TestDriver:
    def test_nothing_but_the_study_decides_the_numbers(self, tmp_path: Path, search: dict[str, Any]) -> None:
        file = study_file(tmp_path, search=search, nuisance=FAR)
        plain, _ = driven(file, tmp_path / "plain", workers=1, slots=1)
        assert {State.COMPLETE, State.DIVERGED} <= {r.state for r in plain} <= ENDED
        assert any(r.state is State.STOPPED for r in plain) == (search is MEDIAN)
        many: dict[str, dict[str, Any]] = {
            "many": {"workers": 100, "slots": 16},
            "one at a time": {"workers": 3, "slots": 2, "round_seconds": 0.0},
            "in long rounds": {"workers": 3, "slots": 5, "round_seconds": 3.0},
        }
        for name, options in many.items():
            other, _ = driven(file, tmp_path / name, **options)
            assert logged(other) == logged(plain), name

    def test_neither_do_lost_workers_and_restarts(self, tmp_path: Path, search: dict[str, Any]) -> None:
        file = study_file(tmp_path, search=search, nuisance=FAR)
        plain, _ = driven(file, tmp_path / "plain", workers=1, slots=1)
        losses = {f"simulated-{i}": 2.5 + 5 * i for i in range(0, 12, 2)}
        lost, _ = driven(file, tmp_path / "lost", workers=3, slots=4, losses=losses)
        assert logged(lost) == logged(plain)
        assert max(record.attempts for record in lost) > 1
        for ended, workers in [(10, 2), (25, 5), (60, 1)]:
            stopped, _ = driven(file, tmp_path / "stopped", workers=workers, slots=3, stop_after=ended)
            assert any(record.state not in ENDED for record in stopped)
        resumed, _ = driven(file, tmp_path / "stopped", workers=4, slots=2)
        assert logged(resumed) == logged(plain)

    def test_progress_says_what_the_ledger_has(self, tmp_path: Path, search: dict[str, Any]) -> None:
        file = study_file(tmp_path, search=search, nuisance=FAR)
        stopped, _ = driven(file, tmp_path / "work", workers=2, slots=3, stop_after=30)
        records, snapshot = driven(file, tmp_path / "work", workers=2, slots=3)
        assert len(stopped) < len(records) == snapshot.done == snapshot.total
        counts = Counter(record.key.phase for record in records)
        assert snapshot.phases == {phase: (counts[phase], counts[phase]) for phase in Phase}
        assert (snapshot.workers, snapshot.slots_busy, snapshot.slots) == (2, 0, 6)
        by_arm = tally(records)
        for arm, row in zip(arms(load_study(file)), snapshot.rows, strict=True):
            mine = [record for record in records if record.key.arm == arm.id]
            assert (row.label, row.done, row.total, row.running) == (arm.label, len(mine), len(mine), 0)
            assert row.diverged == sum(by_arm[arm.id, phase, State.DIVERGED] for phase in Phase)
            assert row.stopped == sum(by_arm[arm.id, phase, State.STOPPED] for phase in Phase)
            values = [r.outcome.curves["val/elbo"][-1] for r in mine if r.outcome and r.state is State.COMPLETE]
            assert row.best == max(values)


def test_a_worker_that_comes_late_gets_what_has_not_begun(tmp_path: Path) -> None:
    file = study_file(tmp_path, search={"trials": 16, "sampler": "random", "replicates": 1})
    few, _ = driven(file, tmp_path / "few", workers=1, slots=64)
    more, _ = driven(file, tmp_path / "more", workers=1, slots=64, joins=[1.5])
    assert logged(few) == logged(more)
    ends = [max(record.outcome.ended_at for record in records if record.outcome) for records in (few, more)]
    starts = [
        min(record.outcome.started_at for record in more if record.outcome and record.outcome.worker == worker)
        for worker in ("simulated-0", "simulated-1")
    ]
    assert starts[0] == 0.0 and 1.5 <= starts[1] < 2.5, "at once, not with the next trials"
    assert ends[1] < ends[0]
    assert {record.attempts for record in more} == {1}, "what had not begun was not attempted"


def test_a_worker_with_other_numerics_gets_no_trials_while_there_are_others(tmp_path: Path) -> None:
    file = study_file(tmp_path, search={"trials": 16})
    alike, _ = driven(file, tmp_path / "alike", workers=2, slots=4)
    mixed, _ = driven(file, tmp_path / "mixed", workers=3, slots=4, devices={"simulated-1": "other"})
    assert logged(mixed) == logged(alike)
    assert {record.outcome.worker for record in mixed if record.outcome} == {"simulated-0", "simulated-2"}
    driven(file, tmp_path / "resumed", workers=2, slots=4, stop_after=20)
    others = {f"simulated-{number}": "other" for number in range(3)}
    with pytest.raises(SweepConflictError, match=r"device: simulated there, other here.*--allow-mixed"):
        driven(file, tmp_path / "resumed", workers=3, slots=4, devices=others)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_trial_that_ends_its_workers_fails_and_no_other(tmp_path: Path, workers: int) -> None:
    file = study_file(tmp_path, search={"sampler": "random", "replicates": 1}, confirm={"candidates": 1})
    plain, _ = driven(file, tmp_path / "plain", workers=workers, slots=100)
    guilty = {str(plain[1].key), str(plain[-3].key)}
    assert all(record.state is State.COMPLETE for record in plain if str(record.key) in guilty)
    records, snapshot = driven(
        file, tmp_path / "work", workers=workers, slots=100, start_seconds=1.0, fatal=lambda t: str(t.key) in guilty
    )
    failed = {str(record.key): record for record in records if record.state is State.FAILED}
    assert failed.keys() == guilty and snapshot.done == len(records)
    for record in failed.values():
        assert record.outcome is not None and record.outcome.cause is not None
        assert record.outcome.cause.startswith(f"its worker was lost {LOSSES_ALLOWED + 1} times, at last: lost at")
        assert record.attempts >= LOSSES_ALLOWED + 1
    searches = {record.key: record for record in plain if record.key.phase is Phase.SEARCH}
    for record in records:
        if record.key in searches and str(record.key) not in guilty:
            assert logged([record]) == logged([searches[record.key]])


def test_a_long_trial_is_not_blamed_for_losses_between_which_it_came_further(tmp_path: Path) -> None:
    file = study_file(
        tmp_path, train={"epochs": 12}, search={"trials": 1, "startup": 1}, confirm={"candidates": 1, "repeats": 1}
    )
    losses = {f"simulated-{i}": 2.5 * (i + 1) + 0.8 * i * i for i in range(6)}
    records, _ = driven(file, tmp_path / "work", workers=1, slots=100, losses=losses, start_seconds=0.0)
    assert max(record.attempts for record in records) > LOSSES_ALLOWED + 1
    assert not any(record.state is State.FAILED for record in records)


def test_the_whole_program_runs_on_simulated_workers(tmp_path: Path) -> None:
    one = run_here(study_file(tmp_path), tmp_path / "one", executor="simulated", workers=1, slots=1)
    many = run_here(study_file(tmp_path), tmp_path / "many", executor="simulated", workers=50, slots=3)
    assert json_of(one) == json_of(many)
    assert len({record.outcome.worker for record in many.records if record.outcome}) == 50


def test_the_driver_keeps_no_curves(tmp_path: Path) -> None:
    kept: list[TrialRecord] = []

    def run(sweep: Sweep) -> bool:
        finished = sweep.run()
        kept.extend(sweep.records())
        return finished

    stored, _ = driven(study_file(tmp_path), tmp_path / "work", workers=2, slots=8, around=run)
    assert [record.key for record in kept] == [record.key for record in stored]
    for record, whole in zip(kept, stored, strict=True):
        assert record.outcome is not None and whole.outcome is not None
        assert set(record.outcome.curves) == {"val/elbo"} and record.outcome.epoch_times == ()
        assert record.outcome.curves["val/elbo"] == whole.outcome.curves.get("val/elbo", ())[-1:]


def calls_per_trial(folder: Path, *, replicates: int, workers: int) -> float:
    """Function calls of the driver's process: a cost that no other process on the machine can change."""
    folder.mkdir()
    profile = cProfile.Profile()
    search = {"sampler": "random", "trials": 20, "startup": 20, "replicates": replicates}
    file = study_file(folder, scientific={"scale": ["log_variance"], "latent_dim": [2]}, search=search)
    records, _ = driven(
        file, folder / "work", workers=workers, slots=16, around=lambda sweep: bool(profile.runcall(sweep.run))
    )
    return float(pstats.Stats(profile).total_calls) / len(records)  # type: ignore[attr-defined]


def test_the_cost_of_a_trial_depends_neither_on_trials_nor_on_workers(tmp_path: Path) -> None:
    calls_per_trial(tmp_path / "warm", replicates=2, workers=2)
    few = calls_per_trial(tmp_path / "few", replicates=8, workers=40)
    assert calls_per_trial(tmp_path / "trials", replicates=32, workers=40) < 1.2 * few
    assert calls_per_trial(tmp_path / "workers", replicates=8, workers=160) < 1.2 * few
