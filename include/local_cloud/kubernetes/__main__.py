"""A Kubernetes cluster with one node, on which containers are processes of this machine.

Implemented: pods (with `log`, `exec`, `status`), jobs, config maps, secrets, claims of volumes,
events, namespaces and custom resource definitions, each with create, get, list, watch, update,
patch, delete and delete of many; discovery. Of Kubeflow Trainer: `TrainJob` and its runtimes
(`torch-distributed` is installed); of KServe: `InferenceService` whose predictor is a container of
its own, in one pod, at a port that it finds in PORT; one that names a model's format is refused by
its status for want of a runtime, and there is no traffic to two revisions. A definition adds other
kinds; their schemas are not checked. Deleting in the foreground does the same as in the background.

Answered "not implemented" by name: all other kinds of a cluster (deployments, services, nodes,
roles, …), server-side apply, attach, port-forward, exec with a terminal, logs of earlier restarts,
projected volumes. Restarts wait for a second where a real cluster waits for ten.

Not proved: images (a name is recorded and nothing is pulled: `python` is this interpreter, and the
project is importable), isolation (a container sees this machine's files and processes), mount paths
inside a program's own files (see `sandbox`), access rules, limits of CPU and memory, scheduling,
the network between pods (all share 127.0.0.1), price.
"""

import json
import ssl
from pathlib import Path

from include.local_cloud import server
from include.local_cloud.certificates import Certificates, certificates
from include.local_cloud.kubernetes import resources
from include.local_cloud.kubernetes.api import Api
from include.local_cloud.kubernetes.controllers import RUNTIME, Controllers
from include.local_cloud.kubernetes.kubelet import Kubelet
from include.local_cloud.kubernetes.objects import SEEDED, Object, Store
from include.local_cloud.kubernetes.sandbox import OF_THIS_MACHINE

NAMESPACE = "default"
ARTIFACTS = "artifact-store"


class Kubernetes:
    """The cluster that listens."""

    def __init__(self, folder: Path, faults: server.Faults) -> None:
        """With what an earlier start remembered."""
        self._store = Store(folder / "objects")
        if self._store.find(resources.CLAIMS, NAMESPACE, ARTIFACTS) is None:
            self._store.create(resources.CLAIMS, NAMESPACE, _artifact_store())
        self._kubelet = Kubelet(self._store, faults, folder)
        self._controllers = Controllers(self._store)
        shown = certificates(folder / "certificates", [server.HOST])
        token, port = server.secret(folder / "token"), server.port(folder)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(shown.server, shown.key)
        self._api = Api(self._store, self._kubelet, faults, token, tls, port)
        self._config = folder / "kubeconfig"
        server.write(self._config, json.dumps(_kubeconfig(port, token, shown)))

    def redirect(self) -> server.Redirect:
        """A connection with a kubeconfig, as one has for a real cluster."""
        extra = {"kube_config_path": str(self._config), "namespace": NAMESPACE}
        connection = {"conn_type": "kubernetes", "extra": extra}
        return server.Redirect({"kubernetes_default": connection})

    def resources(self) -> dict[str, list[str]]:
        """Everything but what a cluster has from its beginning, and its events."""
        given = {(resources.CLUSTER_RUNTIMES, RUNTIME), (resources.CLAIMS, ARTIFACTS)}
        given |= {(resources.NAMESPACES, name) for name in SEEDED}
        found = {
            kind.name: [
                "/".join(
                    filter(None, (each["metadata"].get("namespace"), each["metadata"]["name"]))
                )
                for each in self._store.all(kind)
                if (kind, each["metadata"]["name"]) not in given
            ]
            for kind in self._store.resources()
            if kind != resources.EVENTS
        }
        return {kind: names for kind, names in found.items() if names}

    def close(self) -> None:
        """Stop listening, and end what runs."""
        self._api.close()
        self._controllers.close()
        self._kubelet.close()


def _artifact_store() -> Object:
    """Those who run a cluster give pods the volume that the artifact store is on."""
    meta = {"name": ARTIFACTS, "annotations": {OF_THIS_MACHINE: "true"}}
    spec = {"accessModes": ["ReadWriteMany"]}
    return {"metadata": meta, "spec": spec, "status": {"phase": "Bound"}}


def _kubeconfig(port: int, token: str, shown: Certificates) -> dict[str, object]:
    """YAML is what clients expect, and JSON is YAML.

    The authority is named, not told: for what is told, a client leaves a file in /tmp.
    """
    cluster = {
        "server": f"https://{server.HOST}:{port}",
        "certificate-authority": str(shown.authority),
    }
    context = {"cluster": "local", "user": "catalogue", "namespace": NAMESPACE}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": cluster}],
        "users": [{"name": "catalogue", "user": {"token": token}}],
        "contexts": [{"name": "local", "context": context}],
        "current-context": "local",
    }


if __name__ == "__main__":
    server.main(Kubernetes)
