# make demo: an illustrated story with the shipped weights. make test: the tests. Both set up .venv first.
PYTHON ?= python3
PROMPT ?= Rusty the fox wants a kite
SEED ?= 2
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE := 1

.PHONY: demo test lint clean

demo: $(VENV)/ready
	@echo "== telling a story: $(PROMPT)"
	@start=$$(date +%s); $(BIN)/python story_generative_model.py generate --prompt "$(PROMPT)" --seed $(SEED) --output out; \
	status=$$?; echo "== demo took $$(( $$(date +%s) - start )) s; open out/book.html"; exit $$status

test: $(VENV)/ready
	@echo "== running the tests (a few minutes on two cores)"
	@start=$$(date +%s); $(BIN)/python -m ruff check . && $(BIN)/python -m pytest -q --durations=10 tests; \
	status=$$?; echo "== tests took $$(( $$(date +%s) - start )) s"; exit $$status

lint: $(VENV)/ready
	$(BIN)/python -m ruff check .

$(VENV)/ready: requirements.txt
	@echo "== setting up $(VENV) from requirements.txt (once; a few minutes)"
	@start=$$(date +%s); $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt \
	&& touch $@ && echo "== set up in $$(( $$(date +%s) - start )) s"

clean:
	rm -rf $(VENV) out
