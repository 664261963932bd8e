"""Every file name below a working directory, in one place.

    WORKDIR/
      ledger.db                 all sweeps of this directory
      mlflow.db, mlartifacts/   the embedded MLflow store
      NAME/study.yaml           the resolved study
      NAME/delivery.log         what the background delivery printed
      NAME/trials/ARM/REPLICATE/PHASE/NUMBER/samples.png, reconstructions.png, model.safetensors

Knows nothing about what the files hold.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .records import TrialKey


@dataclass(frozen=True, slots=True)
class WorkPaths:
    """File names below one working directory (made absolute)."""

    workdir: Path

    @classmethod
    def at(cls, workdir: str | Path) -> WorkPaths:
        """The paths below `workdir`, which need not exist yet."""
        return cls(Path(workdir).expanduser().resolve())

    @property
    def ledger_url(self) -> str:
        return f"sqlite:///{self.workdir / 'ledger.db'}"

    @property
    def mlflow_url(self) -> str:
        return f"sqlite:///{self.workdir / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.workdir / "mlartifacts"

    def sweep(self, name: str) -> Path:
        return self.workdir / name

    def study(self, name: str) -> Path:
        return self.sweep(name) / "study.yaml"

    def delivery_log(self, name: str) -> Path:
        return self.sweep(name) / "delivery.log"

    def trial(self, name: str, key: TrialKey) -> Path:
        return self.sweep(name) / "trials" / key.arm / str(key.replicate) / key.phase / str(key.number)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` under a temporary name beside `path`, then renames: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
