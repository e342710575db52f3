"""S3, as moto speaks it, with its objects on disk as well, so that they outlive the process."""

import hashlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import FakeKey, S3Backend, s3_backends

from include.local_cloud import server
from include.local_cloud.state import Table

LONGEST_BUCKET = 63  # as S3 has it
SIGNED_FOR_S3 = "/s3/aws4_request"
Start = Callable[..., Any]


class Moto:
    """Everything but SageMaker; after each change of a bucket its files are what it holds."""

    def __init__(self, folder: Path, account: str, region: str) -> None:
        """Put back what an earlier process held."""
        self.application = DomainDispatcherApplication(create_backend_app)
        self.buckets = Table(folder / "buckets")
        self.contents = folder / "contents"
        self.contents.mkdir(parents=True, exist_ok=True)
        self.backend: S3Backend = s3_backends[account]["aws"]
        self._lock = threading.Lock()
        for name in self.buckets:
            self.backend.create_bucket(name, region)
            for key, digest in self._kept(name).items():
                self.backend.put_object(name, key, (self.contents / digest).read_bytes())

    def __call__(self, environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        """Answer, and where this has changed a bucket, see that the disk follows."""
        answer: Iterable[bytes] = self.application(environ, start_response)
        signed = SIGNED_FOR_S3 in environ.get("HTTP_AUTHORIZATION", "")
        if signed and environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE"):
            answer = list(answer)  # only now it is done
            bucket = environ["PATH_INFO"].lstrip("/").partition("/")[0]
            if len(bucket) <= LONGEST_BUCKET:
                self._keep(bucket)
        return answer

    def names(self) -> list[str]:
        """The buckets that there are."""
        return sorted(self.backend.buckets)

    def _kept(self, bucket: str) -> dict[str, str]:
        return dict((self.buckets.get(bucket) or {}).get("objects", {}))

    def _keep(self, bucket: str) -> None:
        with self._lock:
            before = self._kept(bucket)
            found = self.backend.buckets.get(bucket)
            if found is None:
                self.buckets.drop(bucket)
            else:
                held = list(found.keys.items())
                after = {
                    key: self._written(each) for key, each in held if isinstance(each, FakeKey)
                }
                self.buckets.put(bucket, {"objects": after})
            wanted = {digest for name in self.buckets for digest in self._kept(name).values()}
            for digest in set(before.values()) - wanted:
                (self.contents / digest).unlink(missing_ok=True)

    def _written(self, held: FakeKey) -> str:
        content: bytes = held.value
        digest = hashlib.sha256(content).hexdigest()
        if not (self.contents / digest).exists():
            server.write(self.contents / digest, content)
        return digest
