# Two commands are all you need: `make run` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q install
ARGS ?=
# Images for containers often forbid Python its cache. Then each of the pytest workers and of hundreds of child processes
# would compile the whole package again.
unexport PYTHONDONTWRITEBYTECODE
# What the tests start, kill and pause, and the browser that they look with, from Debian.
SERVERS := rabbitmq-server redis-server postgresql pgbouncer faketime prometheus chromium curl

.PHONY: help run test lint types imports core unit chaos mutants matrix bench docs dashboards pictures lock clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

run: $(VENV)/.installed-run ## Start everything and publish the examples (ARGS=--exit ends after the table)
	$(BIN)/mlproducer quickstart $(ARGS)

test: lint ## Lint, types, import direction, and all tests against a real RabbitMQ
	@$(MAKE) --no-print-directory --jobs 2 --output-sync types core imports  # each keeps one processor busy
	@$(MAKE) --no-print-directory unit

lint: $(VENV)/.installed-dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev ## mypy --strict
	$(BIN)/mypy

imports: $(VENV)/.installed-dev ## the direction of dependencies
	$(BIN)/lint-imports

core: $(VENV)/.installed-dev ## the tests of core/, and its 100 % branch coverage
	$(BIN)/coverage run -m pytest -q tests/core
	$(BIN)/coverage report

unit: $(VENV)/.installed-dev .venv-celery54/.installed ## all other tests, on real servers
	scripts/apt-install $(SERVERS)
	$(BIN)/pytest -m "not chaos" --ignore tests/core -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: $(VENV)/.installed-dev ## The long fault suite
	scripts/apt-install $(SERVERS)
	$(BIN)/pytest -m chaos --timeout 1800 $(ARGS)
	TEST_DEPTH=10 $(BIN)/pytest --timeout 1800 tests/core
	TEST_DEPTH=10 $(BIN)/pytest --timeout 1800 -m "not chaos" -k "machine or history or two_instances" tests/contract
	TEST_DEPTH=10 $(BIN)/python -m pytest --timeout 1800 -m "not chaos" -k "thousands" tests/integration/test_faults.py

mutants: $(VENV)/.installed-dev ## Wrong versions of the code: the tests see each of them (ARGS="redis --jobs 4")
	scripts/apt-install $(SERVERS)
	PYTHONPATH=scripts $(BIN)/python -m mutants $(ARGS)

matrix: $(VENV)/.installed-dev ## Each RabbitMQ, Python, Celery and set of versions (ARGS="--broker 4.3 --python 3.14")
	scripts/apt-install $(SERVERS)
	$(PIP) uv
	PYTHONPATH=scripts $(BIN)/python -m matrix $(ARGS)

bench: $(VENV)/.installed-dev ## Throughput as ratios in one run
	scripts/apt-install rabbitmq-server
	$(BIN)/python bench/publish.py $(ARGS)

docs: $(VENV)/.installed-dev ## The documents as a site in var/site, warnings as errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open var/site/index.html, or: $(BIN)/mkdocs serve"

dashboards: $(VENV)/.installed-dev ## Build the Grafana dashboards and the alert rules anew from their code
	$(BIN)/python -m mlproducer.monitoring.build

pictures: $(VENV)/.installed-dev ## Draw the dashboards for docs/ from a run with faults (three minutes)
	scripts/apt-install rabbitmq-server prometheus
	PYTHONPATH=tests/helpers $(BIN)/python -m bench.dashboard_pictures docs/images

lock: $(VENV)/.installed-dev ## Pin what pyproject.toml asks for, with hashes
	scripts/lock $(BIN)

clean: ## Remove what the commands above made here
	rm -rf .venv .venv-celery54 var .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find bench examples scripts src tests -name __pycache__ -prune -exec rm -rf {} +

# Stamps: a target runs again only if its pins changed.
$(VENV)/.made:
	scripts/make-venv $(PYTHON) $(VENV)

$(VENV)/.installed-run: requirements/run.txt requirements/build.txt pyproject.toml | $(VENV)/.made
	@echo "Installing the pinned dependencies into $(VENV) (once) ..."
	$(PIP) --require-hashes -r requirements/build.txt
	$(PIP) --require-hashes -r requirements/run.txt
	$(PIP) --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.installed-dev: requirements/dev.txt $(VENV)/.installed-run
	@echo "Installing the pinned tools of development into $(VENV) (once) ..."
	$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

.venv-celery54/.installed: requirements/celery54.txt
	@echo "Installing Celery 5.4 apart, for the tests with an older worker (once) ..."
	scripts/make-venv $(PYTHON) .venv-celery54
	.venv-celery54/bin/python -m pip --disable-pip-version-check -q install --require-hashes -r requirements/celery54.txt
	@touch $@
