# Every target sets up what it needs in .venv; `make` alone lists the targets.
.DEFAULT_GOAL := help
PYTHON ?= python3
# The torch build that the tests run with; docs/contributing.md names a smaller one for Linux.
TORCH ?= torch==2.13.0
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The official ISIC scorer needs Python 3.13: from the path, or from pyenv.
PYTHON313 ?= $(firstword $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.13*/bin/python3.13) python3.13)
OFFICIAL := .venv/official/bin/isic-challenge-scoring
# pycuda built over a stand-in driver, so that the CUDA code is tested without a GPU.
STANDIN := $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),.venv/pycuda)
# TensorRT's bindings of two versions, for tests/unit/backends/test_bindings.py.
BINDINGS := $(if $(STANDIN),.venv/bindings)
# A server of the S3 protocol; 300 MB, so only for make test-slow.
MOTO := .venv/moto/bin/moto_server
GPU_EXTRA ?= tensorrt
# Folder of images for `make bench` and `make bench-peers`; drawn ones by default.
IMAGES ?=
# Commit that `make bench-check` compares with.
BASE ?= main

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

demo: .venv/base ## Set up, then segment and evaluate twelve drawn images in ./demo
	rm -rf demo
	$(BIN)/lesioncli demo demo
	cd demo && ../$(BIN)/lesioncli build-engine
	cd demo && ../$(BIN)/lesioncli segment ./images --out masks/ --overlay
	cd demo && ../$(BIN)/lesioncli evaluate --gt ./labels

TEST_SETUP := .venv/dev $(STANDIN) $(BINDINGS) $(if $(shell $(PYTHON313) --version 2>/dev/null),$(OFFICIAL))

test-setup: # pycuda takes 100 s to compile, so it is built beside the rest
	@$(MAKE) --no-print-directory --jobs 2 $(TEST_SETUP)

test: test-setup ## Set up what the tests need and run them
	$(BIN)/python -m pytest --numprocesses auto

test-slow: test-setup $(MOTO) ## Full-size networks, long kills and races
	$(BIN)/python -m pytest -m slow --numprocesses auto

test-gpu: .venv/dev ## On a machine with an NVIDIA GPU: tests and figures; GPU_EXTRA=cuda,rtx or cuda alone
	$(PIP) --editable '.[dev,$(GPU_EXTRA)]'
	$(BIN)/python -m pytest -m gpu -s tests/gpu

gpu-pack: .venv/bin/python ## Write ./gpu-pack: test-gpu for a machine with a GPU and without a network
	$(BIN)/python tests/gpu/pack.py gpu-pack

lint: .venv/dev ## Check style and formatting, of Dockerfiles too
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile Dockerfile.cuda

type: .venv/dev ## Check types
	$(BIN)/mypy

package: .venv/dev ## Build sdist and wheel in ./dist and check them
	$(PIP) build twine
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

docs: .venv/dev ## Build the documentation as a site in ./site
	$(BIN)/mkdocs build --strict

check: lint type test test-slow docs ## Everything that CI runs

bench: .venv/base ## Compare the speed of segment with its bound; IMAGES=folder for your own images
	$(BIN)/python benchmarks/segment_speed.py $(IMAGES)

PEERS := ort_pillow ort_opencv torch_loader

bench-peers: .venv/base $(PEERS:%=.venv/peers/%/ready) ## Compare segment with scripts that do the same; IMAGES='folder folder ...'
	$(BIN)/python benchmarks/peers/compare.py .venv/peers $(IMAGES)

bench-check: .venv/base ## Fail if segment takes 10 % more CPU time than with BASE=commit; IMAGES=folder
	$(BIN)/python benchmarks/check_speed.py $(BASE) $(IMAGES)

bench-evaluate: .venv/base $(OFFICIAL) ## Compare the speed of evaluate with the official ISIC scorer
	$(BIN)/python benchmarks/evaluate_speed.py .venv/official/bin/python

fuzz-images: .venv/dev ## Damage drawn images of every format and print which of them pass as whole
	$(BIN)/python benchmarks/fuzz_images.py

