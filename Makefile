# `make serve` and `make test` need make and Python >= 3.11 with venv, nothing else; on Debian, as root, `make test`
# installs Prometheus, nginx and Chromium too, for the tests that need them.
PYTHON ?= python3
HOST ?= 0.0.0.0
PORT ?= 8000
# more arguments of pytest: make test ARGS="-k batching -x"
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# the constraints hold for the build back end as well: by the first variable up to pip 25.2, then by the second
PIP_INSTALL := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/python -m pip install \
    --disable-pip-version-check

.DELETE_ON_ERROR:
.PHONY: help serve test lint docs audit containers

help:
	@echo 'make serve       install and serve on HOST:PORT (0.0.0.0:8000)'
	@echo 'make test        install and run every check and every test'
	@echo 'make lint        install and run the checks: ruff, pyright, import-linter'
	@echo 'make docs        install and build the documentation into site/, from this repository alone'
	@echo 'make audit       ask the advisory database about every pinned package (needs the network)'
	@echo 'make containers  build the image, run docker-compose, post a photograph (needs a Docker engine)'

serve: $(VENV)/.installed
	exec $(BIN)/derain serve --host $(HOST) --port $(PORT)

test: lint
	sh tests/servers.sh
	$(BIN)/pytest $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# the theme would say at every build that it is kept until May 2027, and recommend its successor, Zensical
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean

# fails for what it cannot look up, too; pip-audit has an environment of its own, so it decides nothing here
audit:
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --disable-pip-version-check --quiet pip-audit
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

containers: $(VENV)/.installed-test
	$(BIN)/pytest -m containers -s -o faulthandler_timeout=0 tests/containers $(ARGS)

# pip is the last thing that venv puts in, so an environment that has it is whole
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP_INSTALL) --editable '.[docs]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP_INSTALL) --editable '.[test]'
	touch $@ $(VENV)/.installed $(VENV)/.installed-docs
