# The two commands of the README, and CI's steps. Everything a target needs it installs into .venv by itself.
PYTHON ?= python3
SEEDS ?= 0-99
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin

.PHONY: sweep cluster cluster-down secrets test test-slow test-containers chaos fuzz mutants lint bench bench-quick clean

## the main job: a small sweep on the bundled digits, no server needed
sweep: $(VENV)/run.stamp
	$(BIN)/vae-sweep run configs/quickstart.yaml

## PostgreSQL, MLflow, Ray and optuna-dashboard in containers on this machine; prints the next commands
cluster:
	docker/cluster.sh up

## stops it; what was stored stays
cluster-down:
	docker/cluster.sh down

## the passwords and tokens of the cluster that are missing, in secrets/
secrets:
	docker/make-secrets.sh

## the default test suite, about three minutes on two cores
test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

## the tests that take longer
test-slow: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m slow -n $(JOBS) --dist loadfile

## the cluster's tests, in a stack of their own; skipped, with the reason, where no container engine can be used
test-containers: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m containers -rs

## 10,000 cases of the fuzzers, others each time; under five minutes on two quiet cores
fuzz: $(VENV)/dev.stamp
	$(BIN)/python -m pytest tests/fuzz -m slow --hypothesis-profile long --timeout 0 -rs -n $(JOBS)

## 200 mutants of the numerical core, each held against its tests; 95% must be killed; about half an hour on one quiet core
mutants: $(VENV)/dev.stamp
	$(BIN)/python -m tests.mutation --count 200 --seed 0

## ours against the tools people use today; about an hour on two quiet cores
bench: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.run

## the same in minutes; not for quoting
bench-quick: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.run --quick

## a hundred sweeps under faults drawn from seeds: workers, driver, MLflow, PostgreSQL, disk; about an hour, as root
chaos: $(VENV)/dev.stamp
	$(BIN)/python -m tests.chaos --seeds $(SEEDS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check pipeline tests benchmarks
	$(BIN)/ruff check pipeline tests benchmarks
	$(BIN)/mypy

## the generated parts of docs/study-file.md, docs/cli.md and docs/catalogue.md, after a change of what they describe
.PHONY: docs
docs: $(VENV)/dev.stamp
	$(BIN)/python -m tests.reference

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV)
