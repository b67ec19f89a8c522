# The two commands of the README: each makes its own virtual environment and needs only Python >= 3.11 with pip.
PYTHON ?= python3
# neural-tangents imports up to jax 0.5, its fastest empirical kernels up to 0.4.25, whose wheels end at Python 3.12.
NT_PYTHON ?= python3.11
VENV ?= .venv
TORCH_VENV ?= .venv-torch
NT_VENV ?= .venv-nt
CVXPY_VENV ?= .venv-cvxpy
WHEEL_VENV ?= .venv-wheel
BIN := $(VENV)/bin
RESULTS ?= results
ANIMATIONS ?= $(filter-out __init__,$(basename $(notdir $(wildcard jaxdyn/animations/*.py))))
PAPERS ?= $$($(BIN)/jaxdyn list | awk '{print $$2}')

.PHONY: demo test test-all check lint docs types wheel bench peers gallery animations clean

demo: $(VENV)/installed-demo
	$(BIN)/jaxdyn run saxe2013 --out $(RESULTS)

# Cold, so that compiling counts.  PAPERS="saxe2013 wu2023" takes only these.
gallery: $(VENV)/installed-demo
	for paper in $(PAPERS); do \
		rm -rf $(RESULTS)/quick/$$paper $(RESULTS)/paper/$$paper $(RESULTS)/cold/$$paper; \
		for size in quick paper; do \
			XDG_CACHE_HOME=$(RESULTS)/cold/$$paper/$$size $(BIN)/jaxdyn run $$paper --size $$size --out $(RESULTS)/$$size && \
			$(BIN)/jaxdyn report $$paper --record --results $(RESULTS)/$$size || exit 1; \
		done; \
		$(BIN)/python docs/pictures.py $$paper --results $(RESULTS)/quick || exit 1; \
	done

animations: $(ANIMATIONS:%=docs/gallery/%.gif)

docs/gallery/%.gif: jaxdyn/animations/%.py $(VENV)/installed-demo
	$(BIN)/jaxdyn animate $* --out $@

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

PYTEST := $(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

# All of the physics, and one configuration of every experiment.
test: lint
	$(PYTEST) -m "not slow"

# What that leaves: the other configurations, notebooks, the site in a browser, the documentation.
test-all: lint $(VENV)/installed-docs
	$(PYTEST) -m slow
	$(MAKE) docs

# Before a commit: lint, types, and the tests of what has changed since BASE.
BASE ?= main
check: lint types
	$(BIN)/python tests/changed.py $(BASE) | xargs -r $(PYTEST) -m "not slow"
	$(BIN)/python tests/changed.py $(BASE) --papers | sed '/./!d' | xargs -r -I% $(PYTEST) tests/papers -m "not slow" -k "%"

# Notebooks and examples are run; they are small unless JAXDYN_FAST=0.
docs: $(VENV)/installed-docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo docs/_build/html/index.html

# pyright runs on Node.js: it takes the one of the system, or else downloads one.
types: $(VENV)/installed-types
	$(BIN)/pyright --pythonpath $(BIN)/python

# Builds what is published and installs the wheel where the repository is not.
wheel: $(VENV)/installed-test
	rm -rf dist $(WHEEL_VENV)
	$(BIN)/python -m hatchling build -d dist
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/python -m pip install --quiet --constraint constraints.txt "$$(ls dist/*.whl)[plot]"
	cd dist && $(abspath $(WHEEL_VENV))/bin/jaxdyn list

bench: $(VENV)/installed-demo peers
	$(BIN)/python benchmarks/sweep.py --torch $(TORCH_VENV)/bin/python
	$(BIN)/python benchmarks/theory.py
	$(BIN)/python benchmarks/kernels.py --peer $(NT_VENV)/bin/python
	$(BIN)/python benchmarks/saddles.py --cvxpy $(CVXPY_VENV)/bin/python

peers: $(TORCH_VENV)/installed $(NT_VENV)/installed $(CVXPY_VENV)/installed

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[plot]'
	touch $@

$(VENV)/installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

$(VENV)/installed-docs: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

$(VENV)/installed-types: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,types]'
	touch $@

$(TORCH_VENV)/installed:
	$(PYTHON) -m venv $(TORCH_VENV)
	$(TORCH_VENV)/bin/python -m pip install --quiet torch==2.13.0 numpy
	touch $@

# Without its dependencies: TensorFlow and tf2jax are those of its experimental module alone.
$(NT_VENV)/installed:
	$(NT_PYTHON) -m venv $(NT_VENV)
	$(NT_VENV)/bin/python -m pip install --quiet jax==0.4.25 jaxlib==0.4.25 'numpy==1.26.*' 'scipy<1.14' \
		ml_dtypes==0.4.1 opt_einsum frozendict typing_extensions
	$(NT_VENV)/bin/python -m pip install --quiet --no-deps neural-tangents==0.6.5
	touch $@

$(CVXPY_VENV)/installed:
	$(PYTHON) -m venv $(CVXPY_VENV)
	$(CVXPY_VENV)/bin/python -m pip install --quiet cvxpy==1.9.3 cvxopt==1.3.3 clarabel==0.11.1
	touch $@

clean:
	rm -rf $(VENV) $(TORCH_VENV) $(NT_VENV) $(CVXPY_VENV) $(WHEEL_VENV) .cache .pytest_cache .ruff_cache
	rm -rf docs/_build docs/papers docs/notebooks dist site screenshots
