# Two commands do everything, each with its own set-up: `make demo` and `make test`; `make dist-check` builds the
# wheel from the sdist and tries it, then the sdist, in an environment that holds nothing else; `make browser` clicks
# through the page of `weft serve` and the documentation, and needs a Chromium; `make ray` compares and encodes on Ray,
# and `make gs` keeps stores and models in a bucket of Google's, each in an environment of its own; `make hosts` (as
# root) trains between two network namespaces; `make gpu` holds what runs on a GPU against the CPU.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
JOBS   ?= 2
UV     := UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv
DIST   := runs/dist
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check dist-check browser ray gs hosts gpu docs clean

demo: $(VENV)/.core
	$(BIN)/weft compare shapes --data rows=600 --fusions concat,additive,gated,lmf --seeds 3 --set trials=2 \
		--store runs/demo/store --out runs/demo

test: $(VENV)/.test check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

dist-check: $(VENV)/.build
	rm -rf $(DIST)
	$(BIN)/python -m build --outdir $(DIST)
	$(PYTHON) -m venv $(DIST)/bare
	$(DIST)/bare/bin/pip install --quiet --disable-pip-version-check -c constraints.txt \
		"weft[serve] @ file://$$(ls $(CURDIR)/$(DIST)/*.whl)"
	OMP_NUM_THREADS=1 $(DIST)/bare/bin/python -P tests/installed.py .
	$(DIST)/bare/bin/pip install --quiet --disable-pip-version-check --force-reinstall --no-deps $(DIST)/*.tar.gz
	OMP_NUM_THREADS=1 $(DIST)/bare/bin/python -P tests/installed.py .

browser: $(VENV)/.browser
	OMP_NUM_THREADS=1 $(BIN)/python tests/browser/page.py runs/browser
	OMP_NUM_THREADS=1 $(BIN)/python tests/browser/docs.py runs/browser/docs

ray: $(VENV)/.uv
	$(UV) venv --quiet --clear --python $(PYTHON) runs/ray
	$(UV) pip install --quiet --python runs/ray/bin/python -c constraints.txt -e ".[ray]" pytest
	RAY_worker_niceness=0 OMP_NUM_THREADS=1 runs/ray/bin/python -m pytest tests/ray/many_processes.py tests/ray/client.py

gs: $(VENV)/.uv
	$(UV) venv --quiet --clear --python $(PYTHON) runs/gs
	$(UV) pip install --quiet --python runs/gs/bin/python -c constraints.txt -e ".[gs,boost]" gcp-storage-emulator pytest
	OMP_NUM_THREADS=1 runs/gs/bin/python -m pytest tests/gs/bucket.py

hosts: $(VENV)/.core
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/two_hosts.py

gpu: $(VENV)/.test
	OMP_NUM_THREADS=1 WEFT_TEST_DEVICE=cuda $(BIN)/python -m pytest tests/gpu/[a-z]*.py tests/golden
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/systems tests/training -k "verb or serves"

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.test: $(VENV)/.core
	$(PIP) -e ".[test]"
	touch $@

$(VENV)/.build: $(VENV)/.core
	$(PIP) build
	touch $@

$(VENV)/.uv: $(VENV)/.core
	$(PIP) uv
	touch $@

$(VENV)/.browser: $(VENV)/.test
	$(PIP) playwright
	touch $@

$(VENV)/.docs: $(VENV)/.core
	$(PIP) -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) runs
