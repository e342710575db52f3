"""What a run of a pipeline came to, and where two runs differ: for the long proofs and for chaos.

`home` is the folder of one installation: Airflow's own files are below `airflow/`, artifacts below
`artifacts/`.
"""

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from include import runs

GREEN = {"success", "skipped"}
DIGEST = re.compile(r"#sha256=([0-9a-f]{64})")


@dataclass(frozen=True)
class Ended:
    """A run that has ended, as the metadata database knows it."""

    key: str
    states: dict[str, str]
    tries: dict[str, int]
    xcoms: dict[str, str]


def rows(home: Path, query: str, *values: str) -> list[tuple[Any, ...]]:
    """What the metadata database answers; it is read beside Airflow, which need not run."""
    database = f"file:{home / 'airflow' / 'airflow.db'}?mode=ro"
    with closing(sqlite3.connect(database, uri=True, timeout=60)) as opened:
        return opened.execute(query, values).fetchall()


def ended(home: Path, dag_id: str, run_id: str, when: datetime) -> Ended:
    """How a run has ended."""

    def table(columns: str, name: str) -> Iterator[tuple[Any, ...]]:
        query = f"SELECT task_id, map_index, {columns} FROM {name} WHERE dag_id = ? AND run_id = ?"  # noqa: S608
        for task_id, map_index, *rest in rows(home, query, dag_id, run_id):
            yield named(task_id, map_index), *rest

    tasks = list(table("state, try_number", "task_instance"))
    return Ended(
        key=runs.key(when, ""),
        states={name: state for name, state, _ in tasks},
        tries={name: tried for name, _, tried in tasks},
        xcoms={f"{name} {key}": str(value) for name, key, value in table("key, value", "xcom")},
    )


def named(task_id: str, map_index: int) -> str:
    """A task instance: one of several of a mapped task has its index behind the name."""
    return task_id if map_index < 0 else f"{task_id}[{map_index}]"


def states(run: Ended, without: Mapping[str, str]) -> dict[str, str]:
    """How each task ended, but for those that are left out."""
    return {task: state for task, state in run.states.items() if not among(task, without)}


def artifacts(run: Ended, without: Mapping[str, str]) -> dict[str, list[str]]:
    """The digests of what each task wrote, but for those that are left out."""
    found = {
        what: DIGEST.findall(value)
        for what, value in run.xcoms.items()
        if not among(what.split()[0], without)
    }
    return {what: digests for what, digests in found.items() if digests}


def files(home: Path, dag_id: str, key: str, without: Mapping[str, str]) -> list[str]:
    """What a run wrote, but for tasks that are left out, and up to its release.

    Only one of two models can be the better one.
    """
    folder = home / "artifacts" / dag_id / key
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    kept = [path for path in found if not path.parts[0].startswith("release.")]
    return sorted(str(path) for path in kept if not among(path.parts[0], without))


def versions(registry: Any, dag_id: str, key: str) -> list[str]:
    """The digests of the models that a run registered."""
    found = registry.search_model_versions(f"name = '{dag_id}'")
    return sorted(
        each.tags.get("sha256", "") for each in found if each.tags["airflow.run_key"] == key
    )


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between two runs, by name; None stands for what is not there."""
    names = sorted({*one, *other})
    both = {name: (one.get(name), other.get(name)) for name in names}
    return {name: pair for name, pair in both.items() if pair[0] != pair[1]}


def among(task: str, tasks: Iterable[str]) -> bool:
    """Whether a task, or the group that it stands in, is one of those that are named."""
    name = task.partition("[")[0]
    return name in tasks or name.partition(".")[0] in tasks


def errors(log: Path) -> list[dict[str, Any]]:
    """What a task's log has of errors; who was killed may have left half a line."""
    found = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if line.get("level") in ("error", "critical")]


def last_words(home: Path, dag_id: str, run: str = "*") -> str:
    """The end of the log of each try that did not end well."""
    folder = home / "airflow" / "logs"
    return "\n".join(
        f"{log.relative_to(folder)}: {json.dumps(line)[:2500]}"
        for log in sorted(folder.glob(f"dag_id={dag_id}/run_id={run}/**/attempt=*.log"))
        for line in errors(log)[-2:]
    )
