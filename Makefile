# What you can do here. Every target first makes .venv and installs into it, if that was not done.
#
#   make train ARGS="--terrain flat --seed 1"     options of experiments/ppo_ballbot.py
#   make test  ARGS="-k contact"                  options of pytest
#   make PYTHON=python3.12 train                  another Python than python3 (for a new .venv)

PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/installed-for-make
DOCS_INSTALLED := .venv/installed-for-docs

.PHONY: help train drive demo curves test test-all torture lint format bench check docs results reproduce clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*##/make \1\t/p' Makefile | expand -t 20

train: $(INSTALLED)  ## train the ballbot to balance on uneven ground; results in runs/
	BALLBOT_MAKE=1 $(BIN)/python experiments/ppo_ballbot.py $(ARGS)

drive: $(INSTALLED)  ## drive the policy that comes along, in a browser; ARGS="lqr --terrain stairs:0.2"
	$(BIN)/python experiments/watch.py --web $(ARGS)

demo: $(INSTALLED)  ## build a page in which the robot lives without Python: build/demo, and demo/ of the site
	$(BIN)/python experiments/maintenance/make_demo.py $(ARGS)

curves: $(INSTALLED)  ## show the curves of all runs in TensorBoard
	$(BIN)/tensorboard --logdir runs $(ARGS)

test: $(INSTALLED)  ## run the tests, except those marked slow, in two processes
	$(BIN)/pytest --numprocesses 2 --dist worksteal -m "not slow" $(ARGS)

test-all: $(INSTALLED)  ## run all tests, also those that take minutes
	$(BIN)/pytest $(ARGS)

torture: $(INSTALLED)  ## hours of kills, full disks, hostile files and soak: docs/reliability.md
	$(BIN)/python -m pip install --quiet atheris || echo "no atheris here: its fuzzing is left out"
	$(BIN)/pytest --torture tests/reliability tests/test_contact_fix.py tests/ppo/test_distributed.py $(ARGS); \
	    status=$$?; $(BIN)/python experiments/maintenance/make_results.py && exit $$status

lint: $(INSTALLED)  ## check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(INSTALLED)  ## format the code and mend what can be mended automatically
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(INSTALLED)  ## measure speed and memory
	$(BIN)/python experiments/maintenance/benchmark.py $(ARGS)

check: $(INSTALLED)  ## say what works on this machine, what does not, and what to do
	$(BIN)/python experiments/check_setup.py $(ARGS)

docs: $(DOCS_INSTALLED)  ## make the site of docs/ and of the docstrings: site/index.html
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -d build/doctrees docs site $(ARGS)

results: $(INSTALLED)  ## make the tables and figures of docs/results.md from results/
	$(BIN)/python experiments/maintenance/make_results.py $(ARGS)

reproduce: $(INSTALLED)  ## train and judge again what docs/results.md reports; ARGS=--dry-run says how long it takes
	$(BIN)/python experiments/maintenance/reproduce.py $(ARGS)

clean:  ## remove .venv and everything that was built (runs/ stays)
	rm -rf .venv build dist site *.egg-info mujoco_patch/_contact_fix* ballbot/envs/_height_rays*

# Installs this folder itself ("editable"), so changed Python code is used at once; the C source is compiled here.
$(INSTALLED): pyproject.toml setup.py constraints.txt mujoco_patch/contact_fix.c ballbot/envs/height_rays.c
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and \
	    f"ballbot needs Python 3.11 or newer, {sys.executable} is {v}: use make PYTHON=/path/to/another ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(INSTALLED)

# ballbot is there already, so pip adds what these extras ask for: Sphinx, and what runs the notebook.
$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "ballbot[docs,notebook]"
	touch $(DOCS_INSTALLED)
