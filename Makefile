# The two commands of the README are `make demo` and `make test`; every target installs what it needs into .venv.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
REQUIREMENTS := pyproject.toml constraints.txt

.PHONY: demo test lint types imports docs bench zoo clean

demo: $(VENV)/.stamp-demo  ## Train small models and write an illustrated report.
	@$(BIN)/opsin tour --out build/tour

test: $(VENV)/.stamp-dev  ## Run the whole test suite.
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.stamp-dev  ## Style and simple mistakes.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.stamp-dev  ## Static types.
	$(BIN)/mypy

imports: $(VENV)/.stamp-dev  ## The rules about which part may import which.
	$(BIN)/lint-imports

docs: $(VENV)/.stamp-dev  ## Build the documentation into build/docs.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.stamp-dev  ## Measure speed against named peers; one script a workload.
	@set -e; for script in bench/*.py; do echo "== $$script"; $(BIN)/python $$script; done

zoo: $(VENV)/.stamp-demo  ## Train the models that ship with the package again, and put them in place.
	rm -rf build/zoo
	$(BIN)/opsin train captioner --recipe emoji --out build/zoo/emoji-captioner
	$(BIN)/opsin export build/zoo/emoji-captioner --half --card src/opsin/zoo/emoji-captioner/README.md --out src/opsin/zoo/emoji-captioner
	$(BIN)/opsin train clip --recipe emoji-zoo --out build/zoo/emoji-clip
	$(BIN)/opsin export build/zoo/emoji-clip --half --card src/opsin/zoo/emoji-clip/README.md --out src/opsin/zoo/emoji-clip
	$(BIN)/opsin train diffusion --recipe emoji-zoo --out build/zoo/emoji-diffusion
	$(BIN)/opsin export build/zoo/emoji-diffusion --half --card src/opsin/zoo/emoji-diffusion/README.md --out src/opsin/zoo/emoji-diffusion
	$(BIN)/opsin train simclr --recipe cifar10-cpu-2h --out build/zoo/cifar10-simclr
	$(BIN)/opsin export build/zoo/cifar10-simclr --encoder-only --half --card src/opsin/zoo/cifar10-simclr/README.md --out src/opsin/zoo/cifar10-simclr

clean:  ## Remove everything that was built here, the virtual environment included.
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# The installs are editable, so that a later change of the sources needs no new install.
$(VENV)/.stamp-demo: $(VENV)/.stamp-venv $(REQUIREMENTS)
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-venv $(REQUIREMENTS)
	$(PIP_INSTALL) -e ".[dev,bench]"
	@touch $@ $(VENV)/.stamp-demo

# Some distributions leave out ensurepip; where pip itself is there, it can fill an environment without it.
$(VENV)/.stamp-venv:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "opsin needs Python 3.11 or newer, and there is no '$(PYTHON)'. Install it, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "opsin needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@if $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	  $(PYTHON) -m venv --clear $(VENV); \
	elif $(PYTHON) -c 'import pip, venv' 2>/dev/null; then \
	  $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; \
	else \
	  echo "'$(PYTHON)' can make no virtual environments: its module ensurepip or venv is missing. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; \
	fi
	@touch $@
