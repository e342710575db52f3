"""One migrated database, one DagBag, one MLflow store for each test process.

The environment must stand before anything imports Airflow, so it is set while this file is loaded.
Each xdist worker has an AIRFLOW_HOME of its own, on a memory disk where there is one, and takes
copies of the databases that the first of them migrates.
"""

import os
import shutil
import tempfile
from pathlib import Path

import psutil
import pytest

from include.tools import environment

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
SESSION = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
FAST_DISK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()  # noqa: S108
SHARED = Path(FAST_DISK) / f"catalogue-tests-{SESSION}"
HOME = SHARED / WORKER
(HOME / "no-dags").mkdir(parents=True, exist_ok=True)

os.environ.update(environment.airflow(HOME, store=HOME))
os.environ.update({
    # Quiet, lazy, and with an empty bundle: otherwise every dag.test() parses and syncs all files.
    "AIRFLOW__CORE__LAZY_LOAD_PLUGINS": "True",
    "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": (
        '[{"name": "dags-folder", '
        '"classpath": "airflow.dag_processing.bundles.local.LocalDagBundle", '
        f'"kwargs": {{"path": "{HOME / "no-dags"}"}}}}]'
    ),
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    "AIRFLOW_CONN_MLFLOW_DEFAULT": f'{{"conn_type": "sqlite", "host": "{HOME}/mlflow/mlflow.db"}}',
    "AIRFLOW_CONN_WAREHOUSE": f'{{"conn_type": "sqlite", "host": "{HOME}/warehouse.db"}}',
    "MLFLOW_TRACKING_URI": f"sqlite:///{HOME}/mlflow/mlflow.db",
})
LONGEST = (
    "tests/scheduler",
    "tests/dags/test_97_02_02",
    "tests/dags/test_97_02_03",
    "tests/dags/test_97_03",
    "tests/suite/test_proofs_can_fail.py",
    "tests/ui",
)
collect_ignore = ["prove"]  # `make prove` runs them
pytest_plugins = [
    "pytester",
    "tests.harness",
    "tests.sections",  # before those that import it, or pytest warns
    "tests.progress",
    "tests.proofs",
    "tests.services",
]
GIB = 2**30


def workers(cores: int, memory: int) -> int:
    """How many processes `-n auto` starts: one for each core and each 4 GiB of memory.

    Two cores get two workers, however small the memory is.
    """
    return max(min(cores, memory // (4 * GIB)), min(cores, 2))


def pytest_xdist_auto_num_workers() -> int:
    """Look at this machine. Linux says how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return workers(cores, psutil.virtual_memory().total)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: nobody is left alone with one of them when all else is done."""

    def place(item: pytest.Item) -> int:
        return next(
            (at for at, path in enumerate(LONGEST) if item.nodeid.startswith(path)), len(LONGEST)
        )

    items.sort(key=place)


def pytest_sessionfinish() -> None:
    """Leave nothing behind; the last process to go takes the shared folder along."""
    shutil.rmtree(HOME, ignore_errors=True)
    if SHARED.exists() and not any(SHARED.glob("*/no-dags")):
        shutil.rmtree(SHARED, ignore_errors=True)
