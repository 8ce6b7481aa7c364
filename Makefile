# The front door. `make demo` shows the plugin at work, `make test` tests it; both set up what they need.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help

.PHONY: help
help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.ready: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is older than Python 3.11: name a newer one, as in 'make PYTHON=python3.12 $(MAKECMDGOALS)'" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "$(PYTHON) cannot make virtual environments: on Debian and Ubuntu, 'apt-get install python3-venv' mends that" >&2; exit 1; }
	@echo "setting up $(VENV) (once; packages come from the Python package index, checked by hash)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r requirements/dev.txt
	@$(BIN)/pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: setup
setup: $(VENV)/.ready  ## make the virtual environment

.PHONY: demo
demo: $(VENV)/.ready  ## watch devices live and die on a simulated node, within a minute
	@$(BIN)/mdev-device-plugin demo

# The tests wait more than they work, so two processes for each processor.
WORKERS ?= $(shell echo $$(( 2 * $$(nproc) )))

.PHONY: test
test: $(VENV)/.ready  ## unit and component tests, side by side in WORKERS processes, with branch coverage
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest --numprocesses $(WORKERS) --dist worksteal \
	  tests/unit tests/properties tests/contract tests/component tests/stateful tests/fuzz
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

.PHONY: test-serial
test-serial: $(VENV)/.ready  ## the quick ones of them in one process, one after the other
	@$(BIN)/pytest tests/unit tests/contract

.PHONY: test-stateful
test-stateful: $(VENV)/.ready  ## a long history of pods, kills and faults; STEPS and SEED choose which
	@$(BIN)/python -m tests.stateful --steps $${STEPS:-20000} $${SEED:+--seed $$SEED}

.PHONY: test-load
test-load: $(VENV)/.ready  ## a thousand pods, and what the agent has in memory; PODS says how many
	@$(BIN)/python -m tests.load --pods $${PODS:-1000}

.PHONY: test-mutants
test-mutants: $(VENV)/.ready  ## break the agent on purpose, and see that its tests notice
	@$(BIN)/python -m tests.mutants

.PHONY: test-fuzz
test-fuzz: $(VENV)/.ready  ## whatever is parsed, with ten thousand examples of bad input for each test
	@MDEV_FUZZ_EXAMPLES=$${MDEV_FUZZ_EXAMPLES:-10000} $(BIN)/pytest tests/fuzz --durations=10

.PHONY: test-kernel
test-kernel: $(VENV)/.ready  ## the same devices on a real kernel, in a virtual machine (root, apt)
	@tests/kernel/run

.PHONY: test-chart
test-chart: $(VENV)/.ready  ## the Helm chart and the manifests, as rendered (Go, or helm)
	@$(BIN)/pytest tests/chart

.PHONY: test-cluster
test-cluster: $(VENV)/.ready  ## the chart on a running Kubernetes: any KUBECONFIG, with kubectl
	@tests/cluster/run

.PHONY: image
image:  ## the container image, with buildah, podman or docker
	@tests/image/build

.PHONY: test-image
test-image: image $(VENV)/.ready  ## build the image, and test what it holds
	@$(BIN)/pytest tests/image

.PHONY: bench
bench: $(VENV)/.ready  ## the figures of CONTRIBUTING.md, measured here
	@$(BIN)/python -m tests.bench

.PHONY: lint
lint: $(VENV)/.ready  ## style, types, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

AUDIT_VENV ?= .venv-audit
$(AUDIT_VENV)/.ready: requirements/audit.txt
	@$(PYTHON) -m venv --clear $(AUDIT_VENV)
	@$(AUDIT_VENV)/bin/pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r requirements/audit.txt
	@touch $@

.PHONY: audit
audit: $(AUDIT_VENV)/.ready  ## known vulnerabilities in what the locks name (reaches the OSV service)
	@for lock in run build dev kernel audit; do \
	  echo "requirements/$$lock.txt:"; \
	  $(AUDIT_VENV)/bin/pip-audit --strict --progress-spinner off --vulnerability-service osv \
	    --disable-pip --require-hashes -r requirements/$$lock.txt \
	  || { echo "requirements/$$lock.txt did not pass: either it names a package with an advisory, which is listed above," \
	    "or the advisory service could not be asked, and then nothing was checked" >&2; exit 1; }; \
	done

.PHONY: sbom
sbom: image $(AUDIT_VENV)/.ready  ## build the image, and build/sbom.json: all that is in it, as CycloneDX
	@$(AUDIT_VENV)/bin/cyclonedx-py requirements --output-reproducible --spec-version 1.6 --output-format JSON \
	  --validate --pyproject pyproject.toml --output-file build/python.json requirements/run.txt
	@$(AUDIT_VENV)/bin/python -m tests.image.sbom build/python.json build/packages.tsv > build/sbom.json

.PHONY: chart
chart: $(VENV)/.ready  ## write what is made of the chart: its schema, its README's table, manifests (Go, or helm)
	@$(BIN)/python -m tests.chart.generate

.PHONY: picture
picture: $(VENV)/.ready  ## write the README's picture, docs/demo.svg, of the demo as it runs
	@$(BIN)/python -m tests.documents.picture

.PHONY: proto
proto: $(VENV)/.ready  ## generate deviceplugin/api from proto
	@$(BIN)/python -m grpc_tools.protoc -I deviceplugin/api=proto \
	  --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  $(patsubst proto/%,deviceplugin/api/%,$(wildcard proto/*.proto))

.PHONY: lock
lock: $(VENV)/.ready  ## resolve the dependencies anew (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate \
	  --upgrade pyproject.toml -o requirements/run.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate \
	  --upgrade pyproject.toml --extra demo --group dev -o requirements/dev.txt
	echo hatchling | uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --no-annotate --upgrade - -o requirements/build.txt
	printf 'pip-audit>=2.10\ncyclonedx-bom>=7.5\n' | uv pip compile --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-emit-index-url --no-annotate --upgrade - -o requirements/audit.txt
