"""Run all pipelines of a project for two dates at once: `python -P at_two_dates.py FILE`.

It knows nothing of the catalogue; FILE says what to run, and gets to know how each run ended.
"""

import importlib
import json
import sys
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path

from airflow.configuration import conf
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.sdk.execution_time.supervisor import in_process_api_server

BUNDLE = "dags-folder"  # set up empty: dag.test() reads all of it anew for each run


def run(dag, when, settings):
    """Run a pipeline for one date, in a process of its own."""
    ended = dag.test(logical_date=when, run_after=when, run_conf=settings)
    raise SystemExit(0 if ended.state == "success" else 1)


def ended(dag, dates, settings, in_turn):
    """Run a pipeline for all dates, at once unless it wants them one after the other."""
    forked = get_context("fork")
    processes = [forked.Process(target=run, args=(dag, when, settings)) for when in dates]
    for process in processes:
        process.start()
        if in_turn:
            process.join()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def main():
    """Load once what every process needs, then run one pipeline after the other."""
    file = Path(sys.argv[1])
    told = json.loads(file.read_text())
    folder = Path(conf.get("core", "dags_folder"))
    bag = BundleDagBag(dag_folder=folder, bundle_path=folder, bundle_name=BUNDLE)
    assert not bag.import_errors, bag.import_errors
    DagBundlesManager().sync_bundles_to_db()
    sync_bag_to_db(bag, BUNDLE, None)
    for library in told["libraries"]:
        importlib.import_module(library)
    in_process_api_server().app._cadwyn_initialize()  # else each process takes seconds for it
    dates = [datetime.fromisoformat(date) for date in told["dates"]]
    outcome = {
        dag_id: ended(dag, dates, told["settings"][dag_id], dag_id in told["in_turn"])
        for dag_id, dag in bag.dags.items()
    }
    file.write_text(json.dumps(outcome))


if __name__ == "__main__":
    main()
