"""Trained models beyond their sweep: registering the chosen one, and finding one to sample from.

Introduces results, data, serving and MLflow's registry to each other. Imports torch and MLflow where they are needed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..browse import connect, subject_of
from ..config import Study
from ..data.dataset import DataSet
from ..delivery.records import sweep_run
from ..errors import UserError, VaeSweepError
from ..launch.where import Where, load_study_data, open_ledger
from ..own_code import admit_known, is_own
from ..paths import write_atomically
from ..records import Params, TrialRecord, derive_seed, digest
from ..results import Results, load_results
from .code import copy_code

if TYPE_CHECKING:
    from ..serving.model import ModelCard, ServedModel
    from ..tracking.model_registry import RegisteredVersion

SCRIPT = Path(__file__).parent.parent / "serving" / "mlflow_script.py"
REQUIREMENTS = ("mlflow", "torch", "numpy", "safetensors", "pillow")
"""all that a registered model needs beside its own files"""
TOLERANCE_NATS = 1e-3
"""how far the ELBO of a model read back may be from the recorded one: another device rounds otherwise"""
_NAME = re.compile(r"[^/:@\s'\"`]{1,200}")


def model_card(study: Study, values: Params, dataset: DataSet) -> ModelCard:
    """What a model of these hyperparameters is beside its weights."""
    from ..serving.model import ModelCard

    given: Any = values
    low, high = float(dataset.train.min()), float(dataset.train.max())
    real = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    return ModelCard(
        network=given["network"],
        hidden=tuple(given["hidden"]),
        activation=given["activation"],
        posterior=given["posterior"],
        latent_dim=given["latent_dim"],
        scale=given["scale"],
        likelihood=given["likelihood"],
        observation_std=float(given["observation_std"]),
        dtype=given["dtype"],
        form=dataset.form,
        levels=dataset.levels,
        image_shape=tuple(dataset.image_shape),
        value_range=real if dataset.kind == "real" else (0.0, float(dataset.levels or 1)),
        bank_seed=derive_seed(study.seed, "bank"),
        test_images=len(dataset.test),
    )


def save_card(folder: Path, study: Study, values: Params) -> None:
    """Writes what a model of these hyperparameters is beside the weights in `folder`, if there are some."""
    from ..serving.model import CARD, WEIGHTS

    if (folder / WEIGHTS).is_file():
        write_atomically(folder / CARD, model_card(study, values, load_study_data(study)).dump().encode())


# -------------------------------------------------------------------------------------------- register


def register(
    results: Results, record: TrialRecord, where: Where, name: str, code: Path | None = None
) -> RegisteredVersion:
    """Registers a trial's weights as the MLflow model `name`, alias `champion`.

    `code`: the folder of the user's own code that loads the data, if they name some; a model's own is refused.
    The files are read back and scored first. Raises UserError or VaeSweepError where weights, data or run are missing.
    """
    from ..serving.model import CARD, WEIGHTS, load_model
    from ..tracking.model_registry import ModelRegistry

    if not _NAME.fullmatch(name):
        raise UserError(f"--register takes a name without blanks, quotes and any of / : @, but got {name!r}.")
    values = results.hyperparameters(record)
    own = sorted(
        {str(values[name]) for name in ("network", "posterior", "scale", "likelihood") if is_own(values[name])}
    )
    if own:
        raise UserError(
            f"A registered model brings this program's code along, but not its author's own, and this one needs "
            f"{', '.join(own)}. `vae-sweep sample {results.sweep.name}/{record.key} --code FOLDER` uses it from here."
        )
    results.admit_code(code, data_only=True)
    weights = _weights(results, record, where)
    dataset = _data(results)
    tracker = connect(where)
    if tracker is None:
        raise UserError("A model is registered in MLflow, but nothing is tracked with `--mlflow none`.")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        shutil.copyfile(weights, folder / WEIGHTS)
        (folder / CARD).write_text(model_card(results.study, results.hyperparameters(record), dataset).dump())
        code = copy_code(SCRIPT, Path(temporary) / "code")
        _check_score(load_model(folder), dataset, record)
        package = _package(results, record, where, name, folder, code, dataset)
        return ModelRegistry(tracker).register(results.sweep.name, package)


def _package(
    results: Results, record: TrialRecord, where: Where, name: str, folder: Path, code: Path, dataset: DataSet
) -> Any:
    from ..tracking.model_registry import ModelPackage

    assert record.outcome is not None
    sweep, label = results.sweep, results.arm(record.key.arm).label
    metrics = {name: repr(value) for name, value in record.outcome.metrics.items() if name.split("/")[0] == "test"}
    requirements = [f"{package}=={version(package).partition('+')[0]}" for package in REQUIREMENTS]
    files = sorted(path for top in (folder, code) for path in top.rglob("*") if path.is_file())
    content = [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files]
    ledger_id = f"{sweep_run(sweep, subject_of(results, where)).ledger_id}/{record.key}"
    return ModelPackage(
        name=name,
        content=digest([ledger_id, requirements, content], 32),
        ledger_id=ledger_id,
        folder=folder,
        script=SCRIPT,
        code=code,
        requirements=requirements,
        input_example=dataset.val[:4],
        tags={"sweep": sweep.name, "trial": str(record.key), "arm": label, "seed": str(record.seed), **metrics},
        description=f"{label}, trained as {record.key} of sweep {sweep.name}. {results.study.question}".strip(),
    )


def _weights(results: Results, record: TrialRecord, where: Where) -> Path:
    """The trial's weights. Raises UserError where there are none, with the command that makes them."""
    file = where.paths.trial(results.sweep.name, record.key) / "model.safetensors"
    if not file.is_file():
        trial = f"{results.sweep.name}/{record.key}"
        why = "they are gone" if "model.safetensors" in record.files else "only complete repeats keep theirs"
        raise UserError(
            f"The weights of {trial} must be at {file}, but {why}. Train it again, to the same bytes: "
            f"`vae-sweep train --trial {trial} --out {file.parent}`."
        )
    return file


