"""After `make down`: no process of the catalogue, and nobody on its ports."""

import psutil

from include.tools import environment, processes, services


def main() -> None:
    """Fail and name what is left."""
    home = str(environment.home())
    left = [
        f"{process.pid} {' '.join(process.cmdline())[:120]}"
        for process in psutil.process_iter()
        if _belongs(process, home)
    ]
    ports = {"AIRFLOW_PORT": "8080"} | services.ports()
    left += [
        f"somebody listens on {port}" for port in ports.values() if processes.in_use(int(port))
    ]
    if left:
        raise SystemExit("left behind:\n" + "\n".join(left))
    print("Nothing is left: no process, no listening port.")


def _belongs(process: psutil.Process, home: str) -> bool:
    try:
        return process.environ().get("AIRFLOW_HOME", "").startswith(home)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


if __name__ == "__main__":
    main()
