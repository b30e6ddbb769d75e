# Everything a newcomer needs: `make demo` and `make test` set the project up first, inside this folder only.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.set-up
SOURCES := chaos loadtests metrics system_under_test tests

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench prove tools lock clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 10

setup: $(STAMP)  ## install what is pinned in requirements.lock into .venv

# uv where it is there; otherwise pip gets it, pinned by the same lock. Never another Python than the machine's. What
# uv's cache holds already needs no network.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "Holdfast needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make PYTHON=python3.12 setup" >&2; exit 1; }
	@rm -rf .venv
	@if command -v uv >/dev/null; then \
	  UV_PYTHON_DOWNLOADS=never uv venv -q --python "$$(command -v $(PYTHON))" .venv; \
	else \
	  $(PYTHON) -m venv .venv \
	    || { echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv, or install uv" >&2; exit 1; }; \
	  awk '/^[a-z]/ { wanted = /^uv==/ } wanted' requirements.lock > .venv/uv.txt; \
	  $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r .venv/uv.txt; \
	fi
	@UV=$$(command -v uv || echo $(BIN)/uv); export VIRTUAL_ENV=$(CURDIR)/.venv UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy; \
	  { $$UV pip install -q --offline --require-hashes -r requirements.lock 2>/dev/null \
	    || $$UV pip install -q --require-hashes -r requirements.lock; } \
	  && $$UV pip install -q --no-deps --no-build-isolation -e .
	@touch $@

demo: setup  ## start the reference platform, break it for a minute, print the verdict, write the report
	@$(BIN)/holdfast run tour

BESIDE := tests/unit tests/regressions tests/contract $(addprefix tests/integration/,engine faults killed targets)
PLATFORM := tests/integration/platform

test: setup  ## style, types, layering and the whole suite: at most 10 minutes on 2 cores
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	@# What waits (processes, phases) and what computes share two cores well; what measures comes last, undisturbed.
	@$(BIN)/pytest $(BESIDE) > .venv/beside.out 2>&1 & beside=$$!; \
	  $(BIN)/pytest $(PLATFORM); platform=$$?; \
	  wait $$beside; status=$$?; cat .venv/beside.out; \
	  $(BIN)/pytest tests $(addprefix --ignore=,$(BESIDE) $(PLATFORM)); exit $$((platform + status + $$?))

check: test  ## exactly what CI runs

bench: setup  ## measure: prints a table, writes bench.json
	@$(BIN)/python -m tests.benchmarks

prove: setup  ## the long proofs
	$(BIN)/pytest -m prove --timeout=1800

tools:  ## what PyPI lacks, into .tools/ (Debian's packages, unpacked without installing them)
	@mkdir -p .tools
	@cd .tools && apt-get download prometheus && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb
	@if command -v chromium >/dev/null; then :; elif [ "$$(id -u)" = 0 ]; then apt-get install -qy chromium >/dev/null; \
	  else echo "chromium is not there and installing it needs root: tests of the report in a browser are skipped" >&2; fi
	@echo ".tools/usr/bin: $$(ls .tools/usr/bin | tr '\n' ' ')"

lock: setup  ## resolve requirements.lock again
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --all-extras --group dev pyproject.toml -o requirements.lock

clean:  ## remove what setup and runs have made
	rm -rf .venv .tools runs bench.json .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
