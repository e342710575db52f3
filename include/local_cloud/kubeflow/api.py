"""The API over HTTP: which call a request is, and what is answered."""

import email
import hmac
import json
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from include.local_cloud.kubeflow.catalogue import Catalogue
from include.local_cloud.kubeflow.errors import (
    EXHAUSTED,
    INTERNAL,
    STATUS,
    UNAUTHENTICATED,
    UNAVAILABLE,
    UNIMPLEMENTED,
    Refused,
    invalid,
)
from include.local_cloud.server import MALFORMED, Faults, Handler, parsed

V2 = "/apis/v2beta1"
HEALTH = f"{V2}/healthz"  # whoever asks
TROUBLE = {
    "throttled": (EXHAUSTED, "too many requests"),
    "unavailable": (UNAVAILABLE, "Service unavailable"),
    "quota": (INTERNAL, "Internal Server Error"),  # Kubernetes refused, and KFP doesn't say why
}


@dataclass
class Request:
    """What was asked."""

    parts: tuple[str, ...]
    """What stands in the address where a route has a placeholder."""
    query: dict[str, str]
    body: bytes
    content_type: str

    @property
    def id(self) -> str:
        """The first of these: what the call is about."""
        return self.parts[0]

    def json(self) -> dict[str, Any]:
        """The body as an object."""
        try:
            found = parsed(self.body or b"{}")
        except ValueError as error:
            raise invalid(f"the request body is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise invalid("the request body is not an object")
        return found

    def file(self) -> bytes:
        """The one file of an upload."""
        head = f"Content-Type: {self.content_type}\r\n\r\n".encode()
        for part in email.message_from_bytes(head + self.body).walk():
            if part.get_param("name", header="Content-Disposition") == "uploadfile":
                content = part.get_payload(decode=True)
                if isinstance(content, bytes):
                    return content
        raise invalid("Failed to read pipeline from file")


class Route(NamedTuple):
    """A call by its name, and who answers it."""

    method: str
    pattern: re.Pattern[str]
    operation: str
    answer: Callable[[Catalogue, Request], dict[str, Any] | str | None]


def _route(
    call: str,
    operation: str,
    answer: Callable[[Catalogue, Request], dict[str, Any] | str | None],
    version: str = V2,
) -> Route:
    method, _, path = call.partition(" ")
    pattern = re.sub(r"\{\w+\}", "([^/:]+)", version + path)
    return Route(method, re.compile(pattern), operation, answer)


ROUTES = [
    _route("GET /healthz", "GetHealthz", lambda c, r: {"pipeline_store": "database"}),
    _route("POST /experiments", "CreateExperiment", lambda c, r: c.create_experiment(r.json())),
    _route("GET /experiments", "ListExperiments", lambda c, r: c.list_experiments(r.query)),
    _route("GET /experiments/{id}", "GetExperiment", lambda c, r: c.experiment(r.id)),
    _route("DELETE /experiments/{id}", "DeleteExperiment", lambda c, r: c.delete_experiment(r.id)),
    _route(
        "POST /experiments/{id}:archive",
        "ArchiveExperiment",
        lambda c, r: c.store_experiment(r.id, "ARCHIVED"),
    ),
    _route(
        "POST /experiments/{id}:unarchive",
        "UnarchiveExperiment",
        lambda c, r: c.store_experiment(r.id, "AVAILABLE"),
    ),
    _route("POST /pipelines/upload", "UploadPipeline", lambda c, r: c.upload(r.file(), r.query)),
    _route(
        "POST /pipelines/upload_version",
        "UploadPipelineVersion",
        lambda c, r: c.upload_version(r.file(), r.query),
    ),
    _route("GET /pipelines", "ListPipelines", lambda c, r: c.list_pipelines(r.query)),
    _route(
        "GET /pipelines/names/{name}",
        "GetPipelineByName",
        lambda c, r: c.pipeline_by_name(r.id),
    ),
    _route("GET /pipelines/{id}", "GetPipeline", lambda c, r: c.pipeline(r.id)),
    _route(
        "DELETE /pipelines/{id}",
        "DeletePipeline",
        lambda c, r: c.delete_pipeline(r.id, cascade=r.query.get("cascade") == "true"),
    ),
    _route(
        "GET /pipelines/{id}/versions",
        "ListPipelineVersions",
        lambda c, r: c.list_versions(r.id, r.query),
    ),
    _route(
        "GET /pipelines/{id}/versions/{version}",
        "GetPipelineVersion",
        lambda c, r: c.version(*r.parts),
    ),
    _route(
        "DELETE /pipelines/{id}/versions/{version}",
        "DeletePipelineVersion",
        lambda c, r: c.delete_version(*r.parts),
    ),
    _route("POST /runs", "CreateRun", lambda c, r: c.create_run(r.json())),
    _route("GET /runs", "ListRuns", lambda c, r: c.runs.listed(r.query)),
    _route("GET /runs/{id}", "GetRun", lambda c, r: c.runs.get(r.id)),
    _route("DELETE /runs/{id}", "DeleteRun", lambda c, r: c.runs.delete(r.id)),
    _route("POST /runs/{id}:archive", "ArchiveRun", lambda c, r: c.runs.store(r.id, "ARCHIVED")),
    _route(
        "POST /runs/{id}:unarchive",
        "UnarchiveRun",
        lambda c, r: c.runs.store(r.id, "AVAILABLE"),
    ),
    _route("POST /runs/{id}:terminate", "TerminateRun", lambda c, r: c.runs.terminate(r.id)),
    _route(
        "GET /runs/{id}/nodes/{node}/log",
        "ReadRunLog",
        lambda c, r: c.runs.log(*r.parts),
        version="/apis/v1alpha1",
    ),
]


def handler(catalogue: Catalogue, faults: Faults, token: str) -> type[BaseHTTPRequestHandler]:
    """What answers requests that carry the token."""

    class Answers(Handler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            address = urlsplit(self.path)
            body = self.body()
            try:
                given = self._answered(address.path, dict(parse_qsl(address.query)), body)
            except Refused as error:
                self._send(STATUS[error.code], _said(error, address.path))
            except MALFORMED as error:
                traceback.print_exc()
                refused = invalid(f"the request can't be read: {error!r}")
                self._send(STATUS[refused.code], _said(refused, address.path))
            else:
                self._send(200, given if isinstance(given, str) else given or {})

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        def _answered(
            self, path: str, query: dict[str, str], body: bytes
        ) -> dict[str, Any] | str | None:
            shown = self.headers.get("Authorization", "").encode()
            known = hmac.compare_digest(shown, f"Bearer {token}".encode())
            if not known and path != HEALTH:
                raise Refused(UNAUTHENTICATED, "Request header error: there is no valid token")
            for route in ROUTES:
                if route.method == self.command and (found := route.pattern.fullmatch(path)):
                    if fault := faults.meet(route.operation):
                        raise Refused(*TROUBLE[fault.kind])
                    parts = tuple(unquote(part) for part in found.groups())
                    kind = self.headers.get("Content-Type", "")
                    return route.answer(catalogue, Request(parts, query, body, kind))
            raise Refused(UNIMPLEMENTED, f"{self.command} {path} is not implemented")

        def _send(self, status: int, content: dict[str, Any] | str) -> None:
            text = (content if isinstance(content, str) else json.dumps(content)).encode()
            kind = "text/plain" if isinstance(content, str) else "application/json"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    return Answers


def _said(error: Refused, path: str) -> dict[str, Any]:
    """The gateway writes gRPC's status; uploads, which go past it, have an older shape."""
    if "/upload" in path:
        return {"error_message": str(error), "error_details": str(error)}
    return {"code": error.code, "message": str(error), "details": []}
