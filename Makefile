# Every target sets up what it needs: a virtual environment in .venv with the versions of constraints.txt.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: help setup demo test test-slow test-fpga test-torch test-gpu exhaustive million formal equivalence mutants lint format bench clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Quaver needs Python 3.11 or later; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@command -v g++ >/dev/null || { echo "Quaver needs g++ to compile simulations; install your system's C++ compiler" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(READY)  ## the virtual environment in .venv

demo: $(READY)  ## train on digits in FP32 and FP8, run it on the simulated accelerator, compare every code
	$(BIN)/quaver demo

test: $(READY) lint  ## lint, types and the fast tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(READY)  ## the tests that take minutes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

test-fpga: $(READY)  ## the tests that run synthesis and place and route
	$(BIN)/python -m pytest -m fpga

# For Linux on x86, PyPI has PyTorch for CUDA only, gigabytes that these tests have no use for: so it is no part
# of the environment, and `make test` skips them. TORCH=… names another build, such as PyTorch's for the CPU.
TORCH ?= torch
test-torch: $(READY)  ## install PyTorch, and run the tests of quaver.torch, all of them
	$(BIN)/python -c 'import torch' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt '$(TORCH)'
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow or not slow" tests/torch

# PyTorch for CUDA, with NVRTC, is the machine's own: install what its driver takes, and 'quaver[cuda]'.
test-gpu: $(READY)  ## the tests that need an NVIDIA GPU; where there is none they say that they were skipped
	$(BIN)/python -m pytest -rs -m gpu tests/torch

exhaustive: $(READY)  ## the adder over all 2^32 operand pairs, the multiplier over all 65,536
	$(BIN)/python -m pytest -m exhaustive -s

million: $(READY)  ## a million frames of the serial link over a line that spoils one in a hundred
	$(BIN)/python -m pytest -m slow -s tests/rtl/test_link.py -k million

formal: $(READY)  ## proofs for all inputs: the adder, and what accelerators offer stays until it is taken
	$(BIN)/python -m pytest -n 2 --dist worksteal -m formal --durations 0

equivalence: $(READY)  ## hold today's adder to that of a revision by SAT: make equivalence BASE=REV
	$(BIN)/python tests/support/equivalence.py $(BASE)

mutants: $(READY)  ## mutation score of every unit: make mutants MUTANTS='--unit pe --count 50 --seed 2'
	PYTHONPATH=tests/support:tests/rtl $(BIN)/python -W ignore tests/support/mutants.py $(MUTANTS)

lint: $(READY)  ## ruff (lint and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Without those that take hours or a downloaded data set: area_by_width, plan_evidence.
BENCHES := accumulation area boards fixed_point formats gates gemm gradient_error link random_bits simulation training \
           utilisation variance_retention

bench: $(READY)  ## the benchmarks that take minutes
	@for b in $(BENCHES); do echo "== bench/$$b.py"; $(BIN)/python bench/$$b.py || exit 1; done

clean:  ## remove the environment and everything built
	rm -rf $(VENV) .build build
