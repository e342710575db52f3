"""Cloud Storage: buckets and their objects, on disk."""

import base64
import hashlib
import re
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import google_crc32c

from include.local_cloud import server
from include.local_cloud.state import Table

BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")


class Refused(Exception):
    """An answer other than success."""

    def __init__(
        self, status: int, reason: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        """As Google's clients read it."""
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message
        self.headers = headers or {}


@dataclass
class Buckets:
    """Buckets and their objects, on disk."""

    folder: Path
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        """Open what was kept."""
        self._buckets = Table(self.folder / "buckets")
        self._objects = Table(self.folder / "objects")
        self._contents = self.folder / "contents"
        self._contents.mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        """The buckets there are."""
        return list(self._buckets)

    def create(self, name: str, wanted: dict[str, Any]) -> dict[str, Any]:
        """Make a bucket."""
        if not BUCKET.fullmatch(name):
            raise Refused(400, "invalid", f"Invalid bucket name: '{name}'")
        texts = (wanted.get("location", "US"), wanted.get("storageClass", "STANDARD"))
        labels = wanted.get("labels", {})
        known = [*texts, *labels.values()] if isinstance(labels, dict) else [None]
        if not all(isinstance(each, str) for each in known):
            told = "location, storageClass and labels of a bucket must be texts"
            raise Refused(400, "invalid", told)
        now = _now()
        bucket = {
            "kind": "storage#bucket",
            "id": name,
            "name": name,
            "location": texts[0].upper(),
            "storageClass": texts[1],
            "labels": labels,
            "timeCreated": now,
            "updated": now,
            "metageneration": "1",
        }
        if not self._buckets.add(name, bucket):
            raise Refused(
                409,
                "conflict",
                "Your previous request to create the named bucket succeeded and you own it.",
            )
        return bucket

    def bucket(self, name: str) -> dict[str, Any]:
        """What is known of a bucket."""
        found = self._buckets.get(name)
        if found is None:
            raise Refused(404, "notFound", "The specified bucket does not exist.")
        return found

    def drop(self, name: str) -> None:
        """Delete an empty bucket."""
        with self._lock:
            self.bucket(name)
            if self.list(name, ""):
                raise Refused(409, "conflict", "The bucket you tried to delete is not empty.")
            self._buckets.drop(name)

    def write(
        self,
        bucket: str,
        name: str,
        content: bytes,
        wanted: dict[str, Any] | None = None,
        generation: str | None = None,
    ) -> dict[str, Any]:
        """Keep an object in the place of an older one; `generation` says which, and 0 none."""
        wanted = wanted or {}
        kind = wanted.get("contentType") or "application/octet-stream"
        _refuse_odd(name, kind, wanted.get("metadata", {}))
        with self._lock:
            self.bucket(bucket)
            self._only_if(bucket, name, generation)
            checksum = _crc32c(content)
            if wanted.get("crc32c", checksum) != checksum:
                raise Refused(400, "invalid", f"Provided CRC32C doesn't match {checksum}.")
            # What is read at this moment stays readable: each generation has a file of its own.
            older = self._objects.get(f"{bucket}/{name}")
            kept, now = uuid.uuid4().hex, _now()
            server.write(self._contents / kept, content)
            made = {
                "kind": "storage#object",
                "id": f"{bucket}/{name}",
                "name": name,
                "bucket": bucket,
                "generation": str(int(older["generation"]) + 1 if older else 1),
                "metageneration": "1",
                "contentType": kind,
                "metadata": wanted.get("metadata", {}),
                "size": str(len(content)),
                "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),  # noqa: S324
                "crc32c": checksum,
                "timeCreated": now,
                "updated": now,
                "content": kept,
            }
            self._objects.put(f"{bucket}/{name}", made)
            if older:
                (self._contents / older["content"]).unlink(missing_ok=True)
            return made

    def object(self, bucket: str, name: str) -> dict[str, Any]:
        """What is known of an object."""
        self.bucket(bucket)
        found = self._objects.get(f"{bucket}/{name}")
        if found is None:
            raise Refused(404, "notFound", f"No such object: {bucket}/{name}")
        return found

    def read(self, bucket: str, name: str) -> bytes:
        """An object's content."""
        with self._lock:
            kept: str = self.object(bucket, name)["content"]
            return (self._contents / kept).read_bytes()

    def list(self, bucket: str, prefix: str) -> list[dict[str, Any]]:
        """The objects whose names begin so, sorted."""
        self.bucket(bucket)
        start = f"{bucket}/{prefix}"
        found = (self._objects.get(name) for name in self._objects if name.startswith(start))
        return [each for each in found if each is not None]

    def remove(self, bucket: str, name: str, generation: str | None = None) -> None:
        """Delete an object."""
        with self._lock:
            found = self.object(bucket, name)
            self._only_if(bucket, name, generation)
            self._objects.drop(f"{bucket}/{name}")
            (self._contents / found["content"]).unlink(missing_ok=True)

    def _only_if(self, bucket: str, name: str, generation: str | None) -> None:
        found = self._objects.get(f"{bucket}/{name}")
        if generation is not None and generation != (found["generation"] if found else "0"):
            raise Refused(412, "conditionNotMet", "At least one of the pre-conditions did not hold")


def _refuse_odd(name: Any, kind: Any, metadata: Any) -> None:
    """What is kept must be shown again: in a list as JSON, and in the headers of an answer."""
    if not (isinstance(name, str) and name and len(name.encode()) <= 1024 and "\n" not in name):
        raise Refused(400, "invalid", f"Invalid object name: {name!r}")
    if not (isinstance(kind, str) and kind.isascii() and kind.isprintable()):
        raise Refused(400, "invalid", f"Invalid content type: {kind!r}")
    if not (isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())):
        raise Refused(400, "invalid", "Custom metadata must be an object with texts")


def split(uri: str) -> tuple[str, str]:
    """The bucket and the name of an object, or the prefix of several."""
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    return bucket, name


def _crc32c(content: bytes) -> str:
    return base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
