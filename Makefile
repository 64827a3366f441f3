# Needs python3 (3.11 or newer), make and the package registry. Every target sets itself up.
PYTHON ?= python3
JOBS ?= 2
FAULTS ?= 5
VENV := .venv
BIN := $(VENV)/bin
APT := apt-get -o Acquire::Retries=3
PIP_INSTALL := -m pip install -qq --disable-pip-version-check --constraint constraints.txt

.PHONY: help airline test test-newest test-lowest test-slow test-faults test-oracles test-parallel test-aot test-aot-cuda \
  test-browser test-cluster test-native lint docs bench bench-tpu bench-dispatch bench-sweep clean

help:
	@echo "make airline       train the LSTM forecaster on the airline series, with figures (runs/airline)"
	@echo "make test          the laws and the tests of each part"
	@echo "make test-newest   a sixth of the laws' cases and one run of the rest on the newest Python here"
	@echo "make test-lowest   the laws on the lowest versions that pyproject.toml allows (own environment)"
	@echo "make test-slow     the rest: runs, sweeps, terminals and searches from end to end"
	@echo "make test-faults   kills, damaged files, full disks: FAULTS=5 percent of the cases, or full"
	@echo "make test-oracles  parity with torch, keras, haiku and equinox (own environment, large download)"
	@echo "make test-parallel simulated devices and two real processes, for minutes"
	@echo "make test-aot      compiled for TPU by its own compiler, no TPU needed (own environment, large download)"
	@echo "make test-aot-cuda the same for H100 (own environment, 5 GB)"
	@echo "make test-native   the compiled kernel under the address, undefined and thread sanitizers"
	@echo "make test-browser  the report in a real browser (Debian, as root: installs chromium)"
	@echo "make test-cluster  sweeps on a real SLURM (Debian, as root) and a real Ray, started here"
	@echo "make lint          ruff, pyright and import-linter"
	@echo "make docs          the site: site/index.html (own environment); links are checked"
	@echo "make bench         our layers beside flax, haiku, equinox, keras and torch (own environment)"
	@echo "make bench-tpu     bundles a time step on a TPU, by its compiler; no TPU needed (own environment)"
	@echo "make bench-dispatch  steps/s of the compiled loop against one dispatch a step"
	@echo "make bench-sweep   64 trials as one sweep against a process a trial (half an hour)"
	@echo "make clean         remove the environments and caches; runs/ stays"

airline: $(VENV)/.run
	$(BIN)/lstm-jax train --config=configs/airline.py

# Here programs are compiled more than run: a third of the time, at the price of slower ones. The
# other targets compile as users do.
QUICK := --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false \
  --xla_cpu_parallel_codegen_split_count=1
# A flag that this version of JAX does not know would end every process: such flags are left out.
known = $(foreach flag,$(1),$(shell JAX_PLATFORMS=cpu XLA_FLAGS=$(flag) $(BIN)/python -c \
  'import jax; jax.devices()' > /dev/null 2>&1 && echo $(flag)))
TESTS ?= tests
quick_pytest = XLA_FLAGS="$(call known,$(QUICK)) $$XLA_FLAGS" $(BIN)/python -m pytest -q -n $(JOBS)
test: $(VENV)/.dev
	$(quick_pytest) --ignore=tests/oracles $(TESTS)

# Another Python brings another JAX: the laws on every sixth case, and one run of everything else.
NEWEST ?= $(shell $(PYTHON) .ci/newest.py)
ONCE := tests/test_laws.py tests/engines/test_native.py tests/model/test_catalogue.py tests/compute/test_flops.py tests/test_cli.py \
  tests/compute/test_sharding.py::test_another_placement_is_the_same_run
WHOLE := tests/sweep/workers/test_local.py::test_launch_from_nothing_to_results \
  tests/report/test_report.py::test_the_files_of_a_report \
  tests/diagnostics/test_diagnostics.py::test_a_run_and_the_verb_leave_a_diagnosis
test-newest:
	@newest="$(NEWEST)"; if test -z "$$newest"; then \
	  echo "skipped: no Python newer than $$($(PYTHON) --version) is installed; NEWEST=/path names one"; \
	else LAWS=6 $(MAKE) test PYTHON="$$newest" VENV=.venv-newest TESTS="$(ONCE)" && \
	  $(MAKE) test-slow PYTHON="$$newest" VENV=.venv-newest TESTS="$(WHOLE)"; fi

test-lowest: .venv-lowest/.lowest
	.venv-lowest/bin/python -m pytest -q -n $(JOBS) tests/test_laws.py

test-slow: $(VENV)/.dev
	$(quick_pytest) -m slow --ignore=tests/oracles $(TESTS)

test-faults: $(VENV)/.dev
	FAULTS=$(FAULTS) $(BIN)/python -m pytest -q -n $(JOBS) -m faults tests/faults

test-oracles: .venv-oracles/.oracles
	.venv-oracles/bin/python -m pytest -q -n $(JOBS) tests/oracles

