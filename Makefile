# Every target sets up its environment by itself (scripts/setup.sh); nothing else is needed on a fresh machine but one Python from
# 3.10 to 3.13. `make PYTHON=/path/to/python3.12 ...` takes that one.
PYTHON ?=
VENV ?= .venv
BIN := $(VENV)/bin
# Two workers, each with one half of the tests; the one that is done first takes from the other.
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: demo test test-fast test-long test-all test-faults fuzz lint lock bench clean setup

demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/demo.sh

test: setup
	$(PYTEST) -m "not long"

test-fast: setup
	$(PYTEST) -m "not long and not slow"

# What kills, fills a disk, searches or trains on real files: minutes that nobody should wait for after each change.
test-long: setup
	$(PYTEST) -m long

test-all:
	bash scripts/test_all.sh

fuzz: setup
	MMTFRS_FUZZ=20000 MMTFRS_PAIRS=2000 MMTFRS_BATCHES=500 $(PYTEST) tests/serving/test_fuzz.py tests/exporting/test_batching.py

# Kills, full disks, flipped bits and malformed requests by the hundred: hours. `make test-long` has a small draw of each.
test-faults: setup
	$(BIN)/python -m tests.faults.kill
	$(BIN)/python -m tests.faults.full_disk
	$(BIN)/python -m tests.faults.flip
	$(BIN)/python -m tests.faults.requests

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock:
	bash scripts/lock.sh "$(PYTHON)"

bench: setup
	$(BIN)/python -m benchmarks.extraction
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.evaluation
	$(BIN)/python -m benchmarks.index
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.batching
	$(BIN)/python -m benchmarks.tuning

setup:
	@bash scripts/setup.sh "$(VENV)" "$(PYTHON)"

clean:
	rm -rf .venv .venv-* demo
