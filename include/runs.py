"""Which run is this? One answer for storage, tracking, registries and job names.

A task that is tried again, or a run that is started again for the same date, must come back to
what it made before; two different runs must never meet. Both follow from naming everything after
the DAG and the run's *key*: the logical date where there is one, else the run_id. (`airflow dags
test` gives each run of one date a new run_id, and a manual or asset-triggered run may have no
logical date.)
"""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import get_current_context


@dataclass(frozen=True)
class Place:
    """Where in the world of runs the current task stands."""

    dag_id: str
    key: str
    task_id: str
    map_index: int
    try_number: int
    settings: str
    """A digest of the run's params: the same date with other settings is another experiment."""


def key(logical_date: datetime | None, run_id: str) -> str:
    """Name a run so that a second run for its date has the same name; safe in paths."""
    if logical_date is not None:
        moment = logical_date.astimezone(UTC)
        return moment.strftime("%Y%m%dT%H%M%S" + ("%f" if moment.microsecond else ""))
    plain = re.sub(r"[^A-Za-z0-9-]+", "-", run_id).strip("-")
    return f"{plain[:80]}-{digest(run_id.encode())}"


def digest(data: bytes) -> str:
    """Twelve hexadecimal digits: enough to tell apart, short enough to read."""
    return hashlib.sha256(data).hexdigest()[:12]


def here() -> Place:
    """Where the running task stands."""
    context = get_current_context()
    ti = context["ti"]
    return Place(
        dag_id=ti.dag_id,
        key=key(context.get("logical_date"), ti.run_id),
        task_id=ti.task_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
        try_number=ti.try_number,
        settings=_settings(context["params"]),
    )


def _settings(params: Any) -> str:
    return digest(json.dumps(dict(params), sort_keys=True, default=str).encode())
