"""Data sets, and models with their versions, aliases and evaluations."""

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
from google.cloud.aiplatform_v1 import types

from include.local_cloud.vertex import rpc, things
from include.local_cloud.vertex.buckets import Buckets, split

ALIAS = re.compile(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]")
MODEL_ID = re.compile(r"[a-z0-9_-]{1,63}")
DEFAULT = "default"


class Registry:
    """What trainings read and what they make. A version is kept as `…/models/<id>@<number>`."""

    def __init__(self, folder: Path, operations: rpc.Operations, buckets: Buckets) -> None:
        """Open what was kept."""
        self._operations, self._buckets = operations, buckets
        self.datasets = things.Things(folder, "datasets")
        self.models = things.Things(folder, "models")
        self.evaluations = things.Things(folder, "evaluations")
        self._trained = folder / "trained"
        self.deployed_at: Callable[[str], list[str]] = lambda _: []
        """Which endpoints a version, or any of a model, is deployed at."""

    def calls(self) -> dict[str, Callable[[Any], Any]]:
        """What clients can ask for."""
        return {
            "CreateDataset": self.create_dataset,
            "GetDataset": lambda request: self.datasets.get(request.name),
            "ListDatasets": self.list_datasets,
            "DeleteDataset": self.delete_dataset,
            "UploadModel": self.upload,
            "GetModel": lambda request: self.version(request.name),
            "ListModels": self.list_models,
            "ListModelVersions": self.list_versions,
            "MergeVersionAliases": self.merge_aliases,
            "DeleteModel": self.delete_model,
            "DeleteModelVersion": self.delete_version,
            "GetModelEvaluation": lambda request: self.evaluations.get(request.name),
            "ListModelEvaluations": self.list_evaluations,
        }

    def create_dataset(self, request: Any) -> Any:
        """Keep where the data is; it is read when somebody trains on it."""
        made = self.datasets.create(request.parent, request.dataset)
        return self._operations.done(made.name, made, types.CreateDatasetOperationMetadata())

    def list_datasets(self, request: Any) -> Any:
        """Those that fulfil a condition."""
        found = self.datasets.list(request.parent, request.filter)
        return types.ListDatasetsResponse(datasets=found)

    def delete_dataset(self, request: Any) -> Any:
        """Forget where the data is; the data stays."""
        self.datasets.drop(request.name)
        return self._deleted(request.name)

    def upload(self, request: Any) -> Any:
        """Keep a model that somebody trained, as a new one or a new version of one."""
        model = request.model
        bucket, prefix = split(model.artifact_uri)
        if bucket not in self._buckets.names() or not self._buckets.list(bucket, prefix):
            raise rpc.invalid(f"Model artifact URI {model.artifact_uri!r} is empty or missing.")
        if not model.container_spec.image_uri:
            raise rpc.invalid("container_spec.image_uri is required to serve a custom model.")
        made = self.add(request.parent, model, request.parent_model, request.model_id)
        response = types.UploadModelResponse(model=made.name, model_version_id=made.version_id)
        return self._operations.done(made.name, response, types.UploadModelOperationMetadata())

    def add(self, parent: str, model: Any, parent_model: str = "", model_id: str = "") -> Any:
        """Give a model its name, its number and its aliases."""
        things.named(parent, model)
        if parent_model:
            name = parent_model.partition("@")[0]
            before = self.versions(name)
        else:
            if model_id and not MODEL_ID.fullmatch(model_id):
                raise rpc.invalid(f"Invalid model_id: {model_id!r}")
            name, before = f"{parent}/models/{model_id or rpc.number()}", []
            if self._versions(name):
                code = grpc.StatusCode.ALREADY_EXISTS
                raise rpc.Refused(code, f"The Model already exists: {name}")
        _aliases(model.version_aliases)
        model.name = name
        model.version_id = str(max((int(each.version_id) for each in before), default=0) + 1)
        model.create_time = model.update_time = model.version_create_time = things.now()
        wanted = list(model.version_aliases) + ([] if before else [DEFAULT])
        model.version_aliases = []
        kinds = types.Model.DeploymentResourcesType
        model.supported_deployment_resources_types = [kinds.DEDICATED_RESOURCES]
        self.models.put(_key(model), model)
        return self._alias(model, wanted)

    def version(self, name: str) -> Any:
        """By number, by alias, or the default one."""
        name, _, wanted = name.partition("@")
        for each in self.versions(name):
            if (wanted or DEFAULT) in (each.version_id, *each.version_aliases):
                return each
        raise rpc.Refused(
            grpc.StatusCode.NOT_FOUND, f"The Model does not exist: {name}@{wanted or DEFAULT}"
        )

    def versions(self, name: str) -> list[Any]:
        """All versions of a model."""
        found = self._versions(name.partition("@")[0])
        if not found:
            raise rpc.Refused(grpc.StatusCode.NOT_FOUND, f"The Model does not exist: {name}")
        return found

    def list_models(self, request: Any) -> Any:
        """The default versions of those that fulfil a condition."""
        found = self.models.list(request.parent, request.filter)
        return types.ListModelsResponse(
            models=[each for each in found if DEFAULT in each.version_aliases]
        )

    def list_versions(self, request: Any) -> Any:
        """All versions of a model."""
        return types.ListModelVersionsResponse(models=self.versions(request.name))

    def merge_aliases(self, request: Any) -> Any:
        """Give a version aliases, which others lose; one that begins with `-` is taken away."""
        model = self.version(request.name)
        removed = {alias[1:] for alias in request.version_aliases if alias.startswith("-")}
        given = _aliases(each for each in request.version_aliases if not each.startswith("-"))
        model.version_aliases = [each for each in model.version_aliases if each not in removed]
        self.models.put(_key(model), model)
        return self._alias(model, given)

    def delete_model(self, request: Any) -> Any:
        """Forget a model with all its versions, unless somebody is served by one."""
        for each in self.versions(request.name):
            self._undeployed(each)
        for each in self.versions(request.name):
            self._forget(each)
        return self._deleted(request.name)

    def delete_version(self, request: Any) -> Any:
        """Forget one version; the default one stays as long as the model does."""
        model = self.version(request.name)
        self._undeployed(model)
        if DEFAULT in model.version_aliases:
            raise rpc.not_now(
                f"{_key(model)} is the default version: delete the model, or move it."
            )
        self._forget(model)
        return self._deleted(request.name)

    def evaluate(self, model: Any, metrics: dict[str, Any]) -> None:
        """Keep what a model's metrics on the test rows were."""
        name = f"{_key(model)}/evaluations/{rpc.number()}"
        schema = "gs://google-cloud-aiplatform/schema/modelevaluation/"
        evaluation = types.ModelEvaluation(
            name=name,
            metrics_schema_uri=f"{schema}classification_metrics_1.0.0.yaml",
            metrics=metrics,
            create_time=things.now(),
        )
        self.evaluations.put(name, evaluation)

    def list_evaluations(self, request: Any) -> Any:
        """A version's evaluations."""
        parent = _key(self.version(request.parent))
        found = self.evaluations.list(parent, request.filter)
        return types.ListModelEvaluationsResponse(model_evaluations=found)

    def trained(self, model: Any) -> Path:
        """Where what AutoML has made is kept."""
        return self._trained / _key(model).replace("/", "_")

    def _versions(self, name: str) -> list[Any]:
        found = (self.models.get(key) for key in self.models.names() if key.startswith(f"{name}@"))
        return sorted(found, key=lambda each: int(each.version_id))

    def _alias(self, model: Any, given: list[str]) -> Any:
        for other in self.versions(model.name):
            kept = [alias for alias in other.version_aliases if alias not in given]
            if other.version_id == model.version_id:
                kept += dict.fromkeys(given)
                model.version_aliases = kept
            other.version_aliases = kept
            self.models.put(_key(other), other)
        return model

    def _undeployed(self, model: Any) -> None:
        if endpoints := self.deployed_at(_key(model)):
            raise rpc.not_now(f"The Model {_key(model)} is deployed at: {', '.join(endpoints)}")

    def _forget(self, model: Any) -> None:
        shutil.rmtree(self.trained(model), ignore_errors=True)
        for name in self.evaluations.names():
            if name.startswith(f"{_key(model)}/"):
                self.evaluations.drop(name)
        self.models.drop(_key(model))

    def _deleted(self, name: str) -> Any:
        return self._operations.done(name, None, types.DeleteOperationMetadata())


def _aliases(given: Iterable[str]) -> list[str]:
    wanted = list(given)
    for alias in wanted:
        if not ALIAS.fullmatch(alias):
            raise rpc.invalid(f"Invalid version alias: {alias!r}")
    return wanted


def _key(model: Any) -> str:
    return f"{model.name}@{model.version_id}"
