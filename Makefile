# SPDX-License-Identifier: Apache-2.0
# Copyright Contributors to the pyro_groupprior project.
#
# Every target sets up what it needs in .venv; python3 (3.10 or newer), git and make suffice.

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
INSTALLED_FROM := setup.cfg pyproject.toml constraints.txt
# Folders may not exist yet.
SOURCES := $(wildcard pyro_groupprior tests tutorials benchmarks docs/conf.py conftest.py)
# A benchmark by name, `make bench NAME=collapse`; without one, every file there that is a script.
NAME ?= $(patsubst benchmarks/%.py,%,$(shell grep -ls '^if __name__ ==' benchmarks/*.py))

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help test lint format arviz docs demo bench clean

help:
	@echo "make test     lint, types, tests and doctests"
	@echo "make lint     ruff and mypy only"
	@echo "make format   let ruff rewrite the files"
	@echo "make arviz    open saved posteriors with ArviZ 0.23, and with 1.x by Python 3.12"
	@echo "make docs     the documentation, in docs/_build/html; a warning is an error"
	@echo "make demo     run the demo, python -m tutorials.demo"
	@echo "make bench    run the benchmarks, --quick (one: NAME=...; in full: BENCH_FLAGS=)"
	@echo "make clean    remove the environment, caches and outputs"

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# One stamp for each extra: installed again only when one of the files named changes. Byte code is
# left to the imports, which need little of it: it takes half a minute off the first run.
$(VENV)/installed-%: $(INSTALLED_FROM) | $(BIN)/pip
	$(PIP) install --quiet --no-compile -c constraints.txt -e ".[$*]"
	@touch $@

# Competitors come without their dependencies: one asks for a torchvision that does not fit.
$(VENV)/installed-bench: $(INSTALLED_FROM) benchmarks/requirements.txt | $(BIN)/pip
	$(PIP) install --quiet --no-compile -c constraints.txt -e ".[demo]"
	$(PIP) install --quiet --no-compile --no-deps -r benchmarks/requirements.txt
	@touch $@

lint: $(VENV)/installed-test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n $(WORKERS)

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# Saved posteriors under ArviZ 0.23 and, by another Python, under ArviZ 1.x.
PYTHON_ARVIZ1 ?= python3.12
arviz: $(VENV)/installed-test
	$(BIN)/python -m tests.datatree.saved --python $(PYTHON_ARVIZ1)

docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -W --keep-going -E -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

demo: $(VENV)/installed-demo
	$(BIN)/python -m tutorials.demo

BENCH_FLAGS ?= --quick
bench: $(VENV)/installed-bench
	@set -e; for name in $(NAME); do \
		echo "== $$name"; $(BIN)/python -m benchmarks.$$name $(BENCH_FLAGS); \
	done

clean:
	rm -rf $(VENV) build dist *.egg-info demo_output .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf docs/_build docs/_generated docs/tutorials
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
