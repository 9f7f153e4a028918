# Every target sets up what it needs in .venv. `make` alone lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
# The exact build that the tests were run with; for a smaller download on Linux, see "Working on it" in the README.
TORCH ?= torch==2.13.0
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The official scorer asks for this one: on the path, or pyenv's.
PYTHON313 ?= $(firstword $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.13*/bin/python3.13) python3.13)
OFFICIAL := .venv/official/bin/isic-challenge-scoring
# Where the CUDA code is tested, over a driver that needs no GPU.
STANDIN := $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),.venv/pycuda)
GPU_EXTRA ?= tensorrt
# Folder of photographs to time; without one, pictures are drawn.
IMAGES ?=

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

demo: .venv/base ## Set up, then segment and evaluate a dozen drawn pictures in ./demo
	rm -rf demo
	$(BIN)/lesioncli demo demo
	cd demo && ../$(BIN)/lesioncli build-engine
	cd demo && ../$(BIN)/lesioncli segment ./images --out masks/ --overlay
	cd demo && ../$(BIN)/lesioncli evaluate --gt ./labels

test: .venv/dev $(STANDIN) $(if $(shell $(PYTHON313) --version 2>/dev/null),$(OFFICIAL)) ## Set up what the tests need, and run them
	$(BIN)/python -m pytest

test-gpu: .venv/dev ## On a machine with an NVIDIA GPU: test on it, and print figures; GPU_EXTRA=cuda,rtx for TensorRT for RTX
	$(PIP) --editable '.[dev,$(GPU_EXTRA)]'
	$(BIN)/python -m pytest -m gpu -s tests/gpu

lint: .venv/dev ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: .venv/dev ## Check types
	$(BIN)/mypy

check: lint type test ## What CI runs

bench: .venv/base ## Measure segment against its bound; IMAGES=folder for your own pictures
	$(BIN)/python benchmarks/segment_speed.py $(IMAGES)

bench-evaluate: .venv/base $(OFFICIAL) ## Measure evaluate against the official ISIC scorer
	$(BIN)/python benchmarks/evaluate_speed.py .venv/official/bin/python

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
ifeq ($(shell uname -sm),Linux x86_64) # where tests/unit/backends/test_bindings.py asks for them
	for version in 10.16 11.4; do $(PIP) --no-deps --upgrade --target .venv/tensorrt-$$version "tensorrt-cu13-bindings==$$version.*" || exit 1; done
endif
	@touch $@ .venv/base

.venv/pycuda: tests/cuda_standin/install.py | .venv/dev
	cd tests && ../$(BIN)/python -m cuda_standin.install
	@touch $@

# An environment of its own; with numpy 2.5 it fails on more than 100 images.
$(OFFICIAL): | .venv/bin/python
	$(PYTHON313) -m venv .venv/official
	.venv/official/bin/python -m pip install --quiet --disable-pip-version-check isic-challenge-scoring==5.8.0 'numpy<2.5'

.PHONY: help demo test test-gpu lint type check bench bench-evaluate clean
