"""Cloud Storage: as much of its JSON API as Google's clients need to keep files in buckets.

Buckets are made, listed and deleted; objects are uploaded (in one piece, in two parts or in
chunks), read (also a part of them), listed by prefix and delimiter, and deleted.
"""

import json
import re
import threading
import traceback
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from include.local_cloud import server
from include.local_cloud.vertex.buckets import Buckets, Refused
from include.local_cloud.vertex.credentials import Credentials

ADDRESS = "API_ENDPOINT_OVERRIDE"
"""Where Google's client finds Cloud Storage. STORAGE_EMULATOR_HOST would keep its token from it."""
RANGE = re.compile(r"bytes=(\d+)-(\d*)")
PART_OF_CONTENT = re.compile(r"bytes (?:\d+-\d+|\*)/(\d+|\*)")
FAULTS = {
    "throttled": (429, "rateLimitExceeded", "The project exceeded the rate limit."),
    "unavailable": (503, "backendError", "Backend Error"),
    "quota": (403, "quotaExceeded", "The project exceeded its quota for storage."),
}


def serve(
    buckets: Buckets, credentials: Credentials, faults: server.Faults, port: int
) -> ThreadingHTTPServer:
    """Listen on a port."""
    listener = ThreadingHTTPServer((server.HOST, port), _handler(buckets, credentials, faults))
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    return listener


