# make demo | make test | make setup | make clean
.PHONY: setup demo test lint clean
PYTHON ?= python3
export PYTHON TORCH_INDEX

setup:
	@bash tools/setup.sh

demo: setup
	.venv/bin/python tools/demo.py

lint: setup
	.venv/bin/ruff check .

test: lint
	.venv/bin/python -m pytest

clean:
	rm -rf work_dirs data/mini
