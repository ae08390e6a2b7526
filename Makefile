# Every target sets up .venv by itself; nothing else is needed on a fresh machine but Python 3.10 or 3.11.
PYTHON ?= $(shell command -v python3.11 || command -v python3.10 || command -v python3)
BIN := .venv/bin

.PHONY: demo test test-fast lint bench clean

demo: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/demo.sh

test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: .venv/ready
	$(BIN)/python -m pytest -m "not slow"

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/ready
	$(BIN)/python -m benchmarks.extraction
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.index
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.tuning

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf .venv demo
