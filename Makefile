# PYTHON chooses the Python that a new .venv is made with: make demo PYTHON=python3.11
.PHONY: help install demo demo-seg test stress gpu lint format results docs clean

help:  ## show these lines
	@awk -F ':.*## ' '/^[a-z-]+:/ { printf "make %-8s %s\n", $$1, $$2 }' Makefile

install:  ## install everything into .venv; does nothing when that is up to date
	@tools/install.sh

demo: install  ## distil a small detector on the CPU, start to finish
	@.venv/bin/python tools/chain.py configs/chains/demo.py

demo-seg: install  ## the same with a small segmentor
	@.venv/bin/python tools/chain.py configs/chains/demo_seg.py

test: lint  ## what CI runs: lint, types, then the tests (ARGS='-k name' to choose some)
	.venv/bin/python -m pytest -n auto --dist worksteal $(if $(ARGS),$(ARGS),--cov --cov-report=term)

stress: install  ## random cases, kills, soak (long; ARGS='-k kills' to choose); results are in docs/stress.md
	.venv/bin/python -m pytest -n auto -o addopts='-q -ra' tests/stress $(ARGS)

gpu:  ## tests and benchmark on a GPU, into gpu.md; installs nothing
	@$(or $(PYTHON),$(wildcard .venv/bin/python),python3) tests/gpu/page.py $(ARGS)

lint: install  ## check style and types only
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy

format: install  ## rewrite files in the project's style
	.venv/bin/python -m ruff check --fix .
	.venv/bin/python -m ruff format .

results: install  ## write docs/results.md from the rows in docs/results
	.venv/bin/python docs/results.py

docs: install  ## build the documentation into docs/_build, a warning is an error
	.venv/bin/python -m sphinx -W --keep-going -b html docs docs/_build

clean:  ## remove caches; .venv and work_dirs stay
	rm -rf .pytest_cache .ruff_cache docs/_build
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
