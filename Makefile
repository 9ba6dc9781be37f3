# `make help` lists the targets. Every one does the set-up it needs, once.
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.ready
# libraries keep their bytecode: without it each kernel compiles torch again, seconds a job
unexport PYTHONDONTWRITEBYTECODE
# make's own words for a sweep, handed on to `python -m adlib` as they are: make reproduce PAPERS=two_stage JOBS=2
WORDS := PAPERS DATASETS PROTOCOLS BACKBONES CLASSES SEEDS PROFILE JOBS DEVICE OUT FORCE SET
GIVEN = $(foreach word,$(WORDS),$(if $(value $(word)),$(word)='$(value $(word))'))

.PHONY: help setup demo reproduce summary gallery test lint lab clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12
	@echo
	@echo 'reproduce takes, all optional, several values separated by commas: $(WORDS)'
	@echo 'for example: make reproduce PAPERS=two_stage DATASETS=mnist CLASSES=8,2 SEEDS=0 PROFILE=quick JOBS=2'

setup: $(READY)  ## a virtual environment in .venv with the pinned versions

# the pins are constraints: they bind only what is asked for, so one list serves CUDA, CPU and macOS
$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --no-compile -c requirements.lock -e '.[lab,dev]'
	@touch $@

demo: $(READY)  ## every notebook on embedded data, then the table; results in build/demo
	@$(PY) -m adlib demo $(GIVEN)

reproduce: $(READY)  ## the sweep; alone it runs the whole register in profile paper
	@$(PY) -m adlib reproduce $(GIVEN)

summary: $(READY)  ## results/ beside the printed tables: results/summary.md and the README's table
	@$(PY) -m adlib summary $(GIVEN)

gallery: $(READY)  ## executed notebooks on real data, into results/gallery
	@$(PY) -m adlib gallery $(GIVEN)

test: $(READY)  ## unit tests, and every notebook by nbval
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 -q

lint: $(READY)  ## ruff, notebooks too; notebooks without output
	$(PY) -m ruff check
	$(PY) -m nbstripout --keep-id --verify notebooks/*.ipynb

lab: $(READY)  ## JupyterLab with this environment's kernel
	$(PY) -m jupyter lab --notebook-dir=. notebooks/two_stage.ipynb

clean:  ## what runs left behind; rows in results/ stay
	rm -rf build results/notebooks results/scores .ruff_cache .hypothesis
