"""Which pipelines are proved as they stand: `tests/proved.json`, one line a pipeline.

A pipeline's digest is over everything that its long proofs depend on: its file, the modules that it
leads to, its configuration, the platforms that it talks to, the proofs themselves and the locks.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from include.local_cloud import platforms
from include.tools import environment, needs
from tests.prove.cases import CASES

FILE = environment.PROJECT / "tests" / "proved.json"
LOCKS = ("requirements.txt", "requirements-torch.in")
HARNESS = (
    "include/doorkeeper.py",
    "include/processes.py",
    "include/tools/copy.py",
    "include/tools/environment.py",
    "include/tools/needs.py",
    "include/tools/rest.py",
    "include/tools/secret.py",
    "include/tools/services.py",
    "include/tools/tracking_server.py",
    "include/tools/up.py",
    "plugins/doorkeeper.py",
    "plugins/one_writer.py",
    "plugins/strict_json.py",
    "plugins/warm_workers.py",
    "tests/alone.py",
    "tests/guard/sitecustomize.py",
    "tests/outcomes.py",
    "tests/scheduler/api.py",
)
Read = Callable[[Path], bytes]


def pipelines() -> list[str]:
    """Every pipeline that there is."""
    return sorted(path.stem for path in environment.DAGS.glob("97_*.py"))


def digest(dag_id: str, read: Read = Path.read_bytes) -> str:
    """What a pipeline is, in 64 hexadecimal digits."""
    whole = hashlib.sha256(repr(CASES[dag_id]).encode())
    for path in sorted(_files(dag_id)):
        name = str(path.relative_to(environment.PROJECT))
        whole.update(f"{name} {hashlib.sha256(read(path)).hexdigest()}\n".encode())
    return whole.hexdigest()


def changed(read: Read = Path.read_bytes) -> list[str]:
    """The pipelines that are not proved as they stand."""
    claimed = claims()
    return [dag_id for dag_id in pipelines() if claimed.get(dag_id) != digest(dag_id, read)]


def claims(file: Path = FILE) -> dict[str, str]:
    """What the ledger says, by pipeline."""
    known: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return known


def record(proved: dict[str, str], failed: Iterable[str], file: Path = FILE) -> None:
    """Enter what was proved, and strike what failed or is no more."""
    known = {**claims(file), **proved}
    kept = {name: known[name] for name in pipelines() if name in known and name not in set(failed)}
    part = file.with_suffix(".part")
    part.write_text(json.dumps(kept, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(file)


def sample(commit: str, number: int) -> list[str]:
    """Pipelines that a commit's own hash picks: nobody chooses them, and anybody can check."""
    by_hash = sorted(
        pipelines(), key=lambda name: hashlib.sha256(f"{commit} {name}".encode()).digest()
    )
    return sorted(by_hash[:number])


def _files(dag_id: str) -> Iterator[Path]:
    file = environment.DAGS / f"{dag_id}.py"
    wanted = needs.needs(file)
    yield file
    modules = set(wanted.modules)
    for entry in platforms.PLATFORMS:
        if entry.connections & wanted.connections:
            modules |= needs.modules(f"include.local_cloud.{entry.name}.__main__")
    yield from filter(None, map(needs.path_of, modules))
    named = [*wanted.files, *(f"envs/{name}.txt" for name in wanted.interpreters)]
    for name in (*named, *LOCKS, *HARNESS, "config/connections.yaml", "config/pools.json"):
        yield environment.PROJECT / name
    prove = Path(__file__).parent
    yield from (path for path in prove.rglob("*.py") if path.name != "cases.py")
