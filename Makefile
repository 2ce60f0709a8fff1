# skilllab: `make help` lists the commands.

PYTHON ?= python3
PY := .venv/bin/python
ARGS ?=
PYTEST := SKILLLAB_FAST=1 $(PY) -m pytest --nbval-lax --nbval-current-env
TWO := -n 2 --dist loadscope --no-loadscope-reorder

# The environment is as its inputs were: another pyproject, other pins or another folder make another stamp.
STAMP := .venv/.stamp-$(shell { cat pyproject.toml constraints.txt; pwd; } | cksum | cut -d' ' -f1)

# Set-up leaves compiling to the first import, which needs leave to write it.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run lab test check bench setup clean

help: ## list the commands
	@echo "skilllab, a performance lab for agent skills"
	@echo
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-14s%s\n", $$1, $$2 }'
	@echo
	@echo "The first command sets up .venv, which takes one to two minutes. Options go in ARGS: make run ARGS='01 --full'"

run: setup ## run every notebook in its fast setting and write results/index.html
	@$(PY) -m skilllab.cli run $(ARGS)

lab: setup ## open JupyterLab in notebooks/, on this machine only
	@$(PY) -m skilllab.cli lab $(ARGS)

test: setup ## run all tests: package and browser two modules at a time, then the notebooks, which time what they run
ifdef ARGS
	@$(PYTEST) $(ARGS)
else
	@$(PYTEST) $(TWO) tests
	@$(PYTEST) notebooks
endif

check: setup ## lint, formatting, types, and imports that only go down
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy
	@$(PY) -m pytest -q tests/test_layers.py

bench: setup ## compare speed and memory with their goals; fails when one is missed
	@$(PY) tests/bench/run.py $(ARGS)

clean: ## remove .venv, results and every cache
	rm -rf .venv results dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/browser/screenshots
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -prune -exec rm -rf {} +

setup:
	@test -e $(STAMP) && test -x $(PY) || $(MAKE) --no-print-directory $(STAMP)-missing

# A stamp is the last thing that set-up writes: an environment without one was left half made, and is made anew.
$(STAMP)-missing:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "skilllab needs Python 3.11 or newer, and there is no $(PYTHON): on Debian or Ubuntu, apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "skilllab needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1 | cut -d" " -f2): name another with make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv module: on Debian or Ubuntu, apt-get install python3-venv" >&2; exit 1; }
	@ls .venv/.stamp-* >/dev/null 2>&1 && test -x $(PY) || rm -rf .venv
	@rm -f .venv/.stamp-*
	@echo "Setting up .venv with $$($(PYTHON) -V): about 140 packages, one to two minutes ..." >&2
	@start=$$(date +%s) && \
	{ test -x $(PY) || $(PYTHON) -m venv .venv; } && \
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
	  $(PY) -m pip install -qq --no-compile -e '.[lab,dev]' </dev/null && \
	touch $(STAMP) && echo "Set up in $$(($$(date +%s) - start)) s." >&2 || { \
	  echo "Set-up failed: mend what is named above and call make again, it starts afresh." >&2; exit 1; }
