"""What several tests need: a tiny data set, a complete trial, and a trainer driven to its end.

The default sizes are odd on purpose (images, pixels, hidden units, latents, batch), and the last batch is one image.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Binomial, Normal, kl_divergence

from pipeline.data.dataset import DataSet
from pipeline.packed.trainer import Trainer
from pipeline.records import EpochReport, Phase, State, Stopping, TrialEnded, TrialKey, TrialOutcome, TrialTask, Value

KINDS = {"counts": "counts", "binarised": "binary", "grey": "real"}
LEVELS = 16
DEFAULTS: Mapping[str, Value] = {
    "network": "mlp",
    "hidden": (101,),
    "activation": "relu",
    "latent_dim": 5,
    "posterior": "diagonal",
    "scale": "log_variance",
    "initial_sigma": None,
    "likelihood": "binomial",
    "observation_std": 1.0,
    "objective": "elbo",
    "samples": 1,
    "beta": 1.0,
    "beta_warmup_epochs": 0,
    "beta_cycles": 0,
    "free_bits": 0.1,
    "capacity": 10.0,
    "capacity_epochs": 0,
    "capacity_weight": 10.0,
    "protocol": "as_shipped",
    "epochs": 3,
    "batch_size": 37,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "momentum": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "dtype": "float32",
}


def hyperparameters(**changes: Value) -> dict[str, Value]:
    """Every hyperparameter of a trial, `changes` put over the defaults."""
    unknown = changes.keys() - DEFAULTS.keys()
    assert not unknown, f"no such hyperparameter: {unknown}"
    return {**DEFAULTS, **changes}


def task(
    number: int = 0,
    *,
    seed: int | None = None,
    thresholds: tuple[float | None, ...] = (),
    stopping: Stopping = Stopping(),  # noqa: B008
    evaluate_test: bool = True,
    keep_weights: bool = True,
    **changes: Value,
) -> TrialTask:
    """A trial that reports all it can; `number` is its identity and, unless given, its seed."""
    return TrialTask(
        key=TrialKey("arm", 0, Phase.REPEAT, number),
        hyperparameters=hyperparameters(**changes),
        seed=number if seed is None else seed,
        thresholds=thresholds,
        stopping=stopping,
        evaluate_test=evaluate_test,
        keep_weights=keep_weights,
    )


def dataset_of(
    train: NDArray[Any], val: NDArray[Any], test: NDArray[Any], *, form: str, image_shape: tuple[int, ...]
) -> DataSet:
    """A data set of given images (N, D)."""
    return DataSet(
        name="tiny",
        form=form,
        kind=KINDS[form],
        levels=LEVELS if form == "counts" else None,
        image_shape=image_shape,
        train=train.astype(np.float32),
        val=val.astype(np.float32),
        test=test.astype(np.float32),
        sha256="0" * 64,
    )


def tiny_dataset(
    form: str = "counts", *, train: int = 75, val: int = 37, test: int = 21, image_shape: tuple[int, ...] = (5, 7)
) -> DataSet:
    """Images with three hidden causes, so that there is something to learn."""
    rng = np.random.default_rng(0)
    causes = rng.normal(size=(train + val + test, 3))
    probability = 1 / (1 + np.exp(-causes @ rng.normal(size=(3, int(np.prod(image_shape))))))
    images: dict[str, NDArray[Any]] = {
        "counts": rng.binomial(LEVELS, probability),
        "binarised": rng.binomial(1, probability),
        "grey": probability,
    }
    parts = np.split(images[form], [train, train + val])
    return dataset_of(parts[0], parts[1], parts[2], form=form, image_shape=image_shape)


def drive(trainer: Trainer) -> tuple[dict[TrialKey, TrialOutcome], list[EpochReport], int]:
    """Trains all that is queued; the outcomes, the reports on the way, and how many rounds it took."""
    outcomes: dict[TrialKey, TrialOutcome] = {}
    reports: list[EpochReport] = []
    rounds = 0
    while trainer.busy:
        rounds += 1
        for event in trainer.advance(0.0):
            if isinstance(event, TrialEnded):
                assert event.key not in outcomes, f"{event.key} ended twice"
                outcomes[event.key] = event.outcome
            elif isinstance(event, EpochReport):
                reports.append(event)
    return outcomes, reports, rounds


def train_all(
    tasks: Sequence[TrialTask], slots: int | None, dataset: DataSet | None = None
) -> dict[TrialKey, TrialOutcome]:
    """Outcomes of `tasks`, trained at most `slots` at once, in the order given."""
    trainer = Trainer(dataset or tiny_dataset(), slots=slots, bank_seed=0)
    trainer.submit(tasks)
    outcomes, _, _ = drive(trainer)
    assert outcomes.keys() == {task.key for task in tasks}
    return outcomes


def numbers(outcome: TrialOutcome) -> tuple[State, str | None, int, str, str, Mapping[str, bytes]]:
    """All of an outcome that promise 2 is about: everything but times, places and the pack's size."""
    # repr spells a float exactly, tells -0.0 from 0.0 and lets NaN equal itself
    curves, metrics = repr(sorted(outcome.curves.items())), repr(sorted(outcome.metrics.items()))
    return outcome.state, outcome.cause, outcome.epochs, curves, metrics, outcome.files


def plain_elbo(model: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    """Mean ELBO of counts x (N, D) with noise (N, L), written down with torch.distributions alone."""
    parts = {name: cast(Callable[[Tensor], Tensor], part) for name, part in model.named_children()}
    features = parts["encoder"](x / LEVELS)
    q = Normal(parts["mean"](features), (parts["raw_scale"](features) / 2).exp())
    p = Binomial(LEVELS, logits=parts["decoder"](q.mean + q.stddev * noise))
    rate: Tensor = kl_divergence(q, Normal(0.0, 1.0)).sum(-1)
    log_p: Tensor = p.log_prob(x)  # type: ignore[no-untyped-call]
    return (log_p.sum(-1) - rate).mean()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on, all different."""
    with ExitStack() as held:
        sockets = [held.enter_context(closing(socket.socket())) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