def _data(results: Results) -> DataSet:
    """The sweep's data as they were. Raises DataError, or UserError where they have changed."""
    dataset, known = load_study_data(results.study), json.loads(results.sweep.study)["data"]
    if dataset.sha256 != known["sha256"]:
        raise UserError(
            f"The data must be those of the sweep ({known['id']}), but are now {dataset.id}. Bring the old ones back."
        )
    return dataset


def _check_score(model: ServedModel, dataset: DataSet, record: TrialRecord) -> None:
    expected = record.outcome.metrics.get("test/elbo") if record.outcome else None
    if expected is None:
        return
    found = math.fsum(model.score(dataset.test)) / len(dataset.test)
    if not abs(found - expected) <= TOLERANCE_NATS:
        raise VaeSweepError(
            f"A model must give the test ELBO that its trial reported, {expected:.6f} nats, but the kept weights give "
            f"{found:.6f}. Train it again with `vae-sweep train --trial`, or on the kind of device that trained it."
        )


# ---------------------------------------------------------------------------------------------- sample


def open_model(text: str, where: Where, code: Path | None = None) -> ServedModel:
    """The model that `sample` was told: a folder or file, SWEEP/TRIAL, or one in the registry. Raises UserError.

    `code`: the folder of the user's own code that the model may name.
    """
    from ..serving.model import CARD, WEIGHTS, load_model, model_of, own_code_in

    path = Path(text).expanduser()
    if path.is_dir() or path.suffix == ".safetensors":
        if path.suffix == ".safetensors" and (path.name != WEIGHTS or not path.is_file()):
            raise UserError(f"A model's weights are in {WEIGHTS} beside {CARD}, as `train` writes them, not {path}.")
        folder = path if path.is_dir() else path.parent
        admit_known(dict.fromkeys(own_code_in(folder)), code)
        return load_model(folder)
    sweep, slash, key = text.partition("/")
    if slash and sweep != "models:":
        with open_ledger(where) as ledger:
            results = load_results(ledger, sweep)
        record = results.record(key)
        results.admit_code(code)
        weights = _weights(results, record, where)
        card = model_card(results.study, results.hyperparameters(record), _data(results))
        return model_of(card, weights)
    return _registered(text, where)


def _registered(text: str, where: Where) -> ServedModel:
    from ..serving.model import load_model
    from ..tracking.model_registry import CHAMPION, ModelRegistry

    name, at, alias = text.removeprefix("models:/").partition("@")
    name, slash, number = name.partition("/")
    if not _NAME.fullmatch(name) or (at and not alias) or (slash and not number.isdecimal()) or (at and slash):
        raise UserError(
            "MODEL must be a registered NAME, NAME@ALIAS or models:/NAME/VERSION, a trial SWEEP/TRIAL, or a folder "
            f"that `train` wrote, but got {text!r}."
        )
    tracker = connect(where)
    if tracker is None:
        raise UserError(f"A registered model is in MLflow, but nothing is tracked with `--mlflow none`: {text!r}.")
    with TemporaryDirectory() as folder:
        wanted = None if slash else alias or CHAMPION
        found = ModelRegistry(tracker).fetch(name, wanted, number or None, Path(folder))
        return load_model(found)
