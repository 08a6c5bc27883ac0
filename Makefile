# Everything a fresh machine needs: `make demo` and `make test` set themselves up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

CHAOS ?= --pipeline-kills 200 --database-kills 50 --both-kills 25 --pauses 8 --clock 8 --proxy 40 --matches 10000
BENCH ?=
PROVIDERS ?=

.PHONY: help install demo test chaos providers bench lint audit format docs clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Installing into $(VENV) (about a minute, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(STAMP) ## make the virtual environment

demo: $(STAMP) ## load, settle and reconcile a simulated Polymarket
	@$(BIN)/python run_pipeline.py demo

test: $(STAMP) ## run the test suite, a process for each processor
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

chaos: $(STAMP) ## crash tests for up to 45 minutes: kills, pauses, wrong clocks, a bad network (CHAOS="--seed 1 ...")
	@$(BIN)/python -m chaos $(CHAOS)

providers: $(STAMP) ## load the chain from 2,000 providers drawn at random, and compare (PROVIDERS="--seed 1 ...")
	@$(BIN)/python -m chaos.providers $(PROVIDERS)

bench: $(STAMP) ## measure the speed (ten minutes) and write BENCHMARKS.md
	@$(BIN)/python -m bench $(BENCH)

lint: $(STAMP) ## ruff and sqlfluff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/sqlfluff lint --processes 2 --disable-progress-bar dbt_project/models dbt_project/tests dbt_project/analyses

audit: $(STAMP) ## compare the pinned packages with security advisories
	@$(BIN)/python .ci/audit.py

format: $(STAMP) ## let ruff format the code
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .

docs: $(STAMP) ## dbt docs of the models in the configured ClickHouse
	@$(BIN)/python run_pipeline.py dbt docs generate --static

clean: ## remove the environment, caches and demo data (never data/ itself)
	@rm -rf $(VENV) data/demo dbt_project/target .pytest_cache .ruff_cache
