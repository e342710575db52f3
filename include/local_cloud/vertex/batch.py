"""Batch prediction: files of instances in, files of predictions out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.cloud.aiplatform_v1 import types
from google.rpc import code_pb2, status_pb2

from include.local_cloud import jobs, server
from include.local_cloud.vertex import rpc, things
from include.local_cloud.vertex.buckets import Buckets, split
from include.local_cloud.vertex.buckets import Refused as NotStored
from include.local_cloud.vertex.registry import Registry
from include.local_cloud.vertex.serving import Servers
from include.local_cloud.vertex.training import INTERRUPTED

STATES = types.JobState
ENDED = (STATES.JOB_STATE_SUCCEEDED, STATES.JOB_STATE_FAILED, STATES.JOB_STATE_CANCELLED)
AT_ONCE = 64  # instances


class Batches:
    """The jobs."""

    def __init__(
        self,
        folder: Path,
        registry: Registry,
        buckets: Buckets,
        servers: Servers,
        operations: rpc.Operations,
        workers: jobs.Jobs,
        faults: server.Faults,
    ) -> None:
        """Open what was kept; what ran when the platform stopped has failed."""
        self._registry, self._buckets, self._servers = registry, buckets, servers
        self._operations, self._workers, self._faults = operations, workers, faults
        self.jobs = things.Things(folder, "batchPredictionJobs")
        for job in self.jobs.all():
            if job.state not in ENDED:
                self._end(job.name, code_pb2.INTERNAL, INTERRUPTED)

    def calls(self) -> dict[str, Callable[[Any], Any]]:
        """What clients can ask for."""
        return {
            "CreateBatchPredictionJob": self.create,
            "GetBatchPredictionJob": lambda request: self.jobs.get(request.name),
            "ListBatchPredictionJobs": self.list_jobs,
            "CancelBatchPredictionJob": self.cancel,
            "DeleteBatchPredictionJob": self.delete,
        }

    def create(self, request: Any) -> Any:
        """Begin a job."""
        wanted = request.batch_prediction_job
        model = self._registry.version(wanted.model)
        source, target = wanted.input_config, wanted.output_config
        if (source.instances_format, target.predictions_format) != ("jsonl", "jsonl"):
            raise rpc.not_here("A batch prediction that is not from jsonl to jsonl")
        if not source.gcs_source.uris or not target.gcs_destination.output_uri_prefix:
            raise rpc.invalid("Give gcs_source and gcs_destination.")
        wanted.model_version_id = model.version_id
        name = self.jobs.create(request.parent, wanted).name
        with self.jobs.change(name) as job:
            job.state, job.start_time = STATES.JOB_STATE_RUNNING, things.now()
        self._workers.start(name, lambda: self._run(name, model))
        return self.jobs.get(name)

    def list_jobs(self, request: Any) -> Any:
        """Those that fulfil a condition."""
        found = self.jobs.list(request.parent, request.filter)
        return types.ListBatchPredictionJobsResponse(batch_prediction_jobs=found)

    def cancel(self, request: Any) -> Any:
        """End a job; it is cancelled once its process is gone."""
        with self.jobs.change(request.name) as job:
            if job.state in ENDED:
                return rpc.empty()
            job.state = STATES.JOB_STATE_CANCELLING
        self._servers.stop(request.name)
        return rpc.empty()

    def delete(self, request: Any) -> Any:
        """Forget a job that has ended."""
        job = self.jobs.get(request.name)
        if job.state not in ENDED:
            raise rpc.not_now(f"{request.name} is in state {job.state.name}: cancel it first.")
        self.jobs.drop(request.name)
        return self._operations.done(request.name, None, types.DeleteOperationMetadata())

    def _run(self, name: str, model: Any) -> None:
        try:
            self._predict(name, model)
        except OSError:  # its server is gone: it was cancelled, or the platform stops
            self._end(name, code_pb2.INTERNAL, INTERRUPTED)
        except (rpc.Refused, NotStored, ValueError) as error:
            self._end(name, code_pb2.INVALID_ARGUMENT, str(error))
        else:
            fault = self._faults.of_job("CreateBatchPredictionJob")
            self._end(
                name, code_pb2.INTERNAL if fault else code_pb2.OK, fault.reason if fault else ""
            )
        finally:
            self._servers.stop(name)

    def _predict(self, name: str, model: Any) -> None:
        """Start the model for this job alone, and ask it all."""
        job, lines = self.jobs.get(name), list[str]()
        for uri in job.input_config.gcs_source.uris:
            content = self._buckets.read(*split(uri)).decode()
            lines += [line for line in content.splitlines() if line.strip()]
        instances = [json.loads(line) for line in lines]
        good, bad = list[str](), list[str]()
        for first in range(0, len(instances), AT_ONCE):
            some = instances[first : first + AT_ONCE]
            try:
                answers = self._servers.ask(name, model, some)
            except rpc.Refused as error:
                status = {"code": error.code.value[0], "message": error.message}
                bad += [json.dumps({"instance": each, "error": status}) for each in some]
                continue
            pairs = zip(some, answers, strict=True)
            good += [json.dumps({"instance": each, "prediction": told}) for each, told in pairs]
        if bad and not good:
            raise ValueError(json.loads(bad[0])["error"]["message"])
        prefix = job.output_config.gcs_destination.output_uri_prefix.rstrip("/")
        moment = job.create_time.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        output = f"{prefix}/prediction-{model.display_name}-{moment}"
        bucket, folder = split(output)
        for kind, written in (("results", good), ("errors_stats", bad)):
            text = "".join(f"{line}\n" for line in written)
            self._buckets.write(bucket, f"{folder}/prediction.{kind}-00000-of-00001", text.encode())
        with self.jobs.change(name) as ended:
            ended.output_info.gcs_output_directory = output
            ended.completion_stats.successful_count = len(good)
            ended.completion_stats.failed_count = len(bad)

    def _end(self, name: str, code: int = code_pb2.OK, message: str = "") -> None:
        with self.jobs.change(name) as job:
            if job.state == STATES.JOB_STATE_CANCELLING:
                code, message = code_pb2.CANCELLED, "The job was cancelled."
            job.end_time = things.now()
            if code:
                job.error = status_pb2.Status(code=code, message=message)
            job.state = {
                code_pb2.OK: STATES.JOB_STATE_SUCCEEDED,
                code_pb2.CANCELLED: STATES.JOB_STATE_CANCELLED,
            }.get(code, STATES.JOB_STATE_FAILED)
