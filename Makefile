# `make` prints the targets. Everything runs in .venv, which is made on first use.
PYTHON ?= python3
BIN := .venv/bin
# Tests run in so many processes at a time, each with one thread; those of a file share fixtures and stay together.
PROCESSES ?= 2
PYTEST = $(BIN)/python -m pytest
TOGETHER = OMP_NUM_THREADS=1 $(PYTEST) -n $(PROCESSES) --dist loadfile

export RAY_USAGE_STATS_ENABLED ?= 0
export MLFLOW_DISABLE_TELEMETRY ?= true
export GIT_PYTHON_REFRESH ?= quiet

.DEFAULT_GOAL := help
.PHONY: help install install-ffcv quickstart test test-slow test-gpu lint clean

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# What pip builds, it builds with the tested setuptools; newer pips ask the second name.
.venv/.installed install-ffcv: export PIP_CONSTRAINT = constraints.txt
.venv/.installed install-ffcv: export PIP_BUILD_CONSTRAINT = constraints.txt

install: .venv/.installed  ## make .venv with the tested versions

.venv/.installed: pyproject.toml constraints.txt
	@echo "Installing into .venv: about 3 minutes and 7 GB the first time."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install-ffcv: .venv/.installed  ## add the extra ffcv to .venv; first the system packages of docs/data.md
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ffcv]'

quickstart: .venv/.installed  ## condense the digits on this machine and evaluate the set
	$(BIN)/python -P -m dist_condense.run configs/digits.yaml

test: .venv/.installed  ## the tests that take seconds; PROCESSES=2 at a time
	$(TOGETHER) -m "not slow and not gpu"

test-slow: .venv/.installed  ## the tests that take minutes; PROCESSES=2 at a time
	$(TOGETHER) --no-loadscope-reorder -m "slow and not gpu" --durations=20  # the longest files come first

test-gpu: .venv/.installed  ## the tests that need a CUDA device
	$(PYTEST) -m gpu

lint: .venv/.installed  ## ruff, its formatter, mypy and shellcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck .ci/run launch/*.sh k8s/base/postgres/*.sh

clean:  ## remove caches; keeps .venv, outputs and .cache
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
