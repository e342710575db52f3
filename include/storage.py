"""Artifacts: written whole or not at all, found again by name, refused when a byte has changed.

A *reference* is what travels through XCom instead of the data: the file's address with its digest
behind a `#`, such as `file:///…/store/<dag_id>/<key>/<task_id>/train.parquet#sha256=9f86d0…`. The
address derives from the run's key and the task, so a second try writes over its own first, and no
other run's. Reading checks the digest.

The Airflow Variable `artifact_store` says where: a folder, or any `ObjectStoragePath` with a
connection in it (`s3://aws_default@bucket/prefix`). Without it, `artifacts/` under AIRFLOW_HOME.
An object store is asked anew each time: what it listed before may have changed by now.
"""

import hashlib
import json
import os
from contextlib import suppress
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow.sdk import Connection, ObjectStoragePath, Variable

from include import runs

if TYPE_CHECKING:
    import pandas as pd

STORE_VARIABLE = "artifact_store"


class DamagedArtifact(ValueError):
    """A file is not what was written: trying again won't mend it."""


def store() -> ObjectStoragePath:
    """Where all artifacts are."""
    address = Variable.get(STORE_VARIABLE, default=(_home() / "artifacts").as_uri())
    root = ObjectStoragePath(unquote(address) if address.startswith("file:") else address)
    if root.conn_id:
        Connection.get(root.conn_id)  # where it is missing, a path would go to the vendor unasked
    return root


def write_bytes(content: bytes, name: str) -> str:
    """Store under the running task's own name and return a reference."""
    place = runs.here()
    folder = store() / place.dag_id / place.key / place.task_id
    if place.map_index >= 0:
        folder = folder / str(place.map_index)
    return write_to(folder / name, content)


def keep(content: bytes, shelf: str, name: str) -> str:
    """Store for all runs of this DAG, once, on a shelf named after what is on it.

    What a run writes for itself its next try writes over. What is kept stays: the same content
    again leaves the file untouched, and other content under its name is refused.
    """
    place = runs.here()
    target = store() / place.dag_id / shelf / name
    try:
        kept = target.fs.cat_file(target.path)
    except FileNotFoundError:
        return write_to(target, content)
    if kept != content:
        raise DamagedArtifact(
            f"{target} is kept already, with other content. Either the file was changed, or "
            f"{shelf} is not named after everything that its content depends on."
        )
    return _reference(target, content)


def kept(shelf: str, name: str) -> str | None:
    """What is on a shelf already, for content that would not be the same made anew."""
    target = store() / runs.here().dag_id / shelf / name
    try:
        return _reference(target, target.fs.cat_file(target.path))
    except FileNotFoundError:
        return None


def write_to(target: ObjectStoragePath, content: bytes) -> str:
    """Store at any place: readers see what was there before or all of this, never a part."""
    if _on_disk(target):
        _replace_file(Path(target.path), content, runs.here())
        return _reference(target, content)
    try:
        target.fs.pipe_file(target.path, content)  # an upload is shown once it is complete
    except (FileNotFoundError, PermissionError) as error:
        raise type(error)(
            f"{target} can't be written: {error}. The bucket must be there, and the connection "
            f"{target.conn_id} allowed to write to it; the Airflow Variable {STORE_VARIABLE} "
            "names both."
        ) from None
    return _reference(target, content)


def digest(reference: str) -> str:
    """The SHA-256 that the content behind a reference must have."""
    return reference.partition("#sha256=")[2]


def read_bytes(reference: str) -> bytes:
    """Fetch what a reference points to, and refuse anything else."""
    address, _, expected = reference.partition("#sha256=")
    path = ObjectStoragePath(address)
    try:
        content: bytes = path.fs.cat_file(path.path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{address} is gone. Artifacts may have been cleared since this run started: "
            "clear the task that wrote it, and everything after it, to make it again."
        ) from None
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise DamagedArtifact(
            f"{address} was changed after it was written: its SHA-256 is {actual[:12]}…, expected "
            f"{expected[:12] or 'none'}…. Clear the task that wrote it to make it again."
        )
    return content


def write_frame(frame: "pd.DataFrame", name: str) -> str:
    """Store a table as Parquet."""
    buffer = BytesIO()
    frame.to_parquet(buffer)
    return write_bytes(buffer.getvalue(), name)


def read_frame(reference: str) -> "pd.DataFrame":
    """Read a table back."""
    import pandas as pd

    return pd.read_parquet(BytesIO(read_bytes(reference)))


def write_model(model: Any, name: str) -> str:
    """Store a fitted scikit-learn object in a format that runs no code when it is read."""
    from include.training import model_format

    return write_bytes(model_format.dumps(model), name)


def read_model(reference: str) -> Any:
    """Read a fitted scikit-learn object back."""
    from include.training import model_format

    return model_format.loads(read_bytes(reference))


def write_json(content: Any, name: str) -> str:
    """Store a small document, with its keys in order so that equal content gives equal bytes."""
    return write_bytes(json.dumps(content, indent=2, sort_keys=True).encode(), name)


def read_json(reference: str) -> Any:
    """Read a document back."""
    return json.loads(read_bytes(reference))


def names(folder: ObjectStoragePath) -> list[str]:
    """What a folder holds at this moment, whoever put it there; of unfinished files nothing."""
    folder.fs.invalidate_cache()
    try:
        found = folder.fs.ls(folder.path, detail=False)
    except FileNotFoundError:
        return []
    return sorted(name for name in (PurePosixPath(each).name for each in found) if name[0] != ".")


def remove(target: ObjectStoragePath) -> None:
    """Delete a file; one that is gone already is no fault."""
    with suppress(FileNotFoundError):
        target.fs.rm_file(target.path)


def local_path(reference: str) -> Path:
    """The verified file behind a reference, for programs that only know paths.

    From an object store it is copied below AIRFLOW_HOME, under the path that it has there.
    """
    path = ObjectStoragePath(reference.partition("#sha256=")[0])
    content = read_bytes(reference)
    if _on_disk(path):
        return Path(path.path)
    copy = _home() / "copies" / path.protocol / path.path
    _replace_file(copy, content, runs.here())
    return copy


def _home() -> Path:
    return Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()


def _on_disk(path: ObjectStoragePath) -> bool:
    return path.protocol in ("", "file", "local")


def _reference(target: ObjectStoragePath, content: bytes) -> str:
    return f"{target}#sha256={hashlib.sha256(content).hexdigest()}"


def _replace_file(target: Path, content: bytes, place: runs.Place) -> None:
    """Write beside the target and rename: a reader sees the old file or the new one, never half."""
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = runs.digest(f"{place.key}/{place.task_id}/{place.map_index}".encode())
    part = target.with_name(f".{target.name}.{writer}.{place.try_number}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)
    for stale in target.parent.glob(f".{target.name}.{writer}.*.part"):
        stale.unlink(missing_ok=True)
