.DEFAULT_GOAL := help
.PHONY: help venv demo test lint check fix bench clean

PYTHON ?= python3
BIN := .venv/bin
# OpenMP's busy-wait makes small products many times slower on a machine that is not idle.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0
export TOKENIZERS_PARALLELISM ?= false

help:  ## List what can be made.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 8

venv: .venv/.installed  ## Make .venv with everything pinned in constraints.txt.

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,embedding]'
	touch $@

demo: venv  ## The whole pipeline on a small real model, with no key: minutes, not hours.
	$(BIN)/safesail run demo

test: venv  ## All tests, a file per core at a time, with line coverage.
	$(BIN)/python -m pytest -n auto --dist loadfile --cov --cov-report=term:skip-covered

lint: venv  ## Format, lint, types and import layers; repairs nothing.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

check: lint test  ## What must pass before a change lands.

fix: venv  ## Repair what can be repaired.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: venv  ## Every benchmark; each prints JSON with its ratios.
	for script in tests/benchmarks/bench_*.py; do \
		$(BIN)/python -m tests.benchmarks.$$(basename $$script .py) || exit 1; done

clean:  ## Remove what was made, fetched models excepted.
	rm -rf .venv runs dist build .coverage .pytest_cache .ruff_cache .hypothesis .import_linter_cache
