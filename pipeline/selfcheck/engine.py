"""O1 to O3 and O25: scales that are one another's rescaling train to the same bits in the packed engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..data.dataset import DataSet, load_data
from ..packed.trainer import Trainer
from ..records import Phase, TrialEnded, TrialKey, TrialOutcome, TrialTask, Value
from ..vae.metrics import evaluate, evaluation_set
from ..vae.model import build_vae, initialise, standard_normal_bank
from ..vae.scales import SCALES
from .base import Line

SETTINGS: dict[str, Value] = {
    "network": "mlp", "hidden": (32,), "activation": "relu", "posterior": "diagonal", "latent_dim": 4,
    "initial_sigma": 0.25, "likelihood": "binomial", "observation_std": 1.0, "objective": "elbo", "samples": 1,
    "beta": 1.0, "beta_warmup_epochs": 0, "beta_cycles": 0, "free_bits": 0.1, "capacity": 10.0, "capacity_epochs": 0,
    "capacity_weight": 10.0, "epochs": 20, "batch_size": 64, "learning_rate": 1e-2, "weight_decay": 0.125,
    "momentum": 0.5, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "dtype": "float64",
}  # fmt: skip
"""hyperparameters of every trial here, but for the scale and the optimizer"""
RATES = {"sgd": 1e-4, "adam": 1e-2, "adamw": 1e-2}
"""optimizer -> learning rate"""
CONTROL_NATS = 1e-3
"""without the rescaling the losses must differ by more than this"""


def sgd() -> Sequence[Line]:
    """log σ² is log σ rescaled, under SGD with momentum and weight decay."""
    return _pair("sgd", ("log_std", "log_variance"))


def adam() -> Sequence[Line]:
    """The same under Adam and AdamW."""
    return [line for optimizer in ("adam", "adamw") for line in _pair(optimizer, ("log_std", "log_variance"))]


def mirrored() -> Sequence[Line]:
    """Log-precision is log-variance with the scale head's sign turned."""
    outcomes = _train("adam", ("log_variance", "log_precision"), "sigma0_matched")
    return [Line("largest difference of two loss curves, nats", 0.0, _difference(outcomes), 0.0)]


def relabelled() -> Sequence[Line]:
    """A metric does not change when the same σ is written otherwise."""
    dataset = _digits()
    x = torch.tensor(dataset.val, dtype=torch.float64)
    noise = standard_normal_bank(0, "selfcheck", len(x), 4).double().unsqueeze(0)
    found = []
    for scale, factor in (("log_std", 1.0), ("log_variance", 2.0)):
        model = build_vae(
            network="mlp", pixels=dataset.pixels, hidden=(32,), activation="relu", posterior="diagonal", latent_dim=4,
            likelihood="binomial", levels=dataset.levels,
        ).double()  # fmt: skip
        initialise(model, 3)
        for parameter in model.get_submodule("raw_scale").parameters():
            parameter.data *= factor
        data = evaluation_set(x, model.observation.log_base(x), noise)
        found.append(float(evaluate(model, SCALES[scale].forward, data, {}, 1)["elbo"]))
    return [Line("ELBO of log σ² against log σ, nats", found[0], found[1], 1e-12 * abs(found[0]))]


def _pair(optimizer: str, scales: tuple[str, str]) -> list[Line]:
    matched, shipped = (_train(optimizer, scales, protocol) for protocol in ("jacobian_matched", "as_shipped"))
    return [
        Line(f"{optimizer}: largest difference of two loss curves, nats", 0.0, _difference(matched), 0.0),
        Line(f"{optimizer}: the same without rescaling", CONTROL_NATS, _difference(shipped), 0.0, "at least"),
    ]


def _train(optimizer: str, scales: Sequence[str], protocol: str) -> list[TrialOutcome]:
    changes: dict[str, Value] = {"optimizer": optimizer, "learning_rate": RATES[optimizer], "protocol": protocol}
    tasks = [
        TrialTask(TrialKey("selfcheck", 0, Phase.SEARCH, i), {**SETTINGS, **changes, "scale": scale}, seed=1)
        for i, scale in enumerate(scales)
    ]
    trainer = Trainer(_digits(), slots=len(tasks), bank_seed=0)
    trainer.submit(tasks)
    outcomes: dict[TrialKey, TrialOutcome] = {}
    while trainer.busy:
        outcomes |= {event.key: event.outcome for event in trainer.advance(1.0) if isinstance(event, TrialEnded)}
    return [outcomes[task.key] for task in tasks]


def _difference(outcomes: Sequence[TrialOutcome]) -> float:
    curves: list[Any] = [np.array([outcome.curves[name] for name in sorted(outcome.curves)]) for outcome in outcomes]
    return float(np.abs(curves[0] - curves[1]).max())


def _digits() -> DataSet:
    return load_data(name="digits", split=(400, 100, 100))
