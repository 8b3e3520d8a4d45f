# `make` prints the targets. Everything runs in .venv, which is created on first use.
PYTHON ?= python3
BIN := .venv/bin
# Number of test processes, each with one thread. The tests of a file share fixtures and run in one process.
PROCESSES ?= 2
# Time of make gpu-check.
MINUTES ?= 8
PYTEST = $(BIN)/python -m pytest
TOGETHER = OMP_NUM_THREADS=1 $(PYTEST) -n $(PROCESSES) --dist loadfile --max-worker-restart 3

export RAY_USAGE_STATS_ENABLED ?= 0
export MLFLOW_DISABLE_TELEMETRY ?= true
export GIT_PYTHON_REFRESH ?= quiet

.DEFAULT_GOAL := help
.PHONY: help install install-ffcv quickstart test test-slow test-gpu gpu-check docs lint clean

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# pip also builds with the tested setuptools; newer versions of pip read the second variable.
.venv/.installed install-ffcv: export PIP_CONSTRAINT = constraints.txt
.venv/.installed install-ffcv: export PIP_BUILD_CONSTRAINT = constraints.txt

install: .venv/.installed  ## create .venv with the tested versions

.venv/.installed: pyproject.toml constraints.txt
	@echo "Installing into .venv: about 3 minutes and 7 GB the first time."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install-ffcv: .venv/.installed  ## add the extra ffcv to .venv; docs/data.md lists the system packages it needs
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ffcv]'

quickstart: .venv/.installed  ## condense the digits on this machine and evaluate the set
	$(BIN)/python -P -m dist_condense.run configs/digits.yaml

test: .venv/.installed  ## run the tests that take seconds, PROCESSES=2 at a time
	$(TOGETHER) -o faulthandler_timeout=660 -m "not slow and not gpu"

test-slow: .venv/.installed  ## run the tests that take minutes, PROCESSES=2 at a time
	$(TOGETHER) --no-loadscope-reorder -m "slow and not gpu" --durations=20  # starts the longest files first

test-gpu: .venv/.installed  ## run the tests that need a CUDA device
	$(PYTEST) -m gpu

# Not in .venv alone, because it needs less: see benchmarks/gpu_check.py.
gpu-check:  ## check this machine's GPU in MINUTES=8; DATA=FOLDER with FashionMNIST/ or cifar10/ adds a run
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m benchmarks.gpu_check --minutes $(MINUTES) $(if $(DATA),--data $(DATA))

docs: .venv/.installed  ## build the site of docs/ in .cache/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

lint: .venv/.installed  ## run ruff, its formatter, mypy and shellcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck .ci/run launch/*.sh k8s/base/postgres/*.sh

clean:  ## remove caches, but not .venv, outputs and .cache
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
