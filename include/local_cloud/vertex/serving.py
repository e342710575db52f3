"""Endpoints, and the processes that answer behind them, by Vertex AI's contract for containers.

A model's container is not pulled: its command runs here, with the variables AIP_* that it would
have there. What AutoML has made is served by a process of the local cloud's own.
"""

import json
import random
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from google.cloud.aiplatform_v1 import types
from google.protobuf import json_format

from include import processes
from include.local_cloud import jobs, server
from include.local_cloud.vertex import rpc, things
from include.local_cloud.vertex.registry import Registry
from include.training import vertex_serving

START_SECONDS = 90.0
ANSWER_SECONDS = 60.0
CHANGEABLE = ("display_name", "description", "labels", "traffic_split")


class Servers:
    """The processes that answer, by names; one that is gone is started again when it is asked."""

    def __init__(
        self, folder: Path, registry: Registry, workers: jobs.Jobs, env: dict[str, str]
    ) -> None:
        """None runs yet."""
        self._folder, self._registry, self._workers, self._env = folder, registry, workers, env
        self._ports: dict[str, int] = {}
        self._token = secrets.token_urlsafe()
        self._locks: dict[str, threading.Lock] = {}

    def ask(self, name: str, model: Any, instances: list[Any], parameters: Any = None) -> list[Any]:
        """What a model answers to these."""
        body = {"instances": instances} | ({"parameters": parameters} if parameters else {})
        address = f"http://{server.HOST}:{self.start(name, model)}{_routes(name, model)[1]}"
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        request = Request(address, json.dumps(body).encode(), headers)
        try:
            with urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310
                predictions: list[Any] = json.load(answer)["predictions"]
        except HTTPError as error:
            said = error.read().decode(errors="replace")
            raise rpc.invalid(f"The container answered with {error.code}: {said}") from None
        return predictions

    def start(self, name: str, model: Any) -> int:
        """The port of a process that answers, which is started where there is none."""
        with self._locks.setdefault(name, threading.Lock()):
            if name not in self._ports:
                self._ports[name] = self._started(name, model)
            return self._ports[name]

    def stop(self, name: str) -> None:
        """Nobody asks it any more."""
        self._ports.pop(name, None)
        self._workers.stop(name)

    def _started(self, name: str, model: Any) -> int:
        health, predict = _routes(name, model)
        spec, port = model.container_spec, processes.free_port()
        env = {
            **jobs.WITH_PROJECT,
            **self._env,
            "AIP_HOST": server.HOST,
            "AIP_HTTP_PORT": str(port),
            "AIP_HEALTH_ROUTE": health,
            "AIP_PREDICT_ROUTE": predict,
            "AIP_STORAGE_URI": model.artifact_uri,
            "AIP_DEPLOYED_MODEL_ID": name.rpartition("/")[2],
            vertex_serving.TOKEN: self._token,
            **{each.name: each.value for each in spec.env},
        }
        command = [*spec.command, *spec.args]
        if not spec.image_uri:
            kept = str(self._registry.trained(model))
            command = [sys.executable, "-m", f"{__package__}.automl", kept]
        if not command:
            raise rpc.not_here(f"The container {spec.image_uri} without a command")
        folder = self._folder / name.replace("/", "_")
        folder.mkdir(parents=True, exist_ok=True)
        ended, log = threading.Event(), folder / "log.txt"

        def run() -> None:
            try:
                self._workers.run(name, command, env, folder, log)
            finally:
                self._ports.pop(name, None)
                ended.set()

        self._workers.start(name, run)
        began = time.monotonic()
        while time.monotonic() - began < START_SECONDS:
            try:
                with urlopen(f"http://{server.HOST}:{port}{health}", timeout=5):
                    return port
            except (URLError, ConnectionError, TimeoutError):
                pass
            if ended.wait(0.1):
                break
        self._workers.stop(name)
        words = jobs.last_words(log)
        shutil.rmtree(folder, ignore_errors=True)
        raise rpc.not_now(f"Model server never became ready. Its last words:\n{words}")


