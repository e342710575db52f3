"""Runs whose process ends as by `kill -9`.

The libraries are loaded once, by a process from which the others are forked.
"""

import os
import signal
from datetime import datetime
from multiprocessing import get_context
from typing import Any
from unittest.mock import patch

from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.sdk.execution_time import task_runner

from include.tools import environment

FORKED = get_context("forkserver")
FORKED.set_forkserver_preload([__name__, "tests.dags.preloaded"])


def run(dag_id: str, conf: dict[str, Any], when: datetime, after: str) -> None:
    """Run a pipeline in a process that is killed at the end of the task `after`.

    That moment is the worst there is: everything that the task wrote is there, and nobody knows.
    """
    arguments = (dag_id, conf, when, after, dict(os.environ))
    process = FORKED.Process(target=_run, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _run(
    dag_id: str, conf: dict[str, Any], when: datetime, after: str, env: dict[str, str]
) -> None:
    os.environ.clear()  # the process that this one is forked from has an older one
    os.environ.update(env)
    bag = BundleDagBag(
        dag_folder=environment.DAGS / f"{dag_id}.py",
        bundle_path=environment.DAGS,
        bundle_name=environment.BUNDLE,
    )
    sync_bag_to_db(bag, environment.BUNDLE, None)
    execute = task_runner._execute_task

    def executed(context: Any, ti: Any, log: Any) -> Any:
        try:
            return execute(context=context, ti=ti, log=log)
        finally:
            if ti.task_id == after:
                os.kill(os.getpid(), signal.SIGKILL)

    with patch.object(task_runner, "_execute_task", executed):
        bag.dags[dag_id].test(logical_date=when, run_after=when, run_conf=conf)
