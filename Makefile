# `make help` lists what there is. Needs python3 (3.11 or newer), pip, git and make; the rest is installed into .venv.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(if $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>&1 || echo no),,$(p))))

# What keeps the libraries' kernels from AVX512: oneDNN's, torch's own and MKL's.
PLAIN := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2

.PHONY: help install demo test test-plain-processor test-unit format bench clean
.DEFAULT_GOAL := help

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 14

install: $(STAMP) ## Make .venv with searchtune and all it needs at the tested versions

$(STAMP): pyproject.toml constraints.txt
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  if [ -z "$(PYTHON)" ]; then \
	    echo "searchtune needs Python 3.11 or newer, and $$(python3 --version 2>&1) is what there is."; \
	    echo "Install one, or name it: make install PYTHON=/path/to/python3.12"; exit 1; \
	  fi; \
	  $(PYTHON) -m venv $(VENV) 2>/dev/null || { \
	    $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	    $(PYTHON) -m pip --quiet --python $(BIN)/python install pip; \
	  }; \
	fi
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[cpu,demo,dev]'
	@touch $@

demo: install ## Train and measure an adapter on a small set; results replace those in runs/demo
	$(BIN)/searchtune demo --out runs/demo --overwrite

test: install ## Every gate: style, types, floors, all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory test-plain-processor
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

test-plain-processor: install ## What depends on the processor, tested as on one without AVX512
	@if $(BIN)/python -c 'import platform, sys; from searchtune.models.precision import packs; import torch; \
	  sys.exit(platform.machine() not in ("x86_64", "AMD64") or not packs(torch.bfloat16))'; then \
	  $(PLAIN) OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -q -m processor \
	    tests/unit/models tests/unit/training tests/unit/workflows tests/contract/test_architectures.py; \
	else \
	  echo "this processor has no bf16 kernels that could be hidden: the tests run as on a plain one anyway"; \
	fi

test-unit: install ## The quick tests only
	$(BIN)/pytest tests/unit -m "not slow"

format: install ## Put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## Compare the speed of a training step with sentence-transformers
	$(BIN)/python benchmarks/step_throughput.py

clean: ## Remove caches and build output (not .venv, not runs)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
