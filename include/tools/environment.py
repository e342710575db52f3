"""The environment of Airflow and the pipelines: one function, for `make` and the tests.

Everything that is written at run time goes below one folder, `.catalogue/` in the project unless
CATALOGUE_HOME names another: nothing outside of it, and nothing else in the source tree.
"""

import base64
import json
import os
import secrets
import shutil
import string
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from include import loopback
from include.tools import secret

PROJECT = Path(__file__).resolve().parents[2]
DAGS = PROJECT / "dags"
BUNDLE = "dags-folder"  # Airflow's own name for that folder
HOST = "127.0.0.1"

# None of the packages may tell anybody that it was used.
SILENCE = {
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # MLflow's server would fetch a price list
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "SCARF_NO_ANALYTICS": "true",
    "WANDB_ERROR_REPORTING": "false",
}

LEAST_FREE = 300 << 20  # what one pipeline may write: databases, logs, artifacts

LONGEST_NAME = 200

PASSWORDS = "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"
ALL_ADMINS = "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"
# Whoever sets one of these says who may log in, and how.
LOGINS = (
    "AIRFLOW__CORE__AUTH_MANAGER",
    ALL_ADMINS,
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS",
)

KEYS: dict[str, Callable[[], str]] = {
    "fernet": lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    "gateway": lambda: secrets.token_urlsafe(32),
    "jwt": lambda: secrets.token_hex(64),
    "mlflow": lambda: secrets.token_urlsafe(32),
    "session": lambda: secrets.token_hex(32),
}


def home() -> Path:
    """Where the catalogue keeps what it writes."""
    return Path(os.environ.get("CATALOGUE_HOME", PROJECT / ".catalogue")).expanduser().resolve()


def full_disk(home: Path) -> str | None:
    """What to say where the disk has no room for a run, or None."""
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free >= LEAST_FREE:
        return None
    return (
        f"Only {free >> 20} MB are free at {home}; runs need {LEAST_FREE >> 20}. Free some, or let "
        "CATALOGUE_HOME name a folder on another disk."
    )


def dag_file(dag_id: str) -> Path:
    """The file of a pipeline; say which there are where there is none of this name."""
    file = DAGS / f"{dag_id}.py"
    if Path(dag_id).name != dag_id or len(dag_id) > LONGEST_NAME or not file.is_file():
        known = sorted(path.stem for path in DAGS.glob("97_*.py"))
        near = [name for name in known if dag_id and Path(dag_id).stem in name] or known
        raise SystemExit(f"There is no DAG {dag_id[:80]!r}. There are:\n  " + "\n  ".join(near))
    return file


def port(name: str, default: int) -> int:
    """A port that a variable may move."""
    given = os.environ.get(name, str(default))
    if not given.isdecimal() or not 0 < int(given) < 65536:
        raise SystemExit(f"{name}={given} is not a port: give a number from 1 to 65535.")
    return int(given)


def airflow(airflow_home: Path, store: Path, database: Path | None = None) -> dict[str, str]:
    """What Airflow must know, with its own files in `airflow_home` and artifacts in `store`."""
    api = port("AIRFLOW_PORT", 8080)
    database = database or airflow_home / "airflow.db"
    keys = _keys(store)
    return SILENCE | {
        "AIRFLOW_HOME": str(airflow_home),
        "AIRFLOW__API_AUTH__JWT_SECRET": keys["jwt"],
        "AIRFLOW__API__BASE_URL": f"http://{HOST}:{api}",
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(api),
        "AIRFLOW__API__SECRET_KEY": keys["session"],
        "AIRFLOW__API__WORKERS": "1",
        # Vertex AI's SDK takes two seconds to import, and on a busy machine ten times as many.
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "120",
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{HOST}:{api}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__FERNET_KEY": keys["fernet"],
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        PASSWORDS: os.environ.get(PASSWORDS, str(airflow_home / "passwords.json")),
        # A busy scheduler may wait for its turn to write; SQLite's own 5 seconds would end it.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{database}?timeout=60",
        # A changed DAG file is read at once, and every task reads all code anew; to read what did
        # not change twice a minute costs a fifth of a core.
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
        # A task's first call may meet a server that is still starting; the default is 5 seconds.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        "AIRFLOW_VAR_ARTIFACT_STORE": (store / "artifacts").as_uri(),
        "AIRFLOW_VAR_LANDING_ZONE": (store / "landing").as_uri(),
        **_interpreters(),
        **loopback.no_proxy(),
        "CATALOGUE_HOME": str(store),
        "GATEWAY_TOKEN": keys["gateway"],
        "MLFLOW_PASSWORD": os.environ.get("MLFLOW_PASSWORD") or keys["mlflow"],
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([str(PROJECT), *_python_path()])),
        "WANDB_CACHE_DIR": str(store / "wandb"),
    }


def connections(settings: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The connections of `config/connections.yaml`, with every ${NAME} filled in."""
    text = (PROJECT / "config" / "connections.yaml").read_text(encoding="utf-8")
    filled: dict[str, dict[str, Any]] = {}
    for name, fields in yaml.safe_load(text).items():
        try:
            filled[name] = {
                field: string.Template(value).substitute(settings)
                if isinstance(value, str)
                else value
                for field, value in fields.items()
            }
        except KeyError as missing:
            raise SystemExit(
                f"config/connections.yaml: connection {name} wants the variable {missing}, "
                "which is not set."
            ) from None
        if "port" in filled[name]:
            filled[name]["port"] = int(filled[name]["port"])
    return filled


def as_variables(known: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Connections as AIRFLOW_CONN_*, for processes that have no metadata database to look in."""
    return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(fields) for name, fields in known.items()}


def _interpreters() -> dict[str, str]:
    """The Variable of each interpreter that `make install` makes beside Airflow's own."""
    return {
        f"AIRFLOW_VAR_{file.stem.upper()}_PYTHON": str(
            PROJECT / ".venvs" / file.stem / "bin" / "python"
        )
        for file in sorted((PROJECT / "envs").glob("*.txt"))
    }


def _python_path() -> list[str]:
    return [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]


def _keys(store: Path) -> dict[str, str]:
    """Secrets of this machine's own, made once and readable by their owner alone."""
    file = store / "secrets.json"
    try:
        kept: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    except ValueError as error:
        raise SystemExit(f"{file} is damaged ({error}): delete it, new keys are made.") from None
    missing = {name: make() for name, make in KEYS.items() if name not in kept}
    if missing:
        secret.write(file, kept | missing)
        kept = json.loads(file.read_text())
    return kept


def _print() -> None:
    """Say what `make up` runs Airflow with, for a shell to take over."""
    import shlex

    from include import processes
    from include.tools import services, up

    variables = {each.name: each.port_variable for each in services.SERVICES}
    for process in processes.running(home() / "services"):  # perhaps on ports of its shell's own
        variable = (variables | {"api-server": "AIRFLOW_PORT"}).get(process.name)
        if variable and process.port:
            os.environ[variable] = str(process.port)
    for name, value in sorted(up.settings(home()).items()):
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    _print()
