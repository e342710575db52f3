"""AWS's signature, version 4: who does not have the account's key is answered nothing."""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

from include.local_cloud import server

ALGORITHM = "AWS4-HMAC-SHA256"
AUTHORIZATION = re.compile(
    rf"{ALGORITHM} Credential=(?P<key>[^/,]+)/(?P<scope>(?P<day>\d{{8}})/(?P<region>[^/,]+)/"
    r"(?P<service>[^/,]+)/aws4_request), ?"
    r"SignedHeaders=(?P<headers>[a-z0-9;-]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)
MOMENT = "%Y%m%dT%H%M%SZ"
MOST_APART = timedelta(minutes=15)  # the clock of a client, and the one here
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Unsigned(Exception):
    """A request is not done: it is not signed as it should be."""

    service: str
    code: str
    message: str

    def answer(self) -> tuple[str, bytes]:
        """Kind and content of the answer, in the shape that the service's clients read."""
        if self.service in ("sagemaker", "logs"):
            told = {"__type": self.code, "message": self.message}
            return "application/x-amz-json-1.1", json.dumps(told).encode()
        text = f"<Error><Code>{self.code}</Code><Message>{escape(self.message)}</Message></Error>"
        if self.service != "s3":
            text = f"<ErrorResponse>{text}</ErrorResponse>"
        return "application/xml", text.encode()


@dataclass(frozen=True)
class Key:
    """The account's only one."""

    id: str
    secret: str

    @classmethod
    def of(cls, folder: Path) -> "Key":
        """The one that was made for this folder, which its owner alone may read."""
        return cls("LOCALCATALOGUE", server.secret(folder / "secret-key"))

    def check(self, environ: Mapping[str, Any], body: bytes) -> None:
        """Raise Unsigned where the key's owner did not send this, or not now."""
        given = AUTHORIZATION.fullmatch(environ.get("HTTP_AUTHORIZATION", ""))
        if given is None or not hmac.compare_digest(given["key"].encode(), self.id.encode()):
            service = given["service"] if given else "sagemaker"
            message = "The security token included in the request is invalid."
            raise Unsigned(service, "UnrecognizedClientException", message)
        service = given["service"]
        sent = _moment(environ.get("HTTP_X_AMZ_DATE", ""))
        if sent is None or abs(datetime.now(UTC) - sent) > MOST_APART:
            raise Unsigned(service, "RequestTimeTooSkewed", "The request's time is not now.")
        stated = environ.get("HTTP_X_AMZ_CONTENT_SHA256", "")
        actual = hashlib.sha256(body).hexdigest()
        if DIGEST.fullmatch(stated) and stated != actual:
            raise Unsigned(service, "XAmzContentSHA256Mismatch", "The body is not what was signed.")
        text = "\n".join([
            ALGORITHM,
            environ["HTTP_X_AMZ_DATE"],
            given["scope"],
            hashlib.sha256(
                _canonical(environ, given["headers"].split(";"), service, stated or actual).encode()
            ).hexdigest(),
        ])
        key = f"AWS4{self.secret}".encode()
        for part in (given["day"], given["region"], service, "aws4_request"):
            key = _hmac(key, part)
        if not hmac.compare_digest(_hmac(key, text).hex(), given["signature"]):
            message = "The request signature we calculated does not match the one you provided."
            raise Unsigned(service, "SignatureDoesNotMatch", message)


def _canonical(environ: Mapping[str, Any], headers: list[str], service: str, digest: str) -> str:
    """The request as both sides write it before they sign it."""
    path, _, query = environ["RAW_URI"].partition("?")
    if service != "s3":  # which alone has its paths signed as they are sent
        path = quote(path, safe="/~")
    pairs = sorted(pair.partition("=")[::2] for pair in query.split("&") if pair)
    lines = [f"{name}:{' '.join(_header(environ, name).split())}\n" for name in headers]
    return "\n".join([
        environ["REQUEST_METHOD"],
        path,
        "&".join(f"{name}={value}" for name, value in pairs),
        "".join(lines),
        ";".join(headers),
        digest,
    ])


def _header(environ: Mapping[str, Any], name: str) -> str:
    known = name.upper().replace("-", "_")
    bare = known in ("CONTENT_TYPE", "CONTENT_LENGTH")
    return str(environ.get(known if bare else f"HTTP_{known}", ""))


def _moment(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, MOMENT).replace(tzinfo=UTC)
    except ValueError:
        return None


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
