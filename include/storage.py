"""Artifacts: written whole or not at all, found again by name, refused when a byte has changed.

A *reference* is what travels through XCom instead of the data: the file's address with its digest
behind a `#`, such as `file:///…/store/<dag_id>/<key>/<task_id>/train.parquet#sha256=9f86d0…`. The
address derives from the run's key and the task, so a second try writes over its own first, and no
other run's. Reading checks the digest.

The Airflow Variable `artifact_store` says where: a folder, or any `ObjectStoragePath` with a
connection in it (`s3://aws_default@bucket/prefix`). Without it, `artifacts/` under AIRFLOW_HOME.
"""

import hashlib
import json
import os
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import ObjectStoragePath, Variable

from include import runs

if TYPE_CHECKING:
    import pandas as pd

STORE_VARIABLE = "artifact_store"


class DamagedArtifact(ValueError):
    """A file is not what was written: trying again won't mend it."""


def store() -> ObjectStoragePath:
    """Where all artifacts are."""
    default = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "artifacts"
    return ObjectStoragePath(Variable.get(STORE_VARIABLE, default=default.as_uri()))


def write_bytes(content: bytes, name: str) -> str:
    """Store under the running task's own name and return a reference."""
    place = runs.here()
    folder = store() / place.dag_id / place.key / place.task_id
    if place.map_index >= 0:
        folder = folder / str(place.map_index)
    target = folder / name
    if target.protocol in ("", "file", "local"):
        _replace_file(Path(target.path), content, place.try_number)
    else:
        target.write_bytes(content)  # object stores show an upload only once it is complete
    return f"{target}#sha256={hashlib.sha256(content).hexdigest()}"


def read_bytes(reference: str) -> bytes:
    """Fetch what a reference points to, and refuse anything else."""
    address, _, expected = reference.partition("#sha256=")
    try:
        content: bytes = ObjectStoragePath(address).read_bytes()
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


def local_path(reference: str) -> Path:
    """The verified file behind a reference, for programs that only know paths."""
    address = reference.partition("#")[0]
    path = ObjectStoragePath(address)
    if path.protocol not in ("", "file", "local"):
        raise ValueError(f"{address} is not on this machine's disk")
    read_bytes(reference)
    return Path(path.path)


def _replace_file(target: Path, content: bytes, try_number: int) -> None:
    """Write beside the target and rename: a reader sees the old file or the new one, never half."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{try_number}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)
    for stale in target.parent.glob(f".{target.name}.*.part"):
        stale.unlink(missing_ok=True)
