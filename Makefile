# Each target works on a fresh machine with Python 3.11 or newer: the first one that runs makes a virtual environment.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
WORKDIR ?= runs/demo
CONFIG ?= configs/quickstart.py

.PHONY: demo test slow newest lint bench clean

demo: $(VENV)/.demo
	$(RUN) train.py --config $(CONFIG) --workdir $(WORKDIR)
	$(RUN) evaluate.py --config $(CONFIG) --workdir $(WORKDIR)

test: $(VENV)/.dev
	$(RUN) -m pytest -q

# Full-depth variants, and the comparison with the published networks, compiled as users compile them.
slow: $(VENV)/.dev
	DVG_TEST_COMPILER=full $(RUN) -m pytest -q tests/parity
	DVG_TEST_COMPILER=full $(RUN) -m pytest -q -m slow

# The newest Python at hand, with the newest JAX that pyproject.toml allows: what they take away is found here before
# users find it. Runs the test files that import JAX or what is built on it, without those that need a trained pipeline
# or start processes, which take most of the time, and without the folders of other methods and of the published
# networks, which call what the others call. A warning of what a later version will take away fails them too, where code
# here causes it.
OTHERS = --exclude-dir=baselines --exclude-dir=parity
CALL_JAX = grep -rlE --include='test_*.py' $(OTHERS) '^(import|from) (jax|flax|optax|orbax)' tests
TAKE_LONG = '\btrained\b|subprocess|tests\.processes'
ERRORS = 'error::DeprecationWarning:dvg_jax|tests'
newest: $(VENV)/.dev
	$(RUN) .ci/newest.py $(VENV)/newest
	test ! -d $(VENV)/newest || $(VENV)/newest/bin/python -m pytest -q \
	  -o filterwarnings=$(ERRORS) $$($(CALL_JAX) | xargs grep -LE $(TAKE_LONG))

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(VENV)/.bench
	$(RUN) -m benchmarks.projector

clean:
	rm -rf $(VENV) runs build *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(RUN) -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(RUN) -m pip install --quiet --editable ".[dev]"
	touch $@

$(VENV)/.bench: $(VENV)/.demo
	$(RUN) -m pip install --quiet --editable ".[bench]"
	touch $@
