"""What MLflow runs to load a registered model: a script beside the model's files, never a pickle.

Not imported by us. Must load where nothing of ours is installed but the files that travel with the model, so it
imports by absolute names, and those only when they are needed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

METHODS = ("reconstruct", "encode", "decode", "sample", "score", "picture")


class VaeModel(PythonModel):
    """`predict(x, params={"method": ...})`; the same methods by name through `unwrap_python_model()`.

    encode gives (N, 2·L): the means, then the standard deviations. sample looks at `n` and `seed` alone (-1: the
    fixed bank of z), and ignores its input.
    """

    def load_context(self, context: Any) -> None:
        """Reads card and weights."""
        os.environ.setdefault("MKL_CBWR", "AVX2")  # as in the workers: matrix products of the same bits
        from pipeline.serving.model import load_model

        self._model = load_model(Path(context.artifacts["model"]))
        for name in METHODS:
            setattr(self, name, getattr(self._model, name))

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        """(N, D) images, or (N, L) latents for decode, to one array."""
        given = params or {}
        method, seed = given.get("method", METHODS[0]), int(given.get("seed", -1))
        if method == "sample":
            return self._model.sample(int(given.get("n", 64)), None if seed < 0 else seed)
        if method == "encode":
            return np.concatenate(self._model.encode(model_input), axis=1)
        if method not in ("reconstruct", "decode", "score"):
            raise ValueError(f"method must be reconstruct, encode, decode, sample or score, but got {method!r}")
        return getattr(self._model, method)(model_input)


set_model(VaeModel())
