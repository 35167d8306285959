# make help

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin

# Another interpreter: make env PYTHON=/path/to/python3.11
PYTHON ?=
# What to install: make env EXTRAS=gpu,dev (after `make clean`: cpu and gpu exclude each other)
EXTRAS ?= cpu,dev

STAMP := $(VENV)/.installed
UV_COMPILE = pip compile --universal --python-version 3.11 --all-extras --upgrade --quiet \
	--no-annotate --no-header --no-emit-index-url

.PHONY: help env quickstart test check lint format bench constraints clean

help: ## Shows this list
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

env: $(STAMP) ## Creates .venv with everything installed, unless it is up to date

quickstart: env ## Draws a small image set, extracts its features and shows the table
	$(BIN)/python examples/quickstart.py

test: env ## Runs all tests (15 to 25 minutes)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: lint ## Checks style and types, and runs the tests that need neither Ray nor long (3 minutes)
	$(BIN)/python -m pytest -m "not slow and not ray" $(PYTEST_ARGS)

lint: env ## Checks style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict -p bottleneck

format: env ## Brings the code into format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: env ## Runs the benchmarks (minutes)
	$(BIN)/python -m benchmarks.run

constraints: env ## Takes the newest versions that pyproject.toml allows
	@uv="$$(command -v uv || echo $(BIN)/uv)"; new="$$(mktemp)"; \
	grep '^#' constraints.txt > "$$new"; \
	"$$uv" $(UV_COMPILE) pyproject.toml \
		| grep -v "sys_platform == 'win32'" \
		| sed -E 's/ ; (platform_python_implementation|implementation_name).*//' >> "$$new"; \
	mv "$$new" constraints.txt

clean: ## Deletes everything that make made
	rm -rf $(VENV) build dist quickstart *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv where there is one, or one of our own: it installs in seconds what takes pip minutes. Compiled
# at once, as pip does: where Python may not write bytecode (PYTHONDONTWRITEBYTECODE), each of Ray's
# many processes would compile all that it imports.
$(STAMP): pyproject.toml constraints.txt
	@python='$(PYTHON)'; \
	is_311() { "$$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }; \
	if [ -z "$$python" ]; then \
		for name in python3.11 python3 python; do \
			if command -v "$$name" >/dev/null && is_311 "$$name"; then python="$$name"; break; fi; \
		done; \
	fi; \
	if [ -z "$$python" ]; then \
		echo "error: Python 3.11 is needed and neither python3.11, python3 nor python is one;" \
			"install it, or say where it is: make env PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	fi; \
	uv="$$(command -v uv || true)"; \
	if ! $(BIN)/python -c '' 2>/dev/null; then \
		echo "Creating $(VENV) with $$("$$python" --version)"; \
		if [ -n "$$uv" ]; then "$$uv" venv --quiet --clear --python "$$python" $(VENV); \
		else "$$python" -m venv --clear $(VENV); fi; \
	fi; \
	if [ -z "$$uv" ] && { $(BIN)/uv --version >/dev/null 2>&1 \
			|| $(BIN)/python -m pip install --quiet uv; }; then uv=$(BIN)/uv; fi; \
	if [ -n "$$uv" ]; then install=("$$uv" pip install --compile-bytecode --python $(BIN)/python); \
	else \
		echo "uv cannot be had: pip takes some minutes"; \
		install=($(BIN)/python -m pip install --progress-bar off); \
	fi; \
	echo "Installing with $${install[0]}: .[$(EXTRAS)]"; \
	"$${install[@]}" --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@
