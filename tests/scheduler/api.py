"""Airflow's public REST API, as much of it as the scheduler tests speak."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from include.tools import rest

FIRST = datetime(2026, 1, 4, tzinfo=UTC)
FINAL = {"success", "failed", "skipped", "upstream_failed", "removed"}


class Api(rest.Client):
    """One Airflow, over HTTP."""

    def trigger(
        self, dag_id: str, conf: dict[str, Any] | None = None, when: datetime = FIRST
    ) -> str:
        """Start a run for a date; returns its id."""
        self.call("PATCH", f"/dags/{dag_id}", {"is_paused": False})
        body = {"logical_date": when.isoformat(), "conf": conf or {}}
        return str(self.call("POST", f"/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """All runs of a DAG."""
        found: list[dict[str, Any]] = self.call("GET", f"/dags/{dag_id}/dagRuns")["dag_runs"]
        return found

    def state(self, dag_id: str, run_id: str) -> str:
        """How far a run is."""
        return str(self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def tasks(self, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
        """The task instances of a run by task id."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=200"
        return {each["task_id"]: each for each in self.call("GET", path)["task_instances"]}

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """What a task returned."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.call("GET", path)["value"]

    def running(self) -> int:
        """How many tasks of all runs are running."""
        found = self.call("GET", "/dags/~/dagRuns/~/taskInstances?state=running&limit=1")
        return int(found["total_entries"])

    def ended(self) -> int:
        """How many tasks of all runs have ended."""
        states = "&".join(f"state={state}" for state in sorted(FINAL))
        found = self.call("GET", f"/dags/~/dagRuns/~/taskInstances?{states}&limit=1")
        return int(found["total_entries"])

    def finished(self, dag_id: str, run_id: str, seconds: float = 300) -> dict[str, dict[str, Any]]:
        """Wait for a run to end and return its task instances."""
        self.until(
            lambda: self.state(dag_id, run_id) in FINAL,
            seconds,
            f"{dag_id} {run_id} to end",
            dag_id,
            run_id,
        )
        return self.tasks(dag_id, run_id)

    def until(
        self, holds: Callable[[], bool], seconds: float, what: str, dag_id: str, run_id: str
    ) -> None:
        """Ask twice a second until something holds; say how far things got when it never does.

        Runs that wait for one another's turn are given more time for as long as tasks end.
        """
        deadline, ended = time.monotonic() + seconds, self.ended()
        while not holds():
            if time.monotonic() > deadline:
                before, ended = ended, self.ended()
                if ended == before:
                    states = {name: t["state"] for name, t in self.tasks(dag_id, run_id).items()}
                    raise AssertionError(
                        f"waited for {what}, and for {seconds:.0f} s no task has ended: {states}"
                    )
                deadline = time.monotonic() + seconds
            time.sleep(0.5)