def _handler(
    buckets: Buckets, credentials: Credentials, faults: server.Faults
) -> type[BaseHTTPRequestHandler]:
    uploads: dict[str, tuple[str, str, dict[str, Any], str | None, bytes]] = {}

    class Answers(server.Handler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._do({
                r"/storage/v1/b": self._list_buckets,
                r"/storage/v1/b/([^/]+)": lambda name: self._answer(200, buckets.bucket(name)),
                r"/storage/v1/b/([^/]+)/o": self._list_objects,
                r"(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)": self._read,
            })

        def do_POST(self) -> None:
            self._do({
                r"/storage/v1/b": self._create,
                r"/upload/storage/v1/b/([^/]+)/o": self._upload,
            })

        def do_PUT(self) -> None:
            self._do({r"/upload/storage/v1/b/[^/]+/o": self._go_on})

        def do_PATCH(self) -> None:
            self._do({})

        def do_DELETE(self) -> None:
            self._do({
                r"/storage/v1/b/([^/]+)": self._drop,
                r"/storage/v1/b/([^/]+)/o/([^/]+)": self._remove,
            })

        def _do(self, routes: dict[str, Callable[..., None]]) -> None:
            url = urlsplit(self.path)
            self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
            self.content = self.body()
            try:
                self._admit()
                for pattern, action in routes.items():
                    if found := re.fullmatch(pattern, url.path):
                        self._meet(url.path)
                        action(*(unquote(part) for part in found.groups()))
                        return
                message = f"{self.command} {url.path} is not implemented by the local cloud."
                raise Refused(501, "notImplemented", message)
            except Refused as error:
                self._refuse(error)
            except server.MALFORMED as error:
                traceback.print_exc()
                self._refuse(Refused(400, "invalid", f"The request can't be read: {error!r}"))

        def _admit(self) -> None:
            given = self.headers.get("Authorization", "")
            if not credentials.known(given.removeprefix("Bearer ")):
                raise Refused(401, "authError", "Invalid Credentials")

        def _refuse(self, error: Refused) -> None:
            each = {"message": error.message, "domain": "global", "reason": error.reason}
            told = {"code": error.status, "message": error.message, "errors": [each]}
            self._answer(error.status, {"error": told}, error.headers)

        def _meet(self, path: str) -> None:
            """A fault is asked for by method and kind of thing, such as `storage.POST.o`."""
            kind = "o" if "/o" in path else "b"
            if fault := faults.meet(f"storage.{self.command}.{kind}"):
                raise Refused(*FAULTS[fault.kind])

        def _list_buckets(self) -> None:
            found = [buckets.bucket(name) for name in buckets.names()]
            self._answer(200, {"kind": "storage#buckets", "items": found})

        def _create(self) -> None:
            wanted = server.parsed(self.content or b"{}")
            self._answer(200, buckets.create(wanted.get("name", ""), wanted))

        def _drop(self, name: str) -> None:
            buckets.drop(name)
            self._answer(204, None)

        def _list_objects(self, bucket: str) -> None:
            prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter")
            items, folders = [], set()
            for each in buckets.list(bucket, prefix):
                rest = each["name"].removeprefix(prefix)
                if delimiter and delimiter in rest:
                    folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                else:
                    items.append(_shown(each))
            listed = {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}
            self._answer(200, listed)

        def _read(self, bucket: str, name: str) -> None:
            found = buckets.object(bucket, name)
            if self.query.get("alt") != "media":
                self._answer(200, _shown(found))
                return
            content = buckets.read(bucket, name)
            checks = {"X-Goog-Hash": f"crc32c={found['crc32c']},md5={found['md5Hash']}"}
            wanted = RANGE.fullmatch(self.headers.get("Range", ""))
            if wanted is None:
                self._send(200, content, found["contentType"], checks)
                return
            start, size = int(wanted[1]), len(content)
            part = content[start : int(wanted[2]) + 1 if wanted[2] else None]
            if not part:
                message = f"The requested range cannot be satisfied: {wanted[0]}"
                place = {"Content-Range": f"bytes */{size}"}
                raise Refused(416, "requestedRangeNotSatisfiable", message, place)
            place = {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{size}"}
            self._send(206, part, found["contentType"], place)

        def _remove(self, bucket: str, name: str) -> None:
            buckets.remove(bucket, name, self.query.get("ifGenerationMatch"))
            self._answer(204, None)

        def _upload(self, bucket: str) -> None:
            kind, generation = self.query.get("uploadType"), self.query.get("ifGenerationMatch")
            buckets.bucket(bucket)
            if kind == "media":
                wanted = {"contentType": self.headers.get("Content-Type")}
                self._keep(bucket, self.query["name"], self.content, wanted, generation)
            elif kind == "multipart":
                wanted, content = _parts(self.content, self.headers["Content-Type"])
                name = wanted.get("name") or self.query["name"]
                self._keep(bucket, name, content, wanted, generation)
            elif kind == "resumable":
                wanted = server.parsed(self.content or b"{}")
                name = wanted.get("name") or self.query["name"]
                wanted.setdefault("contentType", self.headers.get("X-Upload-Content-Type"))
                upload = uuid.uuid4().hex
                uploads[upload] = (bucket, name, wanted, generation, b"")
                where = f"http://{self.headers['Host']}{urlsplit(self.path).path}"
                address = f"{where}?uploadType=resumable&upload_id={upload}&name={quote(name)}"
                self._answer(200, {}, {"Location": address, "X-GUploader-UploadID": upload})
            else:
                raise Refused(400, "invalid", f"Upload type '{kind}' is not known.")

        def _go_on(self) -> None:
            upload = self.query.get("upload_id", "")
            if upload not in uploads:
                raise Refused(404, "notFound", "There is no such upload.")
            bucket, name, wanted, generation, content = uploads[upload]
            content += self.content
            place = PART_OF_CONTENT.fullmatch(self.headers.get("Content-Range", ""))
            if place and place[1] != str(len(content)):
                uploads[upload] = (bucket, name, wanted, generation, content)
                so_far = {"Range": f"bytes=0-{len(content) - 1}"} if content else {}
                self._answer(308, None, so_far)
                return
            del uploads[upload]
            self._keep(bucket, name, content, wanted, generation)

        def _keep(self, *given: Any) -> None:
            self._answer(200, _shown(buckets.write(*given)))

        def _answer(
            self, status: int, content: dict[str, Any] | None, more: dict[str, str] | None = None
        ) -> None:
            text = b"" if content is None else json.dumps(content).encode()
            self._send(status, text, "application/json; charset=UTF-8", more or {})

        def _send(self, status: int, content: bytes, kind: str, more: dict[str, str]) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            for name, value in more.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    return Answers


def _parts(body: bytes, content_type: str) -> tuple[dict[str, Any], bytes]:
    """What is said about an object, and the object: the content may hold any bytes."""
    boundary = content_type.partition("boundary=")[2].strip("\"'").encode()
    _, said, content, *_ = body.split(b"--" + boundary)
    wanted: dict[str, Any] = server.parsed(said.partition(b"\r\n\r\n")[2])
    head, _, content = content.partition(b"\r\n\r\n")
    kind = re.search(rb"content-type: *(\S+)", head, re.IGNORECASE)
    if kind:
        wanted.setdefault("contentType", kind[1].decode())
    return wanted, content.removesuffix(b"\r\n")


def _shown(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "content"}
