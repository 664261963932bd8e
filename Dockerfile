# The one image of the cluster: Ray head and workers, MLflow server, optuna-dashboard (docker/start.sh says which).
# Head and workers must be the same build: what a trial computes depends on the versions in it.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}

# Volumes take their owner from these folders when they are first used.
RUN useradd --uid 10001 --create-home sweep \
 && install -d -o sweep -g sweep /sweeps /artifacts

# Dependencies are a layer of their own, which a change of the product's code leaves alone. On Linux, pip's default
# torch brings CUDA along; TORCH_INDEX may name PyTorch's own package index for CPUs, for an image a third of the size.
ARG TORCH_INDEX=
WORKDIR /build
COPY pyproject.toml constraints.txt ./
RUN mkdir pipeline && touch README.md pipeline/__init__.py \
 && PIP_EXTRA_INDEX_URL="$TORCH_INDEX" pip install --no-cache-dir --constraint constraints.txt '.[cluster]'

# `build` is what the stub left: it is younger than our files, and would be taken for their build.
COPY pipeline pipeline
RUN rm -rf build && pip install --no-cache-dir --no-deps --force-reinstall .
COPY docker/start.sh /usr/local/bin/vae-sweep-start
COPY docker/mlflow_users.py /usr/local/lib/vae-sweep/

ENV RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true GIT_PYTHON_REFRESH=quiet PYTHONUNBUFFERED=1
USER sweep
WORKDIR /home/sweep
