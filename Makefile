# `make help` says what there is. Every target makes the environment first if it is not there.
VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
BIN = $(abspath $(VENV))/bin
PYTEST_ARGS ?=
BENCH_ARGS ?=

export PATH := $(BIN):$(PATH)
export HF_HUB_OFFLINE ?= 1
export VLLM_NO_USAGE_STATS ?= 1

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint docs docs-check bench clean

help: ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "  VENV=DIR puts the environment elsewhere; MODEL=NAME is what make demo serves;"
	@echo "  TORCH_INDEX_URL=URL is where CPU builds of torch are, if pip does not know."

venv: ## make the environment (seconds once it is there)
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed (python3 is older or missing)" >&2; exit 1; }
	@"$(PYTHON)" scripts/install.py --venv "$(VENV)"

demo: venv ## serve a model with --enhance, ask real questions, show what was saved
	@"$(BIN)/python" scripts/demo.py $(if $(MODEL),--model "$(MODEL)")

test: lint docs-check ## run everything that must hold: style, types, docs, the whole test suite
	@"$(BIN)/python" -m pytest $(PYTEST_ARGS)

lint: venv ## ruff and mypy
	@"$(BIN)/ruff" check
	@"$(BIN)/ruff" format --check
	@"$(BIN)/mypy"

docs: venv ## write the generated parts of docs/
	@"$(BIN)/python" scripts/generate_docs.py --write

docs-check: venv ## fail when a generated part of docs/ is out of date
	@"$(BIN)/python" scripts/generate_docs.py --check

bench: venv ## microseconds of each step; docs/benchmarks.md has the benchmarks that need a server
	@"$(BIN)/python" benchmarks/inprocess.py $(BENCH_ARGS)

clean: ## remove caches and build outputs, but not the environment
	rm -rf .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
