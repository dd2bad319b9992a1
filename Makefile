# `make help` lists what there is. Everything is installed into .venv and nowhere else.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
LOCKED ?=
LOCK   := $(if $(LOCKED),constraints.txt)
READY  := $(VENV)/.ready$(if $(LOCKED),-locked)
RUN    ?= runs/mnist
MINUTES ?= 2.5
SECONDS ?= 300
SEED    ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup lock train test test-slow test-gpu soak lint format fuzz bench bench-gpu clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: Python 3.10 or newer is needed; name one with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install --quiet --compile-bytecode -r pyproject.toml --extra dev $(if $(LOCK),--constraint $(LOCK))
	@$(PY) -c 'import torchvision'
	@touch $@

setup: $(READY)  ## install everything into .venv; LOCKED=1: the versions of constraints.txt

lock: setup  ## write the newest versions that fit into constraints.txt
	$(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.10 --all-extras \
	  --no-annotate --no-header -o constraints.txt pyproject.toml

train: setup  ## train the default, digits of 28x28, for MINUTES=2.5, and score it
	$(PY) -m src fit --config configs/mnist.yaml --run_dir $(RUN) --minutes $(MINUTES) --resume
	$(PY) -m src test --ckpt_path $(RUN)/checkpoints/last.ckpt

test: setup  ## run the tests
	$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: setup  ## run the long tests: minutes each
	$(PY) -m pytest -m slow

test-gpu: setup  ## run the tests that need a CUDA device
	$(PY) -m pytest -m gpu

soak: setup  ## kill training 100 times, resume it, and compare the end bit by bit
	PYTHONPATH=. $(PY) tests/soak.py

lint: setup  ## check style and obvious faults
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: setup  ## rewrite the files in the project's style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

fuzz: setup  ## mutated images and configurations, for SECONDS=300 each from SEED=0
	PYTHONPATH=. $(PY) tests/fuzz.py images $(SECONDS) $(SEED)
	PYTHONPATH=. $(PY) tests/fuzz.py options $(SECONDS) $(SEED)

bench: setup  ## measure the training step, the trace and the extractor against what they replace
	PYTHONPATH=. $(PY) tests/benchmarks/step.py
	PYTHONPATH=. $(PY) tests/benchmarks/host.py
	PYTHONPATH=. $(PY) tests/benchmarks/trace.py
	PYTHONPATH=. $(PY) tests/benchmarks/features.py

bench-gpu: setup  ## measure the training step on a CUDA device: graphs, compiled networks, precision
	PYTHONPATH=. $(PY) tests/benchmarks/step.py --accelerator gpu --turns 3

study-%: setup  ## measure a table of configs/systems/README.md over several seeds: study-gan, study-igm, ...
	PYTHONPATH=. $(PY) tests/studies/$*.py

%-classifier: setup  ## train again a shipped network whose features score digits: digits-classifier, mnist-classifier
	$(PY) -m src.metrics.classifier --data $* --output src/metrics/$*.safetensors

clean:  ## remove what the targets made, except runs/ and data/
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
