# Everything runs from a virtual environment in .venv, made from requirements.txt alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 3
# Tests start many processes of ours: each would compile us anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test drill bench check packages

help: ## list these targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

run: $(VENV)/.installed ## start everything on embedded servers: console on http://127.0.0.1:8080
	$(BIN)/python manage.py up

packages: ## install what tests and benches need of the system (as root; else it says what is missing)
	@.ci/packages

test: packages $(VENV)/.installed ## the whole check: lint, types, imports, migrations, tests on real servers
	@$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

check: $(VENV)/.installed ## the static half of `make test`
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run

drill: $(VENV)/.installed ## an outage from probe to invoice, unattended; the last line is JSON
	$(BIN)/python manage.py drill

bench: packages $(VENV)/.installed ## measure against peers and limits; one JSON object a line
	$(BIN)/python -m tests.bench
