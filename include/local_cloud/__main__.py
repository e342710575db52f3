"""The local cloud by itself: `python -m include.local_cloud up|serve|down|status|env`.

`make up` and `make run` start what they need by themselves; this is for other Airflows. `serve` is
`up` in the foreground, as a container wants it; `env` prints what Airflow must be started with.
"""

import json
import os
import shlex
import signal
import sys
import threading
from pathlib import Path

from include import processes
from include.local_cloud import platforms


def up(home: Path) -> None:
    """Start what does not run yet."""
    running = {process.name for process in processes.running(_records(home))}
    for entry in platforms.wanted():
        if entry.name not in running:
            platforms.start(entry, home, _records(home), {})
    status(home)


def serve(home: Path) -> None:
    """Start what does not run yet, and stop it all when asked to end."""
    ended = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: ended.set())
    up(home)
    ended.wait()
    down(home)


def down(home: Path) -> None:
    """Stop what was started from here."""
    started = processes.recorded(_records(home))
    processes.stop(_records(home), started)
    print(f"Stopped: {', '.join(process.name for process in started) or 'nothing was running'}.")


def status(home: Path) -> None:
    """Say what runs, and where its side door is; fail where one is missing."""
    started = processes.recorded(_records(home))
    for process in started:
        state = f"http://127.0.0.1:{process.port}" if process.alive() else "crashed"
        print(f"{process.name:<14} pid {process.pid:<8} {state:<24} {process.log}")
    running = {process.name for process in started if process.alive()}
    if missing := [entry.name for entry in platforms.wanted() if entry.name not in running]:
        raise SystemExit(f"These don't run: {', '.join(missing)}.")


def env(home: Path) -> None:
    """Print, for a shell to take over, what leads to the platforms that run."""
    running = [process.name for process in processes.running(_records(home))]
    leads = platforms.redirects(home, running)
    connections = {
        f"AIRFLOW_CONN_{name.upper()}": json.dumps(fields)
        for name, fields in leads.connections.items()
    }
    for name, value in sorted({**leads.env, **connections}.items()):
        print(f"export {name}={shlex.quote(value)}")


def _records(home: Path) -> Path:
    return home / "local-cloud" / "processes"


if __name__ == "__main__":
    actions = {"up": up, "serve": serve, "down": down, "status": status, "env": env}
    if len(sys.argv) != 2 or sys.argv[1] not in actions:
        raise SystemExit(__doc__)
    try:
        actions[sys.argv[1]](Path(os.environ.get("CATALOGUE_HOME", ".catalogue")).resolve())
    except RuntimeError as error:
        raise SystemExit(str(error)) from None
