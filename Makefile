# make demo    see the whole thing work: train, compare, evaluate (a few minutes)
# make test    run the tests
# make check   lint, types and generated docs
# make bench-env  a .venv-bench with the peers of the benchmarks (llama-cpp-python compiles for minutes)
# Each sets up .venv by itself. The same as plain commands: see the README.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev

.PHONY: demo test check docs bench-env clean

demo: $(READY)
	$(BIN)/cwgpt demo

# A test on one thread for each core at once; then, one after the other, those that must come out
# the same on all of the machine's threads.
test: $(READY_DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical -m "not (invariant or realdata)"
	$(BIN)/python -m pytest -m "invariant or realdata"

check: $(READY_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

docs: $(READY_DEV)
	$(BIN)/python docs/generate.py

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): PyTorch and the rest, once (a few minutes) …"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(READY_DEV): $(READY)
	@echo "Adding what the tests and checks need …"
	$(BIN)/python -m pip install --quiet -c constraints.txt --group dev -e ".[hub,documents,fast]"
	@touch $@

bench-env:
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(VENV)-bench/bin/python -m pip install --quiet -c constraints.txt -e ".[hub,documents,fast]" \
		--group bench-train --group bench-generate --group bench-evaluate --group bench-explain

clean:
	rm -rf $(VENV) $(VENV)-bench
