"""After `make down`: no process of the catalogue, and nobody on its ports."""

from pathlib import Path

import psutil

from include import processes
from include.tools import environment, services


def main() -> None:
    """Fail and name what is left."""
    if found := left(environment.home()):
        raise SystemExit("left behind:\n" + "\n".join(found))
    print("Nothing is left: no process, no listening port.")


def left(home: Path) -> list[str]:
    """The processes that were started for this folder, and the ports that somebody listens on."""
    ports = services.ports() | {"AIRFLOW_PORT": str(environment.port("AIRFLOW_PORT", 8080))}
    return [
        f"{process.pid} {' '.join(process.cmdline())[:120]}"
        for process in psutil.process_iter()
        if _belongs(process, home)
    ] + [f"somebody listens on {port}" for port in ports.values() if processes.in_use(int(port))]


def _belongs(process: psutil.Process, home: Path) -> bool:
    """Whether it has a label of this folder, or works in it: a program may name itself anew."""
    try:
        label = process.environ().get(processes.BELONGS_TO, "")
        return any(Path(path).is_relative_to(home) for path in (process.cwd(), label) if path)
    except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
        return False


if __name__ == "__main__":
    main()
