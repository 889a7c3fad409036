PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --constraint constraints.txt
# Ray on this machine alone: no usage reports, loopback only.
export RAY_USAGE_STATS_ENABLED ?= 0
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER ?= 0
# Two processes, also where there are more cores: Ray's tests are one half of the time, and run in one.
PYTEST := -m pytest --numprocesses 2 --no-loadscope-reorder

.PHONY: browser check clean coverage demo dist docs docs-serve format sbom screenshots test test-full verifier wheel

.venv/.made:
	$(PYTHON) -m venv .venv
	touch $@

# What the demo needs, its reviews among it, and no tools of those who change the code.
.venv/.demo: .venv/.made pyproject.toml constraints.txt
	$(INSTALL) --editable '.[serve,text]'
	$(BIN)/hybridmu data get reviews
	touch $@

.venv/.dev: .venv/.made pyproject.toml constraints.txt
	$(INSTALL) --editable '.[dev]'
	touch $@ .venv/.demo

demo: .venv/.demo     ## a person is forgotten, proven, served, purged and certified, on real reviews
	$(BIN)/hybridmu demo

test: .venv/.dev      ## the suite
	$(BIN)/python $(PYTEST) -m "not slow"

test-full: .venv/.dev ## the suite with its slow part
	$(BIN)/python $(PYTEST)

# TESTS names a part of the suite: make coverage TESTS=tests/core/proof/test_merkle.py
coverage: .venv/.dev  ## lines of the package that the suite runs; fails under 90 %
	$(BIN)/coverage erase
	$(BIN)/coverage run $(PYTEST) -m "not slow" $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# MkDocs' theme tells at every call what its authors plan.
docs: .venv/.dev      ## the pages: as a site in site/, then their commands, links, and the files and names in them
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	$(BIN)/python -m pytest tests/contracts

docs-serve: .venv/.dev ## the site on loopback, made anew when a page changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --dev-addr 127.0.0.1:8001

browser: .venv/.dev   ## what the tests in a real browser need (Debian, as root)
	apt-get install --yes --no-install-recommends chromium
	$(INSTALL) --editable '.[browser]'

screenshots: browser  ## the console's pictures in docs/images, by the test that uses it in a real browser
	CONSOLE_SCREENSHOTS=$(CURDIR)/docs/images $(BIN)/python -m pytest -q -n0 tests/browser/test_console.py

check: .venv/.dev     ## lint, docstrings, types, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel:                ## the package as a file in dist/
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .

dist: .venv/.dev      ## sdists and wheels of a release, the verifier's among them, in dist/
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/python -m build --no-isolation --outdir dist packages/hybridmu-verify

verifier:             ## the verifier as one file, dist/hybridmu-verify.pyz: needs Python and `cryptography`
	rm -rf build/verifier && mkdir -p build/verifier dist
	$(PYTHON) -m pip install --quiet --no-deps --target build/verifier packages/hybridmu-verify
	rm -rf build/verifier/bin
	printf 'import sys\n\nfrom hybridmu_verify.__main__ import main\n\nsys.exit(main())\n' > build/verifier/__main__.py
	$(PYTHON) -m zipapp build/verifier --output dist/hybridmu-verify.pyz --python '/usr/bin/env python3'

# What a release is made with and of: the pinned packages of what everybody gets, none of the tools of those who change it.
sbom: .venv/.dev      ## what an installation consists of, with licences, in CycloneDX: dist/hybridmu.cdx.json
	rm -rf build/installed && mkdir -p build dist
	$(PYTHON) -m venv build/installed
	build/installed/bin/pip install --quiet --constraint constraints.txt '.[adapters,datasets,image,postgres,report,s3,sentences,serve,simulate,sklearn,text]'
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON \
	  --output-file dist/hybridmu.cdx.json build/installed/bin/python

clean:
	rm -rf .venv runs build dist site *.egg-info packages/*/build packages/*/*.egg-info .coverage*
