# Needs only Python 3.11 or newer (with venv) and make. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
LOADTEST_ARGS ?=
ROUNDS ?= 50
MESSAGES ?= 1000000
VISITS ?= 1000
STEPS ?= 50
SEED ?= $(shell date +%s)

.DEFAULT_GOAL := help
.PHONY: help demo venv test torture visits check bench loadtest lock clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(STAMP) ## three simulated hospitals, the service, and a patient walked through each (DEMO_ARGS="--port 9080 --admin-port 9081")
	@$(COMPILE)
	@$(BIN)/hisbridge demo $(DEMO_ARGS)

venv: $(DEV_STAMP) ## the virtual environment with everything, tools included

test: $(DEV_STAMP) ## all tests (PYTEST_ARGS="-k seats" for some)
	$(BIN)/python $(if $(PYTEST_ARGS),-m pytest $(PYTEST_ARGS),-m tests.lanes)

torture: $(DEV_STAMP) ## larger searches, crash rounds of bookings and of whole visits (ROUNDS=50 each, SEED=1 to play some again), a million messages (MESSAGES=1000000)
	HISBRIDGE_TORTURE=1 $(BIN)/python -m pytest tests/model tests/history
	ROUNDS=$(ROUNDS) MESSAGES=$(MESSAGES) SEED=$(SEED) $(BIN)/python -m pytest -s tests/torture $(PYTEST_ARGS)

visits: $(DEV_STAMP) ## the whole visit with faults at every HIS call, in VISITS=1000 hospitals of at most STEPS=50 steps each
	VISITS=$(VISITS) STEPS=$(STEPS) $(BIN)/python -m pytest -s tests/visits $(PYTEST_ARGS)

check: $(DEV_STAMP) ## lint, formatting, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(DEV_STAMP) ## every figure of docs/benchmarks.md against its baseline (BENCH_ARGS="--rows get,idle" for some)
	@$(COMPILE)
	@$(BIN)/python -m loadtest.bench $(BENCH_ARGS)

loadtest: $(DEV_STAMP) ## the release peak under load, judged (LOADTEST_ARGS="--profile his-outage --out DIR" for another one)
	@$(COMPILE)
	@$(BIN)/python -m loadtest $(LOADTEST_ARGS)

lock: $(DEV_STAMP) ## write the lock files anew from pyproject.toml
	$(BIN)/pip-compile $(LOCK_OPTIONS) --output-file=requirements.lock pyproject.toml
	$(BIN)/pip-compile $(LOCK_OPTIONS) --extra=dev --output-file=requirements-dev.lock pyproject.toml

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info build

LOCK_OPTIONS := --quiet --no-header --no-annotate --strip-extras --allow-unsafe --generate-hashes \
	--build-deps-for=editable --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

# What an installation does by itself; without it, each start where Python may not write bytecode compiles everything anew.
COMPILE := $(BIN)/python -m compileall -q service.py cli.py booking cli_messages cli_profiles connectors loadtest mappings monitoring scheduler_sync

# Packages come from the lock files, each held to its hash; then our own code, linked. A stamp spares the second run.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "hisbridge needs Python 3.11 or newer; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1 || true)." >&2; \
		echo "Try: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "'$(PYTHON)' lacks venv. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(STAMP): requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing the pinned dependencies ..."
	@$(PIP) install --require-hashes --requirement requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV_STAMP): requirements-dev.lock $(STAMP)
	@echo "Installing the pinned tools ..."
	@$(PIP) install --require-hashes --requirement requirements-dev.lock
	@touch $@
