"""`make run`: one pipeline by `airflow dags test`, with everything that it needs around it.

It has a metadata database of its own, so it works with and without `make up`; it shares artifacts,
MLflow and the warehouse with it. Before anything starts it says what is wrong with the request.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from include import processes
from include.data import landing, warehouse
from include.tools import environment, needs, services, up

YEARS = range(1970, 2201)
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
    if why := environment.full_disk(home):
        raise SystemExit(why)
    settings = environment.airflow(home / "run", store=home)
    os.environ.update(settings | {"AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"})
    settings["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "INFO"  # it carries the progress shown below
    conf, date, file = _conf(asked.conf), _date(asked.date), environment.dag_file(asked.dag)
    wanted = needs.needs(file)
    _refuse(_faults(file, conf, wanted))

    # What is live is one thing, and one run at a time changes it.
    releases = "include.serving.client" in wanted.modules
    with (
        _one_at_a_time(home / "run", asked.dag if releases else f"{asked.dag}-{date}"),
        services.at_hand(home, settings, wanted.connections) as found,
    ):
        _prepare(home, settings)
        command = [sys.executable, "-m", "airflow", "dags", "test", asked.dag, date]
        command += ["--bundle-name", environment.BUNDLE, "--dagfile-path", str(file)]
        command += ["--conf", json.dumps(conf)] if conf else []
        known = environment.as_variables(found.connections) | _only(file)
        status = _follow(command, known | found.env | settings, asked.verbose)
    if status and (why := environment.full_disk(home)):
        print(f"The run may have failed for want of room. {why}")
    return status


def _only(file: Path) -> dict[str, str]:
    """A bundle of this one file: `dags test` reads the whole bundle anew, whatever it runs."""
    bundle = {
        "name": environment.BUNDLE,
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(file)},
    }
    return {"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle])}


def _conf(text: str) -> dict[str, Any]:
    example = """CONF='{"name": value}'"""
    try:
        conf = json.loads(text or "{}", parse_constant=_no_number)
    except ValueError as error:
        raise SystemExit(f"CONF is not JSON ({error}). Write {example}.") from None
    except RecursionError:
        raise SystemExit(f"CONF is nested too deeply. Write {example}.") from None
    if not isinstance(conf, dict):
        raise SystemExit(f"CONF must be an object: {example}.")
    return conf


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number in JSON")


def _date(text: str) -> str:
    try:
        date = datetime.fromisoformat(text) if text else datetime.now(UTC)
        date = date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise SystemExit(f"DATE={text} is not a date. Write DATE=2026-01-04.") from None
    if date.year not in YEARS:
        raise SystemExit(f"DATE={text} is not between {YEARS[0]} and {YEARS[-1]}.")
    return date.isoformat()  # one moment has one name, however it was written


def _faults(file: Path, conf: dict[str, Any], wanted: needs.Needs) -> list[str]:
    """Everything that is wrong with the request, in words that say what to do."""
    pools = json.loads((environment.PROJECT / "config" / "pools.json").read_text())
    known = environment.connections(os.environ | services.ports()).keys() | services.connections()
    return [
        *_wrong_parameters(file, conf),
        *(
            f"Pool {pool!r} is not in config/pools.json: add it there with its number of slots."
            for pool in sorted(wanted.pools - pools.keys() - {"default_pool"})
        ),
        *(
            f"Connection {name!r} is not in config/connections.yaml: add it there, or set "
            f"AIRFLOW_CONN_{name.upper()}."
            for name in sorted(wanted.connections - known)
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
        except RecursionError:
            yield f"Parameter {name!r} is nested too deeply."


def _refuse(faults: list[str]) -> None:
    if faults:
        raise SystemExit("Nothing was started:\n" + "\n".join(f"- {fault}" for fault in faults))


@contextmanager
def _one_at_a_time(folder: Path, what: str) -> Iterator[None]:
    """`dags test` deletes an earlier run of its date, so the same one twice at once is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{what}.lock"
    while True:
        with file.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SystemExit(
                    f"{what} is running already: wait for it, or give this run another DATE if "
                    "the pipeline releases no model."
                ) from None
            if not _is_still(file, lock.fileno()):
                continue  # the run before this one has just ended, and taken its file along
            try:
                yield
            finally:
                file.unlink()
            return


def _is_still(file: Path, number: int) -> bool:
    """Whether an open file is the one that has this name."""
    try:
        return os.path.samestat(file.stat(), os.fstat(number))
    except FileNotFoundError:
        return False


def _prepare(home: Path, settings: dict[str, str]) -> None:
    """Make the run's own metadata database, the warehouse and the landing zone, once."""
    done = home / "run" / f"migrated-{version('apache-airflow')}"
    with processes.alone(home / "run" / "preparing.lock"):
        try:
            warehouse.create(home / "warehouse.db")
        except RuntimeError as error:
            raise SystemExit(str(error)) from None
        landing.create(home / "landing")
        if not done.exists():
            print("  · making a database for runs", flush=True)
            up.airflow(settings, ["db", "migrate"])
            done.touch()
        _make_known(home / "run" / "known.json", settings)


def _make_known(record: Path, settings: dict[str, str]) -> None:
    """Tell the database of new and changed pools and files while nobody else does.

    `dags test` does so too, but two at once that meet an unknown DAG would both insert it.
    """
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db

    try:
        known = json.loads(record.read_text())
    except (FileNotFoundError, ValueError):  # nothing is known, so all is told anew
        known = {}
    pools = environment.PROJECT / "config" / "pools.json"
    there = {
        file: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in (pools, *environment.DAGS.glob("*.py"))
    }
    changed = [file for file, digest in there.items() if known.get(file.name) != digest]
    if not changed:
        return
    if pools in changed:
        up.airflow(settings, ["pools", "import", str(pools)])
        changed.remove(pools)
    DagBundlesManager().sync_bundles_to_db()  # type: ignore[no-untyped-call]
    for file in changed:
        bag = BundleDagBag(
            dag_folder=file, bundle_path=environment.DAGS, bundle_name=environment.BUNDLE
        )
        sync_bag_to_db(bag, environment.BUNDLE, None)
    part = record.with_suffix(".part")
    part.write_text(json.dumps({file.name: digest for file, digest in there.items()}))
    part.replace(record)


def _follow(command: list[str], env: dict[str, str], verbose: bool) -> int:
    """Show each task as it starts and what it returned; warnings and errors as they come."""
    process = subprocess.Popen(
        command, env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None  # noqa: S101
    try:
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
    finally:
        if process.poll() is None:  # we are to end, and it with us
            process.terminate()
            process.wait()
        process.stdout.close()
    killed = f" It was killed by signal {-status}." if status < 0 else ""
    print("Green." if status == 0 else f"Failed.{killed}", flush=True)
    return status


if __name__ == "__main__":
    for sign in (signal.SIGTERM, signal.SIGHUP):  # the servers of this run are to end with it
        if signal.getsignal(sign) != signal.SIG_IGN:  # `nohup` wants it to go on
            signal.signal(sign, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
