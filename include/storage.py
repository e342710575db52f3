"""Artifacts: written whole or not at all, found again by name, refused when a byte has changed.

A *reference* is what travels through XCom instead of the data: the file's address with its digest
behind a `#`, such as `file:///…/store/<dag_id>/<key>/<task_id>/train.parquet#sha256=9f86d0…`. The
address derives from the run's key and the task, so a second try writes over its own first, and no
other run's. Reading checks the digest.

The Airflow Variable `artifact_store` says where: a folder, or any `ObjectStoragePath` with a
connection in it (`s3://aws_default@bucket/prefix`). Without it, `artifacts/` under AIRFLOW_HOME.
An object store is asked anew each time: what it listed before may have changed by now.
"""

import errno
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
WITHOUT_LINKS = (errno.EPERM, errno.ENOTSUP)  # what a disk without hard links answers


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

    This also holds for two runs that keep at the same moment, where the store creates a file only
    if there is none: disks with hard links, Amazon S3, Google Cloud Storage, Azure. On any other
    store, also on a server that speaks S3 but ignores `If-None-Match`, the later run may replace
    the content of the earlier one.
    """
    place = runs.here()
    target = store() / place.dag_id / shelf / name
    try:
        kept = target.fs.cat_file(target.path)
    except FileNotFoundError:
        try:
            return _write(target, content, only_new=True)
        except FileExistsError:  # another run was faster
            kept = target.fs.cat_file(target.path)
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
    return _write(target, content)


def digest(reference: str) -> str:
    """The SHA-256 that the content behind a reference must have."""
    return reference.partition("#sha256=")[2]


def read_bytes(reference: str) -> bytes:
    """Fetch what a reference points to, and refuse anything else."""
    path, expected = _path(reference), digest(reference)
    try:
        content: bytes = path.fs.cat_file(path.path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is gone. Artifacts may have been cleared since this run started: "
            "clear the task that wrote it, and everything after it, to make it again."
        ) from None
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise DamagedArtifact(
            f"{path} was changed after it was written: its SHA-256 is {actual[:12]}…, expected "
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
    finally:
        folder.fs.invalidate_cache()  # S3's client finds no file that a listing lacks
    return sorted(name for name in (PurePosixPath(each).name for each in found) if name[0] != ".")


def remove(target: ObjectStoragePath) -> None:
    """Delete a file; one that is gone already is no fault."""
    with suppress(FileNotFoundError):
        target.fs.rm_file(target.path)


def local_path(reference: str) -> Path:
    """The verified file behind a reference, for programs that only know paths.

    From an object store it is copied below AIRFLOW_HOME, under the path that it has there.
    """
    path, content = _path(reference), read_bytes(reference)
    if _on_disk(path):
        return Path(path.path)
    copy = _home() / "copies" / path.protocol / path.path
    _write_file(copy, content)
    return copy


def _home() -> Path:
    return Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()


def _on_disk(path: ObjectStoragePath) -> bool:
    return path.protocol in ("", "file", "local")


def _path(reference: str) -> ObjectStoragePath:
    return ObjectStoragePath(reference.partition("#sha256=")[0])


def _reference(target: ObjectStoragePath, content: bytes) -> str:
    return f"{target}#sha256={hashlib.sha256(content).hexdigest()}"


def _write(target: ObjectStoragePath, content: bytes, only_new: bool = False) -> str:
    """Write a whole file; raise FileExistsError if it must be new and there is one."""
    if _on_disk(target):
        _write_file(Path(target.path), content, only_new)
        return _reference(target, content)
    mode = "create" if only_new else "overwrite"
    try:
        target.fs.pipe_file(target.path, content, mode=mode)  # shown once it is complete
    except (FileNotFoundError, PermissionError) as error:
        raise type(error)(
            f"{target} can't be written: {error}. The bucket must be there, and the connection "
            f"{target.conn_id} allowed to write to it; the Airflow Variable {STORE_VARIABLE} "
            "names both."
        ) from None
    return _reference(target, content)


def _write_file(target: Path, content: bytes, only_new: bool = False) -> None:
    """Write beside the target and rename: a reader sees the old file or the new one, never half."""
    place = runs.here()
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = runs.digest(f"{place.key}/{place.task_id}/{place.map_index}".encode())
    part = target.with_name(f".{target.name}.{writer}.{place.try_number}.part")
    part.unlink(missing_ok=True)  # it may be a link to a file that was kept
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if only_new:
            _link(part, target)
        else:
            part.replace(target)
    finally:
        for each in target.parent.glob(f".{target.name}.{writer}.*.part"):
            each.unlink(missing_ok=True)


def _link(part: Path, target: Path) -> None:
    """Give a file its name, unless another file has it."""
    try:
        target.hardlink_to(part)
    except OSError as error:
        if error.errno not in WITHOUT_LINKS:
            raise
        if target.exists():
            raise FileExistsError from None
        part.replace(target)
