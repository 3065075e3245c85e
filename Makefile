# make serve   everything from nothing: environment, demo model, running stack
# make test    environment, test models, all tests but the slow ones
# The first that runs and is new enough: a name on the PATH may be a launcher for a version that is not installed.
SUITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do $$p -c '$(SUITS)' 2>/dev/null && echo $$p && break; done)
# On a host without a GPU the CPU build of torch saves gigabytes:
#   make serve TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
TORCH := 2.13.0
CPU_INDEX ?= https://download.pytorch.org/whl/cpu
LOCKS := cli/release/locks
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
TESTS ?= tests
# How many files of tests run at once.
JOBS ?= 2
# What fails is run once more, alone: for machines that are lent, where everything may stand still for a while. It is told.
AGAIN ?=
KILLS ?= 40
MINUTES ?= 30
OUTPUT ?=
# Of a package other than pyproject.toml says; the build of torch whose wheels are fetched: cpu or cuda.
VERSION ?=
TORCH_BUILD ?= cpu
TORTURES ?= 500
CHAOS = PYTHONPATH=tests:tests/system $(BIN)/python
run = { $(BIN)/pytest -q $1 || [ $$? -eq 5 ]; }$(if $(AGAIN), || { echo "=== once more and alone: what failed"; \
  $(BIN)/pytest -q --last-failed --last-failed-no-failures none tests; })
PACKAGES := bus ingress scheduler workers kv metrics accounts batch admin_tui cli headrace_client benchmarks

