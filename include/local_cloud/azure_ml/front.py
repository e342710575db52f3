"""The one HTTPS port of the platform: who asks what, and what may go wrong on purpose."""

import json
import ssl
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

from include.local_cloud.azure_ml.protocol import SCOPE, Refused, Reply, Request, Route
from include.local_cloud.certificates import Certificates
from include.local_cloud.server import HOST, MALFORMED, Fault, Faults, Handler

TROUBLE = {
    "throttled": (429, "TooManyRequests", "The request is being throttled.", 1),
    "unavailable": (503, "ServiceUnavailable", "The service is temporarily unavailable.", 1),
    "quota": (400, "OutOfQuota", "Not enough quota available in the subscription.", None),
}


@dataclass(frozen=True)
class Front:
    """A port that speaks HTTPS, and how calls find what answers them."""

    routes: Sequence[Route]
    faults: Faults
    known: Callable[[Request], bool]
    """Whether a request carries a token of ours."""

    def answer(self, request: Request) -> Reply:
        """Find the call; refuse strangers, the unknown, and whom a fault was meant for."""
        for route in self.routes:
            parts = route.match(request)
            if parts is None:
                continue
            if not (route.open or self.known(request)):
                raise Refused(401, "AuthenticationFailed", "The access token is missing or wrong.")
            if fault := self.faults.meet(route.operation):
                raise _trouble(fault)
            return route.handler(request, **parts)
        raise _unknown(request)


def listen(certificates: Certificates, port: int) -> ThreadingHTTPServer:
    """Take a port; nothing is answered before `serve`."""
    server = ThreadingHTTPServer((HOST, port), BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.key)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    server.daemon_threads = True
    return server


def serve(server: ThreadingHTTPServer, front: Front) -> None:
    """Answer from now on, until the server is shut down."""
    server.RequestHandlerClass = _handler(front)
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()


def _trouble(fault: Fault) -> Refused:
    return Refused(*TROUBLE[fault.kind])


def _unknown(request: Request) -> Refused:
    inside = request.path.lower().startswith(SCOPE.lower())
    if request.path.lower().startswith("/subscriptions/") and not inside:
        return Refused(404, "ResourceNotFound", f"There is no workspace at {request.path}.")
    call = f"{request.method} {request.path.replace(SCOPE, '…')}"
    return Refused(501, "NotImplemented", f"The local Azure ML does not implement {call}.")


def _handler(front: Front) -> type[BaseHTTPRequestHandler]:
    class Answers(Handler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer(self._asked())

        do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_GET  # noqa: N815, RUF100

        def _asked(self) -> Request:
            url = urlsplit(self.path)
            return Request(
                method=self.command,
                path=unquote(url.path),
                query=dict(parse_qsl(url.query, keep_blank_values=True)),
                headers={name.lower(): value for name, value in self.headers.items()},
                body=self.body(),
            )

        def _answer(self, request: Request) -> None:
            try:
                self._send(front.answer(request))
            except Refused as refused:
                self._refuse(request, refused)
            except MALFORMED as error:
                traceback.print_exc()
                message = f"The request can't be read: {error!r}"
                self._refuse(request, Refused(400, "InvalidRequestContent", message))

        def _refuse(self, request: Request, refused: Refused) -> None:
            error = {"error": {"code": refused.code, "message": refused.message}}
            if "/mlflow/" in request.path:
                error = {"error_code": refused.code, "message": refused.message}  # type: ignore[dict-item]
            self._send(Reply(error, refused.status, refused.headers))

        def _send(self, reply: Reply) -> None:
            content = reply.content
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
            self.send_response(reply.status)
            headers = {"Content-Type": kind, "Content-Length": str(len(body))}
            for name, value in (headers | reply.headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Answers
