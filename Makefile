# The commands of the catalogue; `make help` lists them.
.DEFAULT_GOAL := help
PY := .venv/bin/python
export PYTHONPATH := $(CURDIR)
# What is given to make reaches a command by its environment, as it is: no quote in it ends a shell
# word. Make would expand a `$(…)` in a variable that it exports itself.
unexport ALL CONF DAG DATE MINUTES MODULE NAME SAMPLE SECTION SEED SOAK TO VERBOSE
export GIVEN_CONF = $(value CONF)
export GIVEN_DAG = $(value DAG)
export GIVEN_DATE = $(value DATE)
export GIVEN_MINUTES = $(value MINUTES)
export GIVEN_MODULE = $(value MODULE)
export GIVEN_NAME = $(value NAME)
export GIVEN_SAMPLE = $(value SAMPLE)
export GIVEN_SECTION = $(value SECTION)
export GIVEN_SEED = $(value SEED)
export GIVEN_SOAK = $(value SOAK)
export GIVEN_TO = $(value TO)

.PHONY: help install up down status run env test prove chaos mutants test-fast lint bench checklist copy lock clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {gsub(/\$$\$$/, "$$", $$2); printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## Make the environments (the other commands do it by themselves)
	@bash include/tools/install.sh

up: install ## Start Airflow with all pipelines, and the services that they talk to
	@$(PY) -m include.tools.up up

down: ## Stop everything that `make up` started
	@if [ -x $(PY) ]; then $(PY) -m include.tools.up down; else echo "Nothing was started."; fi

status: install ## Say what runs, and where
	@$(PY) -m include.tools.up status

run: install ## Run one pipeline: DAG=… [CONF='{"name": value}'] [DATE=2026-01-04] [VERBOSE=1]
	@$(PY) -m include.tools.run "$$GIVEN_DAG" --conf "$$GIVEN_CONF" --date "$$GIVEN_DATE" $(if $(value VERBOSE),--verbose)

env: install ## Print the environment for calling `airflow` yourself: eval "$$(make -s env)"
	@$(PY) -m include.tools.environment

test: install ## Prove every promise, or those of one section: SECTION=97.4 (or "ground": the rest)
	@$(PY) -m tests.alone -m pytest -n auto $(if $(value SECTION),--section "$$GIVEN_SECTION")

prove: install ## Run the long proofs of what changed, or of DAG=97_04_02, SECTION=97.4, SAMPLE=3, ALL=1
	@$(PY) -m tests.prove $(if $(value DAG),--dag "$$GIVEN_DAG") $(if $(value SECTION),--section "$$GIVEN_SECTION") \
		$(if $(value SAMPLE),--sample "$$GIVEN_SAMPLE") $(if $(value ALL),--all)

chaos: install ## Kill processes at random while pipelines run: MINUTES=60 [DAG=97_04_02,97_05] [SECTION=97.4] [SEED=1]
	@$(PY) -m tests.chaos $(if $(value MINUTES),--minutes "$$GIVEN_MINUTES") $(if $(value DAG),--dag "$$GIVEN_DAG") \
		$(if $(value SECTION),--section "$$GIVEN_SECTION") $(if $(value SEED),--seed "$$GIVEN_SEED")

test-fast: install ## The contract of all pipelines, their helpers, and one run: two minutes
	@$(PY) -m tests.alone -m pytest -n auto -m "not slow" tests/contract tests/include tests/plugins \
		tests/serving tests/dags/test_97_01_01_ml_pipeline_structure.py

mutants: install ## Plant small faults, and see whether the tests notice them: MODULE=include/runs.py
	@$(PY) -m tests.mutants $(if $(value MODULE),"$$GIVEN_MODULE")

lint: install ## Check style, types, and the workflows of GitHub Actions
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy \
		&& .venv/bin/zizmor --quiet --offline .github/workflows

bench: install ## Measure: parse times beside bare DAGs, serving beside MLflow's own, four searches (SOAK=300)
	@$(PY) -m benchmarks.parse_time && $(PY) -m benchmarks.serving --soak "$${GIVEN_SOAK:-0}" \
		&& $(PY) -m benchmarks.tuning

checklist: install ## Run all tests and write CHECKLIST.md and the README's gallery from the results
	@$(PY) -m include.tools.checklist

copy: install ## Copy one pipeline into another project: DAG=… TO=~/my-airflow NAME=…
	@$(PY) -m include.tools.copy "$$GIVEN_DAG" "$$GIVEN_TO" "$$GIVEN_NAME"

lock: install ## Resolve requirements.in anew into requirements.txt
	@bash include/tools/lock.sh

clean: ## Remove the environments and everything that was written at run time
	@if [ -x $(PY) ]; then $(PY) -m include.tools.up down; fi
	@rm -rf .venv .venvs "$${CATALOGUE_HOME:-.catalogue}" .mypy_cache .pytest_cache .ruff_cache
