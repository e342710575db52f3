"""Versions of a DAG's models in the artifact store: equal bytes once, and no version without bytes.

    <dag_id>/models/blobs/<sha256>.skops           bytes, named after themselves
    <dag_id>/models/versions/<key>-<digest>.json   what is known of a version: its sidecar
    <dag_id>/models/claims/<key>-<digest>.<time>   bytes that an unfinished run will make a version
    <dag_id>/models/sweeps/<key>.<time>            a sweep at work, and the files that may go

Equal models share a blob, however many versions name it. A killed run leaves bytes too many, which
a later sweep removes, and never a version without bytes. The order is claim, bytes, sidecar when a
version comes, and sidecar, bytes when it goes.

Readers find the bytes of a version at any moment, also when runs meet. A sweep first notes the
files that may go. Then it looks once more for claims and versions, and only then it removes files.
A run first claims its bytes and then looks for such notes. So at least one of them sees the other:
the sweep leaves the bytes, or the run writes them under a name that no sweep has noted,
<sha256>.2.skops.

A claim or a note that is older than `LONGEST_RUN` counts no more: whoever wrote it was killed.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from typing import Any

from airflow.sdk import ObjectStoragePath

from include import runs, storage

BLOBS, VERSIONS, CLAIMS, SWEEPS = "blobs", "versions", "claims", "sweeps"
LONGEST_RUN = timedelta(days=7)  # no run takes as long from `put` to `add`, and no sweep


def put(content: bytes) -> str:
    """Keep bytes under their own digest, once, and return a reference; mends a damaged file."""
    return _blob(_keep(content))


def add(reference: str, created: str, facts: dict[str, Any]) -> str:
    """Make bytes a version with a sidecar; the same bytes in the same run are the same version."""
    content = storage.read_bytes(reference)
    file = _keep(content)  # by now the claim may be too old, and a sweep at work
    digest = sha256(content).hexdigest()
    version = name(runs.here().key, digest)
    sidecar = {
        "version": version,
        "created": created,
        "sha256": digest,
        "bytes": len(content),
        "blob": file,
        **facts,
    }
    text = json.dumps(sidecar, indent=2, sort_keys=True)
    storage.write_to(_shelf(VERSIONS) / f"{version}.json", text.encode())
    for claim in storage.names(_shelf(CLAIMS)):
        if claim.startswith(f"{version}."):
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
        file = known.get("blob", f"{known['sha256']}.skops")  # older sidecars name no file
        return {**known, "reference": _blob(file)}
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
    return _digests(storage.names(_shelf(BLOBS)))


def unwanted(without: Collection[str] = ()) -> list[str]:
    """The digests of bytes that no version names and no run claims, were some versions gone."""
    return _digests(_free(storage.names(_shelf(BLOBS)), without))


def retire(version: str) -> None:
    """Remove a version; its bytes stay until they are swept."""
    storage.remove(_shelf(VERSIONS) / f"{version}.json")


def sweep() -> None:
    """Remove the bytes that no version names and no run claims."""
    for kind in (CLAIMS, SWEEPS):
        for each in storage.names(_shelf(kind)):
            if not _counts(each):
                storage.remove(_shelf(kind) / each)
    going = _free(storage.names(_shelf(BLOBS)))
    if not going:
        return
    note = _signed(SWEEPS, runs.here().key)
    storage.write_to(note, json.dumps(going).encode())
    for file in _free(going):
        storage.remove(_shelf(BLOBS) / file)
    storage.remove(note)


def _keep(content: bytes) -> str:
    """Claim bytes, see that they are kept, and return the name of their file."""
    digest = sha256(content).hexdigest()
    storage.write_to(_signed(CLAIMS, name(runs.here().key, digest)), digest.encode())
    leaving = _leaving()
    file = next(file for file in _files(digest) if file not in leaving)
    try:
        storage.read_bytes(_blob(file))
    except (FileNotFoundError, storage.DamagedArtifact):
        storage.write_to(_shelf(BLOBS) / file, content)
    return file


def _free(files: list[str], without: Collection[str] = ()) -> list[str]:
    # Claims first: one is given up only once its version is there.
    claimed = {claim.partition(".")[0] for claim in _current(CLAIMS)}
    named = {version.removesuffix(".json") for version in storage.names(_shelf(VERSIONS))}
    wanted = {each.rpartition("-")[2] for each in claimed | (named - set(without))}
    return [file for file in files if file[:12] not in wanted]


def _leaving() -> set[str]:
    """The files that a sweep may be removing at this moment."""
    files: set[str] = set()
    for each in _current(SWEEPS):
        note = _shelf(SWEEPS) / each
        with suppress(FileNotFoundError):  # that sweep has ended since
            files.update(json.loads(note.fs.cat_file(note.path)))
    return files


def _files(digest: str) -> Iterator[str]:
    """The names that a blob may have: another one while a sweep may be removing the first."""
    yield f"{digest}.skops"
    for number in count(2):
        yield f"{digest}.{number}.skops"


def _digests(files: list[str]) -> list[str]:
    return sorted({file.partition(".")[0] for file in files})


def _signed(kind: str, who: str) -> ObjectStoragePath:
    """A claim or a note with the time in its name, so that it is never written a second time."""
    return _shelf(kind) / f"{who}.{_moment(datetime.now(UTC))}"


def _current(kind: str) -> list[str]:
    return [each for each in storage.names(_shelf(kind)) if _counts(each)]


def _counts(signed: str) -> bool:
    """Whether whoever wrote a claim or a note may still be at work."""
    return signed.rpartition(".")[2] >= _moment(datetime.now(UTC) - LONGEST_RUN)


def _moment(time: datetime) -> str:
    return time.strftime("%Y%m%dT%H%M%S%f")


def _blob(file: str) -> str:
    return f"{_shelf(BLOBS) / file}#sha256={file.partition('.')[0]}"


def _shelf(kind: str) -> ObjectStoragePath:
    return storage.store() / runs.here().dag_id / "models" / kind
