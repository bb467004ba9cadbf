# `make` lists the targets. PYTHON=/path/to/python chooses the interpreter of a new .venv.

# Runs, is 3.11 or later, and can make a virtual environment: a launcher for a version that is absent does not.
SUITS := -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	if $$p $(SUITS) >/dev/null 2>&1; then echo $$p; break; fi; done)
# A file's tests stay in one process, which keeps what they compile; tests/conftest.py orders the files.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

# Twice quiet: errors are shown; warnings, such as of a place to look for packages that is absent, are not.
PIP := .venv/bin/python -m pip --disable-pip-version-check -q -q

.DEFAULT_GOAL := help
.PHONY: help demo native sanitize test test-all test-accelerators lint docs figures pictures clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile

demo: ## train, score and sample a small language model (runs/demo)
	@start=$$(date +%s) && $(MAKE) -s --no-print-directory .venv/.user && \
	.venv/bin/python -c 'import platform, sys, jax; n = jax.device_count(); \
	what = f"{n} {jax.default_backend().upper()} device" + "s" * (n > 1); \
	where = f".venv (Python {platform.python_version()}, jax {jax.__version__}, {what})"; \
	print(f"environment: {where:<60}{sys.argv[1]:>6} s", flush=True)' $$(($$(date +%s) - start))
	@.venv/bin/python -m experiments.train_lm --preset=python_docs --workdir=runs/demo

native: .venv/.user ## compile loops and routines for this processor (optional; needs a C++ compiler)
	@.venv/bin/python -m experiments.native

sanitize: .venv/.dev ## send damaged files and tables through the compiled code, under sanitizers (15 minutes)
	@.venv/bin/python -m tests.sanitize

test: .venv/.dev ## run the tests (PYTEST_ARGS="-n 2")
	.venv/bin/python -m pytest $(PYTEST_ARGS) tests

test-all: .venv/.dev ## run the tests, the slow ones too
	.venv/bin/python -m pytest $(PYTEST_ARGS) -m "slow or not slow" tests

test-accelerators: .accelerators/.tests ## compile every kind of program for TPUs and GPUs (.accelerators: 7 GB)
	JAX_PLATFORMS=cpu .accelerators/bin/python -m pytest $(PYTEST_ARGS) tests/test_accelerators.py

lint: .venv/.dev ## check style and formatting
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .

docs: .venv/.docs ## build the site of pages and reference (site/)
	@NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict --quiet
	@echo "the pages are in site/: open site/index.html"

figures: .venv/.user ## write README.md and the pages that show records, from benchmarks/results/
	@.venv/bin/python -m docs.tools.figures

pictures: .venv/.user ## run the code of the pages; write its outputs and pictures
	@.venv/bin/python -m docs.tools.snippets

clean: ## remove the environments, the site and caches, keep runs/
	rm -rf .venv .accelerators site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are made last, so an install that fails or is interrupted is taken up again by the next make.
.venv/.user: requirements.txt pyproject.toml
	@rm -f $@
	@$(or $(PYTHON),false) $(SUITS) 2>/dev/null || { \
	echo "lmseq needs Python 3.11 or later with venv: make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "installing what lmseq needs into .venv (once)" >&2
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(PIP) install -r requirements.txt
	@$(PIP) install --no-deps -e .
	@touch $@

.venv/.dev: requirements-dev.txt .venv/.user
	@rm -f $@
	@echo "installing what its tests need into .venv (once)" >&2
	@$(PIP) install -r requirements-dev.txt
	@touch $@

# Compilers for accelerators are large, and of the version of JAX: they have an environment of their own.
.accelerators/.tests: requirements-dev.txt requirements.txt pyproject.toml
	@rm -f $@
	@$(or $(PYTHON),false) $(SUITS) 2>/dev/null || { \
	echo "lmseq needs Python 3.11 or later with venv: make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "installing the compilers of TPUs and GPUs into .accelerators (once; 7 GB)" >&2
	@.accelerators/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .accelerators
	@.accelerators/bin/python -m pip --disable-pip-version-check -q -q install -r requirements-dev.txt
	@.accelerators/bin/python -m pip --disable-pip-version-check -q -q install -e ".[tpu,gpu]"
	@touch $@

.venv/.docs: requirements-docs.txt .venv/.user
	@rm -f $@
	@echo "installing what the site needs into .venv (once)" >&2
	@$(PIP) install -r requirements-docs.txt
	@touch $@
