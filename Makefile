# make demo: set up .venv/ and run the whole chain on the shipped tiny Qwen2.5-VL.
# make test: set up .venv/ for development and run every test.
# make docs: build the documentation as a site, build/site/index.html.
PYTHON ?= python3
BIN := .venv/bin
CORE_TEST_PACKAGES := numpy==2.3.5 pytest hypothesis

.PHONY: demo test test-core yolo lint docs check clean

demo: .venv/.demo
	$(BIN)/qgraph demo

# In two processes, a file in one of them: fixtures of a file are made once. BLAS and torch get one thread
# in each: more would wait for each other.
test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

# The core alone, on the numpy that the inc extra does not go with; gradients are held against torch.
test-core: .venv-core/.core
	.venv-core/bin/pytest -m "not slow" --ignore=tests/quantize/inc --ignore=tests/graph/gradient \
	  tests/graph tests/quantize tests/metrics tests/evaluation/test_changes.py

# Ultralytics (AGPL-3.0) in an environment of its own: .venv-yolo/bin/qgraph export yolo11n.yaml
yolo: .venv-yolo/.yolo

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Without network; a warning (a link that leads nowhere, a page in no menu) is an error.
docs: .venv/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml

check: lint docs test

clean:
	rm -rf .venv .venv-core .venv-yolo build runs

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "qgraph needs Python 3.11 or newer; name one with make PYTHON=..."; exit 4; }
	$(PYTHON) -m venv .venv

# The stamps keep a second run from installing anything.
.venv/.demo: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing torch, transformers, onnxruntime and others into .venv: 2 to 6 GB, some minutes."
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[export,report]'
	touch $@

.venv/.dev: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing all extras and the tools of development into .venv: 2 to 6 GB, some minutes."
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[export,ray,report,train,vision,inc,dev]'
	touch $@ .venv/.demo

.venv-core/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-core
	grep -v '^numpy==' constraints.txt > .venv-core/constraints.txt
	.venv-core/bin/python -m pip install --quiet -c .venv-core/constraints.txt \
	  -e . $(CORE_TEST_PACKAGES)
	touch $@

.venv-yolo/.yolo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-yolo
	.venv-yolo/bin/python -m pip install --quiet -c constraints.txt -e '.[vision,yolo]'
	touch $@
