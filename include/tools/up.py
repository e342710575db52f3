"""`make up`, `make down`, `make status`: Airflow and its services on this machine."""

import ast
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.error import URLError

from include import loopback, processes
from include.data import landing, warehouse
from include.local_cloud import platforms
from include.tools import environment, rest, secret, services, supervisor, tracking_server

COMPONENTS = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}

ANSWER_SECONDS = 3.0  # so long does `make status` wait for a server

TO_MLFLOW = (
    f"log in to Airflow first, or as {tracking_server.USER} with the password of "
    f"`make -s env | grep {tracking_server.PASSWORD}`"
)

IN_TURN = """
import json, sys
from airflow.__main__ import main
for command in json.loads(sys.argv[1]):
    sys.argv = ["airflow", *command]
    main()
"""


def settings(home: Path) -> dict[str, str]:
    """What `make up` runs Airflow with; platforms are in it once they run."""
    running = [process.name for process in processes.running(home / "services")]
    ours = environment.airflow(home / "airflow", store=home) | services.ports()
    return ours | platforms.redirects(home, running).env


def up() -> None:
    """Start what is not running yet, wait until every DAG is there, and say where to look."""
    began = time.monotonic()
    home = environment.home()
    if why := environment.full_disk(home):
        raise SystemExit(why)
    _refuse_broken_files()
    with processes.alone(supervisor.lock(home / "services")):
        env = _brought_up(home, home / "services")
    _banner(env, time.monotonic() - began)


def _brought_up(home: Path, folder: Path) -> dict[str, str]:
    """Have everything running, or end what was begun; returns the environment that it runs in."""
    env = settings(home)
    known = {process.name: process for process in processes.running(folder)}
    crashed = [process for process in processes.recorded(folder) if process.name not in known]
    if crashed:
        _say(f"clearing up after {', '.join(process.name for process in crashed)}, which crashed")
        processes.stop(folder, crashed)
    wanted = {service.name: int(env[service.port_variable]) for service in services.SERVICES}
    wanted["api-server"] = int(env["AIRFLOW__API__PORT"])
    _refuse_taken_ports({name: port for name, port in wanted.items() if name not in known})

    try:
        for service in services.SERVICES:
            if service.name not in known:
                _say(f"{service.name} on port {env[service.port_variable]}")
                services.start(service, home, folder, env)
        for entry in platforms.wanted():
            if entry.name not in known:
                _say(f"{entry.name} in the local cloud")
                platforms.start(entry, home, folder, env)
        env = settings(home)
        _say("database, pools, connections, warehouse")
        prepare(home, env)
        rest.password(env)  # or Airflow would make one, in a file and a log that all may read
        _say(f"Airflow on port {env['AIRFLOW__API__PORT']}")
        start_airflow(folder, env, already=set(known))
        if rest.knows_the_way_in(env):
            _say("reading the DAGs")
            wait_for_dags(env, {path.stem for path in environment.DAGS.glob("97_*.py")})
        supervisor.stop(folder)  # with the environment of an earlier `make up`
        supervisor.start(folder, env)
    except (RuntimeError, KeyboardInterrupt):
        processes.stop(folder, [p for p in processes.recorded(folder) if p.name not in known])
        raise
    return env


def _refuse_broken_files() -> None:
    """Airflow passes over a file that it can't read when it does not look like a DAG to it."""
    for path in sorted(environment.DAGS.glob("97_*.py")):
        try:
            ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        except (SyntaxError, UnicodeDecodeError) as error:
            raise SystemExit(f"{path} is no Python: {error}. Nothing was started.") from None


def down() -> None:
    """Stop everything that `up` started, and nothing else."""
    home = environment.home()
    folder = home / "services"
    with processes.alone(supervisor.lock(folder)):
        started = processes.recorded(folder)
        ran = [process.name for process in started if process.family()]
        processes.stop(folder, started)
    ran += [f"{process.name} of a run that was killed" for process in services.sweep(home)]
    print(f"Stopped: {', '.join(ran) or 'nothing was running'}.")


def status() -> None:
    """Say what runs, and where."""
    started = processes.recorded(environment.home() / "services")
    if not started:
        print("Nothing runs. `make up` starts Airflow and its services.")
    mended = any(process.name == supervisor.NAME and process.alive() for process in started)
    for process in started:
        where = f"http://{environment.HOST}:{process.port}" if process.port else ""
        if not process.alive():
            where = "ended; it is started again" if mended else "ended; `make up` starts it again"
        elif not _answers(process):
            where = "does not answer; if that lasts: make down && make up"
        print(f"{process.name:<14} pid {process.pid:<8} {where:<24} {process.log}")
        if process.name == "mlflow" and process.alive():
            print(f"{'':<14} {TO_MLFLOW}")
        if process.name == "api-server" and process.alive():
            print(f"{'':<14} log in: {rest.link(settings(environment.home()))}")


