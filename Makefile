# Everything sets itself up; a machine needs only python3 (3.11 to 3.13), git and make.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.synced
PYTEST := $(BIN)/python -m pytest

.PHONY: setup quickstart check test-unit test test-all test-s3-ceph bench lock

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $(STAMP)

quickstart: setup  ## distil on real images, about three minutes on two cores
	$(BIN)/python -m kd_ray.run conf/quickstart.yaml

check: setup  ## style, types, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-unit: setup  ## parts by themselves: no Ray, no server, under a minute
	$(PYTEST) -q -n 2 -m "not slow" tests/unit

test: test-unit  ## everything but the long repetitions
	$(PYTEST) -q -n 2 -m "not slow" tests/integration tests/contract
	$(PYTEST) -q -m "not slow" tests/e2e

test-all: setup  ## with long repetitions and experiments
	$(PYTEST) -q -n 2 tests/unit tests/integration tests/contract
	$(PYTEST) -q tests/e2e

test-s3-ceph: setup  ## the S3 tests on a real Ceph gateway; installs it with apt-get when missing (root, Debian)
	KD_RAY_S3=ceph $(PYTEST) -q -m "not slow" tests/contract

bench: setup  ## speed; prints tables and writes out/bench/*.json, never fails a test run
	$(BIN)/python -m tests.benchmarks

lock: setup  ## pin anew what pyproject.toml allows, for Python 3.11 to 3.13, without addresses
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet --upgrade -o requirements.lock
