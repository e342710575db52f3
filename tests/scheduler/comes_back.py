"""Kill processes of a running `make up`, and wait until the supervisor has started them again."""

import json
import os
import signal
from functools import partial
from pathlib import Path

from include import processes
from include.local_cloud import platforms
from include.tools import environment, services, supervisor
from tests.waiting import until

KILLED = ("gateway", "mlflow", "sagemaker", "triggerer")
HEALTH = {each.name: each.health for each in services.SERVICES} | {
    each.name: "/health" for each in platforms.PLATFORMS
}


def main() -> None:
    """Fail unless each comes back on its port, with the connections that it had."""
    home = environment.home()
    folder = home / "services"
    before = {each.name: each for each in processes.running(folder)}
    assert supervisor.NAME in before, f"no supervisor runs: {sorted(before)}"
    redirects = platforms.redirects(home, before).connections
    for name in KILLED:
        os.kill(before[name].pid, signal.SIGKILL)
    for name in KILLED:
        again = until(partial(_other, folder, before[name]), f"{name} to run again")
        assert again.port == before[name].port
        if name in HEALTH:
            processes.wait_until_answers(f"http://127.0.0.1:{again.port}{HEALTH[name]}", again)
        print(f"  {name} was killed, and runs again", flush=True)
    now = platforms.redirects(home, before).connections
    assert now == redirects, f"other connections: {json.dumps(now)}"


def _other(folder: Path, ended: processes.Process) -> processes.Process | None:
    """What runs under the name of a process that has ended."""
    for each in processes.running(folder):
        if each.name == ended.name and each.pid != ended.pid:
            return each
    return None


if __name__ == "__main__":
    main()
