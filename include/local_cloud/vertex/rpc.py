"""gRPC as Vertex AI speaks it: Google's own messages in and out, and work that takes a while."""

import base64
import threading
import traceback
import uuid
from collections.abc import Callable, Mapping
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import proto
from google.cloud.aiplatform_v1 import types
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2, json_format
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2

from include.local_cloud import jobs, server
from include.local_cloud.state import Table
from include.local_cloud.vertex.credentials import Credentials

SERVICE = "google.cloud.aiplatform.v1."
OPERATIONS = "google.longrunning.Operations"
THREADS = 16
# What a request raises whose fields can't be read, kept or shown.
MALFORMED = (*server.MALFORMED, DecodeError, json_format.Error)
FAULTS = {
    "throttled": (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "Quota exceeded for quota metric 'Resource management (CRUD) requests' and limit "
        "'Resource management (CRUD) requests per minute per region' of service "
        "'aiplatform.googleapis.com'.",
    ),
    "unavailable": (grpc.StatusCode.UNAVAILABLE, "The service is currently unavailable."),
    "quota": (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "The following quotas are exceeded: CustomModelTrainingCPUsPerProjectPerRegion",
    ),
}


class Refused(Exception):
    """An answer other than success."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        """As gRPC says it."""
        super().__init__(message)
        self.code, self.message = code, message


def invalid(message: str) -> Refused:
    """The request is wrong."""
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_now(message: str) -> Refused:
    """The request is right, but things don't stand so."""
    return Refused(grpc.StatusCode.FAILED_PRECONDITION, message)


def not_here(what: str) -> Refused:
    """Vertex AI can, the local cloud can't."""
    return Refused(grpc.StatusCode.UNIMPLEMENTED, f"{what} is not implemented by the local cloud.")


@dataclass
class Operations:
    """What was begun, and how it ended: clients ask until it has."""

    folder: Path
    jobs: jobs.Jobs

    def __post_init__(self) -> None:
        """Whatever was under way when the platform stopped has failed."""
        self._table = Table(self.folder)
        for name in self._table:
            operation = self.get(name)
            if not operation.done:
                operation.error.code = code_pb2.INTERNAL
                operation.error.message = "Internal error encountered."
                operation.done = True
                self._keep(operation)

    def done(self, of: str, response: Any = None, metadata: Any = None) -> Any:
        """One that ended while it was asked for."""
        operation = self._new(of, metadata)
        self._end(operation, response)
        return operation

    def begin(self, of: str, metadata: Any, work: Callable[[], Any]) -> Any:
        """One that goes on; `work` returns the response or is refused."""
        operation = self._new(of, metadata)
        self._keep(operation)
        going_on = operations_pb2.Operation()
        going_on.CopyFrom(operation)

        def finish() -> None:
            try:
                self._end(operation, work())
            except Refused as error:
                code = error.code.value[0]
                operation.error.CopyFrom(status_pb2.Status(code=code, message=error.message))
                operation.done = True
                self._keep(operation)

        self.jobs.start(operation.name, finish)
        return going_on

    def get(self, name: str) -> Any:
        """How far one is."""
        kept = self._table.get(name)
        if kept is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"The operation {name} is not found.")
        return operations_pb2.Operation.FromString(base64.b64decode(kept["operation"]))

    def _new(self, of: str, metadata: Any) -> Any:
        operation = operations_pb2.Operation(name=f"{of}/operations/{number()}")
        if metadata is not None:
            operation.metadata.Pack(type(metadata).pb(metadata))
        return operation

    def _end(self, operation: Any, response: Any) -> None:
        given = empty_pb2.Empty() if response is None else type(response).pb(response)
        operation.response.Pack(given)
        operation.done = True
        self._keep(operation)

    def _keep(self, operation: Any) -> None:
        text = base64.b64encode(operation.SerializeToString()).decode()
        self._table.put(operation.name, {"operation": text})


class Listener:
    """Listens for the calls that are given to it by name."""

    def __init__(
        self,
        calls: Mapping[str, Callable[[Any], Any]],
        credentials: Credentials,
        faults: server.Faults,
        key: bytes,
        certificate: bytes,
    ) -> None:
        """Begin on a free port."""
        self._server = grpc.server(futures.ThreadPoolExecutor(THREADS))
        self._server.add_generic_rpc_handlers((_Calls(calls, credentials, faults),))
        shown = grpc.ssl_server_credentials([(key, certificate)])
        self.port: int = self._server.add_secure_port(f"{server.HOST}:0", shown)
        self._server.start()

    def close(self) -> None:
        """Take no more calls."""
        self._server.stop(grace=None).wait()


class _Calls(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(
        self,
        calls: Mapping[str, Callable[[Any], Any]],
        credentials: Credentials,
        faults: server.Faults,
    ) -> None:
        self.calls, self.credentials, self.faults = calls, credentials, faults
        self._lock = threading.Lock()

    def service(self, details: Any) -> Any:
        """Find who answers; an unknown call is told that nobody does."""
        service, _, name = details.method.lstrip("/").partition("/")
        known = service.startswith(SERVICE) or service == OPERATIONS
        answer = self.calls.get(name) if known else None

        def called(content: bytes, context: Any) -> Any:
            try:
                self._admit(context, name)
                if answer is None:
                    raise not_here(f"{service}/{name}")
                return answer(_reader(name)(content))
            except Refused as error:
                context.abort(error.code, error.message)
            except MALFORMED as error:
                traceback.print_exc()
                refused = invalid(f"The request can't be read: {error}")
                context.abort(refused.code, refused.message)

        return grpc.unary_unary_rpc_method_handler(called, response_serializer=_written)

    def _admit(self, context: Any, name: str) -> None:
        given = dict(context.invocation_metadata()).get("authorization", "")
        if not self.credentials.known(given.removeprefix("Bearer ")):
            raise Refused(
                grpc.StatusCode.UNAUTHENTICATED,
                "Request had invalid authentication credentials. Expected OAuth 2 access token, "
                "login cookie or other valid authentication credential.",
            )
        if fault := self.faults.meet(name):
            raise Refused(*FAULTS[fault.kind])


def empty() -> Any:
    """Nothing to say."""
    return empty_pb2.Empty()


def number() -> str:
    """A new one, as Vertex AI gives them."""
    return str(uuid.uuid4().int)[:19]


def _reader(name: str) -> Callable[[bytes], Any]:
    if name == "GetOperation":
        return operations_pb2.GetOperationRequest.FromString  # type: ignore[no-any-return]
    return getattr(types, f"{name}Request").deserialize  # type: ignore[no-any-return]


def _written(message: Any) -> bytes:
    plain = type(message).pb(message) if isinstance(message, proto.Message) else message
    content: bytes = plain.SerializeToString()
    return content
