# Two commands do everything: `make run` and `make test`. `make` alone prints this list.
SHELL := /bin/bash
PYTHON ?= $(or $(shell command -v python3.11),python3)
BIN := .venv/bin
READY := .venv/.ready-$(shell cat pyproject.toml requirements.lock $(wildcard requirements-gpu.txt) Makefile | sha256sum | cut -c1-16)
UV := 0.13.9
TORCH := 2.13.0
INFRA_READY := .venv-infra/.ready-$(shell sha256sum infra/requirements-check.txt | cut -c1-16)
# Empty: pip's own configuration decides. Elsewhere: PyTorch's CPU index, or a CUDA one on a GPU machine (README).
TORCH_INDEX ?=
ALONE := tests/contract/test_router.py tests/contract/test_router_edge.py
.DEFAULT_GOAL := help
.PHONY: help setup run test test-fast check check-infra down bench step lock clean

help:  ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(READY)  ## make .venv from the hashed lock (done by every other target when needed)

$(READY):
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; install Python 3.11 with venv and pip, or set PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "$(PYTHON) is not Python 3.11; set PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	@# torch first, alone and without hashes: with hashes asked for, pip takes the CUDA build (docs/adr/0006)
	$(BIN)/pip install -q --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --no-deps torch==$(TORCH)
	$(BIN)/pip install -q --disable-pip-version-check uv==$(UV)
	$(BIN)/uv pip install --system-certs -q --python $(BIN)/python --no-deps --require-hashes -r requirements.lock
	@if [ -n "$(GPU)" ]; then $(BIN)/uv pip install --system-certs -q --python $(BIN)/python --no-deps -r requirements-gpu.txt; fi
	$(BIN)/uv pip install --system-certs -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'import torch' 2>/dev/null || { echo "pip took a torch build that does not load on this machine (most likely the CUDA build, and there is no CUDA): run 'make clean', then 'make setup TORCH_INDEX=<address of PyTorch'\''s CPU index>' (README, Settings)"; exit 2; }
	@rm -f .venv/.ready-*
	@touch $@

run: $(READY)  ## fresh machine -> local stack -> first champion -> daily refresh -> rolled out and answering; GPU_WORKER=1: on workers
	@$(if $(GPU_WORKER),FRESHRANK_EXECUTOR=celery) $(BIN)/python -m infra.local.run

test: $(READY)  ## all tests that need no GPU and no network
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --ignore=tests/e2e $(addprefix --ignore=,$(ALONE))
	@# one after the other, with both cores to themselves: they watch a router, or hold a stack under load
	@$(BIN)/python -m pytest -q $(ALONE) tests/e2e

test-fast: $(READY)  ## unit tests only: seconds
	@$(BIN)/python -m pytest -q tests/unit

check: $(READY)  ## format, lint, types, import contracts
	@$(BIN)/ruff format --check -q .
	@$(BIN)/ruff check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

check-infra: $(INFRA_READY)  ## infra/: images, compose, chart, Terraform, by validators in an environment of their own
	@.venv-infra/bin/python -m infra.check

$(INFRA_READY): | $(READY)
	$(BIN)/uv venv -q --clear --python $(BIN)/python .venv-infra
	$(BIN)/uv pip install --system-certs -q --python .venv-infra/bin/python --no-deps --require-hashes -r infra/requirements-check.txt
	@touch $@

down:  ## stop the stack; leaves no process behind
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m infra.local down; else echo "there is no .venv, so nothing of this checkout runs"; fi

bench: $(READY)  ## make bench NAME=x: run benchmarks/x.py, print its table, write benchmarks/results/x.json; no NAME: every bar
	@$(BIN)/python -m benchmarks$(addprefix .,$(NAME))

step: $(READY)  ## make step STEP=finetune PARTITION=2017-07-01 INPUT=build_dataset=s3://...json
	@$(BIN)/python -m tasks $(STEP) --partition $(PARTITION) $(foreach input,$(INPUT),--input $(input))

lock: $(READY)  ## resolve requirements.lock anew
	$(BIN)/python -m infra.lock

clean: down  ## stop the stack and delete the environment (data in .freshrank stays)
	rm -rf .venv .venv-infra build *.egg-info
