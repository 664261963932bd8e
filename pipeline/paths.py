"""Every file name below a working directory, in one place; and where the user's cache is.

    WORKDIR/
      ledger.db                 all sweeps of this directory
      mlflow.db, mlartifacts/   the embedded MLflow store
      NAME/study.yaml           the resolved study
      NAME/delivery.log         what the background delivery printed
      NAME/workers.log          what worker processes printed
      .NAME.removed/            what an interrupted `delete` left
      NAME/trials/ARM/REPLICATE/PHASE/NUMBER/samples.png, reconstructions.png, model.safetensors

Knows nothing about what the files hold.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError
from .records import TrialKey


@dataclass(frozen=True, slots=True)
class WorkPaths:
    """File names below one working directory (made absolute)."""

    workdir: Path

    @classmethod
    def at(cls, workdir: str | Path) -> WorkPaths:
        """The paths below `workdir`, which need not exist yet. Raises UserError for a path no database URL can hold."""
        try:
            path = Path(workdir).expanduser().resolve()
            str(path).encode()
        except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop of links, half a character
            raise UserError(
                f"--workdir must be a path that can be looked up, but got {str(workdir)!r}: {error}."
            ) from error
        if any(sign in str(path) for sign in "?%#"):
            raise UserError(f"--workdir must not contain ? % or # (database URLs cannot hold them), but got {path}.")
        return cls(path)

    @property
    def ledger_url(self) -> str:
        """SQLAlchemy URL of the ledger."""
        return f"sqlite:///{self.workdir / 'ledger.db'}"

    @property
    def mlflow_url(self) -> str:
        """Tracking URI of the embedded MLflow store."""
        return f"sqlite:///{self.workdir / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        """Artifacts of the embedded MLflow store."""
        return self.workdir / "mlartifacts"

    def sweep(self, name: str) -> Path:
        """Folder of one sweep."""
        return self.workdir / name

    def study(self, name: str) -> Path:
        """The resolved study."""
        return self.sweep(name) / "study.yaml"

    def delivery_log(self, name: str) -> Path:
        """What the background delivery printed."""
        return self.sweep(name) / "delivery.log"

    def workers_log(self, name: str) -> Path:
        """What worker processes printed."""
        return self.sweep(name) / "workers.log"

    def trial(self, name: str, key: TrialKey) -> Path:
        """Folder of one trial's files."""
        return self.sweep(name) / "trials" / key.arm / str(key.replicate) / key.phase / str(key.number)


def user_cache() -> Path:
    """Folder of what was measured or found on this machine, for all working directories; need not exist."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "vae-sweep"


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` under a temporary name beside `path`, then renames: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    # 0o666 less the user's umask: what is private by it stays so.
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
