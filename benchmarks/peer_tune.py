"""Peers (a) and (b): Ray Tune with OptunaSearch and MLflowLoggerCallback.

(a) a function trainable, a fresh process a trial, Tune's default; (b) a class trainable whose actors are reused.
"""

from __future__ import annotations

import logging
import os
import secrets
from typing import Any

from benchmarks.common import EXPERIMENT, LEARNING_RATE, SCALES, SEED, Job, parse_job, quiet_environment

SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard copies of every result
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
}
"""Ray reads these when it is imported."""


def function_trainable(config: dict[str, Any], job: Job) -> None:
    """(a): reports after every epoch."""
    from ray import tune

    from benchmarks import workload

    training = workload.train(
        workload.load_images(job.data),
        lambda _, values: tune.report(values),
        epochs=job.epochs,
        seed=SEED,
        **config,
    )
    training.save_pictures(job.folder / str(tune.get_context().get_trial_id()))


def class_trainable() -> Any:
    """(b): an epoch a step, and the next trial in the same process."""
    from ray import tune

    from benchmarks import workload

    class Trainable(tune.Trainable):
        def setup(self, config: dict[str, Any], **given: Job) -> None:
            self.job = given["job"]
            self.reset_config(config)

        def reset_config(self, config: dict[str, Any]) -> bool:
            self.training = workload.Training(workload.load_images(self.job.data), seed=SEED, **config)
            return True

        def step(self) -> dict[str, Any]:
            values = self.training.epoch()
            done = self.iteration + 1 == self.job.epochs
            if done:
                self.training.save_pictures(self.job.folder / str(self.trial_id))
            return {**values, "done": done}

    return Trainable


def logger(job: Job) -> Any:
    """MLflowLoggerCallback, made lighter: only the two curves, not the dozen other numbers of each result."""
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    class Logger(MLflowLoggerCallback):
        def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
            values = {key: result[key] for key in ("train/elbo", "val/elbo")}
            self.mlflow_util.log_metrics(
                run_id=self._trial_runs[trial], metrics_to_log=values, step=result["training_iteration"]
            )

        def log_trial_end(self, trial: Any, failed: bool = False) -> None:
            pictures = job.folder / trial.trial_id
            self.mlflow_util.save_artifacts(run_id=self._trial_runs[trial], dir=str(pictures))
            super().log_trial_end(trial, failed)

    return Logger(tracking_uri=job.store, experiment_name=EXPERIMENT)


def main() -> None:
    """Runs the sweep."""
    job = parse_job(__doc__ or "", ["function", "class"])
    quiet_environment()
    os.environ |= SETTINGS | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    ray.init(num_cpus=job.processes, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    trainable = class_trainable() if job.mode == "class" else function_trainable
    results = tune.Tuner(
        tune.with_parameters(trainable, job=job),
        param_space={"scale": tune.choice(list(SCALES)), "learning_rate": tune.loguniform(*LEARNING_RATE)},
        tune_config=tune.TuneConfig(
            metric="val/elbo",
            mode="max",
            search_alg=OptunaSearch(seed=SEED),
            num_samples=job.trials,
            reuse_actors=job.mode == "class",
        ),
        run_config=tune.RunConfig(
            storage_path=str(job.folder),
            callbacks=[logger(job)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    ).fit()
    if results.num_errors:
        raise SystemExit(f"{results.num_errors} trials failed: {results.errors[0]}")
    ray.shutdown()


if __name__ == "__main__":
    main()
