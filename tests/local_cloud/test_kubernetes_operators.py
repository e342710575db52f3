"""Airflow's own operators against the local cluster, as a pipeline uses them."""

import gc
import textwrap
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.providers.cncf.kubernetes.operators.job import (
    KubernetesDeleteJobOperator,
    KubernetesJobOperator,
)
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.operators.resource import (
    KubernetesCreateResourceOperator,
    KubernetesDeleteResourceOperator,
)
from airflow.sdk import DAG, task

from include.tools import environment
from tests import harness
from tests.harness import FinishedRun
from tests.services import Platform

IMAGE = "python:3.11"
NUMBERS = count(1)


def forgets_sockets(test: Any) -> Any:
    """Reading an XCom does: websocket-client 1.9 leaves open what the server closes."""
    unwatched = pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket")
    return pytest.mark.usefixtures("collected")(unwatched(test))


@pytest.fixture
def collected() -> Iterator[None]:
    """What a test forgets is found in that test, and not in a later one."""
    yield
    gc.collect()


@pytest.fixture
def run(
    airflow_database: None, kubernetes_platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., FinishedRun]:
    """Run a pipeline that consists of what one operator does."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.collection import update_dag_parsing_results_in_db
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.session import create_session

    kubernetes_platform.lead(monkeypatch)

    def one(make: Callable[..., Any], **settings: Any) -> FinishedRun:
        number = next(NUMBERS)
        with DAG(f"cluster_{number}", schedule=None, start_date=datetime(2026, 1, 1)) as dag:
            make(task_id="train", kubernetes_conn_id="kubernetes_default", **settings)
        DagBundlesManager().sync_bundles_to_db()
        known = [LazyDeserializedDAG.from_dag(dag)]
        with create_session() as session:
            update_dag_parsing_results_in_db(
                environment.BUNDLE, None, known, {}, None, set(), session
            )
        return harness._run(dag, None, datetime(2026, 1, 1, tzinfo=UTC))

    return one


def pod(code: str, **more: Any) -> dict[str, Any]:
    """What most of the pods here have in common."""
    settings: dict[str, Any] = {
        "name": "train",
        "image": IMAGE,
        "cmds": ["python", "-c"],
        "arguments": [textwrap.dedent(code)],
        "startup_check_interval_seconds": 0.2,
        "base_container_status_polling_interval": 0.2,
        "startup_timeout_seconds": 30,
    }
    return settings | more


def test_a_pod_runs_and_is_gone_afterwards(run: Any, kubernetes_platform: Platform) -> None:
    assert run(KubernetesPodOperator, **pod("print('seen', 6 * 7)")).state == "success"
    assert kubernetes_platform.left() == {}


def test_a_failing_pod_fails_the_task_and_says_why(run: Any, kubernetes_platform: Platform) -> None:
    says = {"termination_message_policy": "FallbackToLogsOnError"}
    finished = run(KubernetesPodOperator, **pod("raise SystemExit(f'no column {1 + 1}')", **says))
    assert finished.states == {"train": "failed"}
    assert "no column 2" in finished.error("train")
    assert kubernetes_platform.left() == {}


@forgets_sockets
def test_what_a_pod_writes_for_airflow_is_its_xcom(run: Any, kubernetes_platform: Platform) -> None:
    code = """
        import json
        with open("/airflow/xcom/return.json", "w") as file:
            json.dump({"auc": 0.75}, file)
    """
    finished = run(KubernetesPodOperator, **pod(code, do_xcom_push=True))
    assert finished.state == "success", finished.error("train")
    assert finished.xcom("train") == {"auc": 0.75}
    assert kubernetes_platform.left() == {}


@pytest.mark.parametrize(("code", "state"), [("print(6 * 7)", "success"), ("1 / 0", "failed")])
def test_a_pod_is_waited_for_without_a_worker(
    run: Any, kubernetes_platform: Platform, code: str, state: str
) -> None:
    finished = run(KubernetesPodOperator, **pod(code, deferrable=True, poll_interval=0.2))
    assert finished.states == {"train": state}
    assert kubernetes_platform.left() == {}


@forgets_sockets
def test_a_decorated_function_runs_in_a_pod(run: Any, kubernetes_platform: Platform) -> None:
    def make(**settings: Any) -> None:
        @task.kubernetes(multiple_outputs=False, **settings)
        def train(rows: int) -> dict[str, int]:
            return {"rows": rows * 2}

        train(21)

    settings = pod("") | {"do_xcom_push": True}
    del settings["cmds"], settings["arguments"], settings["name"]
    finished = run(make, **settings)
    assert finished.state == "success", finished.error("train")
    assert finished.xcom("train") == {"rows": 42}
    assert kubernetes_platform.left() == {}


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize(("code", "error"), [("print(6 * 7)", ""), ("1 / 0", "BackoffLimit")])
def test_a_job_ends_as_its_pods_do(
    run: Any, kubernetes_platform: Platform, code: str, error: str, deferrable: bool
) -> None:
    finished = run(
        KubernetesJobOperator,
        **pod(code, deferrable=deferrable),
        parallelism=1,
        backoff_limit=0,
        wait_until_job_complete=True,
        job_poll_interval=0.2,
    )
    assert finished.states == {"train": "failed" if error else "success"}
    assert error in (finished.error("train") if error else "")
    name = finished.xcom("train", "job_name")
    assert kubernetes_platform.left()["jobs.batch"] == [f"default/{name}"]
    run(KubernetesDeleteJobOperator, name=name, namespace="default")
    assert kubernetes_platform.left() == {}


def test_a_train_job_fails_with_its_nodes(run: Any, kubernetes_platform: Platform) -> None:
    manifest = {"yaml_conf": train_job("1 / 0"), "custom_resource_definition": True}
    run(KubernetesCreateResourceOperator, **manifest)
    (condition,) = wait_for_train_job()["conditions"]
    assert (condition["type"], condition["reason"]) == ("Failed", "FailedJobs")
    run(KubernetesDeleteResourceOperator, **manifest)
    assert kubernetes_platform.left() == {}


def test_what_a_cluster_refuses_once_is_asked_again(
    run: Any, kubernetes_platform: Platform
) -> None:
    with kubernetes_platform.trouble("throttled", "CreatePod"):
        assert run(KubernetesPodOperator, **pod("print(6 * 7)")).state == "success"
    with kubernetes_platform.trouble("job_fails", "CreatePod", reason="the node has no memory"):
        finished = run(KubernetesPodOperator, **pod("print(6 * 7)"))
    assert "the node has no memory" in finished.error("train")
    assert kubernetes_platform.left() == {}


def train_job(code: str, nodes: int = 2) -> str:
    trainer = {"numNodes": nodes, "command": ["python", "-c"], "args": [textwrap.dedent(code)]}
    return yaml.safe_dump({
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": "fraud-net"},
        "spec": {"runtimeRef": {"name": "torch-distributed"}, "trainer": trainer},
    })


def test_a_train_job_runs_on_as_many_nodes_as_it_names(
    run: Any, kubernetes_platform: Platform, tmp_path: Path
) -> None:
    code = f"""
        import os, pathlib
        rank, size = os.environ["PET_NODE_RANK"], os.environ["PET_NNODES"]
        pathlib.Path({str(tmp_path)!r}, rank).write_text(size)
    """
    manifest = {"yaml_conf": train_job(code, 3), "custom_resource_definition": True}
    assert run(KubernetesCreateResourceOperator, **manifest).state == "success"
    status = wait_for_train_job()
    assert [(each["type"], each["status"]) for each in status["conditions"]] == [
        ("Complete", "True")
    ]
    assert status["jobsStatus"][0]["succeeded"] == 1
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == dict.fromkeys("012", "3")
    assert len(kubernetes_platform.left()["pods"]) == 3
    assert run(KubernetesDeleteResourceOperator, **manifest).state == "success"
    assert kubernetes_platform.left() == {}


def wait_for_train_job() -> dict[str, Any]:
    """Its status once it has ended, as a sensor asks for it."""
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    hook, deadline = KubernetesHook(conn_id="kubernetes_default"), time.monotonic() + 20
    while time.monotonic() < deadline:
        found = hook.get_custom_object(
            "trainer.kubeflow.org", "v1alpha1", "trainjobs", "fraud-net", "default"
        )
        status: dict[str, Any] = found.get("status", {})
        if {"Complete", "Failed"} & {each["type"] for each in status.get("conditions", [])}:
            return status
        time.sleep(0.1)
    raise AssertionError(f"the train job does not end: {found}")
