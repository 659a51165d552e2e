PYTHON ?= python3
BIN := .venv/bin
EXTRAS := offline,babyai,meta-world,sb3,ray,dev

.PHONY: install demo results results-text test test-slow test-minimal test-latest doctest lint bench

## Everything into .venv, in the versions of constraints.txt; again only when one of these two files changes.
install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

.venv/.installed-peers: .venv/.installed
	$(BIN)/pip install -c constraints.txt -e ".[$(EXTRAS),peers]"
	touch $@

## Train and judge an agent on a CPU; again, it goes on where it stopped, or shows the results.
demo: install
	$(BIN)/llm-agents train configs/kalm/demo.yaml --run runs/demo --resume

test: install
	$(BIN)/python -m pytest

test-slow: install
	$(BIN)/python -m pytest -m slow

## The quick tests with no extras, in a virtual environment of their own: a test that needs one skips and says which.
test-minimal: .venv-minimal/.installed
	.venv-minimal/bin/python -m pytest -rs

.venv-minimal/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv-minimal
	.venv-minimal/bin/pip install -c constraints.txt -e . pytest hypothesis
	touch $@

## The quick tests with the latest versions that pyproject.toml allows, fetched each time; torch stays pinned, since
## its newest build may bring gigabytes of CUDA.
test-latest:
	$(PYTHON) -m venv --clear .venv-latest
	grep '^torch==' constraints.txt > .venv-latest/torch.txt
	.venv-latest/bin/pip install -c .venv-latest/torch.txt -e ".[$(EXTRAS)]"
	.venv-latest/bin/python -m pytest

## The examples in docstrings; the code, commands and links of the README and of docs/.
doctest: install
	$(BIN)/python -m pytest --doctest-modules envs llm_agents kalm tests/docs

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

## Speed against the libraries that do the same, as ratios measured in one run.
bench: .venv/.installed-peers
	$(BIN)/python -m benchmarks

## The table of the README: three seeds, and what they say together.
results: install
	for seed in 0 1 2; do \
	  $(BIN)/llm-agents train configs/kalm/clevr_robot.yaml --run runs/clevr_robot-$$seed --resume --seed $$seed || exit 1; \
	done
	$(BIN)/llm-agents compare runs/clevr_robot-0 runs/clevr_robot-1 runs/clevr_robot-2

## The table of the LLM agents, with the symbolic baseline: three seeds, on panels that no setting was chosen by.
results-text: install
	for seed in 3 4 5; do \
	  for recipe in ppo symbolic_ppo; do \
	    $(BIN)/llm-agents train configs/$$recipe/babyai_mixed.yaml --run runs/$$recipe-mixed-$$seed --resume \
	      --seed $$seed --evaluation.panel_seed 1 || exit 1; \
	  done; \
	done
	for recipe in ppo symbolic_ppo; do \
	  $(BIN)/llm-agents compare runs/$$recipe-mixed-3 runs/$$recipe-mixed-4 runs/$$recipe-mixed-5 || exit 1; \
	done
