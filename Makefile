# Two targets are all a user needs: `make harden` and `make test`. The others are for daily work.

PYTHON  ?= python3
WORKERS ?= 2
INPUTS  ?= 100000
OUT     ?= runs/harden
ARGS    ?=

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/pip --disable-pip-version-check --quiet
SD   := $(VENV)/.installed-sd
DEV  := $(VENV)/.installed-dev
CODE := src tests $(wildcard embedded examples benchmarks)
DEFAULT_TESTS := not gpu and not network and not browser and not slow

.PHONY: help harden test lint types contracts unit fast slow fuzz coverage format docs wheel clean

help:
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

harden: $(SD)  ## harden the embedded Stable Diffusion and write a report
	@$(BIN)/loricate harden --out $(OUT) $(if $(wildcard $(OUT)/*),--resume) $(ARGS); code=$$?; \
	if [ -f $(OUT)/report.html ]; then echo "Report: $(OUT)/report.html"; fi; exit $$code

test: lint types contracts unit  ## everything a change has to pass

lint: $(DEV)  ## style and formatting
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

types: $(DEV)  ## mypy, strict
	$(BIN)/mypy

contracts: $(DEV)  ## who may import whom
	$(BIN)/lint-imports

unit: $(DEV)  ## all tests that need neither accelerator, network, browser nor patience
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) -m "$(DEFAULT_TESTS)" $(ARGS)

fast: $(DEV)  ## unit tests and laws only
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) -m "$(DEFAULT_TESTS)" -x -q \
		$(wildcard tests/unit tests/property) $(ARGS)

slow: $(DEV)  ## the tests that need patience
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow $(ARGS)

fuzz: $(DEV)  ## mutated files for every reader: INPUTS=100000, seeds and findings in build/fuzz
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py --inputs $(INPUTS) $(ARGS)

coverage: $(DEV)  ## tests with the lines they miss
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) -m "$(DEFAULT_TESTS)" --cov --cov-report=term $(ARGS)

format: $(DEV)  ## rewrite the sources in house style
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

docs: $(DEV)  ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel: $(DEV)  ## the wheel, into dist/
	$(PIP) wheel --no-deps --wheel-dir dist .

clean:  ## caches and builds, but neither the environment nor runs
	rm -rf build dist site htmlcov .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf .import_linter_cache

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "loricate needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)

$(SD): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[sd]'
	@touch $@

# torchattacks declares torchvision, which nothing here needs; it serves as an oracle without it.
$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[dev]'
	$(PIP) install -c constraints.txt --no-deps torchattacks
	@touch $(SD) $@
