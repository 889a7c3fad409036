PYTHON ?= python3
BIN := .venv/bin
# Ray on this machine alone: no usage reports, loopback only.
export RAY_USAGE_STATS_ENABLED ?= 0
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER ?= 0
# Two processes, also where there are more cores: Ray's tests are one half of the time, and run in one.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --no-loadscope-reorder

.PHONY: browser demo test test-full check format clean

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/.installed      ## train, forget, prove, serve, purge and certify on real digits
	$(BIN)/hybridmu demo

test: .venv/.installed      ## the suite
	$(PYTEST) -m "not slow"

test-full: .venv/.installed ## the suite with its slow part
	$(PYTEST)

browser: .venv/.installed   ## what the console's test in a real browser needs (Debian, as root)
	apt-get install --yes --no-install-recommends chromium
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[browser]'

check: .venv/.installed     ## lint, docstrings, types, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs build *.egg-info
