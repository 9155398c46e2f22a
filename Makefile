# The commands of the project. `make` lists them; needs make and Python 3.11, 3.12 or 3.13, nothing else.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo serve test e2e chaos lint format lock clean

PYTHON ?= python3
# For two cores: a third process takes what tests leave that wait for servers.
PYTEST_WORKERS ?= 3
PYTEST_ARGS ?=
CHAOS_ARGS ?=
DEMO_ARGS ?=
SERVE_ARGS ?=
UV_VERSION ?= 0.13.9

# Paths stay relative, so that a clone may lie in a folder with spaces in its name.
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
LOCK_VENV := .cache/lock
PIP_INSTALL := -m pip install --disable-pip-version-check --no-input --only-binary :all:

# Nothing that make starts reports home.
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1
# Packages come from .venv alone, whatever the shell has set.
unexport PYTHONPATH PYTHONHOME

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'make -B install PYTHON=python3.12 builds .venv with another interpreter.'
	@echo 'make test PYTEST_ARGS=... passes arguments on; so do demo, serve and chaos, by DEMO_ARGS and so forth.'

install: $(STAMP)  ## build .venv from the lock files; does nothing when it is up to date

demo: export HF_HUB_OFFLINE := 1
demo: $(STAMP)  ## label two days of news articles, from Parquet to a warehouse table
	@$(PY) -m flows.demo $(DEMO_ARGS)

serve: $(STAMP)  ## a Prefect server and a worker on this machine, with every deployment; Ctrl-C stops them
	@$(PY) -m flows.serve $(SERVE_ARGS)

test: export HF_HUB_OFFLINE := 1
test: lint  ## all that CI runs: lint, then the tests
	$(PY) -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

e2e: export HF_HUB_OFFLINE := 1
e2e: $(STAMP)  ## schedules and backfills on a real server with a real worker, killed in every way; half an hour
	$(PY) -m pytest -m e2e tests/e2e $(PYTEST_ARGS)

chaos: $(STAMP)  ## kill runs at random moments, a hundred times, and compare the tables; takes some minutes
	$(PY) -m tests.chaos.kill_loop $(CHAOS_ARGS)

lint: $(STAMP)  ## format check, lint, strict types, import rules
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

format: $(STAMP)  ## format the code and fix what ruff can fix
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

lock: export UV_CUSTOM_COMPILE_COMMAND := make lock
lock: $(LOCK_VENV)/bin/uv  ## write the lock files anew; UPGRADE=1 moves every package to its newest release
	$(if $(UPGRADE),: >,cat requirements.lock requirements-torch.lock >) .cache/all.lock
	$< pip compile --quiet --universal --python-version 3.11 --extra demo --extra dev --generate-hashes \
		--no-emit-index-url --output-file .cache/all.lock pyproject.toml requirements.in >/dev/null
	awk '/^[a-z0-9]/ { torch = /^(torch|triton|nvidia-|cuda-)/ && !/^nvidia-ml-py/ } !torch' .cache/all.lock > requirements.lock
	{ echo '# torch and what its CUDA build brings along, without hashes. Written by: make lock'; \
	  awk '/^(torch|triton|nvidia-|cuda-)/ && !/^nvidia-ml-py/ { sub(/ \\$$/, ""); print }' .cache/all.lock; } > requirements-torch.lock

clean:  ## remove all that make has built: .venv, demo, caches
	rm -rf .venv demo build dist .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The lock is complete, so pip resolves nothing (--no-deps) and builds nothing (--only-binary). torch comes last: its
# CUDA companions are wanted by some builds of the same release only, so there pip resolves, held to the pins of both files.
$(STAMP): requirements.lock requirements-torch.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
		echo 'error: $(PYTHON) is not Python 3.11, 3.12 or 3.13. Name one that is: make install PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo 'error: $(PYTHON) has no venv module. Install it (on Debian or Ubuntu: apt-get install python3-venv).' >&2; exit 1; }
	@echo 'Installing into $(VENV): about 170 packages, then torch. The first time takes some minutes.'
	@rm -f $@
	@clear=; version='import sys; print(sys.version_info[:2])'; \
	[ "$$($(PY) -c "$$version" 2>/dev/null)" = "$$($(PYTHON) -c "$$version")" ] || clear=--clear; \
	$(PYTHON) -m venv $$clear $(VENV)
	@awk '/^[a-z0-9]/ { pip = /^pip==/ } pip' requirements.lock > $(VENV)/pip.lock
	@sed -n 's/ \\$$//; /^[a-z0-9]/p' requirements.lock > $(VENV)/constraints.txt
	@$(PY) $(PIP_INSTALL) --quiet --no-deps --require-hashes -r $(VENV)/pip.lock
	@$(PY) $(PIP_INSTALL) --quiet --no-deps --require-hashes -r requirements.lock
	@$(PY) $(PIP_INSTALL) -c $(VENV)/constraints.txt -c requirements-torch.lock "$$(grep '^torch==' requirements-torch.lock)"
	@PYTHONWARNINGS=ignore $(PY) -m pip install --disable-pip-version-check --no-input --quiet --no-deps --no-build-isolation --editable .
	@$(PY) -m pip check
	@touch $@

$(LOCK_VENV)/bin/uv:
	$(PYTHON) -m venv $(LOCK_VENV)
	$(LOCK_VENV)/bin/python $(PIP_INSTALL) --quiet --no-deps "uv==$(UV_VERSION)"
