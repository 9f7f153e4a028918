# Every target sets up what it needs in .venv. `make` alone lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
# The exact build that the tests were run with; for a smaller download on Linux, see "Working on it" in the README.
TORCH ?= torch==2.13.0
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Folder of photographs to time; without one, pictures are drawn.
IMAGES ?=

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' Makefile

demo: .venv/base ## Set up, then segment and evaluate a dozen drawn pictures in ./demo
	rm -rf demo
	$(BIN)/lesioncli demo demo
	cd demo && ../$(BIN)/lesioncli build-engine
	cd demo && ../$(BIN)/lesioncli segment ./images --out masks/ --overlay
	cd demo && ../$(BIN)/lesioncli evaluate --gt ./labels

test: .venv/dev ## Set up what the tests need, and run them
	$(BIN)/python -m pytest

lint: .venv/dev ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: .venv/dev ## Check types
	$(BIN)/mypy

check: lint type test ## What CI runs

bench: .venv/base ## Measure segment against its bound; IMAGES=folder for your own pictures
	$(BIN)/python tests/bench_segment.py $(IMAGES)

clean: ## Remove what was made, .venv included
	rm -rf .venv demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/base: pyproject.toml | .venv/bin/python
	$(PIP) --editable .
	@touch $@

.venv/dev: pyproject.toml | .venv/bin/python
	$(PIP) $(TORCH)
	$(PIP) --editable '.[dev]'
	@touch $@ .venv/base

.PHONY: help demo test lint type check bench clean
