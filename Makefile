# Each target makes the environment it needs. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Compiled files are kept, whatever the environment says: each process that a test starts would compile holdfast anew.
export PYTHONDONTWRITEBYTECODE =

# The default suite's files lie in memory if there is room for them: how fast a disk syncs proves nothing there.
IN_MEMORY := $(shell test "$$(df -k --output=avail /dev/shm | tail -n 1)" -gt 4000000 && echo PYTEST_DEBUG_TEMPROOT=/dev/shm)

# How many rounds `make crash` lives through; CI takes 25 of each.
CRASH_ROUNDS ?= 1000

.PHONY: help demo test rigs crash check mutants sim fuzz bench peers format clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /	/'

$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all]' --group dev
	@touch $@

demo: $(READY) ## a file on seven machines; four die; it comes back byte for byte
	@$(BIN)/holdfast demo $(if $(FILE),--file "$(FILE)")

test: $(READY) ## the default suite, under five minutes
	@$(IN_MEMORY) $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

rigs: $(READY) ## tests that need servers of others (NATS, S3, nginx) or root and loop devices; CI runs them
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m 'rig and not slow'

crash: $(READY) ## a thousand power cuts of real file systems and kills of the outbox, and the other rigs of broken disks at full length; needs root
	@HOLDFAST_CRASH_ROUNDS=$(CRASH_ROUNDS) $(BIN)/python -m pytest tests/outbox/test_outbox_crash.py tests/outbox/test_outbox_devices.py
	@HOLDFAST_OFFLINE_ROUNDS=25 HOLDFAST_OFFLINE_SEEDS=100 $(BIN)/python -m pytest tests/e2e/test_e2e_offline_kills.py tests/client/test_client_offline_model.py
	@HOLDFAST_CRASH_ROUNDS=$(CRASH_ROUNDS) $(BIN)/python -m pytest -m rig tests/crash

check: $(READY) ## lint, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

mutants: $(READY) ## each promise broken on purpose: its test must fail (NAMES="one two" for some)
	@$(BIN)/python -m tests.mutants.run $(NAMES)

SEEDS ?= 500
sim: $(READY) ## whole networks under faults, seed by seed (SEEDS=500; ARGS="4711" for one of them)
	@$(BIN)/python -m tests.sim.run --seeds $(SEEDS) $(ARGS)

FUZZ_RUNS ?= 1000000
FUZZ_REQUESTS ?= 100000
fuzz: $(READY) ## every parser of bytes from outside, a million inputs each, then hostile requests to real servers
	@$(BIN)/python -m tests.fuzz.run --runs $(FUZZ_RUNS) $(NAMES)
	@$(BIN)/python -m tests.fuzz.sockets --requests $(FUZZ_REQUESTS)
	@$(BIN)/python -m tests.fuzz.slow
	@$(BIN)/python -m tests.fuzz.contract

bench: $(READY) ## every quoted figure, as a ratio to this machine's limits
	@$(BIN)/python -m bench --picture docs/figures.svg $(ARGS)

peers: $(READY) ## the programs of others that `make bench` compares with, in an environment of their own
	@$(BIN)/python -m bench.peers.environment

format: $(READY) ## let ruff arrange the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## forget the environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist bench/results .peers
