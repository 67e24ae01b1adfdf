# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO := demo

.PHONY: demo test setup check tests test-real bench clean

# Real facts through a real model: results and pictures in demo/.
demo: .venv/installed
	$(BIN)/patchpoint models pull smollm2-135m
	$(BIN)/patchpoint trace "The Eiffel Tower is in the city of" --subject "The Eiffel Tower" --out $(DEMO)/eiffel --pictures png,svg,pdf,html
	$(BIN)/patchpoint trace --facts examples/facts.jsonl --out $(DEMO)/facts --pictures png,svg,pdf,html
	@echo "one fact:  $(CURDIR)/$(DEMO)/eiffel/trace.png and trace.html"
	@echo "all facts: $(CURDIR)/$(DEMO)/facts/pictures/average-by-role.png and facts.html"

# Lint, types, layers and all tests.
test: check tests

setup: .venv/installed-dev

check: .venv/installed-dev
	$(BIN)/ruff format --check src tests
	$(BIN)/ruff check src tests
	$(BIN)/mypy
	$(BIN)/lint-imports

# One process per core, one thread each: tiny models gain nothing from more threads.
tests: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

test-real: .venv/installed-dev
	$(BIN)/python -m pytest -m real

bench: .venv/installed
	$(BIN)/patchpoint bench trace
	$(BIN)/patchpoint bench trace --model gpt2-small-random
	$(BIN)/patchpoint bench engine

# torch first and by itself: asked for by another package it may come with several GB of CUDA.
.venv/torch:
	$(PYTHON) -m venv .venv
	$(INSTALL) torch
	@touch $@

.venv/installed: .venv/torch pyproject.toml constraints.txt
	$(INSTALL) -e .
	@touch $@

.venv/installed-dev: .venv/torch pyproject.toml constraints.txt
	$(INSTALL) -e ".[dev]"
	@touch $@ .venv/installed

clean:
	rm -rf .venv $(DEMO) build dist
