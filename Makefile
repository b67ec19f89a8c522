# The two commands of the README: each makes its own virtual environment and needs only Python >= 3.11 with pip.
PYTHON ?= python3
VENV ?= .venv
TORCH_VENV ?= .venv-torch
BIN := $(VENV)/bin
RESULTS ?= results
PAPERS ?= $(filter-out __init__,$(basename $(notdir $(wildcard jaxdyn/papers/*.py))))

.PHONY: demo test lint bench gallery clean

demo: $(VENV)/installed-demo
	$(BIN)/jaxdyn run saxe2013 --out $(RESULTS)

gallery: $(PAPERS:%=docs/gallery/%.png)

docs/gallery/%.png: jaxdyn/papers/%.py $(VENV)/installed-demo
	$(BIN)/jaxdyn run $* --out $(RESULTS)
	cp $(RESULTS)/$*/figure.png $@

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

bench: $(VENV)/installed-demo $(TORCH_VENV)/installed
	$(BIN)/python benchmarks/sweep.py --torch $(TORCH_VENV)/bin/python
	$(BIN)/python benchmarks/theory.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[plot]'
	touch $@

$(VENV)/installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

$(TORCH_VENV)/installed:
	$(PYTHON) -m venv $(TORCH_VENV)
	$(TORCH_VENV)/bin/python -m pip install --quiet torch==2.13.0 numpy
	touch $@

clean:
	rm -rf $(VENV) $(TORCH_VENV) .cache .pytest_cache .ruff_cache
