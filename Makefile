# `make help` lists the targets. Each target does the set-up that it needs, once.
PY := .venv/bin/python
READY := .venv/.ready
# libraries keep their bytecode: without it each kernel compiles torch again, which costs seconds per job
unexport PYTHONDONTWRITEBYTECODE

# Words for `python -m repro`: make reproduce PAPERS=two_stage JOBS=2. Python finds them in its environment as they were
# typed, so that neither make nor the shell interprets quotes, commas or dollars in them. Variables of these names in a
# user's own environment are ignored.
WORDS := PAPERS DATASETS PROTOCOLS BACKBONES CLASSES SEEDS PROFILE JOBS DEVICE GPUS SCHEDULER RESOURCES OUT FORCE SET
unexport $(WORDS)
given = $(filter command,$(firstword $(origin $1)))
$(foreach word,$(WORDS),$(if $(call given,$(word)),$(eval export ADLIB_MAKE_$(word) := $$(value $(word)))))

TARGETS := help setup demo plan reproduce verify rehearse summary gallery report test faults lint lab clean
.PHONY: help setup demo plan reproduce verify rehearse summary gallery report test faults lint lab clean
.SILENT:

# a misspelt word would otherwise start the whole register
quote := '
quoted = '$(subst $(quote),'\'',$1)'
nearest = $(shell python3 -c 'import difflib, sys; _, word, *known = sys.argv; \
	print(*difflib.get_close_matches(word.upper(), known, 1, 0))' $(call quoted,$1) $2 2>/dev/null)
strange := $(firstword $(foreach name,$(.VARIABLES),$(if $(call given,$(name)),$(filter-out PYTHON $(WORDS),$(name)))))
ifneq ($(strange),)
near := $(call nearest,$(strange),$(WORDS))
$(error unknown word $(strange)$(if $(near), (did you mean $(near)?)); make knows $(WORDS) and PYTHON)
endif
strange := $(firstword $(filter-out $(TARGETS) $(READY),$(MAKECMDGOALS)))
ifneq ($(strange),)
$(error unknown target $(strange); there are $(TARGETS))
endif

help:  ## this list
	sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12
	echo
	echo 'reproduce takes, all optional, several values separated by commas: $(WORDS)'
	echo 'for example: make reproduce PAPERS=two_stage DATASETS=mnist CLASSES=8,2 SEEDS=0 PROFILE=quick JOBS=2'

setup: $(READY)  ## a virtual environment in .venv with the pinned versions; PYTHON= names another Python

# Takes the newest Python that the pins were tried with, unless PYTHON= names another. Removes a new .venv again if it cannot
# be filled. The pins are constraints: they bind only what is asked for, so one list serves CUDA, CPU and macOS.
export PYTHON
$(READY): pyproject.toml requirements.lock
	set -e; \
	fits() { "$$1" -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $$2))" 2>/dev/null; }; \
	if [ ! -e .venv ]; then \
		python=; \
		if [ -n "$$PYTHON" ]; then fits "$$PYTHON" 99 && python=$$PYTHON; \
		else for name in python3.13 python3.12 python3.11 python3; do \
			if fits $$name 13; then python=$$name; break; fi; done; fi; \
		[ -n "$$python" ] || { echo "adlib: setup needs Python 3.11, 3.12 or 3.13, and finds none$${PYTHON:+ in" \
			"$$PYTHON}: install one, or name one by PYTHON=/path/to/python3" >&2; exit 2; }; \
		trap 'rm -rf .venv' EXIT; trap 'exit 2' INT TERM; \
		"$$python" -m venv .venv; \
	fi; \
	fits $(PY) 99 || { echo "adlib: .venv holds no Python from 3.11: remove it, then make setup" >&2; exit 2; }; \
	$(PY) -m pip install --quiet --no-compile -c requirements.lock -e '.[lab,dev,cluster]'; \
	trap - EXIT; \
	touch $@

demo: $(READY)  ## every notebook on embedded data, then the table; results in build/demo
	$(PY) -m repro make demo

plan: $(READY)  ## show what reproduce would run with the same words, for how long, and what is missing; runs nothing
	$(PY) -m repro make plan

reproduce: $(READY)  ## run the sweep; without words, the whole register in profile paper
	$(PY) -m repro make reproduce

verify: $(READY)  ## run jobs again that already have rows, and compare old and new: make verify PAPERS=two_stage CLASSES=8
	$(PY) -m repro make verify

rehearse: $(READY)  ## run every job of the register, as small as possible, on stand-ins for all data
	$(PY) -m tests.rehearsal $${ADLIB_MAKE_PAPERS:+"--papers=$$ADLIB_MAKE_PAPERS"} \
		$${ADLIB_MAKE_DATASETS:+"--datasets=$$ADLIB_MAKE_DATASETS"} $${ADLIB_MAKE_JOBS:+"--jobs=$$ADLIB_MAKE_JOBS"} \
		$${ADLIB_MAKE_DEVICE:+"--device=$$ADLIB_MAKE_DEVICE"} $${ADLIB_MAKE_GPUS:+"--gpus=$$ADLIB_MAKE_GPUS"}

summary: $(READY)  ## compare results/ with the printed tables: results/summary.md and the README's table
	$(PY) -m repro make summary

gallery: $(READY)  ## executed notebooks on real data, into results/gallery
	$(PY) -m repro make gallery

report: $(READY)  ## summary, gallery, classes and gaps as HTML, in build/report
	$(PY) -m repro make report

test: $(READY)  ## unit tests, and every notebook by nbval
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 -q

faults: $(READY)  ## kill kernels, workers and sweeps at random, fill the disk, damage the rows; a table of what came of it
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 0 -q -m 'slow or not slow' tests/test_faults.py

lint: $(READY)  ## ruff and its format, notebooks too; notebooks without output
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m nbstripout --keep-id --verify notebooks/*.ipynb studies/*.ipynb

# Git ignores what a run leaves in a notebook, and JupyterLab does not ask whether to show its news.
LANGUAGE_KEYS := codemirror_mode file_extension mimetype nbconvert_exporter pygments_lexer version
STRIP := -m nbstripout --keep-id --extra-keys "$(LANGUAGE_KEYS:%=metadata.language_info.%)"
QUIET := {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}
lab: $(READY)  ## JupyterLab with this environment's kernel; git ignores what a run leaves in a notebook
	git config filter.notebook.clean '"$(abspath $(PY))" $(STRIP)' 2>/dev/null || true
	mkdir -p .venv/share/jupyter/lab/settings
	echo '$(QUIET)' > .venv/share/jupyter/lab/settings/overrides.json
	trap : INT; $(PY) -m jupyter lab --notebook-dir=. notebooks/two_stage.ipynb; \
	for file in notebooks/*.ipynb studies/*.ipynb; do \
		git diff --quiet -- $$file 2>/dev/null && git add -- $$file; done; true  # status would go by their sizes

clean:  ## remove what runs left behind; rows in results/ stay
	rm -rf build results/notebooks results/scores results/logs .ruff_cache .hypothesis
