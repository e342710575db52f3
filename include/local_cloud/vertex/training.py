"""Training pipelines: a script of one's own that really runs, and AutoML that really chooses."""

import io
import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.cloud.aiplatform_v1 import types
from google.protobuf import json_format
from google.rpc import code_pb2, status_pb2

from include.local_cloud import automl, jobs, server
from include.local_cloud.vertex import rpc, things
from include.local_cloud.vertex.buckets import Buckets, split
from include.local_cloud.vertex.buckets import Refused as NotStored
from include.local_cloud.vertex.registry import Registry

CUSTOM = "/custom_task_"
TABULAR = "/automl_tabular_"
STATES = types.PipelineState
ENDED = (
    STATES.PIPELINE_STATE_SUCCEEDED,
    STATES.PIPELINE_STATE_FAILED,
    STATES.PIPELINE_STATE_CANCELLED,
)
OF_JOB = {
    STATES.PIPELINE_STATE_SUCCEEDED: types.JobState.JOB_STATE_SUCCEEDED,
    STATES.PIPELINE_STATE_FAILED: types.JobState.JOB_STATE_FAILED,
    STATES.PIPELINE_STATE_CANCELLED: types.JobState.JOB_STATE_CANCELLED,
}
INTERRUPTED = "Internal error occurred for the current attempt."


class Interrupted(Exception):
    """Somebody has killed the work: it was cancelled, or the platform stops."""


class Failed(Exception):
    """The work ended badly; says what its owner reads."""


