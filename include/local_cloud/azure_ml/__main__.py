"""Start the local Azure ML: `python -m include.local_cloud.azure_ml --folder F --port P`."""

import os
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path

import certifi

from include.local_cloud import server
from include.local_cloud.azure_ml import front
from include.local_cloud.azure_ml.identity import CLIENT, TENANT, Identity
from include.local_cloud.azure_ml.protocol import GROUP, SUBSCRIPTION, WORKSPACE
from include.local_cloud.azure_ml.serving import Serving
from include.local_cloud.azure_ml.storage import Blobs
from include.local_cloud.azure_ml.tracking import Tracking
from include.local_cloud.azure_ml.work import Work
from include.local_cloud.azure_ml.workspace import Workspace
from include.local_cloud.certificates import certificates
from include.local_cloud.jobs import Jobs
from include.local_cloud.state import Table

HOSTS = ["localhost", "127.0.0.1"]
CONNECTION = "azure_ml_default"
PYTHON = "AIRFLOW_VAR_AZURE_ML_PYTHON"
PROJECT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class AzureML:
    """The platform while it runs."""

    listener: ThreadingHTTPServer
    identity: Identity
    workspace: Workspace
    work: Work
    serving: Serving
    env: dict[str, str]

    def redirect(self) -> server.Redirect:
        """A service principal for the connection; the SDKs read the address of their cloud."""
        connection = {
            "conn_type": "azure",
            "login": CLIENT,
            "password": self.identity.secret,
            "host": self.identity.base,
            "extra": {
                "tenantId": TENANT,
                "subscriptionId": SUBSCRIPTION,
                "resourceGroup": GROUP,
                "workspace": WORKSPACE,
            },
        }
        return server.Redirect({CONNECTION: connection}, self.env)

    def resources(self) -> dict[str, list[str]]:
        """What costs money or stands in the way; ended jobs and their runs are history."""
        kept = {name: self.workspace.assets.get(name) for name in self.workspace.assets}
        models = [
            ":".join(name.split("/")[1:])
            for name, asset in kept.items()
            if name.startswith("models/") and asset and not asset["properties"].get("isArchived")
        ]
        left = {
            "computes": list(self.workspace.computes),
            "endpoints": list(self.serving.endpoints),
            "deployments": list(self.serving.deployments),
            "models": models,
            "running jobs": self.work.running(),
        }
        return {kind: names for kind, names in left.items() if names}

    def close(self) -> None:
        """Answer nobody any more, and end every process."""
        self.listener.shutdown()
        self.listener.server_close()
        self.serving.close()
        self.work.close()
        self.serving.jobs.close()


def opened(folder: Path, faults: server.Faults) -> AzureML:
    """Take a port, take up what was there before, and answer."""
    made = certificates(folder / "certificates", HOSTS)
    listener = front.listen(made, server.port(folder))
    base = f"https://localhost:{listener.server_address[1]}"
    identity = Identity.at(folder, base)
    # What else is trusted stays trusted.
    trusted = folder / "trusted.pem"
    server.write(trusted, Path(certifi.where()).read_bytes() + made.authority.read_bytes())
    env = {
        "ARM_CLOUD_METADATA_URL": f"{base}/metadata/endpoints?api-version=2019-05-01",
        "AZURE_AUTHORITY_HOST": base,
        "REQUESTS_CA_BUNDLE": str(trusted),
    }
    # Nodes share the cores of this machine: threads that wait for each other would only spin.
    node = env | {"OMP_NUM_THREADS": "1"}
    python = Path(os.environ.get(PYTHON, PROJECT / ".venvs" / "azure_ml" / "bin" / "python"))
    (folder / "blobs").mkdir(exist_ok=True)
    (folder / "deployments").mkdir(exist_ok=True)

    def table(name: str) -> Table:
        return Table(folder / "state" / name)

    blobs = Blobs(folder / "blobs", table("blobs"), identity)
    tracking = Tracking(base, table("experiments"), table("runs"))
    workspace = Workspace(base, blobs, tracking, table("computes"), table("assets"), table("jobs"))
    work = Work(workspace, identity, faults, Jobs(), workspace.jobs, folder / "work", python, node)
    serving = Serving(
        workspace,
        identity,
        Jobs(),
        table("endpoints"),
        table("deployments"),
        folder / "deployments",
        python,
        node,
    )
    work.recover()
    serving.recover()
    routes = [
        *identity.routes(),
        *blobs.routes(),
        *tracking.routes(),
        *workspace.routes(),
        *work.routes(),
        *serving.routes(),
    ]
    front.serve(listener, front.Front(routes, faults, identity.knows))
    return AzureML(listener, identity, workspace, work, serving, env)


if __name__ == "__main__":
    server.main(opened)
