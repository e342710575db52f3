"""Tasks start warm: what the scheduler has imported, the workers forked from it have too.

LocalExecutor forks a process for each task. Without this each of them imports pandas, scikit-learn
and MLflow anew, which takes longer than most tasks of the catalogue. Other executors start their
tasks elsewhere, and nothing happens here.
"""

import importlib
import logging
import sys
import warnings
from typing import Any

from airflow.configuration import conf
from airflow.jobs.job import Job
from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

# None of the catalogue's own modules: a task has to see them as they are when it runs.
LIBRARIES = (
    "airflow.providers.google.cloud.operators.vertex_ai.auto_ml",  # two seconds by itself
    "airflow.providers.sqlite.hooks.sqlite",
    "great_expectations.expectations",
    "matplotlib.figure",
    "mlflow.sklearn",
    "pandas",
    "pyarrow.parquet",
    "skops.io",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.model_selection",
    "torch",
)
log = logging.getLogger(__name__)
NOISY = ("alembic", "great_expectations", "mlflow")


class OnStart:
    """Hears which of Airflow's components starts."""

    @hookimpl
    def on_starting(self, component: Any) -> None:
        """Import before the scheduler forks its workers."""
        # The job does not know its kind yet when it is announced; the command line does.
        starts = isinstance(component, Job) and "scheduler" in sys.argv
        if not starts or "LocalExecutor" not in conf.get("core", "executor"):
            return
        for name in NOISY:
            logging.getLogger(name).setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs, about themselves
            for library in LIBRARIES:
                try:
                    importlib.import_module(library)
                except ImportError as error:  # the tasks that need it will say so
                    log.warning("Tasks will not start with %s: %s", library, error)


class WarmWorkers(AirflowPlugin):
    """Registers the listener."""

    name = "warm_workers"
    listeners = [OnStart()]  # noqa: RUF012, so does Airflow declare it
