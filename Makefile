# The README's commands. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Where containers set it, each of the hundreds of processes that follow would compile PyTorch and all else anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-fast fast-half fast-other-half test-soak e2e bench bench-operator bench-planner fit image-operator image-runtime \
	lint format crds chart lock clean

help: ## List these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(INSTALLED) ## Make the environment in .venv

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with make PYTHON=…"; exit 1; }
	@echo "Setting up $(VENV): about 100 packages, 2.8 GB to download (PyTorch); a minute or several, once."
	@$(PYTHON) -m venv $(VENV)
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.txt > $(VENV)/uv.txt
	@$(BIN)/pip install --quiet --require-hashes --requirement $(VENV)/uv.txt
	@$(BIN)/uv pip install --python $(BIN)/python --require-hashes --requirement requirements.txt 2>&1 | grep -v '^ +' || true
	@# uv leaves bytecode to the first import. Where imports may not write it, each command would compile all it needs.
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -c 'import torch, kopf, transformers' 2>/dev/null || \
		$(BIN)/pip install --require-hashes --requirement requirements.txt
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q operator runtime
	@PYTHONDONTWRITEBYTECODE= $(BIN)/moe search -f examples/quickstart/moedeployment.yaml > /dev/null
	@touch $@

quickstart: $(INSTALLED) ## From a manifest to tokens from 128 ranks on this machine
	@$(BIN)/python tools/quickstart.py

test: $(INSTALLED) ## Lint, then every test
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python tests/cluster/binaries.py
	@$(BIN)/pytest -m 'not soak' --durations=20

test-fast: $(INSTALLED) ## The tests that take under 90 seconds together
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target fast-half fast-other-half

# PyTorch and transformers are imported in one half only.
HALF := tests/runtime tests/report tests/chart
fast-half fast-other-half: $(INSTALLED)
	@$(BIN)/pytest -q -m 'not slow and not soak and not e2e' $(if $(filter fast-half,$@),$(HALF),$(HALF:%=--ignore=%))

test-soak: $(INSTALLED) ## Operator and pods under faults and kills, and images; about 20 minutes
	@$(BIN)/python tests/cluster/binaries.py
	@$(BIN)/pytest -m soak

e2e: $(INSTALLED) ## 128 ranks in 16 real pods, from helm install to helm uninstall; as root, 10 minutes
	@$(BIN)/python tests/cluster/binaries.py
	@$(BIN)/python tests/cluster/real_cluster.py
	@$(BIN)/pytest -m e2e -rs

bench: $(INSTALLED) ## Measure the figures that the README states
	@$(BIN)/python tools/bench.py
	@$(BIN)/python -m moe_runtime.bench.comm

bench-operator: $(INSTALLED) ## Measure the operator on 1,024 fake nodes, beside LeaderWorkerSet
	@$(BIN)/python tests/cluster/binaries.py
	@$(BIN)/python tools/bench_operator.py
	@$(BIN)/python tools/bench_placement.py

bench-planner: $(INSTALLED) ## Measure the search, beside AIConfigurator where AICONFIGURATOR_PYTHON has it
	@$(BIN)/python tools/bench_planner.py
	@$(BIN)/python -m moe_runtime.bench.memory

fit: $(INSTALLED) ## Fit the cost model to the measured points, and print its errors on points it has not seen
	@$(BIN)/python tools/fit.py --write

image-operator: ## Build the operator's image with buildah, on BASE
	@$(PYTHON) tools/images.py operator $(if $(BASE),--base $(BASE))

image-runtime: ## Build the runtime's image with buildah, on BASE
	@$(PYTHON) tools/images.py runtime $(if $(BASE),--base $(BASE))

lint: $(INSTALLED) ## Style, types and import contracts
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache --config pyproject.toml > $(VENV)/imports.txt || { cat $(VENV)/imports.txt; exit 1; }

format: $(INSTALLED) ## Rewrite the code in house style
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

crds: $(INSTALLED) ## Generate the CRD from the models
	@$(BIN)/moe crd > crds/moe-operator.dev_moedeployments.yaml
	@$(BIN)/python -m moe_operator.crd.reference > docs/api.md

chart: $(INSTALLED) ## Write what the Helm chart has of other places
	@$(BIN)/python tools/chart

lock: $(INSTALLED) ## Resolve the dependencies anew into requirements.txt
	@$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate \
		--no-header --python-version 3.11 --extra operator --extra kubectl --extra runtime --extra dev pyproject.toml -o requirements.txt
	@$(MAKE) --no-print-directory setup
	@$(BIN)/python tools/requirements.py

clean: ## Remove the environment and all that was generated
	rm -rf $(VENV) .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
