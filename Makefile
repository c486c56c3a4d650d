# make run | test | lab | learner; each first makes .venv. Windows: see "Without make" in README.md.
PYTHON ?= python3
BIN := .venv/bin
SETTINGS := PRESET DATASET WEIGHTS BACKBONE HEAD RUNS DATA_HOME SIZE EPOCHS RECIPE TRAIN_FROM VIEWS SEED DEVICES PRECISION XLA BENCHMARK SEARCH
# what was typed behind `make run`, as NAME=value words for `python -m workbook run`
TYPED = $(foreach v,$(SETTINGS),$(if $(filter command,$(firstword $(origin $(v)))),'$(v)=$($(v))'))

.PHONY: run test check lab publish learner

run: .venv/ready
	@$(BIN)/python -m workbook run $(TYPED) $(NOTEBOOKS)

test: .venv/ready
	@$(BIN)/python -m pytest

# what a change needs before it is committed: under a minute
QUICK := config exercises figures metrics_reference model retrieval triplets verification commands
check: .venv/ready
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m pytest -p no:nbval -o addopts=-q $(wildcard $(QUICK:%=tests/test_%.py))

lab: .venv/ready
	@$(BIN)/jupyter lab notebooks

# copies of the notebooks without solutions and outputs, in learner/
learner: .venv/ready
	@$(BIN)/python -m workbook learner

# a run, then its executed notebooks and figures become the committed ones
publish: .venv/ready
	@$(BIN)/python -m workbook run --publish $(TYPED) $(NOTEBOOKS)

.venv/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@echo "first use: installing requirements.txt into .venv (a few minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
