"""Starts when 97.1.1 releases a model, until a DAG of the catalogue does."""

from datetime import datetime

from airflow.sdk import Asset, dag, task

MODEL = Asset("97_01_01_ml_pipeline_structure/model")


@dag(schedule=[MODEL], start_date=datetime(2026, 1, 4), catchup=False, tags=["test"])
def listens_for_a_model():
    @task(inlets=[MODEL])
    def which_version(triggering_asset_events=None) -> str:
        """Say which version was announced last."""
        events = next(iter(triggering_asset_events.values()))
        return str(max(events, key=lambda event: event.timestamp).extra["version"])

    which_version()


listens_for_a_model()
