"""What runs belong to and come from: experiments, pipelines, versions of pipelines."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.local_cloud.kubeflow import specification
from include.local_cloud.kubeflow.errors import (
    EXISTS,
    PRECONDITION,
    Refused,
    invalid,
    missing,
    texts,
)
from include.local_cloud.kubeflow.listing import page
from include.local_cloud.kubeflow.runs import Runs, now
from include.local_cloud.state import Table

DEFAULT = "Default"


@dataclass
class Catalogue:
    """All of them."""

    folder: Path
    runs: Runs
    versions: Table

    def __post_init__(self) -> None:
        """There is always an experiment for runs that name none."""
        self.experiments = Table(self.folder / "experiments")
        self.pipelines = Table(self.folder / "pipelines")
        if not any(each["display_name"] == DEFAULT for each in self.experiments.all()):
            self.create_experiment({"display_name": DEFAULT})

    def create_experiment(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Make one; its name is taken once."""
        name = asked.get("display_name")
        texts(asked, "display_name", "description")
        if not name:
            raise invalid("Experiment name is empty. Please specify a valid experiment name")
        if any(each["display_name"] == name for each in self.experiments.all()):
            raise Refused(
                EXISTS,
                f"Already exist error: Failed to create a new experiment. The name {name} already "
                "exists. Please specify a new name",
            )
        made = {
            "experiment_id": str(uuid.uuid4()),
            "display_name": name,
            "description": asked.get("description") or "",
            "created_at": now(),
            "storage_state": "AVAILABLE",
            "last_run_created_at": "1970-01-01T00:00:00Z",
        }
        return self.experiments.put(made["experiment_id"], made)

    def experiment(self, experiment_id: str) -> dict[str, Any]:
        """One of them."""
        found = self.experiments.get(experiment_id)
        if found is None:
            raise missing("Experiment", experiment_id)
        return found

    def list_experiments(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """Those that are asked for."""
        return page(self.experiments.all(), "experiments", asked, default_sort="created_at")

    def store_experiment(self, experiment_id: str, storage_state: str) -> None:
        """Archive one with all its runs, or bring it back without them."""
        self.experiment(experiment_id)
        self.experiments.change(experiment_id, storage_state=storage_state)
        if storage_state == "ARCHIVED":
            for run in self.runs.table.all():
                if run["experiment_id"] == experiment_id:
                    self.runs.store(run["run_id"], storage_state)

    def delete_experiment(self, experiment_id: str) -> None:
        """Forget one; its runs stay."""
        if self.experiment(experiment_id)["display_name"] == DEFAULT:
            raise invalid("The default experiment cannot be deleted")
        self.experiments.drop(experiment_id)

    def create_run(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Start a run in its experiment, or in the default one."""
        (default,) = (e for e in self.experiments.all() if e["display_name"] == DEFAULT)
        place = self.experiment(asked.get("experiment_id") or default["experiment_id"])
        if place["storage_state"] == "ARCHIVED":
            raise Refused(PRECONDITION, f"experiment {place['experiment_id']} is archived")
        run = self.runs.create(asked | {"experiment_id": place["experiment_id"]})
        self.experiments.change(place["experiment_id"], last_run_created_at=run["created_at"])
        return run

    def upload(self, content: bytes, asked: Mapping[str, str]) -> dict[str, Any]:
        """Make a pipeline, with the file as its first version."""
        spec = specification.read(content)
        name = asked.get("name") or asked.get("display_name") or spec["pipelineInfo"]["name"]
        if any(each["name"] == name for each in self.pipelines.all()):
            raise Refused(EXISTS, f"The name {name} already exists. Please specify a new name")
        made = {
            "pipeline_id": str(uuid.uuid4()),
            "name": name,
            "display_name": asked.get("display_name") or name,
            "description": asked.get("description", ""),
            "created_at": now(),
        }
        self._add_version(made["pipeline_id"], name, spec, asked)
        return self.pipelines.put(made["pipeline_id"], made)

    def upload_version(self, content: bytes, asked: Mapping[str, str]) -> dict[str, Any]:
        """Make a further version of a pipeline."""
        pipeline = self.pipeline(asked.get("pipelineid", ""))
        spec = specification.read(content)
        name = asked.get("name") or asked.get("display_name") or spec["pipelineInfo"]["name"]
        if any(each["name"] == name for each in self._versions_of(pipeline["pipeline_id"])):
            raise Refused(EXISTS, f"The name {name} already exists. Please specify a new name")
        return self._add_version(pipeline["pipeline_id"], name, spec, asked)

    def pipeline(self, pipeline_id: str) -> dict[str, Any]:
        """One of them."""
        found = self.pipelines.get(pipeline_id)
        if found is None:
            raise missing("Pipeline", pipeline_id)
        return found

    def pipeline_by_name(self, name: str) -> dict[str, Any]:
        """The one of that name."""
        for pipeline in self.pipelines.all():
            if pipeline["name"] == name:
                return pipeline
        raise missing("Pipeline", name)

    def list_pipelines(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """Those that are asked for."""
        return page(self.pipelines.all(), "pipelines", asked, default_sort="created_at")

    def delete_pipeline(self, pipeline_id: str, *, cascade: bool) -> None:
        """Forget one; while it has versions, only together with them."""
        self.pipeline(pipeline_id)
        versions = self._versions_of(pipeline_id)
        if versions and not cascade:
            raise invalid(
                f"Failed to delete pipeline {pipeline_id} as it has existing pipeline versions"
            )
        for version in versions:
            self.versions.drop(version["pipeline_version_id"])
        self.pipelines.drop(pipeline_id)

    def version(self, pipeline_id: str, version_id: str) -> dict[str, Any]:
        """One version of a pipeline."""
        found = self.versions.get(version_id)
        if found is None or found["pipeline_id"] != pipeline_id:
            raise missing("PipelineVersion", version_id)
        return found

    def list_versions(self, pipeline_id: str, asked: Mapping[str, str]) -> dict[str, Any]:
        """Those versions of a pipeline that are asked for."""
        found = self._versions_of(pipeline_id)
        return page(found, "pipeline_versions", asked, default_sort="created_at")

    def delete_version(self, pipeline_id: str, version_id: str) -> None:
        """Forget a version."""
        self.version(pipeline_id, version_id)
        self.versions.drop(version_id)

    def left(self) -> dict[str, list[str]]:
        """Pipelines, and runs that nobody put away: archived runs and experiments are records."""
        runs = [run for run in self.runs.table.all() if run["storage_state"] == "AVAILABLE"]
        kinds = {
            "runs": [run["display_name"] for run in runs],
            "pipelines": [pipeline["name"] for pipeline in self.pipelines.all()],
        }
        return {kind: names for kind, names in kinds.items() if names}

    def _versions_of(self, pipeline_id: str) -> list[dict[str, Any]]:
        return [each for each in self.versions.all() if each["pipeline_id"] == pipeline_id]

    def _add_version(
        self, pipeline_id: str, name: str, spec: dict[str, Any], asked: Mapping[str, str]
    ) -> dict[str, Any]:
        made: dict[str, Any] = {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": str(uuid.uuid4()),
            "name": name,
            "display_name": asked.get("display_name") or name,
            "description": asked.get("description", ""),
            "created_at": now(),
            "pipeline_spec": spec,
        }
        return self.versions.put(made["pipeline_version_id"], made)
