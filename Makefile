# `make demo` and `make test` do all the set-up they need, in .venv and the user's cache. Nothing to activate.

PYTHON ?= python3
STORE ?= sqlite
BIN := .venv/bin
READY := .venv/ready
DEMO := $(if $(filter dynamodb,$(STORE)),$(READY),.venv/demo)

# Tests and campaigns start many processes, and each of them would compile the library and the tests anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo shop test lint types tests browser docs faults servers bench build lock latest lowest clean

demo: $(DEMO)
	@$(BIN)/python -m examples.flights --store $(STORE)

# A day of three services, to look into with `eventsrc`.
shop: $(DEMO)
	@$(BIN)/python -m examples.shop --store $(STORE)

test: lint types tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	@$(MAKE) --no-print-directory --jobs 2 mypy pyright

.PHONY: mypy pyright
mypy: $(READY)
	$(BIN)/mypy

pyright: $(READY)
	$(BIN)/pyright --pythonpath $(BIN)/python

# Twice as many processes as CI has cores: many tests wait for servers and child processes.
tests: $(READY)
	$(if $(EVENTSRC_BROWSER),@$(MAKE) --no-print-directory browser)
	$(BIN)/pytest --numprocesses 4 --dist worksteal
	@PYTHONPATH=tests $(BIN)/python -m support.browser

# A Chromium for the tests of the studio, if there is none: the distribution's, as root, or Playwright's.
browser: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m support.browser --install

# The examples of README.md and docs/, and the tables there against the code; part of `make tests`.
docs: $(READY)
	$(BIN)/pytest tests/unit/test_docs.py

build: $(READY)
	$(BIN)/hatchling build

# All campaigns, or some: `make faults PART=reading`.
faults: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m campaigns $(PART)

# The contracts on other servers of DynamoDB's protocol: dynalite and moto.
servers: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m campaigns.servers

.PHONY: pictures
pictures:
	$(PYTHON) docs/pictures/draw_concepts.py

bench: $(READY)
	PYTHONPATH=tests $(BIN)/python -m benchmarks

# What requirements/*.txt pin, for every platform and Python: the newest versions that pyproject.toml admits.
COMPILE = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--annotation-style line --custom-compile-command 'make lock' pyproject.toml
lock: $(READY)
	$(COMPILE) --group dev --extra client --extra dynamodb --extra local --extra studio --extra telemetry --output-file requirements/dev.txt
	$(COMPILE) --group examples --constraints requirements/dev.txt --output-file requirements/demo.txt

# The suite without the lock, on the newest and on the lowest versions that pyproject.toml admits, in an environment of its own.
latest: RESOLUTION = highest
latest: CHECKS = test
lowest: RESOLUTION = lowest-direct
lowest: CHECKS = tests
latest lowest: $(READY)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-$@
	$(BIN)/uv pip install --quiet --python .venv-$@ --resolution $(RESOLUTION) --group dev --editable '.[client,dynamodb,local,studio,telemetry]'
	$(MAKE) $(CHECKS) BIN=.venv-$@/bin

# Installs what a lock file pins, with pip alone. The demo runs from the folder, so it needs nothing else.
define INSTALL
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
@echo "Setting up .venv (once) ..."
@$(PYTHON) -m venv .venv
@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
endef

.venv/demo: requirements/demo.txt
	$(INSTALL)
	@touch $@

$(READY): requirements/dev.txt pyproject.toml
	$(INSTALL)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@ .venv/demo

clean:
	rm -rf .venv .venv-latest .venv-lowest .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
