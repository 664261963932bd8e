"""Peer (c): Optuna asks and tells in one process, one more process a core trains; all of it logged to MLflow.

`best`: the driver logs each trial with one `log_batch`, so only it loads MLflow, while the others train already.
`epoch`: what people write: the training process opens a run and calls `log_metrics` after every epoch.
Processes are forked, so torch is loaded once; one trial is always queued, so that no core waits for the driver.
"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any, NamedTuple

from benchmarks.common import EXPERIMENT, LEARNING_RATE, SCALES, SEED, Job, parse_job, quiet_environment


class Curves(NamedTuple):
    """What a trial sends back."""

    value: float
    """the last validation ELBO"""
    points: list[tuple[str, float, int, int]]
    """(key, value, Unix milliseconds, epoch); empty where the trial has logged itself"""


def train_only(job: Job, experiment: str, number: int, config: dict[str, Any]) -> Curves:
    """`best`: trains, keeps the points, writes the pictures."""
    from benchmarks import workload

    points: list[tuple[str, float, int, int]] = []

    def keep(epoch: int, values: dict[str, float]) -> None:
        now = int(time.time() * 1000)
        points.extend((key, value, now, epoch) for key, value in values.items())

    training = workload.train(workload.load_images(job.data), keep, epochs=job.epochs, seed=SEED, **config)
    training.save_pictures(job.folder / str(number))
    return Curves(points[-1][1], points)


def train_and_log(job: Job, experiment: str, number: int, config: dict[str, Any]) -> Curves:
    """`epoch`: the fluent API, a call an epoch."""
    import mlflow

    from benchmarks import workload

    mlflow.set_tracking_uri(job.store)
    last: dict[str, float] = {}

    def log(epoch: int, values: dict[str, float]) -> None:
        mlflow.log_metrics(values, step=epoch)
        last.update(values)

    with mlflow.start_run(experiment_id=experiment):
        mlflow.log_params(config)
        training = workload.train(workload.load_images(job.data), log, epochs=job.epochs, seed=SEED, **config)
        training.save_pictures(job.folder / str(number))
        mlflow.log_artifacts(str(job.folder / str(number)))
    return Curves(last["val/elbo"], [])


def log_trial(client: Any, job: Job, experiment: str, trial: Any, curves: Curves) -> None:
    """`best`: everything of one trial in as few calls as there are."""
    from mlflow.entities import Metric, Param

    run = client.create_run(experiment).info.run_id
    client.log_batch(
        run,
        metrics=[Metric(*point) for point in curves.points],
        params=[Param(key, str(value)) for key, value in trial.params.items()],
    )
    client.log_artifacts(run, str(job.folder / str(trial.number)))
    client.set_terminated(run)


def warm_up() -> None:
    """Loads what torch loads at the first use of an optimizer: a second of a core."""
    import torch

    torch.optim.Adam([torch.zeros(1, requires_grad=True)], fused=True).step()


def main() -> None:
    """Forks the processes, then runs the sweep."""
    job = parse_job(__doc__ or "", ["best", "epoch"])
    quiet_environment()
    from benchmarks import workload

    workload.load_images(job.data)
    if job.mode == "epoch":
        import mlflow  # noqa: F401
    with ProcessPoolExecutor(job.processes, multiprocessing.get_context("fork")) as pool:
        for _ in range(job.processes):
            pool.submit(warm_up)
        search(job, pool)


def open_experiment(job: Job) -> tuple[Any, str]:
    """A client and a new experiment."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=job.store)
    return client, client.create_experiment(EXPERIMENT)


def search(job: Job, pool: ProcessPoolExecutor) -> None:
    """Asks, hands out, tells, logs."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {
        "scale": optuna.distributions.CategoricalDistribution(SCALES),
        "learning_rate": optuna.distributions.FloatDistribution(*LEARNING_RATE, log=True),
    }
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=SEED))
    running: dict[Future[Curves], optuna.Trial] = {}
    client, experiment = open_experiment(job) if job.mode == "epoch" else (None, "")

    def start() -> None:
        trial = study.ask(space)
        train = train_only if job.mode == "best" else train_and_log
        running[pool.submit(train, job, experiment, trial.number, trial.params)] = trial

    begun = min(job.processes + 1, job.trials)
    for _ in range(begun):
        start()
    client, experiment = (client, experiment) if client else open_experiment(job)  # while the others train
    while running:
        ended = {future: running.pop(future) for future in wait(running, return_when=FIRST_COMPLETED).done}
        for future, trial in ended.items():
            study.tell(trial, future.result().value)
        for _ in range(min(len(ended), job.trials - begun)):
            start()
            begun += 1
        for future, trial in ended.items():
            if job.mode == "best":
                log_trial(client, job, experiment, trial, future.result())


if __name__ == "__main__":
    main()
