# make serve | demo | test | test-all | check | soak | bench-gpu | reproduce-gpu | claims | docs | notebooks
# make lint | format | clean
# With another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: serve bench-gpu reproduce-gpu claims docs notebooks demo test test-slow test-all check soak lint format clean

# The page with the net that comes with the package, or with another: make serve RUN=runs/photos
PORT ?= 8000
serve: $(VENV)/.installed-serve
	@$(BIN)/alexnet serve --port $(PORT) $(if $(RUN),--run $(RUN))

demo: $(VENV)/.installed
	@$(BIN)/alexnet demo

# Two workers with one thread each: more threads would only compete for the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test: $(VENV)/.installed-dev
	@$(PYTEST) -m "not slow"

# What `make test` leaves out: kill loops, process groups, large cases.
test-slow: $(VENV)/.installed-dev
	@$(PYTEST) -m slow

test-all: test test-slow

check: lint test-all

# Twenty minutes of kills and damaged files: make soak MINUTES=60
MINUTES ?= 20
soak: $(VENV)/.installed-dev
	@OMP_NUM_THREADS=1 $(BIN)/python scripts/soak.py results/reliability/result.json --minutes $(MINUTES)

# All that needs a GPU, in seven minutes; stopped, it goes on where it was. With CIFAR10=DATA it also
# trains on that for 520 epochs.
OUT ?= results/gpu

bench-gpu: $(VENV)/.installed-dev
	@$(BIN)/python scripts/bench_gpu.py $(OUT) $(if $(CIFAR10),--cifar10 $(CIFAR10))

# The paper's experiments in full on a GPU, the most telling first, in visits of seven minutes: the
# same command goes on where it was stopped. docs/reproduce.md says how the data are prepared.
CIFAR10_DATA ?= data/cifar10
PHOTOS_64 ?= data/imagenette64
PHOTOS_256 ?= data/imagenette256
REPRODUCED ?= runs/reproduce_gpu
SECONDS_OF_A_VISIT ?= 420
JOBS ?= 8

reproduce-gpu: $(VENV)/.installed-dev
	@timeout --foreground --signal=INT --kill-after=30 $(SECONDS_OF_A_VISIT) \
	    $(BIN)/alexnet reproduce cifar10 relu lrn dropout augmentation views towers filters lineage depth \
	    pooling momentum order --budget full --jobs $(JOBS) --out $(REPRODUCED) \
	    --data $(CIFAR10_DATA) --data $(PHOTOS_64) --data $(PHOTOS_256) || { \
	    [ $$? = 124 ] && echo "the visit is over: make reproduce-gpu continues"; }

# The page of results/reproduce/ and the table in docs/paper.md, from the results there.
claims: $(VENV)/.installed-dev
	@$(BIN)/python scripts/write_claims.py

# The outputs of docs/notebooks/, from a run of their cells.
notebooks: $(VENV)/.installed-dev
	@$(PIP) ipykernel nbclient
	@$(BIN)/python scripts/run_notebooks.py docs/notebooks/*.ipynb

# The guide as a site; a broken link stops it.
docs: $(VENV)/.installed-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "site/index.html; with search: $(BIN)/python -m http.server --directory site"

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary

format: $(VENV)/.installed-dev
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

clean:
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage dist site
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. It is installed again only when pyproject.toml is newer than the stamps.

$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	@echo "Installing into $(VENV) (once, about a minute) ..."
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-serve: pyproject.toml | $(BIN)/pip
	@echo "Installing into $(VENV) with the server (once, about a minute) ..."
	@$(PIP) -e '.[serve]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/pip
	@echo "Installing into $(VENV) with the tools for development (once, about two minutes) ..."
	@$(PIP) -e '.[dev]'
	@touch $(VENV)/.installed $(VENV)/.installed-serve $@

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/pip
	@echo "Installing into $(VENV) with what builds the guide ..."
	@$(PIP) -e '.[docs]'
	@touch $(VENV)/.installed $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "alexnet needs Python 3.11 or newer, $(PYTHON) is not;" \
	         "name another: make demo PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
