# make demo: a virtual environment, everything installed, the whole job on the built-in subject
# make test: the same set-up, all tests
# make drill: a night that is killed ten times ends as one that was left alone; takes half an hour or more (RUN=file.duckdb starts from its harvest)
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: demo test check docs drill format clean

demo: .venv/installed
	$(BIN)/glossator demo --out demo.duckdb

test: .venv/installed
	$(BIN)/python -m pytest

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py tests/test_docs.py

docs: .venv/installed
	$(BIN)/python scripts/make_docs.py

drill: .venv/installed
	$(BIN)/python -m benchmarks.drill $(if $(RUN),--run $(RUN))

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[demo,test,docs,live]"
	touch $@

clean:
	rm -rf .venv dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache
