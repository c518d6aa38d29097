# Two commands do everything on a fresh machine with Python 3.11+, git and make: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile --quiet
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
export NO_ALBUMENTATIONS_UPDATE := 1
# Many interpreters are started here; torch takes each of them ten seconds where its bytecode may not be kept.
unexport PYTHONDONTWRITEBYTECODE
# The tests' own fake camera answers on loopback: a proxy must not see it.
export NO_PROXY := 127.0.0.1,localhost

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types contracts weights-check bench soak lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(RUNTIME): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not here: install Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@echo "Installing what the service needs into $(VENV) (about 5.5 GB, once) ..."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) -r requirements.lock
	@$(PIP) "$$(grep '^hatchling==' requirements-dev.lock)" "$$(grep '^editables==' requirements-dev.lock)" \
		"$$(grep '^pathspec==' requirements-dev.lock)" "$$(grep '^pluggy==' requirements-dev.lock)" \
		"$$(grep '^trove-classifiers==' requirements-dev.lock)" "$$(grep '^tomlkit==' requirements-dev.lock)"
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): $(RUNTIME) requirements-dev.lock
	@echo "Installing what the tests need ..."
	@$(PIP) -r requirements-dev.lock
	@touch $@

demo: $(RUNTIME) ## a camera, the service and the dashboard, on this machine alone (Ctrl-C ends it)
	@$(BIN)/python -m streamwatch demo $(DEMO_ARGS)

test: $(DEV) ## the default tests
	$(BIN)/python -m pytest -q -m "not slow and not soak" $(PYTEST_ARGS)

lint: $(DEV) ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV) ## mypy strict, source, tests and benchmarks
	$(BIN)/mypy

contracts: $(DEV) ## imports point down only
	$(BIN)/lint-imports

weights-check: $(RUNTIME) ## manifest against files, and a small fixed set of figures recomputed
	$(BIN)/python -m streamwatch.training.check

COVERED := --cov --cov-append --cov-report=term:skip-covered --cov-report=xml
# GNU's timeout, where there is one: pytest's own limits do not reach a test that hangs outside Python.
BOUNDED := $(shell command -v timeout >/dev/null && echo "timeout --kill-after=10 420")

check: lint types contracts weights-check ## what CI runs: everything but the soak tests, with branch coverage
	@rm -f .coverage
	@# Real cameras, browsers and databases share two cores here: what fails is run once more, alone, and must pass then.
	$(BIN)/python -m pytest -q -m "not soak" --ignore=tests/e2e $(COVERED) $(PYTEST_ARGS) || { test $$? = 1 && \
		$(BIN)/python -m pytest -q -m "not soak" --ignore=tests/e2e --last-failed --last-failed-no-failures none; }
	@# The browser's tests are by themselves: should a browser hang, it and they are ended and started anew.
	$(BOUNDED) $(BIN)/python -m pytest -q -m "not soak" $(COVERED) $(PYTEST_ARGS) tests/e2e || \
		{ pkill -KILL -f playwright_chromiumdev_profile; \
		$(BOUNDED) $(BIN)/python -m pytest -q -m "not soak" tests/e2e; }

bench: $(DEV) ## the benchmarks, with the hardware in their output
	$(BIN)/python -m benchmarks

soak: $(DEV) ## long runs: hundreds of kills, thousands of connections
	$(BIN)/python -m pytest -q -m soak --timeout 7200 $(PYTEST_ARGS)

lock: $(DEV) ## writes both locks from this environment
	$(BIN)/python scripts/lock.py

clean: ## removes what was built and installed here
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage coverage.xml
