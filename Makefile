# Two commands: `make demo` explains a photo, `make test` runs every test. Both make .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.DEFAULT_GOAL := help
.PHONY: help demo quick test lint format lab notebooks book film clean

help:
	@echo "make demo       explain the objects in a photo, into demo/"
	@echo "make test       run every test, notebooks included"
	@echo "make quick      check style and types, run the fast tests: before each commit, about a minute"
	@echo "make lab        open the notebooks in JupyterLab"
	@echo "make lint       check style and types      make format     mend the style"
	@echo "make notebooks  run the notebooks anew and keep their outputs"
	@echo "make book       make a website of the notebooks and the reference, in build/book"
	@echo "make film       film the explorer for the README, in headless Chromium"
	@echo "make clean      remove .venv and all that was made"

demo: $(READY)
	@$(BIN)/dclose-nb demo
	@echo "Next: look at demo/report.html, explain a photo of yours with"
	@echo "      $(BIN)/dclose-nb explain PHOTO, or open the notebooks with: make lab"

test: $(READY)
	@$(BIN)/dclose-nb fetch yolox_nano || echo "Without these weights, tests that need them are skipped, and notebooks take picodet_s, or drawn scenes."
	@$(BIN)/dclose-nb fetch picodet_s || echo "Without picodet_s, tests that need it are skipped."
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses=4 --max-worker-restart=0 --dist loadfile dclose_nb tests notebooks
	@echo "The tests passed. Next: make demo, or open the notebooks with: make lab"

quick: lint
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses=4 --dist loadfile -m 'not slow' dclose_nb tests

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lab: $(READY)
	@$(BIN)/jupyter lab --notebook-dir=notebooks $$([ "$$(id -u)" != 0 ] || echo --allow-root)

notebooks: $(READY)
	@PYTHONWARNINGS=ignore $(BIN)/jupyter nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.record_timing=False notebooks/*.ipynb
	@# As JupyterLab writes it, so that opening and saving it changes nothing:
	@sed -E -i.bak 's/^( *"[a-z]+": -?[0-9]+)\.0(,?)$$/\1\2/' notebooks/12_explorer.ipynb && rm notebooks/12_explorer.ipynb.bak
	@$(BIN)/python docs/thumbnails.py

book: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[book]'
	@$(BIN)/sphinx-build -q -W -c docs . build/book
	@echo "Next: open build/book/index.html"

film: $(READY)
	@$(BIN)/python docs/film.py

clean:
	rm -rf $(VENV) demo build test-artifacts

# Quick the second time: only a change of what is installed makes it anew.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv is missing. On Debian or Ubuntu: sudo apt install python3-venv"; exit 1; }
	@echo "Making $(VENV): torch and what it needs are several GB the first time ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -c 'import cv2' 2>/dev/null || \
	  { echo "OpenCV cannot start: $$($(BIN)/python -c 'import cv2' 2>&1 | tail -n 1)"; \
	    echo "On Debian or Ubuntu: sudo apt install libgl1 libglib2.0-0"; exit 1; }
	@touch $(READY)
