"""Versions of a DAG's models in the artifact store: equal bytes once, and no version without bytes.

    <dag_id>/models/blobs/<sha256>.skops           bytes, named after themselves
    <dag_id>/models/versions/<key>-<digest>.json   what is known of a version: its sidecar
    <dag_id>/models/claims/<key>-<digest>.json     bytes that an unfinished run will make a version
    <dag_id>/models/aside/<sha256>.skops           bytes on their way out

Equal models share a blob, however many versions name it. Whoever is killed leaves bytes too many,
which the next sweep finds, and never a version without: the order is claim, bytes, sidecar when a
version comes, and sidecar, bytes when it goes. Runs that meet do no harm either: a sweep sets bytes
aside, looks once more whether anybody wants them by now, and only then deletes them.
"""

import json
from collections.abc import Collection
from contextlib import suppress
from hashlib import sha256
from typing import Any

from airflow.sdk import ObjectStoragePath

from include import runs, storage

BLOBS, VERSIONS, CLAIMS, ASIDE = "blobs", "versions", "claims", "aside"


def put(content: bytes) -> str:
    """Keep bytes under their own digest, once, and return a reference; mends a damaged file."""
    digest = sha256(content).hexdigest()
    claim = json.dumps({"run": runs.here().key, "sha256": digest}).encode()
    storage.write_to(_shelf(CLAIMS) / f"{name(runs.here().key, digest)}.json", claim)
    try:
        storage.read_bytes(_blob(digest))
    except (FileNotFoundError, storage.DamagedArtifact):
        storage.write_to(_shelf(BLOBS) / f"{digest}.skops", content)
    return _blob(digest)


def add(reference: str, created: str, facts: dict[str, Any]) -> str:
    """Make bytes a version with a sidecar; the same bytes in the same run are the same version."""
    key, digest = runs.here().key, storage.digest(reference)
    version = name(key, digest)
    size = len(storage.read_bytes(reference))
    sidecar = {"version": version, "created": created, "sha256": digest, "bytes": size, **facts}
    text = json.dumps(sidecar, indent=2, sort_keys=True)
    storage.write_to(_shelf(VERSIONS) / f"{version}.json", text.encode())
    for claim in storage.names(_shelf(CLAIMS)):
        if claim.startswith(f"{key}-"):
            storage.remove(_shelf(CLAIMS) / claim)
    return version


def name(key: str, digest: str) -> str:
    """What the version is called that a run made of these bytes."""
    return f"{key}-{digest[:12]}"


def read(version: str) -> dict[str, Any]:
    """What is known of a version, and under `reference` where its bytes are."""
    file = _shelf(VERSIONS) / f"{version}.json"
    try:
        known: dict[str, Any] = json.loads(file.fs.cat_file(file.path))
        return {**known, "reference": _blob(known["sha256"])}
    except (ValueError, KeyError) as error:
        raise storage.DamagedArtifact(
            f"{file} is no sidecar ({error!r}). Run the pipeline again for its date: that writes "
            "the same one."
        ) from None


def versions() -> list[dict[str, Any]]:
    """What is known of all versions, newest first."""
    known = []
    for file in storage.names(_shelf(VERSIONS)):
        with suppress(FileNotFoundError):  # retired since the folder was listed
            known.append(read(file.removesuffix(".json")))
    return sorted(known, key=lambda each: (each["created"], each["version"]), reverse=True)


def blobs() -> list[str]:
    """The digests of all bytes that are kept."""
    return [file.removesuffix(".skops") for file in storage.names(_shelf(BLOBS))]


def unwanted(without: Collection[str] = ()) -> list[str]:
    """The digests of bytes that no version names and no run claims, were some versions gone."""
    return _free(blobs(), without)


def retire(version: str) -> None:
    """Remove a version; its bytes stay until they are swept."""
    storage.remove(_shelf(VERSIONS) / f"{version}.json")


def sweep() -> None:
    """Remove the bytes that nobody wants."""
    kept, aside = _shelf(BLOBS), _shelf(ASIDE)
    for file in _free(storage.names(kept)):
        _move(kept / file, aside / file)
    waiting = storage.names(aside)
    free = _free(waiting)
    for file in waiting:
        if file in free:
            storage.remove(aside / file)
        else:
            _move(aside / file, kept / file)


def _free(files: list[str], without: Collection[str] = ()) -> list[str]:
    # Claims first: one is given up only once its version is there.
    wanting = storage.names(_shelf(CLAIMS)) + storage.names(_shelf(VERSIONS))
    names = {each.removesuffix(".json") for each in wanting} - set(without)
    wanted = {each.rpartition("-")[2] for each in names}
    return [file for file in files if file[:12] not in wanted]


def _move(source: ObjectStoragePath, target: ObjectStoragePath) -> None:
    with suppress(FileNotFoundError):  # another sweep was faster
        storage.write_to(target, source.fs.cat_file(source.path))
        storage.remove(source)


def _blob(digest: str) -> str:
    return f"{_shelf(BLOBS) / digest}.skops#sha256={digest}"


def _shelf(kind: str) -> ObjectStoragePath:
    return storage.store() / runs.here().dag_id / "models" / kind