# BENCH="layers --quick" for less, BENCH="variants chunked start packs" for the other parts.
BENCH ?= layers
bench: .venv-bench/.bench
	.venv-bench/bin/python -m benchmarks.run $(BENCH) --out=notes/performance

bench-tpu: .venv-aot/.aot
	@.venv-aot/bin/python $(PIP_INSTALL) dm-haiku
	.venv-aot/bin/python -m benchmarks.run tpu-static --out=notes/performance

bench-dispatch: $(VENV)/.run
	$(BIN)/python -m benchmarks.dispatch

test-parallel: $(VENV)/.dev
	$(quick_pytest) --dist loadfile -m parallel tests/compute tests/training

# The compilers of TPUs and GPUs run on any host. Lowering needs neither, so one target does it for both.
test-aot: .venv-aot/.aot
	.venv-aot/bin/python -m pytest -q -n $(JOBS) -m aot tests/aot

test-aot-cuda: .venv-aot-cuda/.aot
	.venv-aot-cuda/bin/python -m pytest -q -n $(JOBS) -m aot tests/aot/test_training.py tests/aot/test_kernels.py

test-native: $(VENV)/.dev
	$(BIN)/python tests/native/check.py

# Chromium comes from the system; as root it is installed, else its tests are skipped.
test-browser: $(VENV)/.dev
	@command -v chromedriver > /dev/null || test "$$(id -u)" != 0 || \
	  { $(APT) update -qq && DEBIAN_FRONTEND=noninteractive $(APT) install -y -qq chromium chromium-driver; }
	$(BIN)/python -m pytest -q -m browser tests/browser

test-cluster: $(VENV)/.cluster
	$(BIN)/python -m pytest -q -m cluster tests/cluster

bench-sweep: $(VENV)/.run
	$(BIN)/python -m benchmarks.sweep

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# Material announces its successor at every start.
docs: .venv-docs/.docs
	NO_MKDOCS_2_WARNING=1 JAX_PLATFORMS=cpu .venv-docs/bin/mkdocs build --strict --quiet

# One environment, filled in two steps: training needs less than testing does.
$(VENV)/.run: pyproject.toml constraints.txt
	$(call make_venv,$(VENV))
	@$(BIN)/python $(PIP_INSTALL) --editable '.[tensorboard]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@$(BIN)/python $(PIP_INSTALL) --editable '.[dev]'
	@touch $@

# And what test-slow tries the trackers with. SLURM needs root; without it, its tests are skipped.
$(VENV)/.cluster: $(VENV)/.dev
	$(BIN)/python $(PIP_INSTALL) --editable '.[slurm,ray,parquet,mlflow,wandb,trackio]'
	@command -v slurmctld > /dev/null || test "$$(id -u)" != 0 || \
	  { $(APT) update -qq && DEBIAN_FRONTEND=noninteractive $(APT) install -y -qq slurm-wlm munge; }
	@touch $@

.venv-oracles/.oracles: pyproject.toml constraints.txt
	$(call make_venv,.venv-oracles)
	@.venv-oracles/bin/python $(PIP_INSTALL) --editable '.[dev,oracles]'
	@touch $@

CHECKS := pytest pytest-xdist jaxtyping beartype
.venv-aot/.aot: pyproject.toml constraints.txt
	$(call make_venv,.venv-aot)
	@.venv-aot/bin/python $(PIP_INSTALL) --editable '.[tpu]' $(CHECKS)
	@touch $@

.venv-aot-cuda/.aot: pyproject.toml constraints.txt
	$(call make_venv,.venv-aot-cuda)
	@.venv-aot-cuda/bin/python $(PIP_INSTALL) --editable '.[cuda]' $(CHECKS)
	@touch $@

.venv-lowest/.lowest: pyproject.toml .ci/lowest.py
	$(call make_venv,.venv-lowest)
	@$(PYTHON) .ci/lowest.py > .venv-lowest/lowest.txt
	@.venv-lowest/bin/python -m pip install -qq --disable-pip-version-check \
	  --constraint .venv-lowest/lowest.txt --editable . $(CHECKS)
	@touch $@

.venv-docs/.docs: pyproject.toml constraints.txt
	$(call make_venv,.venv-docs)
	@.venv-docs/bin/python $(PIP_INSTALL) --editable '.[docs]'
	@touch $@

.venv-bench/.bench: pyproject.toml constraints.txt
	$(call make_venv,.venv-bench)
	@.venv-bench/bin/python $(PIP_INSTALL) --editable '.[bench]'
	@touch $@

define make_venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "lstm_jax needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3"; exit 2; }
@test -x $(1)/bin/python || { echo "creating $(1) (a few minutes the first time)"; $(PYTHON) -m venv $(1); }
endef

clean:
	rm -rf .venv .venv-newest .venv-lowest .venv-oracles .venv-aot .venv-aot-cuda .venv-bench .venv-docs
	rm -rf site .pytest_cache .ruff_cache .hypothesis build *.egg-info