coverage: test-setup ## Run the fast tests, and fail if they miss over 5 % of inference or backends
	$(BIN)/python -m pytest --numprocesses auto --cov --cov-report=term

audit: .venv/base .venv/audit/ready ## Look up known vulnerabilities of the packages in .venv
	$(BIN)/python -m pip freeze --exclude-editable > .venv/audit/requirements.txt
	.venv/audit/bin/pip-audit --requirement .venv/audit/requirements.txt --no-deps --disable-pip --strict

sbom: .venv/base .venv/audit/ready ## Write a list of the packages in .venv to sbom.cdx.json (CycloneDX)
	.venv/audit/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-file sbom.cdx.json

FUZZ_SECONDS ?= 60

fuzz: .venv/dev .venv/atheris ## Mutate files for each reader, guided by coverage, for FUZZ_SECONDS each
	PYTHONPATH=tests:.venv/atheris $(BIN)/python tests/fuzz/run.py $(FUZZ_SECONDS)

fuzz-readers: .venv/dev ## Give 20,000 mutated images and other files to their readers, and print figures
	PYTHONPATH=tests $(BIN)/python benchmarks/fuzz_readers.py

SAMPLE ?= 20

mutate: .venv/dev .venv/mutate/ready ## Change SAMPLE operators and numbers per module; print changes that no test notices
	.venv/mutate/bin/python benchmarks/mutate.py $(SAMPLE)

soak: .venv/dev ## Segment 200,000 small images in one run; print memory, handles and speed
	PYTHONPATH=tests $(BIN)/python benchmarks/soak.py

clean: ## Remove everything that make created, .venv included
	rm -rf .venv .fuzz gpu-pack sbom.cdx.json demo site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/base: pyproject.toml | .venv/bin/python
	$(PIP) --editable .
	@touch $@

.venv/dev: pyproject.toml | .venv/bin/python
	$(PIP) $(TORCH)
	$(PIP) --editable '.[dev]'
	@touch $@ .venv/base

.venv/bindings: | .venv/bin/python
	for version in 10.16 11.4; do $(PIP) --no-deps --upgrade --target .venv/tensorrt-$$version "tensorrt-cu13-bindings==$$version.*" || exit 1; done
	@touch $@

.venv/audit/ready: | .venv/bin/python
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet pip-audit cyclonedx-bom
	@touch $@

# In its own environment, which sees the packages of .venv.
.venv/mutate/ready: | .venv/bin/python
	$(PYTHON) -m venv .venv/mutate
	.venv/mutate/bin/python -m pip install --quiet cosmic-ray==8.7.0
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(.venv/mutate/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	@touch $@

.venv/atheris: | .venv/bin/python
	$(PIP) --target $@ atheris==3.0.0

.venv/pycuda: tests/cuda_standin/install.py | .venv/bin/python
	cd tests && ../$(BIN)/python -m cuda_standin.install
	@touch $@

# An environment for each script; that of torch takes the network from lesioncli.
.venv/peers/%/ready: benchmarks/peers/%.txt | .venv/bin/python
	$(PYTHON) -m venv .venv/peers/$*
	$(if $(filter torch_loader,$*),.venv/peers/$*/bin/python -m pip install --quiet $(TORCH))
	.venv/peers/$*/bin/python -m pip install --quiet --requirement $< $(if $(filter torch_loader,$*),--editable .)
	@touch $@

# In its own environment: with numpy 2.5 the scorer fails on more than 100 images.
$(OFFICIAL): | .venv/bin/python
	$(PYTHON313) -m venv .venv/official
	.venv/official/bin/python -m pip install --quiet --disable-pip-version-check isic-challenge-scoring==5.8.0 'numpy<2.5'

$(MOTO): | .venv/bin/python
	$(PYTHON) -m venv .venv/moto
	.venv/moto/bin/python -m pip install --quiet --disable-pip-version-check 'moto[server,s3]==5.2.5'

.PHONY: help demo test-setup test test-slow test-gpu gpu-pack lint type package docs check bench bench-peers bench-check bench-evaluate coverage audit sbom fuzz fuzz-images fuzz-readers mutate soak clean
