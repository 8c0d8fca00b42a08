# The targets that people use: demo, test, test-unit, test-busy, coverage, fuzz, bench, packages, image, lock, clean. Everything else is a step of these.
PYTHON ?= $(shell tests/find-python)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml $(shell find decoder -name '*.py')

.NOTPARALLEL:
.PHONY: demo test test-unit test-pythons check system-packages bench packages image repository wheel audit reference docs lock clean

demo: $(VENV)/.program
	$(BIN)/python -m tests.demo

# One process more than there are processors, because some test is always waiting.
PARALLEL = --numprocesses $$(($$(nproc) + 1)) --dist loadfile --no-loadscope-reorder
test: system-packages $(VENV)/.dev $(VENV)/.program check test-unit
	$(BIN)/pytest tests/system $(PARALLEL)

# Tests beside 16 busy processes: TESTS is what pytest is to run, in more processes, as each gets a smaller share.
TESTS ?= tests/unit tests/system
BUSY_PARALLEL = --numprocesses $$((5 * $$(nproc))) --dist loadfile --no-loadscope-reorder
.PHONY: test-busy
test-busy: system-packages $(VENV)/.dev $(VENV)/.program
	tests/busy $(BIN)/pytest $(TESTS) $(BUSY_PARALLEL)

# The tests that need no package of the system, no network and no rights: tests/alone takes all three away. They must
# reach UNIT_COVERAGE per cent of the program's lines.
UNIT_COVERAGE := 86
# They wait about as long as they compute; each process takes seconds to begin, so that more are not quicker.
UNIT_PARALLEL = --numprocesses $$((4 * $$(nproc))) --dist loadfile --no-loadscope-reorder
test-unit: export COVERAGE_FILE = $(CURDIR)/.cache/coverage/unit/data
test-unit: $(VENV)/.dev $(VENV)/.program .cache/unit-compiled
	rm -rf .cache/coverage/unit
	install --directory --mode 1777 .cache/coverage/unit
	COVERAGE_PROCESS_START=$(CURDIR)/tests/unit/coverage.toml tests/alone $(BIN)/coverage run \
		--rcfile tests/unit/coverage.toml --source decoder -m pytest tests/unit $(UNIT_PARALLEL) -p no:cacheprovider
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under $(UNIT_COVERAGE)

# Byte code, and that of tests with pytest's assertions: each process would make its own otherwise, as nobody may write it.
.cache/unit-compiled: $(SOURCES) $(shell find tests/unit tests/support -name '*.py') $(VENV)/.dev
	env --unset PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q decoder tests/support
	mkdir -p .cache
	env --unset PYTHONDONTWRITEBYTECODE $(BIN)/pytest --collect-only --quiet -p no:cacheprovider tests/unit >$@ || ! cat $@

# The lines that all tests reach together, and those that none does; it takes twice the time of make test.
.PHONY: coverage
coverage: export COVERAGE_FILE = $(CURDIR)/.cache/coverage/all/data
coverage: system-packages $(VENV)/.dev $(VENV)/.program
	rm -rf .cache/coverage/all
	install --directory --mode 1777 .cache/coverage/all
	COVERAGE_PROCESS_START=$(CURDIR)/tests/coverage.toml $(BIN)/coverage run \
		--rcfile tests/coverage.toml --source decoder -m pytest $(PARALLEL) $(TESTS) || touch .cache/coverage/all/failed
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	test ! -e .cache/coverage/all/failed

# Coverage-guided fuzzing of every parser of untrusted bytes, SECONDS in all; make test has a minute of it.
SECONDS ?= 600
.PHONY: fuzz
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

# The unit tests on later Pythons, as Debian has them (3.13, 3.14); needs root. tests/other-pythons takes others.
test-pythons:
	tests/other-pythons

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/mypy packaging/assemble packaging/kubernetes/*.py
	packaging/check-metadata
	packaging/check-workflows

bench: system-packages $(VENV)/.dev $(VENV)/.program
	$(BIN)/python -m bench --into bench

# What the bench measures. It calls this target itself.
.cache/bench/.installed: bench/install $(shell find decoder packaging requirements -type f -not -name '*.pyc') $(VENV)/.dev
	bench/install
	touch $@

packages:
	packaging/build

# An OCI archive of the program for amd64 and arm64, and its tree for machines without glibc, to dist.
image:
	packaging/build amd64 arm64
	packaging/image

# The packages in dist as signed repositories for apt and dnf: make repository KEY=ADDRESS
repository:
	packaging/repository "$(KEY)"

# The wheel and the source archive, to dist.
wheel: $(VENV)/.run
	$(BIN)/python -m hatchling build --directory dist

# Known vulnerabilities of what is pinned; asks PyPI.
audit: $(VENV)/.dev
	$(BIN)/python packaging/audit $(AUDIT)

# The documentation as a site, to build/site; a dead link is an error.
docs: $(VENV)/.docs
	PYTHONPATH=packaging:. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The man pages and completions of the packages, to build/reference.
reference: $(VENV)/.dev
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} PYTHONPATH=packaging:. \
		$(BIN)/python -m reference build/reference

# Debian packages that the system tests run; the reference program comes from Debian's forky suite.
system-packages:
	tests/install-system-packages

$(VENV)/pyvenv.cfg:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements/run.txt $(VENV)/pyvenv.cfg
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

$(VENV)/.docs: requirements/docs.txt $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

$(VENV)/.program: $(SOURCES) README.md $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall .
	touch $@

# Pin what pyproject.toml asks for; UPGRADE=--upgrade renews everything.
lock: $(VENV)/.dev
	$(BIN)/uv pip compile $(UPGRADE) --quiet --universal --python-version 3.11 --generate-hashes --no-header --group build pyproject.toml --output-file requirements/run.txt
	$(BIN)/uv pip compile $(UPGRADE) --quiet --universal --python-version 3.11 --generate-hashes --no-header --all-extras --group dev pyproject.toml --output-file requirements/dev.txt
	$(BIN)/uv pip compile $(UPGRADE) --quiet --universal --python-version 3.11 --generate-hashes --no-header --constraint requirements/dev.txt --group docs --output-file requirements/docs.txt
	$(BIN)/uv pip compile $(UPGRADE) --quiet --universal --python-version 3.11 --generate-hashes --no-header --group packages --output-file packaging/requirements.txt

clean:
	rm -rf $(VENV) .cache build dist .mypy_cache .ruff_cache .pytest_cache
