# The two commands to know: `make demo` and `make test`. `make help` lists the rest.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
CLUSTER := hack/cluster/cluster

# A demo needs a third of what development needs; where development is set up, it is used.
DEMO_VENV := $(if $(wildcard $(VENV)/.installed),$(VENV),.venv-demo)
DEMO_LOCK := $(if $(wildcard $(VENV)/.installed),dev,node)

# Seeds of the simulator: a taste in `make check`, more in `make test`.
SEEDS ?= 20
# Benchmarks to run, all when empty; QUICK=1 runs them so small that the figures mean nothing.
BENCH ?=
QUICK ?=
# Inputs for each decoder of the fuzzer, and seconds for all of them; 0 seconds is no limit.
COUNT ?= 100000
SECONDS ?= 0
# Minutes and validators of the black box.
MINUTES ?= 30
NODES ?= 4
# Processes for the unit tests and the simulator, for example auto; one when empty.
PROCESSES ?=
# Arguments for pytest, for example: make unit ARGS='-k codec -x'
ARGS ?=

##@ Try it
.PHONY: demo
demo: ## A world of four validators on this machine: submit, commit, verify, rotate a key
	@hack/setup $(DEMO_LOCK) $(DEMO_VENV)
	@PATH="$(abspath $(DEMO_VENV))/bin:$$PATH" VENV="$(abspath $(DEMO_VENV))" hack/demo.sh

.PHONY: demo-cluster
demo-cluster: ## The same on Kubernetes; CLUSTER=current uses the cluster of your KUBECONFIG
	@hack/setup $(DEMO_LOCK) $(DEMO_VENV)
	@PATH="$(abspath $(DEMO_VENV))/bin:$$PATH" VENV="$(abspath $(DEMO_VENV))" hack/demo-cluster.sh

##@ Check it
.PHONY: test
test: SEEDS = 100
test: setup ## Everything: check, simulation, integration, chart, cluster and end-to-end
	@hack/stages --early cluster-build \
	  lint types unit "simulation PROCESSES=auto SEEDS=$(SEEDS)" cluster-build integration chart cluster e2e

.PHONY: check
check: setup ## Lint, types, unit tests and a short simulation, in some three minutes
	@hack/stages lint types "unit PROCESSES=auto" "simulation PROCESSES=auto SEEDS=$(SEEDS)"

.PHONY: lint
lint: setup ## Style, formatting, import contracts, generated files
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python hack/generate-chart-crds --check
	@$(BIN)/python hack/generate-wire-docs --check
	@$(BIN)/python hack/generate-traceability --check

.PHONY: format
format: setup ## Put the code in its canonical form and make generated files again
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format
	@$(BIN)/python hack/generate-chart-crds
	@$(BIN)/python hack/generate-wire-docs
	@$(BIN)/python hack/generate-traceability

.PHONY: types
types: setup ## mypy, strict for everything that ships
	@$(BIN)/mypy

.PHONY: unit
unit: setup ## Tests without processes, sockets or clusters
	@$(PYTEST) tests/unit $(if $(PROCESSES),--numprocesses $(PROCESSES) --dist loadfile) $(ARGS)

.PHONY: fuzz
fuzz: setup ## Mutated inputs for every decoder; COUNT=100000 for each, or SECONDS=60 for all, ARGS='--seed 7'
	@PYTHONPATH=hack $(BIN)/python -m tests.unit.fuzz.run --count $(COUNT) --seconds $(SECONDS) $(ARGS)

.PHONY: simulation
simulation: setup ## The seeded simulator; SEEDS=1000 for more, ARGS='--sim-seed 7' for one
	@$(PYTEST) tests/simulation --sim-seeds $(SEEDS) $(if $(PROCESSES),--numprocesses $(PROCESSES)) $(ARGS)

.PHONY: simulate
simulate: setup ## Simulated worlds on all cores: SEEDS=1000 FROM=0; or one: SEED=7 TRACE=1 SHRINK=1
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) \
	  $(if $(FROM),--from $(FROM)) $(if $(TRACE),--trace $(TRACE)) $(if $(SHRINK),--shrink) $(if $(BUG),--bug $(BUG))

.PHONY: simulate-nodes
simulate-nodes: setup ## Simulated worlds of whole nodes on all cores: SEEDS=1000 FROM=0; or the history of one: SEED=7
	@$(BIN)/python -m tests.simulation.nodes $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) \
	  $(if $(FROM),--from $(FROM)) $(if $(BUG),--bug $(BUG))

.PHONY: mutations
mutations: setup ## Plants every bug in the core and in whole nodes, and says how many simulated seeds find it
	@$(BIN)/python -m tests.simulation --mutations
	@$(BIN)/python -m tests.simulation.nodes --mutations

.PHONY: integration
integration: setup ## Real processes, disks and sockets on loopback
	@$(PYTEST) tests/integration $(ARGS)

.PHONY: blackbox
blackbox: setup ## Real processes under faults, and a judge: MINUTES=30 SEED=1 NODES=4, ARGS='--kinds kill,split'
	@$(BIN)/python -m tests.integration.blackbox --minutes $(MINUTES) --seed $(or $(SEED),1) --nodes $(NODES) $(ARGS)

.PHONY: handover
handover: COUNT = 50
handover: setup ## How long no block comes when the writer is transferred, stopped (SIGTERM) and killed, COUNT=50 times each
	@$(BIN)/python -m tests.integration.blackbox --handover $(COUNT) --minutes $(MINUTES) --seed $(or $(SEED),1) --nodes $(NODES) $(ARGS)

.PHONY: chart
chart: setup ## The Helm chart and the resource definitions, without a cluster
	@$(PYTEST) tests/chart $(ARGS)

.PHONY: cluster
cluster: setup cluster-build ## The local cluster tool
	@$(PYTEST) tests/cluster $(ARGS)

.PHONY: e2e
e2e: setup cluster-build ## The whole product on a local Kubernetes of its own
	@$(PYTEST) tests/e2e $(ARGS)

.PHONY: bench
bench: setup ## Benchmarks against peers, as ratios; BENCH=B1,B4 for a choice, QUICK=1 for a smoke run
	@$(BIN)/python -m tests.bench --only "$(BENCH)" $(if $(QUICK),--quick)

##@ Local cluster
.PHONY: cluster-build
cluster-build: ## Build the parts of Kubernetes, once (about 15 minutes, then cached)
	@$(CLUSTER) build

.PHONY: cluster-up
cluster-up: ## Start a local Kubernetes
	@$(CLUSTER) up

.PHONY: cluster-down
cluster-down: ## Stop it and leave nothing behind
	@$(CLUSTER) down

.PHONY: images
images: ## Build the images of the node and the operator
	@$(CLUSTER) image node operator

##@ Housekeeping
.PHONY: setup
setup: ## The development environment, with the system packages it needs; a no-op when up to date
	@hack/setup dev $(VENV)

.PHONY: lock
lock: setup ## Resolve the dependencies again; ARGS=--upgrade for the newest
	@hack/lock $(ARGS)

.PHONY: clean
clean: ## Remove environments and caches; worlds and clusters stay
	@rm -rf .venv .venv-demo build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
