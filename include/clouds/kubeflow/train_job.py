"""A `TrainJob` in a cluster that has Kubeflow Trainer: handed over, asked after, taken away."""

from collections.abc import Sequence
from typing import Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.operators.resource import KubernetesCreateResourceOperator
from airflow.sdk import BaseSensorOperator
from kubernetes.client import ApiException

from include import storage

KIND = ("trainer.kubeflow.org", "v1alpha1", "trainjobs")
LAST_LINES = 15


class TrainJob(KubernetesCreateResourceOperator):
    """Hand a manifest to the cluster; the job that an earlier try handed over is good."""

    template_fields: Sequence[str] = ("manifest",)

    def __init__(self, *, manifest: str, **kwargs: Any):
        """Take the manifest behind this reference."""
        super().__init__(custom_resource_definition=True, **kwargs)
        self.manifest = manifest

    def execute(self, context: Any) -> None:
        """Create it, as the operator does."""
        self.yaml_conf = storage.read_bytes(self.manifest).decode()
        super().execute(context)

    def create_custom_from_yaml_object(self, body: dict[str, Any]) -> None:
        """A name that is taken was taken by ourselves: it follows from this run."""
        try:
            super().create_custom_from_yaml_object(body)
        except ApiException as error:
            if error.status != 409:
                raise
            self.log.info("%s is there already", body["metadata"]["name"])


class TrainJobSensor(BaseSensorOperator):
    """Wait until a job has done its work; one that failed is told by the last words of a node."""

    template_fields: Sequence[str] = ("job",)

    def __init__(self, *, job: str, kubernetes_conn_id: str, **kwargs: Any):
        """Look at the job of this name."""
        super().__init__(**kwargs)
        self.job = job
        self.kubernetes_conn_id = kubernetes_conn_id

    def poke(self, context: Any) -> bool:
        """Ask the cluster."""
        hook = KubernetesHook(conn_id=self.kubernetes_conn_id)
        status = hook.get_custom_object(*KIND, self.job).get("status", {})
        held = {each["type"]: each for each in status.get("conditions", []) if _true(each)}
        if "Failed" in held:
            raise ValueError(f"{held['Failed']['message']}: {_last_words(hook, self.job)}")
        return "Complete" in held


def take_away(name: str, conn_id: str) -> None:
    """Delete the job and the pod of this name, if they are there, with all that they have made."""
    hook = KubernetesHook(conn_id=conn_id)
    for delete, *named in (
        (hook.delete_custom_object, *KIND, name),
        (hook.core_v1_client.delete_namespaced_pod, name, hook.get_namespace()),
    ):
        try:
            delete(*named)
        except ApiException as error:
            if error.status != 404:
                raise


def _true(condition: dict[str, str]) -> bool:
    return condition["status"] == "True"


def _last_words(hook: KubernetesHook, name: str) -> str:
    """What the cluster says of a node that failed, or else what that printed at its end."""
    core, space = hook.core_v1_client, hook.get_namespace()
    pods = core.list_namespaced_pod(
        space, label_selector=f"jobset.sigs.k8s.io/jobset-name={name}"
    ).items
    for pod in pods:
        if pod.status.phase == "Failed":
            log = core.read_namespaced_pod_log(
                pod.metadata.name, space, tail_lines=LAST_LINES, _preload_content=False
            )
            return str(pod.status.message or log.data.decode(errors="replace").strip())
    return "none of its pods is left"