class Training:
    """The pipelines, and the custom jobs behind those that run a script."""

    def __init__(
        self,
        folder: Path,
        registry: Registry,
        buckets: Buckets,
        operations: rpc.Operations,
        workers: jobs.Jobs,
        faults: server.Faults,
        env: dict[str, str],
    ) -> None:
        """Open what was kept; what ran when the platform stopped has failed."""
        self._registry, self._buckets, self._operations = registry, buckets, operations
        self._workers, self._faults, self._env = workers, faults, env
        self.pipelines = things.Things(folder, "trainingPipelines")
        self.custom_jobs = things.Things(folder, "customJobs")
        self._work = folder / "work"
        shutil.rmtree(self._work, ignore_errors=True)
        for pipeline in self.pipelines.all():
            if pipeline.state not in ENDED:
                self._end(pipeline.name, code_pb2.INTERNAL, INTERRUPTED)

    def calls(self) -> dict[str, Callable[[Any], Any]]:
        """What clients can ask for."""
        return {
            "CreateTrainingPipeline": self.create,
            "GetTrainingPipeline": lambda request: self.pipelines.get(request.name),
            "ListTrainingPipelines": self.list_pipelines,
            "CancelTrainingPipeline": self.cancel,
            "DeleteTrainingPipeline": self.delete,
            "GetCustomJob": lambda request: self.custom_jobs.get(request.name),
            "ListCustomJobs": self.list_jobs,
            "DeleteCustomJob": self.delete_job,
        }

    def create(self, request: Any) -> Any:
        """Begin a training."""
        pipeline = request.training_pipeline
        definition = pipeline.training_task_definition
        inputs = json_format.MessageToDict(types.TrainingPipeline.pb(pipeline).training_task_inputs)
        work: Callable[[], None]
        if CUSTOM in definition:
            spec = types.CustomJobSpec()
            json_format.ParseDict(inputs, types.CustomJobSpec.pb(spec), ignore_unknown_fields=True)
            _check(spec, pipeline)
        elif TABULAR in definition:
            if inputs.get("predictionType") != "classification":
                raise rpc.not_here(f"AutoML for {inputs.get('predictionType')}")
            parent, dataset = request.parent, pipeline.input_data_config.dataset_id
            data = self._registry.datasets.get(f"{parent}/datasets/{dataset}")
        else:
            raise rpc.not_here(f"A training pipeline of {definition or 'no definition'}")
        pipeline = self.pipelines.create(request.parent, pipeline)
        name = pipeline.name
        if CUSTOM in definition:
            work = lambda: self._script(name, spec)  # noqa: E731
            wanted = types.CustomJob(display_name=pipeline.display_name, job_spec=spec)
            job = self.custom_jobs.create(request.parent, wanted).name
            with self.custom_jobs.change(job) as begun:
                begun.state = types.JobState.JOB_STATE_RUNNING
        else:
            work = lambda: self._automl(name, inputs, data)  # noqa: E731
            job = ""
        with self.pipelines.change(name) as begun:
            begun.state = STATES.PIPELINE_STATE_RUNNING
            begun.start_time = things.now()
            if job:
                begun.training_task_metadata = {"backingCustomJob": job}
        self._workers.start(name, lambda: self._run(name, work))
        return self.pipelines.get(name)

    def list_pipelines(self, request: Any) -> Any:
        """Those that fulfil a condition."""
        found = self.pipelines.list(request.parent, request.filter)
        return types.ListTrainingPipelinesResponse(training_pipelines=found)

    def cancel(self, request: Any) -> Any:
        """End a training; it is cancelled once its process is gone."""
        with self.pipelines.change(request.name) as pipeline:
            if pipeline.state in ENDED:
                return rpc.empty()
            pipeline.state = STATES.PIPELINE_STATE_CANCELLING
        self._workers.stop(request.name)
        return rpc.empty()

    def delete(self, request: Any) -> Any:
        """Forget a training that has ended."""
        pipeline = self.pipelines.get(request.name)
        if pipeline.state not in ENDED:
            raise rpc.not_now(f"{request.name} is in state {pipeline.state.name}: cancel it first.")
        self.pipelines.drop(request.name)
        return self._operations.done(request.name, None, types.DeleteOperationMetadata())

    def list_jobs(self, request: Any) -> Any:
        """Those that fulfil a condition."""
        found = self.custom_jobs.list(request.parent, request.filter)
        return types.ListCustomJobsResponse(custom_jobs=found)

    def delete_job(self, request: Any) -> Any:
        """Forget a custom job that has ended."""
        if self.custom_jobs.get(request.name).state not in OF_JOB.values():
            raise rpc.not_now(f"{request.name} has not ended.")
        self.custom_jobs.drop(request.name)
        return self._operations.done(request.name, None, types.DeleteOperationMetadata())

    def _run(self, name: str, work: Callable[[], None]) -> None:
        """Do the whole of a training, and say how it ended."""
        folder = self._folder(name)
        folder.mkdir(parents=True)
        try:
            work()
            if fault := self._faults.of_job("CreateTrainingPipeline"):
                raise Failed(fault.reason)
        except Interrupted:
            self._end(name, code_pb2.INTERNAL, INTERRUPTED)
        except Failed as error:
            self._end(name, code_pb2.INVALID_ARGUMENT, str(error))
        except (rpc.Refused, NotStored, tarfile.TarError, LookupError, ValueError) as error:
            self._end(name, code_pb2.INVALID_ARGUMENT, f"{type(error).__name__}: {error}")
        else:
            self._end(name)
        finally:
            shutil.rmtree(folder)

    def _script(self, name: str, spec: Any) -> None:
        """Run the packaged script as Vertex AI's training containers do."""
        folder, package = self._folder(name), spec.worker_pool_specs[0].python_package_spec
        for uri in package.package_uris:
            content = self._buckets.read(*split(uri))
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                archive.extractall(folder / "package", filter="data")
        (root,) = (folder / "package").iterdir()
        output = spec.base_output_directory.output_uri_prefix.rstrip("/")
        env = {
            **self._env,
            "AIP_MODEL_DIR": f"{output}/model/",
            "AIP_CHECKPOINT_DIR": f"{output}/checkpoints/",
            "AIP_TENSORBOARD_LOG_DIR": f"{output}/logs/",
            "CLOUD_ML_JOB_ID": name.rpartition("/")[2],
            "CLOUD_ML_PROJECT_ID": name.split("/")[1],
            **{each.name: each.value for each in package.env},
        }
        command = [sys.executable, "-m", package.python_module, *package.args]
        log = folder / "log.txt"
        code = self._workers.run(name, command, env, root, log)
        if code < 0:
            raise Interrupted
        if code:
            raise Failed(
                f"The replica workerpool0-0 exited with a non-zero status of {code}. "
                f"Termination reason: Error.\n{jobs.last_words(log)}"
            )

    def _automl(self, name: str, inputs: dict[str, Any], dataset: Any) -> None:
        """Have models tried on the data set, and keep the best as a model of its own."""
        folder, pipeline = self._folder(name), self.pipelines.get(name)
        said = json_format.MessageToDict(types.Dataset.pb(dataset).metadata)
        source = said.get("input_config") or said["inputConfig"]
        uris = (source.get("gcs_source") or source["gcsSource"])["uri"]
        for number, uri in enumerate(uris):
            content = self._buckets.read(*split(uri))
            (folder / f"data-{number}.csv").write_bytes(content)
        config = pipeline.input_data_config
        fractions = config.fraction_split
        order = {
            "target": inputs["targetColumn"],
            "columns": {
                given["column_name"] if "column_name" in given else given["columnName"]: kind
                for each in inputs["transformations"]
                for kind, given in each.items()
            },
            "split": config.predefined_split.key,
            "fractions": [fractions.validation_fraction or 0.1, fractions.test_fraction or 0.1],
        }
        (folder / "order.json").write_text(json.dumps(order), encoding="utf-8")
        log = folder / "log.txt"
        command = [sys.executable, "-m", automl.__name__, str(folder)]
        code = self._workers.run(name, command, jobs.WITH_PROJECT, folder, log)
        if code < 0:
            raise Interrupted
        if code:
            raise Failed(f"AutoML could not train.\n{jobs.last_words(log)}")
        model = pipeline.model_to_upload
        model.training_pipeline = name
        made = self._registry.add(
            name.partition("/trainingPipelines/")[0],
            model,
            pipeline.parent_model,
            pipeline.model_id,
        )
        kept = self._registry.trained(made)
        kept.mkdir(parents=True)
        shutil.move(folder / automl.MODEL, kept / automl.MODEL)
        metrics = json.loads((folder / automl.METRICS).read_text(encoding="utf-8"))
        self._registry.evaluate(made, metrics)
        with self.pipelines.change(name) as ended:
            ended.model_to_upload = made

    def _end(self, name: str, code: int = code_pb2.OK, message: str = "") -> None:
        with self.pipelines.change(name) as pipeline:
            if pipeline.state == STATES.PIPELINE_STATE_CANCELLING:
                code, message = code_pb2.CANCELLED, "The training was cancelled."
            pipeline.end_time = things.now()
            if code:
                pipeline.error = status_pb2.Status(code=code, message=message)
            pipeline.state = {
                code_pb2.OK: STATES.PIPELINE_STATE_SUCCEEDED,
                code_pb2.CANCELLED: STATES.PIPELINE_STATE_CANCELLED,
            }.get(code, STATES.PIPELINE_STATE_FAILED)
        said = json_format.MessageToDict(types.TrainingPipeline.pb(pipeline).training_task_metadata)
        if said:
            with self.custom_jobs.change(said["backingCustomJob"]) as job:
                job.state, job.error = OF_JOB[pipeline.state], pipeline.error

    def _folder(self, name: str) -> Path:
        return self._work / name.rpartition("/")[2]


def _check(spec: Any, pipeline: Any) -> None:
    """Refuse what would not run."""
    if pipeline.input_data_config.dataset_id:
        raise rpc.not_here("A custom training on a managed data set")
    if pipeline.model_to_upload.display_name:
        raise rpc.not_here("A model that a custom training uploads by itself")
    if len(spec.worker_pool_specs) != 1 or spec.worker_pool_specs[0].replica_count != 1:
        raise rpc.not_here("A training on more than one replica")
    if not spec.worker_pool_specs[0].python_package_spec.package_uris:
        raise rpc.not_here("A training without a Python package")
    if not spec.base_output_directory.output_uri_prefix.startswith("gs://"):
        raise rpc.invalid("base_output_directory must be a gs:// address.")
