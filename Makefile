# make demo: set up .venv/ and run the whole chain on the shipped tiny Qwen2.5-VL.
# make test: set up .venv/ for development and run every test.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint check clean

demo: .venv/.demo
	$(BIN)/qgraph demo

test: .venv/.dev
	$(BIN)/pytest

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

check: lint test

clean:
	rm -rf .venv runs

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "qgraph needs Python 3.11 or newer; name one with make PYTHON=..."; exit 4; }
	$(PYTHON) -m venv .venv

# The stamps keep a second run from installing anything.
.venv/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[export,report]'
	touch $@

.venv/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[export,report,train,dev]'
	touch $@ .venv/.demo
