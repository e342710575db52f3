"""One run of a pipeline: how Airflow is told to start it or to clear it, and how far it is.

Orders go to Airflow's REST API. How far a run is stands in the metadata database, which can be read
while the API server is away.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests import outcomes
from tests.chaos.installation import AWAY, Installation
from tests.chaos.verdict import Reasons
from tests.chaos.victims import Kill
from tests.prove.cases import CASES

OF_RUN = "dag_id = ? AND run_id = ?"
STATE = f"SELECT state FROM dag_run WHERE {OF_RUN}"  # noqa: S608
TASKS = f"SELECT task_id, map_index, state, try_number FROM task_instance WHERE {OF_RUN}"  # noqa: S608
SPANS = "SELECT task_id, map_index, try_number, start_date, end_date FROM task_instance"
FAILED_ONES = f"{SPANS} WHERE {OF_RUN} AND state = 'failed'"
FAILED = {"failed", "upstream_failed"}
NOTICED = timedelta(seconds=60)
"""So long after a kill a task may still end by it."""


@dataclass
class Run:
    """A run, from its start until it is known whether it ended as it should."""

    dag_id: str
    when: datetime
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    cleared: int = 0
    """How often: at first what failed and what comes after it, then all of it."""
    asked: bool = False
    """Whether Airflow has taken the last order."""
    wrong: str = ""
    """Why it is wrong, however it ends."""
    told: str = ""
    """What a server said last that could not be asked."""
    state: str | None = None
    tasks: dict[str, tuple[str, int]] = field(default_factory=dict)
    """State and number of the last try of each task."""
    changed: float = field(default_factory=time.monotonic)

    @property
    def run_id(self) -> str:
        """Its id in Airflow."""
        return f"chaos-{self.when:%Y-%m-%d}"

    def __str__(self) -> str:
        """As a line of progress names it."""
        return f"{self.dag_id} {self.run_id}"

    @property
    def over(self) -> bool:
        """Whether Airflow has ended it."""
        return self.asked and self.state in ("success", "failed")

    @property
    def green(self) -> bool:
        """Whether it has ended, and no task of it has failed."""
        return self.state == "success" and not FAILED & {state for state, _ in self.tasks.values()}

    def look(self, home: Path) -> None:
        """Take in how far it is."""
        state = next((found for (found,) in self._rows(home, STATE)), None)
        tasks = {
            outcomes.named(task_id, index): (found, tried)
            for task_id, index, found, tried in self._rows(home, TASKS)
        }
        if (state, tasks) != (self.state, self.tasks):
            self.state, self.tasks, self.changed = state, tasks, time.monotonic()

    def clear(self) -> "Run":
        """Have it cleared with the next order."""
        self.cleared, self.asked, self.changed = self.cleared + 1, False, time.monotonic()
        return self

    def order(self, installation: Installation) -> None:
        """Have Airflow start it, or clear it; where nobody answers, it must be asked again."""
        if self.asked:
            return
        api, path = installation.api, f"/dags/{self.dag_id}"
        clear: dict[str, Any] = {"dag_run_id": self.run_id, "dry_run": False, "only_failed": False}
        if self.cleared == 1:
            failed = [
                task_id if index < 0 else [task_id, index]
                for task_id, index, *_ in self._rows(installation.home, FAILED_ONES)
            ]
            clear |= {"task_ids": failed, "include_downstream": True} if failed else {}
        try:
            if self.cleared:
                api.call("POST", f"{path}/clearTaskInstances", clear)
            else:
                api.call("PATCH", path, {"is_paused": False})
                conf, date = CASES[self.dag_id].conf, self.when.isoformat()
                asked = {"dag_run_id": self.run_id, "logical_date": date, "conf": conf}
                api.call("POST", f"{path}/dagRuns", asked)
            self.asked = True
        except AWAY as error:
            self.told = f"{type(error).__name__}: {error}"
            self.look(installation.home)
            # Only the answer may be lost: then the run is there.
            self.asked = self.cleared == 0 and self.state is not None

    def reasons(
        self, home: Path, kills: Sequence[Kill], reasons: Reasons
    ) -> Iterator[tuple[str, str | None]]:
        """Why each task failed that failed itself."""
        logs = home / "airflow" / "logs" / f"dag_id={self.dag_id}" / f"run_id={self.run_id}"
        for task_id, index, tried, *span in self._rows(home, FAILED_ONES):
            folder = logs / f"task_id={task_id}"
            log = (folder if index < 0 else folder / f"map_index={index}") / f"attempt={tried}.log"
            began, ended = map(moment, span)
            name = outcomes.named(task_id, index)
            met = [
                kill
                for kill in self.met(kills, [name])
                if (began or self.began) - NOTICED <= kill.at <= (ended or datetime.now(UTC))
            ]
            yield (
                f"{name} (try {tried})",
                reasons.of(outcomes.errors(log) if log.exists() else [], met),
            )

    def met(self, kills: Sequence[Kill], tasks: Collection[str] | None = None) -> list[Kill]:
        """The kills of services while it was at work, and of its own tasks, or of these."""
        of_this = (self.dag_id, self.run_id)
        return [
            kill
            for kill in kills
            if kill.at >= self.began
            and (
                (task := kill.victim.task) is None
                or ((task.dag_id, task.run_id) == of_this and (tasks is None or task.name in tasks))
            )
        ]

    def _rows(self, home: Path, query: str) -> list[tuple[Any, ...]]:
        return outcomes.rows(home, query, self.dag_id, self.run_id)


def moment(told: str | None) -> datetime | None:
    """A time as SQLite keeps it, which is UTC."""
    return None if told is None else datetime.fromisoformat(told).replace(tzinfo=UTC)