def _answers(process: processes.Process) -> bool:
    """Whether a server says that it is well; other processes can't be asked."""
    health = {each.name: each.health for each in services.SERVICES}
    health |= {each.name: "/health" for each in platforms.PLATFORMS}
    path = (health | {"api-server": "/api/v2/version"}).get(process.name)
    if path is None:
        return True
    try:
        with loopback.ask(f"http://{environment.HOST}:{process.port}{path}", ANSWER_SECONDS):
            return True
    except (URLError, ConnectionError, TimeoutError):
        return False


def prepare(home: Path, env: dict[str, str]) -> None:
    """Everything that must stand before Airflow starts; safe to do again."""
    warehouse.create(home / "warehouse.db")
    landing.create(home / "landing")
    ours = services.connections()
    running = [process.name for process in processes.running(home / "services")]
    known = environment.connections(env) | platforms.redirects(home, running).connections
    filled, yours = home / "connections-filled.json", home / "connections-yours.json"
    try:
        secret.write(filled, {name: known[name] for name in known if name in ours})
        # What you have changed in the UI stays.
        secret.write(yours, {name: known[name] for name in known if name not in ours})
        airflow(
            env,
            ["db", "migrate"],
            ["pools", "import", str(environment.PROJECT / "config" / "pools.json")],
            ["connections", "import", "--overwrite", str(filled)],
            ["connections", "import", str(yours)],
        )
    finally:
        filled.unlink(missing_ok=True)
        yours.unlink(missing_ok=True)


def start_airflow(folder: Path, env: dict[str, str], already: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Start Airflow's components one by one: together they would listen beyond loopback."""
    for name, arguments in COMPONENTS.items():
        if name in already:
            continue
        port = int(env["AIRFLOW__API__PORT"]) if name == "api-server" else None
        command = [sys.executable, "-m", "airflow", *arguments]
        process = processes.start(folder, name, command, env, port)
        if name == "api-server":
            processes.wait_until_answers(f"{env['AIRFLOW__API__BASE_URL']}/api/v2/version", process)


def wait_for_dags(env: dict[str, str], expected: set[str], seconds: float = 120.0) -> None:
    """Wait until these DAGs are listed; name the file that does not import."""
    deadline = time.monotonic() + seconds
    airflow = rest.Client(env["AIRFLOW__API__BASE_URL"], rest.password(env))
    while True:
        errors = airflow.call("GET", "/importErrors")["import_errors"]
        if errors:
            raise RuntimeError(
                "\n".join(
                    f"{each['filename']} does not import:\n{each['stack_trace']}" for each in errors
                )
            )
        missing = expected - {each["dag_id"] for each in airflow.all("/dags", "dags")}
        if not missing:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"after {seconds:.0f} s Airflow still does not list {sorted(missing)}"
            )
        time.sleep(0.5)


def airflow(env: dict[str, str], *commands: Sequence[str]) -> None:
    """Run `airflow` commands one after another in one interpreter: to start one takes seconds."""
    done = subprocess.run(
        [sys.executable, "-c", IN_TURN, json.dumps(commands)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        tried = " && ".join(" ".join(["airflow", *command]) for command in commands)
        raise RuntimeError(f"{tried} failed:\n{done.stdout}{done.stderr}")


def _refuse_taken_ports(wanted: dict[str, int]) -> None:
    variables = {service.name: service.port_variable for service in services.SERVICES}
    variables["api-server"] = "AIRFLOW_PORT"
    holders: dict[int, str] = {}
    for name, port in wanted.items():
        holder = holders.setdefault(port, name)
        if holder != name or processes.in_use(port):
            why = "taken by another program" if holder == name else f"{holder}'s already"
            raise SystemExit(
                f"Port {port} is {why}. Choose one for {name}: make up {variables[name]}={port + 1}"
            )


def _say(what: str) -> None:
    print(f"  · {what}", flush=True)


def _banner(env: dict[str, str], seconds: float) -> None:
    dags = len(list(environment.DAGS.glob("97_*.py")))
    print(
        f"\nReady after {seconds:.0f} s: {dags} pipelines, no import errors.\n"
        f"  Airflow    {rest.link(env)}\n"
        f"  MLflow     http://{environment.HOST}:{env['MLFLOW_PORT']}\n"
        f"             ({TO_MLFLOW})\n"
        f"  Gateway    http://{environment.HOST}:{env['GATEWAY_PORT']}\n"
        "             (its operators' token: `make -s env | grep GATEWAY_TOKEN`)\n"
        "Stop it with `make down`."
    )


if __name__ == "__main__":
    actions = {"up": up, "down": down, "status": status}
    try:
        actions[sys.argv[1]]()
    except RuntimeError as error:
        raise SystemExit(str(error)) from None
