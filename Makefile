# make demo   the main job, on the embedded model: one person's facts erased, measured before and after
# make test   lint, types and tests
#
# Both set up an environment of their own in $(VENV), once. `make test VENV=path` uses another one.

PYTHON ?= python3
VENV   ?= .venv-safeedit
# More for pip, such as the index that holds the torch build for your machine.
PIP_FLAGS ?=
PYTEST_FLAGS ?= -n 2 --dist loadfile

BIN := $(VENV)/bin
PIP := $(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt $(PIP_FLAGS)
ONE_THREAD := OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help demo test check clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile
	@echo 'make check  lint and types alone'
	@echo 'make clean  remove the environment and everything that tools left'

demo: $(VENV)/.installed
	@# A verdict is the demo's result, whichever it is: 1 (a gate failed) and 3 (inconclusive) are no
	@# failures of make. Errors (2, 4) are.
	$(BIN)/safeedit erase --policy policies/gdpr_request.yaml --show-sensitive || \
	  { code=$$?; [ $$code -eq 1 ] || [ $$code -eq 3 ] || exit $$code; }

test: check
	HF_HUB_OFFLINE=1 $(ONE_THREAD) $(BIN)/python -m pytest $(PYTEST_FLAGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'safeedit needs Python 3.11 or newer: make PYTHON=python3.11 …' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.installed
