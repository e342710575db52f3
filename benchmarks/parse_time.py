"""How long a DAG file takes to read, as a multiple of a bare TaskFlow DAG of the same shape.

`make bench` prints a line for each file. The bare one has the same groups, tasks and kind of
schedule, and nothing else: no docstring, no parameters, no settings.
"""

import gc
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from airflow.sdk import Asset

from include.tools import environment

ROUNDS = 20


def bare(dag: Any) -> str:
    """The source of a TaskFlow DAG with the same groups, tasks, arrows and kind of schedule."""
    waits = any(isinstance(each, Asset) for each in dag.schedule or ())
    schedule = '[Asset("bare")]' if waits else None
    lines = [
        "from airflow.sdk import Asset, dag, task, task_group",
        f"@dag(schedule={schedule})",
        f"def bare_{dag.dag_id.replace('-', '_')}():",
        "    made = {}",
        *_group(dag.task_group, "    "),
    ]
    lines += [
        f"    made[{task.task_id!r}] >> made[{below!r}]"
        for task in dag.tasks
        for below in sorted(task.downstream_task_ids)
    ]
    return "\n".join([*lines, f"bare_{dag.dag_id.replace('-', '_')}()"]) + "\n"


def _group(group: Any, indent: str) -> list[str]:
    lines = []
    for child in group.children.values():
        name = (child.group_id if hasattr(child, "children") else child.task_id).split(".")[-1]
        if hasattr(child, "children"):
            lines += [f"{indent}@task_group(group_id={name!r})", f"{indent}def {name}_group():"]
            lines += _group(child, indent + "    ")
            lines.append(f"{indent}{name}_group()")
        else:
            lines += [
                f"{indent}@task(task_id={name!r})",
                f"{indent}def {name}(): pass",
                f"{indent}made[{child.task_id!r}] = {name}()",
            ]
    return lines or [f"{indent}pass"]


def ratio(dag: Any, file: Path, folder: Path) -> list[float]:
    """The file's time over the bare one's, round by round, the two in turn."""
    twin = folder / f"bare_{file.name}"
    twin.write_text(bare(dag))
    _seconds(file), _seconds(twin)  # the shared imports
    gc.collect()
    gc.disable()  # a collection would count for whom it happens to meet
    try:
        return [_seconds(file) / _seconds(twin) for _ in range(ROUNDS)]
    finally:
        gc.enable()


def _seconds(file: Path) -> float:
    from airflow.dag_processing.dagbag import DagBag

    began = time.process_time()
    bag = DagBag(dag_folder=file)
    spent = time.process_time() - began
    if bag.import_errors or not bag.dags:
        raise RuntimeError(f"{file} does not import: {bag.import_errors}")
    return spent


def main() -> None:
    """Print the median for each file."""
    os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "WARNING"  # a line for each reading is too much
    from airflow.dag_processing.dagbag import DagBag

    print("parse time over a bare DAG of the same shape, median of", ROUNDS)
    with tempfile.TemporaryDirectory() as folder:
        for file in sorted(environment.DAGS.glob("97_*.py")):
            dag = DagBag(dag_folder=file).dags[file.stem]
            print(f"  {statistics.median(ratio(dag, file, Path(folder))):.2f}  {file.stem}")


if __name__ == "__main__":
    main()
