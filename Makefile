# Two commands for a fresh machine: `make demo` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUTPUT_DIR ?= runs/demo
SEED ?= 0

# A process for each core; the tests of a module stay together, as what they share is made once.
IN_PARALLEL := --numprocesses auto --dist loadscope

HF_TESTS ?= .cache/transformers_tests

.PHONY: install demo test test-slow test-hf test-browser format

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: install
	$(BIN)/scmm demo --output-dir $(OUTPUT_DIR) --seed $(SEED)

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(IN_PARALLEL) # on tiny tensors, threads would but wait for each other

test-slow: install
	$(BIN)/python -m pytest -m slow

# transformers' own common tests, which its source distribution holds, run against our classes.
test-hf: install
	$(BIN)/python tests/hf/fetch_transformers_tests.py $(HF_TESTS)
	TRANSFORMERS_TESTS=$(HF_TESTS) $(BIN)/python -m pytest tests/hf

# The page in a real browser: needs Debian's package chromium, or another one that SCMM_CHROMIUM names.
test-browser: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,test-browser]"
	$(BIN)/python -m pytest tests/app/test_app_browser.py

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
