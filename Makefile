# Every target sets up .venv by itself; the stamp makes that quick when nothing changed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test check dev soak lock clean

demo: $(STAMP)
	$(BIN)/hivemind-pipelines demo

test: $(STAMP)
	$(BIN)/python -m pytest -m "not soak" -n 2 --dist worksteal

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m hivemind_pipelines.store.migrations.check

dev: $(STAMP)
	$(BIN)/hivemind-pipelines dev

soak: $(STAMP)
	$(BIN)/python -m pytest -m soak

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11 to 3.13 is needed; name one with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	touch $(STAMP)

# Needs uv on the PATH; the options keep this machine's index addresses out of the file.
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-strip-extras --extra demo --extra dev --no-header pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) .hivemind build dist *.egg-info
