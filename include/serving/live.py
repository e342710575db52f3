"""What callers get, as one thing of four parts that change together or not at all.

    features    the table that a caller's customer is looked up in: a pointer in the artifact store
    settings    what is done with a score: a pointer in the artifact store
    route       the version that answers: the gateway's table
    alias       the version that people and programs ask for by name: MLflow's registry

No system holds all four, so nobody can change them in one step. A record makes it one change: it
is written before anything is touched, and says from where to where. Who finds it open, after a
crash at any point, brings it to an end: its own run goes on to the new state, any other run goes
back to the old one. It stays as the account of what was done, and why. A pipeline that uses it has
`max_active_runs=1`: two runs at once would take each other's change for one that was left.
"""

import json
from collections.abc import Mapping
from typing import Any

from airflow.sdk import ObjectStoragePath

from include import runs, storage, tracking
from include.serving import client, release

PARTS = ("features", "settings", "route", "alias")
BELONGINGS = ("features", "settings", "golden")
TAKEN_BACK = "taken_back"
OPEN, DONE, UNDONE = "open", "done", "undone"

State = dict[str, Any]


def describe(number: str, contents: Mapping[str, bytes]) -> None:
    """Keep what a version can't do without, and have the registry say where."""
    name, registry = runs.here().dag_id, tracking.client()
    for part in BELONGINGS:
        kept = storage.keep(contents[part], f"{part}/{runs.digest(contents[part])}", part)
        registry.set_model_version_tag(name, number, part, kept)
    registry.delete_model_version_tag(name, number, TAKEN_BACK)  # released again, it counts again


def take_back(number: str, reason: str) -> None:
    """Mark a version so that nobody goes back to it."""
    tracking.client().set_model_version_tag(runs.here().dag_id, number, TAKEN_BACK, reason)


def belongings(number: str) -> dict[str, str]:
    """What a version was described with; nothing of it may have changed since."""
    tags = tracking.client().get_model_version(runs.here().dag_id, number).tags
    if missing := [part for part in BELONGINGS if part not in tags]:
        raise ValueError(f"version {number} can't be live: it has no {', '.join(missing)}")
    for part in BELONGINGS:
        storage.read_bytes(tags[part])
    return {part: tags[part] for part in BELONGINGS}


def target(number: str) -> State:
    """All four parts, as they are when a version is live."""
    kept = belongings(number)
    route = {"model": runs.here().dag_id, "weights": {number: 1.0}, "sticky": None, "shadow": None}
    return {
        "features": kept["features"],
        "settings": kept["settings"],
        "route": route,
        "alias": number,
    }


def state() -> State:
    """All four parts, as they are now."""
    name = runs.here().dag_id
    champion = tracking.champion(name)
    return {
        "features": _read(_pointer("features")),
        "settings": _read(_pointer("settings")),
        "route": client.gateway().route(name),
        "alias": champion.number if champion else None,
    }


def put(part: str, value: Any) -> None:
    """Set one part; what it says already, it says again."""
    name = runs.here().dag_id
    if part == "alias":
        tracking.client().set_registered_model_alias(name, tracking.CHAMPION, value)
    elif part == "route":
        gateway = client.gateway()
        for number in value["weights"].keys() - gateway.versions(name).keys():
            gateway.start_version(name, number, release.source(name, number))
        gateway.set_route(name, **value)
    else:
        storage.write_to(_pointer(part), value.encode())


def go(number: str, reason: str) -> None:
    """Make a version live, as one change."""
    carry_out(begin(target(number), reason, change="release"))
    outcome = conclude(True, {}, change="release")["outcome"]
    if outcome != DONE:
        raise ValueError(f"the release of version {number} was {outcome}: let one follow the other")


def begin(to: State, reason: str, change: str = "rollback") -> dict[str, Any]:
    """Write down what is about to happen; the try before may have done so."""
    begun = record(change)
    if begun is not None and begun["outcome"] == OPEN:
        return begun
    begun = {"reason": reason, "from": state(), "to": to, "outcome": OPEN}
    _write(_file(change), begun)
    return begun


def carry_out(record: Mapping[str, Any]) -> None:
    """Change all four parts."""
    for part in PARTS:
        put(part, record["to"][part])


def conclude(good: bool, facts: Mapping[str, Any], change: str = "rollback") -> dict[str, Any]:
    """Keep what was changed, or go back; then close the record, and stop what nobody asks."""
    begun = record(change)
    if begun is None or (begun["outcome"] == DONE and not good):
        raise ValueError("nothing was begun, so nothing has changed: see the task that failed")
    if begun["outcome"] == OPEN:
        if not good:
            _go_back(begun)
        begun |= {"outcome": DONE if good else UNDONE, **facts}
        _write(_file(change), begun)
    gateway, name = client.gateway(), runs.here().dag_id
    for left in gateway.versions(name).keys() - state()["route"]["weights"].keys():
        gateway.stop_version(name, left)
    return begun


def settle() -> None:
    """Take back what any run has left half done, and have what is live answering."""
    folder = _folder("changes")
    for name in storage.names(folder):
        found = json.loads(folder.fs.cat_file((folder / name).path))
        if found["outcome"] == OPEN:
            _go_back(found)
            _write(folder / name, found | {"outcome": f"{UNDONE} by the run {runs.here().key}"})
    now = state()
    if now["alias"] is None:
        raise ValueError("nothing is live yet, so there is nothing to take back")
    if now["route"] is None:
        put("route", target(now["alias"])["route"])


def record(change: str = "rollback") -> dict[str, Any] | None:
    """What the run has written down of a change."""
    text = _read(_file(change))
    found: dict[str, Any] | None = json.loads(text) if text else None
    return found


def history() -> list[dict[str, Any]]:
    """Every version with what speaks for and against it, newest first."""
    name = runs.here().dag_id
    champion = tracking.champion(name)
    known = tracking.client().search_model_versions(
        f"name = '{name}'", order_by=["version_number DESC"]
    )
    return [
        {
            "version": str(each.version),
            "made_by": each.tags.get("airflow.run_key"),
            "complete": all(part in each.tags for part in BELONGINGS),
            "live": champion is not None and champion.number == str(each.version),
            "taken_back": each.tags.get(TAKEN_BACK),
        }
        for each in known
    ]


def _go_back(record: Mapping[str, Any]) -> None:
    for part in reversed(PARTS):
        if record["from"][part] is not None:  # before the very first release nobody had anything
            put(part, record["from"][part])


def _folder(name: str) -> ObjectStoragePath:
    return storage.store() / runs.here().dag_id / name


def _pointer(part: str) -> ObjectStoragePath:
    return _folder("live") / part


def _file(change: str) -> ObjectStoragePath:
    return _folder("changes") / f"{runs.here().key}.{change}.json"


def _write(target: ObjectStoragePath, record: Mapping[str, Any]) -> None:
    storage.write_to(target, json.dumps(record, indent=2, sort_keys=True).encode())


def _read(target: ObjectStoragePath) -> str | None:
    try:
        content: bytes = target.fs.cat_file(target.path)
    except FileNotFoundError:
        return None
    return content.decode()
