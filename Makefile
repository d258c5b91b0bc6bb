# `make demo` and `make test` do all of their own set-up; a second run installs nothing.

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
OLD_VENV   ?= .venv-robotwin
OLD_STAMP  := $(OLD_VENV)/.installed
OLD_PYTHON ?=
PYTHON ?= python3
CODE   := policy envs_adapter eval train tests setup.py

.PHONY: help setup vulkan demo test test-robotwin-versions toys plans benchmark lint format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       record, train and evaluate in the embedded simulator (outputs/demo/)"
	@echo "make test       linters, types, import rules and all tests"
	@echo "make test-robotwin-versions   tests of twin_policy with the old versions RoboTwin has (5 GB)"
	@echo "make toys       toy tasks that a subtly wrong policy fails (many minutes)"
	@echo "make plans      verify the shipped seed plans anew, after a change of simulator or task"
	@echo "make benchmark  what simulator, policy and data cost on this machine"
	@echo "make setup      virtual environment, dependencies and a Vulkan device, nothing else"
	@echo "make lint       ruff, mypy and import-linter (make format mends what ruff can)"
	@echo "make clean      remove .venv, caches and build leftovers (outputs/ stays)"

$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "setup: no $(PYTHON) on this machine: install Python >= 3.10, or say which: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "setup: TwinBench needs Python >= 3.10 and $(PYTHON) is $$($(PYTHON) --version 2>&1):" \
	       "say which to use: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq install -y python3-venv >/dev/null; \
	  else \
	    echo "setup: $(PYTHON) has no venv module: on Debian or Ubuntu, sudo apt-get install python3-venv" >&2; exit 1; \
	  fi; }
	@echo "setup: creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(STAMP): $(BIN)/pip setup.py pyproject.toml
	@echo "setup: installing TwinBench and its dependencies into $(VENV) (minutes, the first time)"
	@$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $(STAMP)

# Looked at each time (under a second): the virtual environment may outlive the machine's drivers.
vulkan: $(STAMP)
	@PYTHON=$(BIN)/python bash envs_adapter/install_vulkan.sh

setup: $(STAMP) vulkan

demo: setup
	@$(BIN)/twinbench demo

lint: $(STAMP)
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP)
	@$(BIN)/ruff check --fix $(CODE)
	@$(BIN)/ruff format $(CODE)

# Fast tests first, so that a plain mistake is found before the simulator starts.
test: setup lint
	@bash tests/install_chromium.sh
	@$(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadfile -m "not processes and not simulator and not e2e and not slow"
	@$(BIN)/pytest -q -m "processes and not e2e"
	@$(BIN)/pytest -q -m "simulator and not e2e"
	@$(BIN)/pytest -q -m "e2e"

# What is dropped into RoboTwin must work with what is there: a virtual environment of its own. torch
# of that age wants Python 3.12 at most.
$(OLD_STAMP): tests/robotwin_versions.txt policy/twin_policy/requirements.txt
	@old="$(OLD_PYTHON)"; \
	for each in python3.10 python3.11 python3.12; do \
	  [ -n "$$old" ] || ! $$each -c '' 2>/dev/null || old="$$each"; \
	done; \
	[ -n "$$old" ] || { \
	  echo "test-robotwin-versions: no Python 3.10 to 3.12 on this machine: install one, or say" \
	       "which: make test-robotwin-versions OLD_PYTHON=/path/to/python3.10" >&2; exit 1; }; \
	echo "test-robotwin-versions: creating $(OLD_VENV) with $$old"; \
	"$$old" -m venv $(OLD_VENV)
	@$(OLD_VENV)/bin/python -m pip install --quiet -r tests/robotwin_versions.txt
	@touch $(OLD_STAMP)

test-robotwin-versions: $(OLD_STAMP)
	@PYTHONPATH=policy $(OLD_VENV)/bin/python -m pytest -q -m "not slow" tests/policy

# What a subtly wrong policy fails.
toys: $(STAMP)
	@$(BIN)/pytest -q -s -m slow

# The seed plans that come with the project; a change of simulator, task or config makes them stale.
plans: setup
	@$(BIN)/twinbench plan all --n 100 --refresh --out task_configs/plans

benchmark: setup
	@$(BIN)/python tests/benchmarks/simulator.py
	@$(BIN)/python tests/benchmarks/policy.py
	@$(BIN)/python tests/benchmarks/data.py
	@$(BIN)/python tests/benchmarks/features.py
	@$(BIN)/python tests/benchmarks/video.py
	@$(BIN)/python tests/benchmarks/evaluation.py

clean:
	rm -rf $(VENV) $(OLD_VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
