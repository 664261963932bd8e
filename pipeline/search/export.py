"""A sweep's searches as studies of an Optuna storage, for optuna-dashboard and the `optuna` command.

The ledger is the truth; this is a copy that may be made again at any time, and adds only what is missing. A trial goes
over once it has ended and all before it: then Optuna numbers it as we do. Optuna adds a trial in one transaction, and
lets nobody change it afterwards. Knows no ledger and no tracker: what is to be said of a trial is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..errors import LedgerError, TrackerError, UserError
from ..ledger.database import DRIVER_ERRORS, Address, DatabaseError
from ..records import Params, State
from ..study_file.values import Domain
from .domains import distribution, encode
from .samplers import Told, quiet

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

KEY = "key"
"""User attribute of a trial: its key in the ledger."""
HASH = "search_hash"
"""User attribute of a study: what its sweep asks of every search, however many there are."""
LONGEST_NAME = 512
"""characters that Optuna's tables hold"""


@dataclass(frozen=True, slots=True)
class ExportedTrial:
    """One ended search trial."""

    key: str
    params: Params
    """the nuisance values as the study file spells them"""
    told: Told
    """as the search's own model was told: a diverged trial is complete, far below all others"""
    curve: Sequence[float]
    """the metric after each finished epoch"""
    started_at: float
    """Unix seconds"""
    ended_at: float
    """Unix seconds"""
    attributes: Mapping[str, Any]
    """JSON values for people and for links"""


@dataclass(frozen=True, slots=True)
class ExportedSearch:
    """One search and its first trials, without a gap."""

    name: str
    attributes: Mapping[str, Any]
    """JSON values; `study_hash` among them"""
    domains: Mapping[str, Domain]
    trials: Sequence[ExportedTrial]


def export(
    url: str, searches: Sequence[ExportedSearch], *, given_by: str, beat: Callable[[], None] = lambda: None
) -> int:
    """Adds to the storage at `url` what it has not got; how many trials those were. `beat` is called between trials.

    Raises UserError when `url`, which was `given_by` an option or variable, is none; TrackerError when the storage
    does not answer, or has a study of that name of another sweep.
    """
    try:
        address = Address.of(url, given_by)
    except LedgerError as error:
        raise UserError(str(error)) from error
    with quiet(), _answers(address, given_by), _opened(address) as storage:
        return sum(_export(storage, address, search, beat) for search in searches)


@contextmanager
def _opened(address: Address) -> Iterator[BaseStorage]:
    from optuna.storages import RDBStorage

    options = {"timeout": 60} if address.is_file else address.client_options
    storage = RDBStorage(address.complete, engine_kwargs={"pool_pre_ping": True, "connect_args": options})
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _export(storage: BaseStorage, address: Address, search: ExportedSearch, beat: Callable[[], None]) -> int:
    study = _study(storage, address, search)
    known = {trial.user_attrs.get(KEY) for trial in study.get_trials(deepcopy=False)}
    missing = [trial for trial in search.trials if trial.key not in known]
    for trial in missing:
        beat()
        study.add_trial(_frozen(trial, search.domains))
    return len(missing)


def _study(storage: BaseStorage, address: Address, search: ExportedSearch) -> Study:
    """The search's study, made where there is none."""
    import optuna

    study = optuna.create_study(study_name=search.name, storage=storage, direction="maximize", load_if_exists=True)
    found = study.user_attrs
    if found.get(HASH, search.attributes[HASH]) != search.attributes[HASH] or (HASH not in found and study.trials):
        raise TrackerError(
            f"An Optuna study {search.name!r} must be this sweep's, but the one in {address.shown} is another's. "
            f"Name another storage, or remove it with `optuna delete-study --study-name {search.name!r}`."
        )
    for name, value in search.attributes.items():
        if name not in found or found[name] != value:
            study.set_user_attr(name, value)
    return study


def _frozen(trial: ExportedTrial, domains: Mapping[str, Domain]) -> FrozenTrial:
    from optuna.trial import FrozenTrial, TrialState

    states = {State.COMPLETE: TrialState.COMPLETE, State.STOPPED: TrialState.PRUNED}
    state = states.get(trial.told.state, TrialState.FAIL)
    return FrozenTrial(
        number=-1,  # Optuna gives it the next one
        trial_id=-1,
        state=state,
        value=None if state is TrialState.FAIL else trial.told.value,
        params={name: encode(domain, trial.params[name]) for name, domain in domains.items()},
        distributions={name: distribution(domain) for name, domain in domains.items()},
        intermediate_values={epoch: value for epoch, value in enumerate(trial.curve, 1) if math.isfinite(value)},
        datetime_start=datetime.fromtimestamp(trial.started_at or trial.ended_at),
        datetime_complete=datetime.fromtimestamp(trial.ended_at),
        user_attrs={KEY: trial.key, **trial.attributes},
        system_attrs={},
    )


@contextmanager
def _answers(address: Address, given_by: str) -> Iterator[None]:
    """Maps what Optuna, the database and a missing driver raise."""
    from optuna.exceptions import OptunaError

    try:
        yield
    except DRIVER_ERRORS as error:
        raise UserError(
            f"An Optuna storage needs its database's driver, but {address.url.drivername} has none installed. "
            f"Install it, or correct {given_by}; for PostgreSQL: postgresql://..."
        ) from error
    except (DatabaseError, OptunaError) as error:
        cause = address.cause(error.__cause__ if isinstance(error, OptunaError) and error.__cause__ else error)
        raise TrackerError(
            f"An Optuna storage must be a database that can be written, but {address.shown} is not: {cause}. "
            f"Check it and {given_by}; nothing is doubled when it is exported again."
        ) from error
