# One command a job; `make help` lists them. Needs python3 (3.11 or newer) and g++, nothing else:
# the tools come into .venv with `make setup`, which every target runs when it must.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.attnlang-setup

# One OpenMP thread a test worker: two workers of two threads each on two cores only take turns.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile -W error

DEMO_SPEC := examples/gemma2_local.attn
# Gemma 2 9B, one local layer: batch, query heads, key heads, queries, keys, head dimension.
DEMO_SHAPE := 1,16,8,8192,8192,256

CPP_SOURCES = $(shell find codegen runtime tests -type f \
	\( -name '*.h' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.cu' \) 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help setup demo transformer test test-slow gpu check format clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv and install attnlang into it, with the tools for work on it

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## compile and run Gemma 2's local attention at its real size; draw its mask
	@mkdir -p demo
	$(BIN)/attnlang run $(DEMO_SPEC) --shape $(DEMO_SHAPE) --dtype bf16
	$(BIN)/attnlang explain $(DEMO_SPEC) --q-len 8192 --kv-len 8192 --plot demo/gemma2_local.png

transformer: $(STAMP)  ## train the paper's Transformer: English number names into German, in minutes
	rm -rf build/transformer
	cd examples && ../$(BIN)/python -m transformer train numbers --folder ../build/transformer

test: $(STAMP)  ## run the tests (without the slow ones and those that need a GPU)
	$(PYTEST) -m 'not slow and not gpu'

test-slow: $(STAMP)  ## run the slow tests (installs the trained model that one of them runs)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[models]'
	$(PYTEST) --dist worksteal -m 'slow and not gpu' || [ $$? -eq 5 ]  # 5: no test is slow

gpu: $(STAMP)  ## run the tests that need a CUDA device, minutes a call (JOBS=16): call it until none is left
	$(PYTEST) --dist load -m gpu tests/gpu --passed build/gpu-passed.txt --until 400

check: $(STAMP)  ## lint, format, types, layers: all that CI checks before it tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/clang-format --dry-run -Werror $(CPP_SOURCES)

format: $(STAMP)  ## format the Python and the C++
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_SOURCES)

clean:  ## remove what the commands above made, .venv too
	rm -rf $(VENV) build dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -type d -name __pycache__ -prune -exec rm -rf {} +
