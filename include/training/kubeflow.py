"""A training as a Kubeflow `TrainJob`: the entry point that torchrun starts here, on a cluster."""

from pathlib import Path
from typing import Any

from include.training import launch

# Kubeflow tells each node by PET_* where the first one is; Kubernetes puts that into the command.
MEETING = "$(PET_MASTER_ADDR):$(PET_MASTER_PORT)"
RUNTIME = "torch-distributed"  # comes with Kubeflow's trainer
VOLUME = "store"


def train_job(
    job: launch.Job, nodes: int, ranks: int, name: str, image: str, claim: str, store: Path
) -> dict[str, Any]:
    """The manifest: so many nodes with a card for each of their ranks.

    All nodes mount the claimed volume where the artifact store is here, so the paths are the same.
    """
    container = {"name": "node", "volumeMounts": [{"name": VOLUME, "mountPath": str(store)}]}
    volume = {"name": VOLUME, "persistentVolumeClaim": {"claimName": claim}}
    pod = {"containers": [container], "volumes": [volume]}
    replicated = {"name": "node", "template": {"spec": {"template": {"spec": pod}}}}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {
            "runtimeRef": {"name": RUNTIME},
            "trainer": {
                "image": image,
                "command": [
                    *("torchrun", "--rdzv-backend", "c10d", "--rdzv-endpoint", MEETING),
                    *("--rdzv-id", name, "--max-restarts", str(launch.RESTARTS)),
                    *("-m", "include.training.ddp", *job.as_arguments()),
                ],
                "numNodes": nodes,
                "numProcPerNode": ranks,
                "resourcesPerNode": {"limits": {"nvidia.com/gpu": ranks}},
            },
            "runtimePatches": [
                {
                    "manager": "airflow",
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [replicated]}}},
                }
            ],
        },
    }
