"""Vertex AI and Cloud Storage: `python -m include.local_cloud.vertex --folder F --port P`.

**There is**: data sets; training pipelines, of a packaged script (one replica, no managed data set,
no model uploaded by the job itself) and of AutoML for tables (classification); custom jobs behind
them; models with versions, aliases and evaluations; endpoints with traffic split, whose models
answer from processes; online predictions; batch predictions from jsonl to jsonl; long-running
operations; and buckets with objects (`storage.py`). Everything else is answered with
UNIMPLEMENTED, by name.

**Not proved here**: who may do what (any holder of the token may everything), quotas, prices,
machines, images (a container's command runs with this project's interpreter and packages) and how
good Google's AutoML is (here it chooses among three kinds of models).

Google's clients know their hosts by heart, so the way here is a proxy (`proxy.py`) and a
certificate authority that they are told to trust.
"""

from pathlib import Path

from include.local_cloud import jobs, server
from include.local_cloud.certificates import certificates
from include.local_cloud.vertex import rpc, storage
from include.local_cloud.vertex.batch import Batches
from include.local_cloud.vertex.buckets import Buckets
from include.local_cloud.vertex.credentials import PROJECT, Credentials
from include.local_cloud.vertex.proxy import Proxy
from include.local_cloud.vertex.registry import Registry
from include.local_cloud.vertex.serving import Endpoints, Servers
from include.local_cloud.vertex.training import Training

CONNECTION = "google_cloud_default"
HOSTS = ["*.googleapis.com"]


class Vertex:
    """The platform."""

    def __init__(self, folder: Path, faults: server.Faults) -> None:
        """Open what was kept, and listen."""
        self._credentials = Credentials(folder)
        self._workers = jobs.Jobs()
        self._buckets = Buckets(folder / "storage")
        port = server.port(folder, "storage")
        self._storage = storage.serve(self._buckets, self._credentials, faults, port)
        address = f"http://{server.HOST}:{port}"
        env = {
            storage.ADDRESS: address,
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            "GOOGLE_APPLICATION_CREDENTIALS": str(self._credentials.file),
        }
        operations = rpc.Operations(folder / "operations", self._workers)
        self._registry = Registry(folder, operations, self._buckets)
        self._training = Training(
            folder, self._registry, self._buckets, operations, self._workers, faults, env
        )
        servers = Servers(folder / "serving", self._registry, self._workers, env)
        self._endpoints = Endpoints(folder, self._registry, servers, operations, faults)
        self._batches = Batches(
            folder, self._registry, self._buckets, servers, operations, self._workers, faults
        )
        made = certificates(folder / "certificates", HOSTS)
        self._listener = rpc.Listener(
            {
                "GetOperation": lambda request: operations.get(request.name),
                **self._registry.calls(),
                **self._training.calls(),
                **self._endpoints.calls(),
                **self._batches.calls(),
            },
            self._credentials,
            faults,
            made.key.read_bytes(),
            made.server.read_bytes(),
        )
        self._proxy = Proxy(self._listener.port, server.port(folder, "proxy"))
        self._redirect = server.Redirect(
            connections={
                CONNECTION: {
                    "conn_type": "google_cloud_platform",
                    "extra": {
                        "credential_config_file": str(self._credentials.file),
                        "project": PROJECT,
                    },
                }
            },
            env={
                "grpc_proxy": self._proxy.address,
                "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(made.authority),
                storage.ADDRESS: address,
            },
        )

    def redirect(self) -> server.Redirect:
        """What leads clients here."""
        return self._redirect

    def resources(self) -> dict[str, list[str]]:
        """What users have left."""
        kept = {
            "datasets": self._registry.datasets.names(),
            "trainingPipelines": self._training.pipelines.names(),
            "customJobs": self._training.custom_jobs.names(),
            "models": self._registry.models.names(),
            "endpoints": self._endpoints.endpoints.names(),
            "batchPredictionJobs": self._batches.jobs.names(),
            "buckets": self._buckets.names(),
        }
        return {kind: names for kind, names in kept.items() if names}

    def close(self) -> None:
        """Stop listening, then end what runs; what was under way is found at the next start."""
        self._proxy.close()
        self._listener.close()
        self._storage.shutdown()
        self._storage.server_close()
        self._workers.close()


if __name__ == "__main__":
    server.main(Vertex)
