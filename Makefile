# Everything happens in .venv, which the first target that needs it makes from constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := exp/demo
BENCH := PYTHONPATH=tests $(BIN)/python -m bench
# Python 3.10 has no NumPy with the types of the others.
MYPY := $(BIN)/python -c 'import sys; sys.exit(sys.version_info > (3, 11))' || $(BIN)/mypy

# Else every process of the tests compiles all modules again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help

.PHONY: help
help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(VENV)/installed ## Recognise the sample corpus with the sample model, show the table, and make a page
	$(BIN)/e2v predict sample_data/wav.scp -m sample -o $(DEMO) --embeddings ark --overwrite
	@$(BIN)/python sample_data/show.py $(DEMO)/predictions.tsv sample_data/utt2emo
	$(BIN)/e2v report $(DEMO) --reference sample_data --overwrite

.PHONY: test
test: style ## Check style and types, and run all tests
	@mkdir -p .mypy_cache; { $(MYPY); } > .mypy_cache/log & types=$$!; \
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder; tests=$$?; \
	wait $$types; types=$$?; \
	cat .mypy_cache/log; exit $$((tests | types))

.PHONY: lint
lint: style ## Check style, floors and types
	@$(MYPY)

.PHONY: style
style: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

.PHONY: docs
docs: $(VENV)/installed ## Write the reference of commands, e2v_cli/cli/README.md, from --help
	PYTHONPATH=tests $(BIN)/python tests/test_docs.py

.PHONY: bench
bench: $(VENV)/installed ## Measure e2v against FunASR on this machine (about half an hour), and draw exp/bench.png
	$(BENCH).speed --plot exp/bench.png $(ARGS)

.PHONY: bench-scale
bench-scale: $(VENV)/installed ## Measure e2v on a list of ten million lines (five minutes, 6 GB of disk)
	$(BENCH).scale $(ARGS)

.PHONY: bench-windows
bench-windows: $(VENV)/installed ## Measure how far windows of long utterances are from the whole (five minutes)
	$(BENCH).windows $(ARGS)

.PHONY: bench-products
bench-products: $(VENV)/installed ## Measure the libraries that multiply matrices on a core of this machine (four minutes)
	$(BENCH).products $(ARGS)

.PHONY: bench-cluster
bench-cluster: $(VENV)/installed ## Work out how long 42,526 hours take on a cluster (a minute, 3 GB of memory)
	$(BENCH).cluster $(ARGS)

.PHONY: install
install: $(VENV)/installed ## Make .venv with e2v in it

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

.PHONY: clean
clean: ## Remove .venv and what was made
	rm -rf $(VENV) exp build *.egg-info .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
