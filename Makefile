# make demo | test | lint | types | docs | wheel | bench
#
#   make demo ARGS="--data cifar10 DIR"     the demonstration on CIFAR-10
#   make PYTHON=python3.12 test             another interpreter

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Asked for by exact version: where pip is pointed at CPU builds, it then takes them, and no CUDA package comes along.
TORCH := $(shell sed -n 's/^\(torch==.*\|torchvision==.*\)$$/\1/p' constraints.txt)

.PHONY: demo test lint types docs wheel bench clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py $(ARGS)

test: export OMP_NUM_THREADS = 1
test: lint types
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Built, checked, installed beside nothing but what it needs, and asked for the first answer of the README.
wheel: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[wheel]'
	rm -rf dist build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .
	$(BIN)/python -m twine check --strict dist/*.whl
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet -c constraints.txt dist/*.whl
	awk '/^```python/ {inside = 1; next} /^```/ && inside {exit} inside' README.md > build/wheel/first.py
	cd build/wheel && venv/bin/python first.py && venv/bin/hwsearch zoo

bench: $(STAMP)
	$(BIN)/python benchmarks/metrics.py

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt $(TORCH) -e '.[ci]'
	@$(BIN)/python -c "import torchvision" 2>/dev/null || echo "The torchvision of this package index was not compiled for its torch:" \
	  "hwsearch works around that. Where the index has a pair that fits, name it in constraints.txt."
	touch $@

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache demo-output
