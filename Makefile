# `make demo` and `make test` set up all they need in .venv; a fresh machine needs only Python and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint format types unit reliability audit benchmark browser docs clean
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
	$(BIN)/pytest --numprocesses 3 --dist loadfile

reliability: .venv/.ready
	$(BIN)/pytest tests/reliability -m 'reliability or not reliability'

audit: .venv/.ready
	$(BIN)/nox --session audit

format: .venv/.ready
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

benchmark: .venv/.ready
	$(BIN)/python benchmarks/network.py

# The tests of pages also need Chromium (Debian: apt install chromium).
browser: .venv/.ready
	$(BIN)/python -m pip install --quiet --editable '.[browser]'
	npm install --prefix tests --ignore-scripts --no-package-lock --no-audit --no-fund

# Warnings, such as a link to a page that does not exist, are errors.
docs: .venv/.docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --jobs auto docs docs/_build
	@echo "Open docs/_build/index.html"

.venv/.docs: .venv/.ready
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	@echo "Installing ffvit and what it needs into .venv (PyTorch is large: some minutes the first time)"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps 'imagecorruptions-imaug>=1.1.5'
	@touch $@

clean:
	rm -rf .venv build dist docs/_build tests/node_modules src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
