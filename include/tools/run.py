"""`make run`: one pipeline by `airflow dags test`, with everything that it needs around it.

It has a metadata database of its own, so it works with and without `make up`; it shares artifacts,
MLflow and the warehouse with it. Before anything starts it says what is wrong with the request.
"""

import argparse
import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from include.data import warehouse
from include.tools import environment, needs, services, up

TASK = re.compile(r"\[DAG TEST\] starting task_id=(\S+) map_index=(-?\d+)")
ANSWER = re.compile(r"Done\. Returned value was: (.*?)\s+\[airflow\.")
CHATTER = re.compile(r"\S+ \[(info|debug)\s*\]|\S+ \[warning\s*\] No tasks to run\.")


def main(arguments: list[str] | None = None) -> int:
    """Run the pipeline and return the exit status of `airflow dags test`."""
    parser = argparse.ArgumentParser(prog="make run")
    parser.add_argument("dag")
    parser.add_argument("--conf", default="")
    parser.add_argument("--date", default="")
    parser.add_argument("--verbose", action="store_true")
    asked = parser.parse_args(arguments)

    home = environment.home()
    settings = environment.airflow(home / "run", store=home)
    os.environ.update(settings | {"AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"})
    settings["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "INFO"  # it carries the progress shown below
    conf, date, file = _conf(asked.conf), _date(asked.date), _file(asked.dag)
    wanted = needs.needs(file)
    _refuse(_faults(file, conf, wanted))

    with (
        _one_at_a_time(home / "run", f"{asked.dag}-{date}"),
        services.at_hand(home, settings, wanted.connections) as known,
    ):
        _prepare(home, settings)
        command = [sys.executable, "-m", "airflow", "dags", "test", asked.dag, date]
        command += ["--conf", json.dumps(conf)] if conf else []
        return _follow(command, environment.as_variables(known) | settings, asked.verbose)


def _conf(text: str) -> dict[str, Any]:
    example = """CONF='{"name": value}'"""
    try:
        conf = json.loads(text or "{}")
    except ValueError as error:
        raise SystemExit(f"CONF is not JSON ({error}). Write {example}.") from None
    if not isinstance(conf, dict):
        raise SystemExit(f"CONF must be an object: {example}.")
    return conf


def _date(text: str) -> str:
    try:
        date = datetime.fromisoformat(text) if text else datetime.now(UTC)
    except ValueError:
        raise SystemExit(f"DATE={text} is not a date. Write DATE=2026-01-04.") from None
    return date.isoformat()


def _file(dag_id: str) -> Path:
    file = environment.DAGS / f"{dag_id}.py"
    if not file.is_file():
        known = "\n  ".join(sorted(path.stem for path in environment.DAGS.glob("97_*.py")))
        raise SystemExit(f"There is no DAG {dag_id!r}. There are:\n  {known}")
    return file


def _faults(file: Path, conf: dict[str, Any], wanted: needs.Needs) -> list[str]:
    """Everything that is wrong with the request, in words that say what to do."""
    pools = json.loads((environment.PROJECT / "config" / "pools.json").read_text())
    known = environment.connections(os.environ | services.ports())
    return [
        *_wrong_parameters(file, conf),
        *(
            f"Pool {pool!r} is not in config/pools.json: add it there with its number of slots."
            for pool in sorted(wanted.pools - pools.keys() - {"default_pool"})
        ),
        *(
            f"Connection {name!r} is not in config/connections.yaml: add it there, or set "
            f"AIRFLOW_CONN_{name.upper()}."
            for name in sorted(wanted.connections - known.keys())
            if f"AIRFLOW_CONN_{name.upper()}" not in os.environ
        ),
    ]


def _wrong_parameters(file: Path, conf: dict[str, Any]) -> Iterator[str]:
    """Airflow would find a wrong value by itself, but it lets an unknown name through."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk.exceptions import ParamValidationError

    bag = DagBag(dag_folder=file, load_op_links=False)
    if bag.import_errors:
        raise SystemExit("\n".join(f"{path}: {error}" for path, error in bag.import_errors.items()))
    params = bag.dags[file.stem].params
    for name, value in conf.items():
        if name not in params:
            yield f"{file.stem} has no parameter {name!r}; it has: {', '.join(params) or 'none'}."
            continue
        try:
            params.get_param(name).resolve(value)
        except ParamValidationError as error:
            reason = str(error).splitlines()[0]
            yield f"Parameter {name!r} can't be {json.dumps(value)}: {reason}"


def _refuse(faults: list[str]) -> None:
    if faults:
        raise SystemExit("Nothing was started:\n" + "\n".join(f"- {fault}" for fault in faults))


@contextmanager
def _one_at_a_time(folder: Path, what: str) -> Iterator[None]:
    """`dags test` deletes an earlier run of its date, so the same one twice at once is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{what}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(
                f"{what} is running already: wait for it, or give this run another DATE."
            ) from None
        try:
            yield
        finally:
            Path(lock.name).unlink()


def _prepare(home: Path, settings: dict[str, str]) -> None:
    """Make the run's own metadata database and the warehouse, once."""
    warehouse.create(home / "warehouse.db")
    done = home / "run" / "migrated"
    with (home / "run" / "migrating.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            print("  · making a database for runs", flush=True)
            up.airflow(settings, "db", "migrate")
            up.airflow(
                settings, "pools", "import", str(environment.PROJECT / "config" / "pools.json")
            )
            done.touch()


def _follow(command: list[str], env: dict[str, str], verbose: bool) -> int:
    """Show each task as it starts and what it returned; warnings and errors as they come."""
    process = subprocess.Popen(
        command, env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None  # noqa: S101
    for line in process.stdout:
        if verbose:
            print(line, end="", flush=True)
        elif task := TASK.search(line):
            index = "" if task[2] == "-1" else f" [{task[2]}]"
            print(f"  → {task[1]}{index}", flush=True)
        elif answer := ANSWER.search(line):
            print(f"      {answer[1]}", flush=True)
        elif not CHATTER.match(line):
            print(line, end="", flush=True)
    status = process.wait()
    print("Green." if status == 0 else "Failed.", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
