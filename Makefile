# `make help` prints the comments behind the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: build run test test-cluster test-machine lint bench faults fuzz image sbom up down clean help lock dashboards

$(VENV)/built: requirements.lock pyproject.toml build_protos.py $(wildcard service/jobworker/v1/*.proto)
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

build: $(VENV)/built ## a virtual environment in .venv with everything

run: build ## the whole service on this machine: makes its PKI under var/ if there is none, Ctrl-C ends it
	@$(BIN)/jobworker run

test: build ## every test but those of the next two, with real processes, TLS and files
	$(BIN)/pytest -m 'not cluster and not machine'

test-cluster: build ## the chart on a real Kubernetes node, which is built and started here (root, Debian, Go)
	$(BIN)/pytest -m cluster tests/cluster

test-machine: build ## the units on a Debian with systemd, booted here (root, systemd-container, debootstrap)
	$(BIN)/pytest -m machine tests/systemd

lint: build ## ruff (lint and format) and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: build ## each figure beside its floor in the same run and its goal (BENCH=--list, --quick, --only NAME, --json FILE)
	$(BIN)/python -m tests.bench $(BENCH)

faults: build ## kills, power failures, full disks and others under load, and what they broke (root for some; FAULTS=--short)
	$(BIN)/python -m tests.faults $(FAULTS)

fuzz: build ## every reader of what others wrote, given bytes that nobody meant to write (FUZZ=--seconds 60, --only TEXT)
	$(BIN)/python -m tests.fuzz $(FUZZ)

dashboards: build ## Grafana's dashboards from docker/grafana/boards, and the chart's copies of them and of the rules
	mkdir -p charts/jobworker/files/dashboards charts/jobworker/files/rules
	cd docker/grafana && ../../$(BIN)/python -W ignore -m boards dashboards ../../charts/jobworker/files/dashboards
	cp docker/prometheus/rules/*.yml charts/jobworker/files/rules/

image: ## the two images, jobworker:VERSION and jobworker-executor:1 (BASE_IMAGE, PIP_CONF: a pip.conf to build with)
	@docker/images

sbom: build ## the images, and what they hold as CycloneDX in dist/
	@docker/images sbom

up: ## the service in containers: docker compose up, with what is in this folder
	docker compose up --build --detach --wait

down: ## end it; its volumes stay
	docker compose down

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

lock: ## resolve the lock files anew (needs uv)
	$(LOCK) --group dev --extra server pyproject.toml -o requirements.lock --upgrade
	$(LOCK) -c requirements.lock --extra server pyproject.toml -o docker/server.lock
	$(LOCK) -c requirements.lock --group build -o docker/build.lock

clean: ## remove the environment, caches and generated code; var/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache dist
	rm -f service/jobworker/v1/*_pb2*.py service/jobworker/v1/*_pb2*.pyi service/jobworker/v1/comments.binpb

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
