# SPDX-License-Identifier: Apache-2.0
.DEFAULT_GOAL := help
.PHONY: help setup test check format demo bench install uninstall clean
BIN := .venv/bin

# An ordinary user's path often lacks mkfs.ext4, which the demo and the tests run.
export PATH := $(PATH):/usr/sbin:/sbin

# Passed on to what a target runs: make test ARGS="-k restore"
ARGS ?=

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup: ## Make .venv; install what is missing (or say what to install)
	@PYTHON="$(PYTHON)" scripts/setup.sh

test: setup ## Run every test
	@scripts/test.sh $(ARGS)

check: setup ## Check format, style, types, layers and spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy snapvault tests benchmarks scripts
	$(BIN)/lint-imports
	$(BIN)/codespell

format: setup ## Format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

demo: setup ## Back up, list, restore and verify on a throw-away S3 server
	$(BIN)/python -m scripts.demo $(ARGS)

bench: setup ## Measure SnapVault beside restic, borg and duplicity
	$(BIN)/python -m benchmarks.run $(ARGS)

# PREFIX, BINDIR and DESTDIR say where to; scripts/install.sh has their defaults.
export PREFIX BINDIR DESTDIR

install: ## Install SnapVault on this host, or upgrade it (as root)
	@scripts/install.sh

uninstall: ## Remove what install installed; settings, keys and state stay
	@scripts/install.sh --remove

clean: ## Remove what these commands made in this folder
	rm -rf .venv build dist .coverage htmlcov .hypothesis .import_linter_cache
	rm -rf .mypy_cache .pytest_cache .ruff_cache snapvault.egg-info
	find snapvault tests benchmarks scripts -name __pycache__ -prune -exec rm -rf {} +
