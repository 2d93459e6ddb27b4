# `make demo` and `make test` set up all they need in .venv; a fresh machine needs only Python and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint format types unit reliability audit benchmark clean
.DEFAULT_GOAL := demo

demo: .venv/.ready
	$(BIN)/ffvit compare --out studies/demo --overwrite

test: lint types unit

lint: .venv/.ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/.ready
	$(BIN)/mypy

unit: .venv/.ready
	$(BIN)/pytest

reliability: .venv/.ready
	$(BIN)/pytest tests/reliability -m 'reliability or not reliability'

audit: .venv/.ready
	$(BIN)/nox --session audit

format: .venv/.ready
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

benchmark: .venv/.ready
	$(BIN)/python benchmarks/network.py

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	@echo "Installing ffvit and what it needs into .venv (PyTorch is large: some minutes the first time)"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
