"""The workspace's storage account: blobs that clients, jobs and deployments put and get."""

import hashlib
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path, PurePosixPath

from include.local_cloud import server
from include.local_cloud.azure_ml.identity import Identity
from include.local_cloud.azure_ml.protocol import Refused, Reply, Request, Route
from include.local_cloud.state import Table

ACCOUNT = "/store.blob.storage"
CONTAINER = "azureml"
META = "x-ms-meta-"


@dataclass(frozen=True)
class Blobs:
    """Contents by name; what is said about them stands in a table beside them."""

    folder: Path
    about: Table
    identity: Identity

    def routes(self) -> list[Route]:
        """Single puts and gets: what needs blocks is bigger than anything here."""
        blob = f"{ACCOUNT}/{CONTAINER}/{{name+}}"
        return [
            Route("PUT", blob, "Blob_Put", self._put, open=True),
            Route("GET", blob, "Blob_Get", self._get, open=True),
            Route("HEAD", blob, "Blob_Get", self._get, open=True),
        ]

    @property
    def signature(self) -> str:
        """What a shared access signature of this account ends in."""
        return hashlib.sha256(f"sas:{self.identity.secret}".encode()).hexdigest()

    def url(self, name: str = "") -> str:
        """Where the container, or a blob in it, can be asked for, by whoever has this address."""
        base = f"{self.identity.base}{ACCOUNT}/{CONTAINER}"
        return f"{base}/{name}?sig={self.signature}" if name else f"{base}?sig={self.signature}"

    def put(self, name: str, content: bytes, metadata: dict[str, str] | None = None) -> None:
        """Keep a content under a name."""
        server.write(self._file(name), content)
        etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        self.about.put(name, {"name": name, "etag": etag, "metadata": metadata or {}})

    def get(self, name: str) -> bytes:
        """The content of that name."""
        if name not in self.about:
            raise Refused(404, "BlobNotFound", f"The blob {name} does not exist.")
        return self._file(name).read_bytes()

    def below(self, prefix: str) -> list[str]:
        """The names that are this one or lie under it."""
        folder = prefix.rstrip("/")
        return [name for name in self.about if name == folder or name.startswith(f"{folder}/")]

    def fetch(self, prefix: str, target: Path) -> Path:
        """Bring a blob, or all that lies under a name, to disk; returns the file or the folder."""
        names = self.below(prefix)
        if not names:
            raise Refused(404, "BlobNotFound", f"There is nothing at {prefix}.")
        root = PurePosixPath(prefix.rstrip("/"))
        for name in names:
            inner = PurePosixPath(name).relative_to(root)
            file = target / root.name if name == str(root) else target.joinpath(*inner.parts)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self.get(name))
        return target / root.name if names == [str(root)] else target

    def keep(self, source: Path, prefix: str) -> None:
        """Take a folder from disk."""
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            self.put(f"{prefix}/{file.relative_to(source).as_posix()}", file.read_bytes())

    def _file(self, name: str) -> Path:
        return self.folder / hashlib.sha256(name.encode()).hexdigest()

    def _put(self, request: Request, name: str) -> Reply:
        self._check(request)
        told = {
            key.removeprefix(META): value
            for key, value in request.headers.items()
            if key.startswith(META)
        }
        match request.query.get("comp"):
            case None:
                self.put(name, request.body, told)
                return Reply(status=201, headers=self._headers(name))
            case "metadata":
                if self.about.change(name, metadata=told) is None:
                    # A directory: SDKs say there, in the name of the whole, that all was uploaded.
                    self.put(name, b"", told)
                return Reply(headers=self._headers(name))
            case other:
                raise Refused(501, "NotImplemented", f"The local storage has no comp={other}.")

    def _get(self, request: Request, name: str) -> Reply:
        self._check(request)
        content, headers = self.get(name), self._headers(name)
        wanted = request.headers.get("x-ms-range") or request.headers.get("range")
        if not wanted or not content:
            return Reply(content, headers=headers)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1 if last else None]
        span = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        return Reply(part, 206, headers | {"Content-Range": span})

    def _headers(self, name: str) -> dict[str, str]:
        about = self.about.get(name) or {"etag": "", "metadata": {}}
        changed = formatdate(self._file(name).stat().st_mtime, usegmt=True)
        known = {"ETag": f'"{about["etag"]}"', "Last-Modified": changed}
        known |= {"x-ms-blob-type": "BlockBlob", "x-ms-request-server-encrypted": "true"}
        return known | {f"{META}{key}": value for key, value in about["metadata"].items()}

    def _check(self, request: Request) -> None:
        self.identity.check(request.query.get("sig", ""), self.signature, "The signature")