class Endpoints:
    """Addresses that stay, and the models that take turns behind them."""

    def __init__(
        self,
        folder: Path,
        registry: Registry,
        servers: Servers,
        operations: rpc.Operations,
        faults: server.Faults,
    ) -> None:
        """Open what was kept."""
        self._registry, self._servers = registry, servers
        self._operations, self._faults = operations, faults
        self.endpoints = things.Things(folder, "endpoints")
        registry.deployed_at = self._where

    def calls(self) -> dict[str, Callable[[Any], Any]]:
        """What clients can ask for."""
        return {
            "CreateEndpoint": self.create,
            "GetEndpoint": lambda request: self.endpoints.get(request.name),
            "ListEndpoints": self.list_endpoints,
            "UpdateEndpoint": self.update,
            "DeployModel": self.deploy,
            "UndeployModel": self.undeploy,
            "DeleteEndpoint": self.delete,
            "Predict": self.predict,
        }

    def create(self, request: Any) -> Any:
        """Make an address; nobody answers there yet, whatever the request says."""
        request.endpoint.deployed_models = []
        _check_split(request.endpoint)
        made = self.endpoints.create(request.parent, request.endpoint)
        return self._operations.done(made.name, made, types.CreateEndpointOperationMetadata())

    def list_endpoints(self, request: Any) -> Any:
        """Those that fulfil a condition."""
        found = self.endpoints.list(request.parent, request.filter)
        return types.ListEndpointsResponse(endpoints=found)

    def update(self, request: Any) -> Any:
        """Change what may change; traffic only among those that are deployed."""
        with self.endpoints.change(request.endpoint.name) as endpoint:
            for path in request.update_mask.paths:
                if path not in CHANGEABLE:
                    raise rpc.invalid(f"Unsupported field in update_mask: {path!r}")
                setattr(endpoint, path, getattr(request.endpoint, path))
            _check_split(endpoint)
        return endpoint

    def deploy(self, request: Any) -> Any:
        """Start a model's process, and give it its share once it answers."""
        endpoint, wanted = self.endpoints.get(request.endpoint), request.deployed_model
        model = self._registry.version(wanted.model)
        if not wanted.dedicated_resources.machine_spec.machine_type:
            raise rpc.invalid("'dedicated_resources' with a machine_type must be specified.")
        taken = {each.id for each in endpoint.deployed_models}
        if wanted.id in taken:
            raise rpc.invalid(f"DeployedModel.id {wanted.id!r} is already used in the Endpoint.")
        wanted.id = wanted.id or rpc.number()
        wanted.model, wanted.model_version_id = model.name, model.version_id
        split = {wanted.id if key == "0" else key: at for key, at in request.traffic_split.items()}
        endpoint.deployed_models.append(wanted)
        endpoint.traffic_split = split or dict(endpoint.traffic_split)
        _check_split(endpoint)
        name = f"{endpoint.name}/deployedModels/{wanted.id}"

        def work() -> Any:
            if fault := self._faults.of_job("DeployModel"):
                raise rpc.not_now(fault.reason)
            self._servers.start(name, model)
            with self.endpoints.change(request.endpoint) as changed:
                wanted.create_time = things.now()
                changed.deployed_models.append(wanted)
                changed.traffic_split = split or dict(changed.traffic_split)
            return types.DeployModelResponse(deployed_model=wanted)

        return self._operations.begin(endpoint.name, types.DeployModelOperationMetadata(), work)

    def undeploy(self, request: Any) -> Any:
        """End a model's process; who has traffic needs a new split, or is the last one."""
        with self.endpoints.change(request.endpoint) as endpoint:
            kept = [
                each for each in endpoint.deployed_models if each.id != request.deployed_model_id
            ]
            if len(kept) == len(endpoint.deployed_models):
                raise rpc.invalid(f"There is no DeployedModel {request.deployed_model_id!r}.")
            split = dict(request.traffic_split or endpoint.traffic_split)
            if kept and split.get(request.deployed_model_id):
                raise rpc.not_now(f"{request.deployed_model_id} still has traffic assigned to it.")
            split.pop(request.deployed_model_id, None)
            endpoint.deployed_models, endpoint.traffic_split = kept, split if kept else {}
            _check_split(endpoint)
        self._servers.stop(f"{request.endpoint}/deployedModels/{request.deployed_model_id}")
        return self._operations.done(
            request.endpoint, types.UndeployModelResponse(), types.UndeployModelOperationMetadata()
        )

    def delete(self, request: Any) -> Any:
        """Take an address away behind which nobody is any more."""
        if self.endpoints.get(request.name).deployed_models:
            raise rpc.not_now(f"{request.name} has deployed models: undeploy them first.")
        self.endpoints.drop(request.name)
        return self._operations.done(request.name, None, types.DeleteOperationMetadata())

    def predict(self, request: Any) -> Any:
        """Ask one of the models, by chance in the proportions of the traffic split."""
        endpoint = self.endpoints.get(request.endpoint)
        shares = dict(endpoint.traffic_split)
        if not shares:
            raise rpc.not_now(f"{request.endpoint} has no traffic split: nobody would answer.")
        (chosen,) = random.choices([*shares], [*shares.values()])  # noqa: S311
        (deployed,) = (each for each in endpoint.deployed_models if each.id == chosen)
        model = self._registry.version(f"{deployed.model}@{deployed.model_version_id}")
        asked = json_format.MessageToDict(types.PredictRequest.pb(request))
        name = f"{endpoint.name}/deployedModels/{chosen}"
        answers = self._servers.ask(name, model, asked["instances"], asked.get("parameters"))
        response = types.PredictResponse(
            deployed_model_id=chosen,
            model=model.name,
            model_version_id=model.version_id,
            model_display_name=model.display_name,
        )
        json_format.ParseDict({"predictions": answers}, types.PredictResponse.pb(response))
        return response

    def _where(self, version: str) -> list[str]:
        return [
            endpoint.name
            for endpoint in self.endpoints.all()
            for each in endpoint.deployed_models
            if f"{each.model}@{each.model_version_id}" == version
        ]


def _routes(name: str, model: Any) -> tuple[str, str]:
    """Where a container is asked for its health and for predictions."""
    spec, usual = model.container_spec, "/v1/" + name.partition("/locations/")[2].partition("/")[2]
    return spec.health_route or usual, spec.predict_route or f"{usual}:predict"


def _check_split(endpoint: Any) -> None:
    """All of the traffic, and only to who is there."""
    split = dict(endpoint.traffic_split)
    if unknown := split.keys() - {each.id for each in endpoint.deployed_models}:
        raise rpc.invalid(f"traffic_split names unknown DeployedModels: {sorted(unknown)}")
    if split and sum(split.values()) != 100:
        raise rpc.invalid(f"The sum of traffic_split must be 100, and is {sum(split.values())}.")