.DEFAULT_GOAL := help
.PHONY: help serve test test-kernels test-systemd test-packaging test-slow test-chaos test-matrix test-soak test-torture lint imports types bench lock hashes wheel \
  wheels deb clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	@test -n "$(PYTHON)" || \
	  { echo "headrace needs Python 3.11 or 3.12; on Debian or Ubuntu: apt install python3 python3-venv"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3-venv is missing: apt install python3-venv"; exit 1; }

$(VENV)/.runtime: requirements.lock pyproject.toml | $(BIN)/python
	$(if $(TORCH_INDEX),$(PIP) install -q --index-url $(TORCH_INDEX) torch==$(TORCH))
	$(PIP) install -q -r requirements.lock
	$(PIP) install -q setuptools wheel
	$(PIP) install -q --no-deps --no-build-isolation -e .
	@$(BIN)/python -m workers.kernels.build > /dev/null || echo "serving goes on with torch's operators, slower"
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	$(PIP) install -q -r requirements-dev.lock
	@touch $@

serve: $(VENV)/.runtime ## set everything up and serve the demo model on http://127.0.0.1:8080
	$(BIN)/headrace pull smollm2-135m-instruct
	$(BIN)/headrace up

test: $(VENV)/.dev ## set everything up and run the tests
	$(BIN)/headrace pull smollm2-135m-instruct
	$(BIN)/headrace pull qwen2.5-coder-0.5b-instruct
	$(BIN)/headrace pull all-minilm-l6-v2
	$(call run,-n $(JOBS) --dist loadfile -m "not slow and not machine and not system" $(TESTS))
	$(call run,-n $(JOBS) --dist loadfile -m "system and not slow and not machine" $(TESTS))

test-systemd: $(VENV)/.dev ## start the units under a real systemd in namespaces; needs root, skipped without
	$(BIN)/headrace pull smollm2-135m-instruct
	$(BIN)/python -m workers.kernels.build > /dev/null || true
	$(call run,-m machine tests/systemd)

test-kernels: $(VENV)/.dev ## compile every GPU kernel with every configuration that is shipped; needs no GPU
	$(call run,-n $(JOBS) -m slow tests/workers/test_kernels_triton_aot.py)

test-slow: $(VENV)/.dev ## the long versions
	$(BIN)/pytest -q -m slow

test-chaos: $(VENV)/.dev ## kill every process, again and again: KILLS=1000; OUTPUT=DIR takes a run up again
	$(BIN)/headrace pull smollm2-135m-instruct
	$(CHAOS) -m chaos --kills $(KILLS) $(if $(OUTPUT),--output $(OUTPUT))

test-matrix: $(VENV)/.dev ## speculation, adapters, grammars, sampling, prefixes, ranks and crashes: any three of them together
	$(BIN)/pytest -q tests/system/test_matrix.py

test-soak: $(VENV)/.dev ## load for MINUTES=30 with a kill now and then; nothing may grow
	$(BIN)/headrace pull smollm2-135m-instruct
	$(CHAOS) -m chaos.soak --minutes $(MINUTES)

test-torture: $(VENV)/.dev ## kill the page server, its clients and all of them, hundreds of times
	$(BIN)/pytest -q -s tests/kv/test_torture.py --torture-loops $(TORTURES)

test-packaging: $(VENV)/.dev wheels ## install, upgrade, roll back and remove a real package in a machine of its own
	$(BIN)/headrace pull smollm2-135m-instruct
	$(BIN)/pytest -q tests/packaging

bench: $(VENV)/.dev ## what the parts can do on this machine; nothing else should run
	$(BIN)/python -m benchmarks.kv
	$(BIN)/python -m benchmarks.kv_disk
	$(BIN)/python -m benchmarks.scheduler
	$(BIN)/python -m benchmarks.worker catalog:smollm2-135m-instruct

lint: imports ## style, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

imports: $(VENV)/.dev ## processes share messages, never code
	$(BIN)/lint-imports --no-logo

types: $(VENV)/.dev ## mypy --strict
	$(BIN)/mypy $(addprefix -p ,$(PACKAGES))

# What a fresh resolution of pyproject.toml gives today; torch stays where it is pinned. The locks in cli/release/locks are the
# same versions with the hashes of their files; torch has one for each of its builds, for hosts with and without a GPU.
LOCKED = $(VENV)-lock/bin/uv pip compile -q --no-annotate --no-header --python-version 3.11 --python-platform linux
lock: ## renew requirements.lock, requirements-dev.lock and the locks with hashes
	@$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install -q -e . torch==$(TORCH)
	@{ echo "# Exact versions of everything that headrace runs on. Made by: make lock"; \
	   $(VENV)-lock/bin/pip freeze --exclude-editable --exclude pip | sed 's/^torch==.*/torch==$(TORCH)/'; } > requirements.lock
	@$(VENV)-lock/bin/pip install -q -e ".[dev]" -c requirements.lock
	@{ echo "# What its tests and checks need on top. Made by: make lock"; echo "-r requirements.lock"; \
	   $(VENV)-lock/bin/pip freeze --exclude-editable --exclude pip | grep -vxFf requirements.lock; } > requirements-dev.lock
	@$(MAKE) -s hashes

hashes: ## renew only the locks with hashes, from requirements.lock
	@test -x $(VENV)-lock/bin/uv || { $(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install -q uv; }
	@grep -v '^torch==' requirements.lock > $(VENV)-lock/runtime.txt
	@$(LOCKED) --generate-hashes --no-deps $(VENV)-lock/runtime.txt -o $(LOCKS)/runtime.lock
	@echo torch==$(TORCH) | $(LOCKED) - -c $(VENV)-lock/runtime.txt | grep -vxFf $(VENV)-lock/runtime.txt > $(VENV)-lock/cuda.txt
	@$(LOCKED) --generate-hashes --no-deps $(VENV)-lock/cuda.txt -o $(LOCKS)/torch-cuda.lock
	@echo torch==$(TORCH)+cpu | $(LOCKED) --generate-hashes --no-deps --index-url $(CPU_INDEX) - -o $(LOCKS)/torch-cpu.lock
	@rm -rf $(VENV)-lock

wheel: $(VENV)/.runtime ## the wheel of headrace into dist/, with kernels and locks
	PYTHON=$(BIN)/python deploy/wheel.sh dist $(VERSION)

wheels: $(VENV)/.runtime ## everything the wheel needs into dist/wheels, for hosts without a network
	$(PIP) download --no-deps --require-hashes --dest dist/wheels -r $(LOCKS)/runtime.lock -r $(LOCKS)/torch-$(TORCH_BUILD).lock \
	  $(if $(filter cpu,$(TORCH_BUILD)),--extra-index-url $(CPU_INDEX))

deb: $(VENV)/.runtime ## a Debian package into dist/
	PYTHON=$(BIN)/python deploy/debian/build.sh dist $(VERSION)

clean: ## remove the environment and caches
	rm -rf $(VENV) $(VENV)-lock build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
