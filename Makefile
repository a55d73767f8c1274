# One environment in .venv, made once and made anew when the dependencies change.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: help demo test test-slow browser bench bench-bridges clean

help:  ## Say what can be made
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

demo: .venv/installed  ## Grow a first model in about eight minutes, and look inside
	$(BIN)/cloche demo

test: .venv/installed-dev browser  ## Check style and types, and run the fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: .venv/installed-dev browser  ## Run the slow tests: kills, fuzzing, grids
	$(BIN)/python -m pytest -n 2 -m slow

bench: .venv/installed-dev  ## Measure, each comparison beside its peers in an environment of its own
	@for script in $$(grep -l __main__ bench/*/*.py); do \
		name=$$(basename $$script .py); python=$(BIN)/python; \
		if [ -f bench/requirements/$$name.txt ]; then \
			$(BIN)/python -m bench.setup $$name || exit 1; python=bench/.venvs/$$name/bin/python; fi; \
		echo "== $$name"; $$python -m $$(echo $${script%.py} | tr / .) || exit 1; \
	done

bench-bridges: .venv/installed-dev  ## Check the bridges to other libraries, each in an environment of its own
	$(BIN)/python -m bench.setup lm_eval
	bench/.venvs/lm_eval/bin/python -m bench.evals.lm_eval
	@for name in transformer_lens nnsight; do \
		$(BIN)/python -m bench.setup $$name && bench/.venvs/$$name/bin/python -m bench.bridges.$$name || exit 1; \
	done

clean:  ## Remove the environment and the caches; runs/ stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

# The microscope's tests drive a real browser. Where none is found and we may, Debian's own is installed; else they skip.
browser:
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		echo "installing chromium for the microscope's tests"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 \
			|| echo "chromium could not be installed: the microscope's browser tests will be skipped"; \
	else echo "no chromium found: the microscope's browser tests will be skipped"; fi

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "cloche needs Python 3.11 or newer, and $(PYTHON) is older; name one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: pyproject.toml constraints.txt | .venv/made
	@echo "installing cloche and what it stands on into .venv; torch is large, so the first time takes some minutes"
	$(PIP) -e .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/made
	@echo "installing cloche, what it stands on and its tests' needs into .venv; the first time takes some minutes"
	$(PIP) -e '.[dev]'
	@touch $@ .venv/installed
