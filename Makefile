# Two commands for a fresh machine (Python >= 3.11): `make run` and `make test`.
# Everything else is plain `snakemake ...` and `mosa ...` from the environment in .venv.

PYTHON ?= python3
CORES ?= all
VENV := .venv
# The slow files first, as testpaths in pyproject.toml lists them, and two more at a time than there are cores: some wait.
PARALLEL := -n $(shell $(PYTHON) -c 'import os; print(os.cpu_count() + 2)') --dist loadfile --no-loadscope-reorder
INSTALLED := $(VENV)/.installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
unexport PYTHONDONTWRITEBYTECODE  # with it, every process compiles all that it imports

.PHONY: help setup run test pytest test-fast test-cluster test-thorough test-faults coverage bench lint docs schema clean

help: ## Show this help.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(INSTALLED) ## Create .venv with the pinned packages.

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed: make run PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@# An old pip takes three times as long to read the index.
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[test,docs]"
	@# Compile what all commands import, once.
	@$(VENV)/bin/python -c 'import mosa.base.timm, mosa.base.torchvision' & models=$$!; \
	    $(VENV)/bin/python -c 'import snakemake.cli, pandas, scipy.stats, matplotlib.pyplot' && wait $$models
	@touch $@

run: $(INSTALLED) ## Run the default experiment and print its table.
	snakemake --cores $(CORES) --quiet rules
	@cat results/tables/comparison.txt
	@echo "Tables: results/tables/   Plots: results/plots/   Records: results/runs/"
	@echo "Report: results/report.html (open it in a browser)"

test: lint pytest ## Run all tests and the linters, several files at a time.

pytest: $(INSTALLED)
	pytest $(PARALLEL)

test-fast: $(INSTALLED) ## Run the tests that are not marked slow.
	pytest $(PARALLEL) -m "not slow and not thorough"

test-cluster: $(INSTALLED) ## Run all tests of the Slurm profiles (root; Debian's slurm-wlm and munge).
	pytest tests/cluster -m cluster

test-thorough: $(INSTALLED) ## Run all tests, also those that take minutes and say little that others do not.
	pytest $(PARALLEL) -m "thorough or not thorough"

test-faults: $(INSTALLED) ## Kill every stage at 20 moments, and fuzz every reader ten times longer.
	MOSA_FAULTS=20 MOSA_FUZZ=600 pytest tests/unit/test_faults.py tests/unit/test_hostile.py

bench: $(INSTALLED) ## Run the benchmarks of speed and write docs/performance.md.
	python benchmarks/run_all.py

lint: $(INSTALLED) docs ## Check style and types: ruff, mypy, snakefmt, snakemake --lint, and the links of the documentation.
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile rules
	snakemake --lint

docs: $(INSTALLED) ## Build the documentation as a site in build/site; a broken link fails.
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict  # --quiet would silence what makes it fail

coverage: $(INSTALLED) ## Print which lines of mosa/ the fast tests run, for half as much time again.
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt coverage
	coverage run --source mosa -m pytest -m "not slow and not thorough" -p no:cacheprovider
	coverage report --skip-covered --skip-empty

schema: $(INSTALLED) ## Write the generated schema and documentation pages again.
	mosa schema

clean: ## Remove all results (not the environment).
	find results -mindepth 1 -not -path results/README.md -delete
