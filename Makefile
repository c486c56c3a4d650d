# make run | test | lab | learner; each first makes .venv. `make site` makes .venv-site. Without make (Windows): see docs/machines.md.
# the first that runs (a name may be a shim of a version manager without that version); tried once
PYTHON ?= $(eval PYTHON := $(shell for p in python3.13 python3.12 python3.11 python3.14 python3; do $$p -c "" 2>/dev/null && echo $$p && break; done))$(PYTHON)
BIN := .venv/bin
# as one word for the shell, whatever is in it
quoted = '$(subst ','\'',$(1))'
# every NAME=value typed on this command line; `python -m workbook run` refuses unknown names
OWN := NOTEBOOKS PYTHON FRESH OPTIONS BIN
NAMES = $(sort $(foreach v,$(filter-out $(OWN) -% .% MAKE%,$(.VARIABLES)),$(if $(filter command,$(firstword $(origin $(v)))),$(v))))
TYPED = $(foreach v,$(NAMES),$(call quoted,$(v)=$($(v))))

.PHONY: run test check lab publish learner site no-settings

run: .venv/ready
	@$(BIN)/python -m workbook run $(TYPED) $(NOTEBOOKS)

test: no-settings .venv/ready
	@$(BIN)/python -m pytest -n 2 --dist loadfile

# what a change needs before it is committed: linter, types, direction of imports, quick tests
check: no-settings .venv/ready
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m pytest -p no:nbval -o addopts=-q @tests/quick.txt

# copies in lab/ to type in, made where they are missing; FRESH=1: new ones, the old are kept
lab: no-settings .venv/ready
	@$(BIN)/python -m workbook lab $(if $(FRESH),--fresh) -- $(OPTIONS)

# copies of the notebooks without solutions and outputs, in learner/
learner: no-settings .venv/ready
	@$(BIN)/python -m workbook learner

# the website, in docs/site/build/html/
site: no-settings .venv-site/ready
	@.venv-site/bin/python -m workbook site

# a run, then its executed notebooks and figures become the committed ones
publish: .venv/ready
	@$(BIN)/python -m workbook run --publish $(TYPED) $(NOTEBOOKS)

# these targets would ignore settings, so they refuse them
no-settings:
	$(if $(NAMES),$(error make $(MAKECMDGOALS) takes no settings, but was given $(NAMES): set variables, such as SIAMESE_$(firstword $(NAMES)), before the command))@:

define check-python
@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11, 3.12 or 3.13 is needed, and $(or $(PYTHON),python3) is none of them. Install one (your package manager, or python.org), then: make PYTHON=python3.13 ..." >&2; exit 1; }
endef

.venv/ready: requirements.txt
	$(check-python)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 14) and print("Python 3.14 or newer: TensorFlow had no release for it in November 2026. pip takes a pre-release if there is one; nothing here was tried with it. Better, if you have it: make PYTHON=python3.13 ...")'
	@echo "first use: installing requirements.txt into .venv (some minutes, 3 GB)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

.venv-site/ready: docs/site/requirements.txt
	$(check-python)
	@echo "first use: installing docs/site/requirements.txt into .venv-site (less than a minute, 0.3 GB)"
	@.venv-site/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv-site
	@.venv-site/bin/python -m pip install --disable-pip-version-check -r docs/site/requirements.txt
	@touch $@
