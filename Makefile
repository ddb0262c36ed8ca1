# `make demo` and `make test` do all the set-up they need, in .venv and the user's cache. Nothing to activate.

PYTHON ?= python3
STORE ?= sqlite
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test lint types tests faults bench clean

demo: $(READY)
	@$(BIN)/python -m examples.flights --store $(STORE)

test: lint types tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy
	$(BIN)/pyright

tests: $(READY)
	$(BIN)/pytest --numprocesses 2 --dist worksteal

faults: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m campaigns

.PHONY: pictures
pictures:
	$(PYTHON) docs/pictures/draw_concepts.py

bench: $(READY)
	PYTHONPATH=tests $(BIN)/python -m benchmarks

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Setting up .venv (once) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(READY)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
