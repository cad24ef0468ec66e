# make search     the demonstration: search, confirm and report on handwritten digits (no GPU, nothing
#                 downloaded but the packages); the table and the report's path on stdout, the rest on stderr
# make test       the fast tests;  make test-slow: the others, but the longest;  make test-all: all of them
# make check      lint, format, types, import rules
# make clean      deletes .venv and caches, never runs/
#
# Python 3.11 or newer: make search PYTHON=python3.12

PYTHON ?= python3
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh
BIN := .venv/bin
STUDY := runs/digits_kd
PARALLEL := --numprocesses 2 --dist loadfile # a file's tests share what its fixtures made

.DEFAULT_GOAL := help
.PHONY: help search test test-slow test-all check clean
.DELETE_ON_ERROR:

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

# Installed anew when the project's metadata, the pins or the interpreter change, not when the code
# does (-e). -qq: pip says nothing but errors. A .venv whose Python is gone or too old is made again.
ready := import sys; sys.exit(sys.version_info < (3, 11))
again := $(shell $(BIN)/python -c '$(ready)' 2>/dev/null || echo no-python)
.PHONY: no-python
define install
	@$(PYTHON) -c '$(ready)' || { echo "Python 3.11 or newer is needed, $(PYTHON) is not; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(BIN)/python -c '$(ready)' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@echo "installing into .venv (the first time some minutes and 7 GB) ..." >&2
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt -e '$(1)' >&2
	@touch $@
endef

.venv/installed: pyproject.toml constraints.txt $(again)
	$(call install,.)

.venv/installed-dev: pyproject.toml constraints.txt $(again)
	$(call install,.[dev])
	@touch .venv/installed

search: .venv/installed
	@$(BIN)/python -m tune_kd.search --space digits_kd --resume >&2
	@$(BIN)/python -m tune_kd.confirm $(STUDY) --seeds 1 >&2
	@$(BIN)/python -m analysis.report $(STUDY)

test: .venv/installed-dev
	@$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-slow: .venv/installed-dev
	@$(BIN)/python -m pytest $(PARALLEL) -m "slow and not long"

test-all: .venv/installed-dev
	@$(BIN)/python -m pytest $(PARALLEL)

check: .venv/installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

clean:
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +
