"""The platform as a process: one address for all services, as `endpoint_url` wants it."""

import io
import json
import re
import threading
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import make_server
from werkzeug.wsgi import get_input_stream

from include.local_cloud import server
from include.local_cloud.sagemaker.account import IMAGE, NUMBER, REGION, ROLE, Account
from include.local_cloud.sagemaker.automl import AutoML
from include.local_cloud.sagemaker.hosting import Configurations, Endpoints
from include.local_cloud.sagemaker.models import Models, Transform
from include.local_cloud.sagemaker.objects import Moto
from include.local_cloud.sagemaker.pipelines import Pipelines
from include.local_cloud.sagemaker.protocol import Protocol, Refused, invalid, of_fault
from include.local_cloud.sagemaker.registry import Registry
from include.local_cloud.sagemaker.script_mode import Processing, Training
from include.local_cloud.sagemaker.signature import Key, Unsigned
from include.local_cloud.sagemaker.tuning import Tuning
from include.local_cloud.server import Faults, Redirect

INVOCATION = re.compile(r"/endpoints/([^/]+)/invocations")
TARGET = "SageMaker."
REASONS = {200: "OK", 400: "Bad Request", 424: "Failed Dependency", 501: "Not Implemented"}
Environ = dict[str, Any]
Start = Callable[[str, list[tuple[str, str]]], Any]


class Handler(server.Handler, MotoRequestHandler):
    """Refuses what no platform answers, before anything of a body is read."""

    def log(self, type: str, message: str, *args: Any) -> None:
        """The log is for what goes wrong."""


class SageMaker:
    """All of it, in one account and one region."""

    def __init__(self, folder: Path, faults: Faults) -> None:
        """Listen, and take up what an earlier process left."""
        self.faults, self.moto = faults, Moto(folder / "s3", NUMBER, REGION)
        self.listener = make_server(
            server.HOST,
            server.port(folder),
            self._answer,
            threaded=True,
            request_handler=Handler,
        )
        self.address = f"http://{server.HOST}:{self.listener.server_port}"
        self.key = Key.of(folder)
        self.account = account = Account(folder, faults, self.address, self.key)
        self.processing, self.training = Processing(account), Training(account)
        self.tuning = Tuning(account, self.training)
        self.automl = AutoML(account)
        self.models, self.registry = Models(account), Registry(account)
        self.transform = Transform(account, self.models)
        self.configurations = Configurations(account, self.models)
        self.endpoints = Endpoints(account, self.models, self.configurations)
        kinds = {"Processing": self.processing, "Training": self.training}
        self.pipelines = Pipelines(account, kinds)
        parts = (
            *(self.processing, self.training, self.tuning, self.automl, self.transform),
            *(self.models, self.registry, self.configurations, self.endpoints, self.pipelines),
        )
        operations = {name: do for part in parts for name, do in part.operations().items()}
        self.protocol = Protocol(operations, faults)
        threading.Thread(target=self.listener.serve_forever, daemon=True).start()
        self.endpoints.resume()

    def redirect(self) -> Redirect:
        """The connection, with the role and the image that jobs are to be given."""
        extra = {"region_name": REGION, "endpoint_url": self.address}
        given = {"sagemaker_role": ROLE, "sagemaker_image": IMAGE}
        fields = {"conn_type": "aws", "login": self.key.id, "password": self.key.secret}
        return Redirect({"aws_default": fields | {"extra": extra | given}})

    def resources(self) -> dict[str, list[str]]:
        """What users have left; logs and the records of transform jobs can't be taken away."""
        found = {
            "buckets": self.moto.names(),
            "processing jobs": self.processing.left(),
            "training jobs": self.training.left(),
            "tuning jobs": self.tuning.left(),
            "AutoML jobs": self.automl.left(),
            "transform jobs": self.transform.left(),
            "models": list(self.models.table),
            "endpoint configurations": list(self.configurations.table),
            "endpoints": list(self.endpoints.table),
            "model package groups": list(self.registry.groups),
            "model packages": list(self.registry.packages),
            "pipelines": list(self.pipelines.table),
        }
        return {kind: names for kind, names in found.items() if names}

    def close(self) -> None:
        """End the jobs while their ends can still be told, then stop listening."""
        self.account.closing.set()
        self.account.jobs.close()
        self.listener.shutdown()
        self.listener.server_close()

    def _answer(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        body = get_input_stream(environ).read()
        environ["wsgi.input"] = io.BytesIO(body)
        try:
            self.key.check(environ, body)
        except Unsigned as unsigned:
            return _told(start_response, "403 Forbidden", *unsigned.answer())
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        invoked = INVOCATION.fullmatch(environ["PATH_INFO"])
        if not target.startswith(TARGET) and not invoked:
            return self.moto(environ, start_response)
        headers, status = {"Content-Type": "application/x-amz-json-1.1"}, 200
        try:
            try:
                if invoked:
                    content, headers = self._invoke(invoked[1], body, environ)
                else:
                    content = self.protocol.answer(target.removeprefix(TARGET), body)
            except server.MALFORMED as error:
                traceback.print_exc()
                raise invalid(f"The request can't be read: {error!r}") from None
        except Refused as refused:
            status, content = refused.status, refused.body()
            headers["x-amzn-ErrorType"] = refused.code
            if invoked:
                content = json.dumps({"Message": refused.message}).encode()
        headers["Content-Length"] = str(len(content))
        reason = REASONS.get(status, "Service Unavailable")
        start_response(f"{status} {reason}", list(headers.items()))
        return [content]

    def _invoke(self, name: str, body: bytes, environ: Environ) -> tuple[bytes, dict[str, str]]:
        if fault := self.faults.meet("InvokeEndpoint"):
            raise of_fault(fault, "InvokeEndpoint")
        headers = {
            "accept": environ.get("HTTP_ACCEPT", ""),
            "content-type": environ.get("CONTENT_TYPE", ""),
        }
        if target := environ.get("HTTP_X_AMZN_SAGEMAKER_TARGET_VARIANT"):
            headers["target"] = target
        return self.endpoints.invoke(name, body, headers)


def _told(start_response: Start, status: str, kind: str, content: bytes) -> list[bytes]:
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(content)))])
    return [content]


if __name__ == "__main__":
    server.main(SageMaker)
