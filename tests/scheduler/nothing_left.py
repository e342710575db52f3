"""After `make down`: no process of the catalogue, and nobody on its ports."""

from pathlib import Path

import psutil

from include import processes
from include.tools import environment, services


def main() -> None:
    """Fail and name what is left."""
    folder = environment.home() / "services"
    left = [
        f"{process.pid} {' '.join(process.cmdline())[:120]}"
        for process in psutil.process_iter()
        if _belongs(process, folder)
    ]
    ports = {"AIRFLOW_PORT": "8080"} | services.ports()
    left += [
        f"somebody listens on {port}" for port in ports.values() if processes.in_use(int(port))
    ]
    if left:
        raise SystemExit("left behind:\n" + "\n".join(left))
    print("Nothing is left: no process, no listening port.")


def _belongs(process: psutil.Process, folder: Path) -> bool:
    """Everything was started in this folder, and a program that names itself anew stays there."""
    try:
        label = process.environ().get(processes.BELONGS_TO, "")
        return Path(process.cwd()) == folder or Path(label).parent == folder
    except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
        return False


if __name__ == "__main__":
    main()
