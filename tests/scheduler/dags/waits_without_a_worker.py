"""Defers for a while, until a DAG of the catalogue does."""

from datetime import datetime, timedelta

from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import dag


@dag(schedule=None, start_date=datetime(2026, 1, 4), catchup=False, tags=["test"])
def waits_without_a_worker():
    TimeDeltaSensor(task_id="wait", delta=timedelta(seconds=25), deferrable=True)


waits_without_a_worker()
