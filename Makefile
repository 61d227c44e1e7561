# One command for each task; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help up unit demo test test-cluster chaos mutation-test bench bench-latency bench-chain bench-idle bench-scale \
  bench-throughput bench-write-overhead bench-cold bench-due bench-agents bench-race bench-heartbeat bench-first-start \
  bench-console bench-databases bench-cluster screenshots check format lock release clean

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
RELEASE_VENV := .venv-release
REQUIRE_PYTHON = $(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, found " + sys.version.split()[0] + ". Set PYTHON to a newer one.")'

# As it was typed: make would expand $BEAD_ID in it.
override AGENT_COMMAND := $(value AGENT_COMMAND)
export AGENT_COMMAND

# Finds or builds dolt and bd first; a workspace of your own (BEADS_DIR) brings bd, and a server unless it is embedded.
LOCAL = $(if $(BEADS_DIR),$(if $(AGENT_COMMAND),DOLT="$$($(PY) -m tools.toolchain dolt)" && export DOLT &&),DOLT="$$($(PY) -m tools.toolchain dolt)" && BD="$$($(PY) -m tools.toolchain bd)" && \
  export DOLT BD &&) exec $(PY) -m local

help: ## this list
	@awk -F ':.*## ' '/^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-22s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

##@ Run

up: $(VENV)/.ready ## the whole system here, without Kubernetes, until Ctrl-C (docs/local.md)
	@$(LOCAL) up

unit: $(VENV)/.ready ## print a systemd user unit that runs `make up` (AGENT_COMMAND=… BEADS_DIR=…)
	@$(PY) -m local unit

demo: $(VENV)/.ready ## the same by itself: assign three beads, show what happened, stop
	@$(LOCAL) demo

##@ Test

test: $(VENV)/.ready ## all tests but the cluster's
	@$(PY) -m tools.toolchain dolt bd bd@1.0.2
	@$(PY) -m tools.toolchain kustomize schemas kube-score promtool || echo "==> the tests that need what is missing are skipped"
	$(PY) -m pytest -n 4 --dist worksteal $(PYTEST)

test-cluster: $(VENV)/.ready ## on the Kubernetes of KUBECONFIG, which has IMAGE (about 45 minutes)
	@$(PY) -m tools.toolchain dolt bd
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) -m pytest -m cluster tests/cluster $(PYTEST)

chaos: $(VENV)/.ready ## the promises under faults: kills, outages, gaps, races, bad input (an hour; CHAOS='feed --seed 1')
	@$(PY) -m tools.toolchain dolt bd bd@1.0.2
	$(PY) -m tools.chaos $(CHAOS)

mutation-test: $(VENV)/.ready ## break the product in one place after another: is it noticed? (about 40 minutes)
	@$(PY) -m tools.toolchain dolt bd
	$(PY) -m tools.chaos.mutation_test

##@ Measure

bench: $(VENV)/.ready ## every measurement below, most of them smaller (10 minutes)
	$(PY) -m tools.bench

bench-latency: $(VENV)/.ready ## from bd assign to the POST, 500 times, beside the floor (about 12 minutes)
	$(PY) -m tools.bench.latency

bench-chain: $(VENV)/.ready ## the next bead after a close, 50 in a row (about 1 minute)
	$(PY) -m tools.bench.chain

bench-due: $(VENV)/.ready ## from the moment of a deferred bead to its POST, 100 times (about 2 minutes)
	$(PY) -m tools.bench.due

bench-idle: $(VENV)/.ready ## the cost of waiting: an hour's ticks and 10 quiet minutes
	$(PY) -m tools.bench.idle

bench-scale: $(VENV)/.ready ## eligibility check, passes and explain on 1,000 to 1,000,000 beads (about 15 minutes)
	$(PY) -m tools.bench.scale

bench-throughput: $(VENV)/.ready ## changes a second, and catching up after 10,000 (about 4 minutes)
	$(PY) -m tools.bench.throughput

bench-write-overhead: $(VENV)/.ready ## the cost of binlog and feeder to each bd update (about 2 minutes)
	$(PY) -m tools.bench.write_overhead

bench-cold: $(VENV)/.ready ## a function's start to its first answer, by parts (about 2 minutes)
	$(PY) -m tools.bench.cold

bench-agents: $(VENV)/.ready ## beside an agent that hangs; from a job's end to its bead's next state (about 5 minutes)
	$(PY) -m tools.bench.agents

bench-race: $(VENV)/.ready ## 8 dispatchers on 200 beads: exactly one POST each (about 2 minutes)
	$(PY) -m tools.bench.race

bench-heartbeat: $(VENV)/.ready ## what a day of the feeder's reports costs on disk (about 1 minute)
	$(PY) -m tools.bench.heartbeat

bench-first-start: $(VENV)/.ready ## the feeder's first start and a comparison, on 1,000,000 beads (about 15 minutes)
	$(PY) -m tools.bench.first_start

bench-console: $(VENV)/.ready ## each page of the console with 10,000 beads in the queue, cold and warm (about 2 minutes)
	$(PY) -m tools.bench.console

bench-databases: $(VENV)/.ready ## one feeder for 50 databases beside one for one of them (about 10 minutes)
	$(PY) -m tools.bench.databases

bench-cluster: $(VENV)/.ready ## the same on the Kubernetes of KUBECONFIG, warm and from zero (about 30 minutes)
	$(PY) -m tools.bench.cluster $(if $(IMAGE),--image $(IMAGE))
	$(PY) -m tools.bench.cluster_console $(if $(IMAGE),--image $(IMAGE))

##@ Work on the code

check: $(VENV)/.ready ## format, lint, types, the direction of imports, and what attackers could use
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/bandit --quiet --configfile pyproject.toml --recursive beads_dispatch feeder functions
	$(PY) -m tools.manifest_check

screenshots: $(VENV)/.ready ## the pictures of docs/console.md (needs Chromium)
	@$(PY) -m tools.toolchain dolt bd
	$(PY) -m tools.screenshots

format: $(VENV)/.ready ## write the code in the one format
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

lock: ## resolve requirements/*.txt again, with hashes (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
	  --all-extras pyproject.toml -o requirements/dev.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
	  --extra functions --extra feeder pyproject.toml -o requirements/runtime.txt
	printf 'setuptools>=77\n' | uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header - -o requirements/build.txt
	printf 'build>=1.6\ncyclonedx-bom>=7.5\n' | uv pip compile --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header - -o requirements/release.txt

release: $(RELEASE_VENV)/.ready ## wheel, sdist, image, SBOMs and SHA256SUMS of the last commit, in dist/ (docs/security.md)
	@$(RELEASE_VENV)/bin/python -m tools.release --builder "$(BUILDER)" --base "$(BASE)"

clean: ## remove the environments, the local data and the release
	rm -rf $(VENV) $(RELEASE_VENV) .local dist

# Dependencies are pinned with hashes; the project itself is installed in place.
$(VENV)/.ready: requirements/dev.txt pyproject.toml
	@$(REQUIRE_PYTHON)
	@echo "==> making $(VENV) with the locked dependencies (about half a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Of `make release` alone: neither the product nor the tests need it.
$(RELEASE_VENV)/.ready: requirements/release.txt requirements/build.txt
	@$(REQUIRE_PYTHON)
	@echo "==> making $(RELEASE_VENV) with the locked tools"
	@$(PYTHON) -m venv $(RELEASE_VENV)
	@$(RELEASE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
	  -r requirements/release.txt -r requirements/build.txt
	@touch $@
