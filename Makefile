# `make help` lists the targets. Every one does the set-up it needs, once.
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.ready
# libraries keep their bytecode: without it each kernel compiles torch again, seconds a job
unexport PYTHONDONTWRITEBYTECODE
# make's own words for a sweep, handed on to `python -m repro` as they are: make reproduce PAPERS=two_stage JOBS=2
WORDS := PAPERS DATASETS PROTOCOLS BACKBONES CLASSES SEEDS CROSS PROFILE JOBS DEVICE GPUS SCHEDULER RESOURCES OUT FORCE SET
GIVEN = $(foreach word,$(WORDS),$(if $(value $(word)),$(word)='$(value $(word))'))

.PHONY: help setup demo plan reproduce verify rehearse summary gallery report test faults lint lab clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12
	@echo
	@echo 'reproduce takes, all optional, several values separated by commas: $(WORDS)'
	@echo 'for example: make reproduce PAPERS=two_stage DATASETS=mnist CLASSES=8,2 SEEDS=0 PROFILE=quick JOBS=2'

setup: $(READY)  ## a virtual environment in .venv with the pinned versions

# the pins are constraints: they bind only what is asked for, so one list serves CUDA, CPU and macOS
$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --no-compile -c requirements.lock -e '.[lab,dev,cluster]'
	@touch $@

demo: $(READY)  ## every notebook on embedded data, then the table; results in build/demo
	@$(PY) -m repro demo $(GIVEN)

plan: $(READY)  ## what reproduce with the same words would run, for how long, and what it lacks; runs nothing
	@$(PY) -m repro plan $(GIVEN)

reproduce: $(READY)  ## the sweep; alone it runs the whole register in profile paper
	@$(PY) -m repro reproduce $(GIVEN)

verify: $(READY)  ## run jobs again that have rows, and set old beside new: make verify PAPERS=two_stage CLASSES=8
	@$(PY) -m repro verify $(GIVEN)

rehearse: $(READY)  ## every job of the register, as small as can be, on stand-ins for all data
	@$(PY) -m repro rehearse $(GIVEN)

summary: $(READY)  ## results/ beside the printed tables: results/summary.md and the README's table
	@$(PY) -m repro summary $(GIVEN)

gallery: $(READY)  ## executed notebooks on real data, into results/gallery
	@$(PY) -m repro gallery $(GIVEN)

report: $(READY)  ## summary, gallery, classes and gaps as one HTML page, build/report.html
	@$(PY) -m repro report $(GIVEN)

test: $(READY)  ## unit tests, and every notebook by nbval
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 -q

faults: $(READY)  ## kill kernels, workers and sweeps at random, fill the disk, damage the rows; a table of what came of it
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 0 -q -m 'slow or not slow' tests/test_faults.py

lint: $(READY)  ## ruff, notebooks too; notebooks without output
	$(PY) -m ruff check
	$(PY) -m nbstripout --keep-id --verify notebooks/*.ipynb

lab: $(READY)  ## JupyterLab with this environment's kernel
	$(PY) -m jupyter lab --notebook-dir=. notebooks/two_stage.ipynb

clean:  ## what runs left behind; rows in results/ stay
	rm -rf build results/notebooks results/scores results/logs .ruff_cache .hypothesis
