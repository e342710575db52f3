"""Kubeflow as Airflow asks it: what passes is waited for, what does not is said in its words."""

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.sdk import ObjectStoragePath

from include import processes
from include.clouds.kubeflow import api, run
from include.clouds.kubeflow.api import Pipelines
from include.clouds.kubeflow.train_job import KIND, TrainJobSensor, take_away

SPEC = {"pipelineInfo": {"name": "p"}, "root": {"dag": {"tasks": {"only": {}}}}}
CLUSTER = "kubernetes_default"


@pytest.fixture
def pipelines(kubeflow_platform, monkeypatch):
    kubeflow_platform.lead(monkeypatch)
    return Pipelines.at()


@pytest.fixture
def doomed(pipelines, kubeflow_platform):
    """A run that fails at once, for a reason."""
    with kubeflow_platform.trouble("job_fails", "CreateRun", reason="there is no room"):
        begun = pipelines.start({
            "experiment_id": pipelines.experiment("tests"),
            "display_name": "doomed",
            "pipeline_spec": SPEC | {"deploymentSpec": {}},
        })
    yield begun
    pipelines.put_away(pipelines.run(begun["run_id"]))


def test_all_who_ask_at_once_for_an_experiment_get_the_same_one(pipelines):
    with ThreadPoolExecutor(8) as callers:
        found = set(callers.map(pipelines.experiment, ["asked for at once"] * 8))
    assert len(found) == 1


def events(trigger):
    async def heard():
        return [event.payload async for event in trigger.run()]

    return asyncio.run(heard())


def test_a_trigger_stays_with_a_server_that_is_away_for_a_moment(
    pipelines, doomed, kubeflow_platform
):
    trigger = run.RunTrigger(doomed["run_id"], poll_seconds=0.01)
    with kubeflow_platform.trouble("throttled", "GetRun", times=run.PATIENCE - 1):
        assert events(trigger) == [{"run_id": doomed["run_id"]}]
    ended = pipelines.run(doomed["run_id"])
    assert ended["state"] == "FAILED"
    assert pipelines.why(ended) == "only: RuntimeError: there is no room"


def test_a_trigger_wakes_its_task_where_nobody_answers_for_long(doomed, kubeflow_platform):
    trigger = run.RunTrigger(doomed["run_id"], poll_seconds=0.01)
    with kubeflow_platform.trouble("unavailable", "GetRun", times=run.PATIENCE):
        assert events(trigger) == [{"run_id": doomed["run_id"]}]


def test_a_trigger_can_go_on_in_another_triggerer_and_ends_its_run_when_it_is_killed(
    pipelines, doomed
):
    path, values = run.RunTrigger(doomed["run_id"], poll_seconds=0.01).serialize()
    assert path == "include.clouds.kubeflow.run.RunTrigger"
    again = run.RunTrigger(**values)
    assert again.serialize() == (path, values)
    asyncio.run(again.on_kill())
    kept = pipelines.run(doomed["run_id"])
    assert (kept["storage_state"], kept["state"] in api.ACTIVE) == ("ARCHIVED", False)


@pytest.mark.parametrize(("fault", "status"), [("throttled", 429), ("unavailable", 503)])
def test_what_may_mend_itself_is_a_lost_connection(pipelines, kubeflow_platform, fault, status):
    with (
        kubeflow_platform.trouble(fault, "ListExperiments"),
        pytest.raises(ConnectionError, match=f"{status} to GET /apis/v2beta1/experiments"),
    ):
        pipelines.experiment("tests")


def test_what_will_not_mend_itself_says_what_it_is(pipelines):
    with pytest.raises(LookupError, match="no-such-run not found"):
        pipelines.run("no-such-run")
    with pytest.raises(ValueError, match="run name is empty"):
        pipelines.start({"pipeline_spec": SPEC})
    stranger = Pipelines(pipelines.address, "guessed")
    with pytest.raises(PermissionError, match="password of kubeflow_default"):
        stranger.experiment("tests")


def test_a_server_that_is_not_there_is_named_with_its_connection():
    away = Pipelines(f"http://127.0.0.1:{processes.free_port()}", "")
    with pytest.raises(ConnectionError, match="kubeflow_default"):
        away.run("any")


def test_the_connection_says_where_the_server_is_and_who_asks(monkeypatch):
    known = {"conn_type": "http", "schema": "https", "host": "kf.example.com", "password": "t"}
    monkeypatch.setenv("AIRFLOW_CONN_KF", json.dumps(known | {"extra": {"path": "pipeline"}}))
    assert Pipelines.at("kf") == Pipelines("https://kf.example.com/pipeline", "t")


@pytest.mark.parametrize("place", ["run-1/p-2026/train/model", "run-1/train/3f2a/model"])
def test_an_output_is_found_below_the_root_whoever_has_laid_it_out(tmp_path, place):
    (tmp_path / "churn" / place).parent.mkdir(parents=True)
    (tmp_path / "churn" / place).write_bytes(b"weights")
    (tmp_path / "churn" / place).with_name("other").write_bytes(b"")
    root, found = ObjectStoragePath(tmp_path.as_uri()), {"run_id": "run-1"}
    assert api.output(root, found, "train", "model") == b"weights"
    with pytest.raises(FileNotFoundError, match="there are 0"):
        api.output(root, found, "evaluate", "model")
    with pytest.raises(FileNotFoundError, match="reach that place"):
        api.output(root, {"run_id": "run-2"}, "train", "model")


def test_addresses_are_written_as_kubeflow_reads_them():
    assert api.uri("file:///store/rows.parquet#sha256=12") == "/store/rows.parquet"
    assert api.uri("s3://aws_default@bucket/rows.parquet#sha256=12") == "s3://bucket/rows.parquet"


def test_pods_find_files_where_the_store_is_mounted_be_it_a_folder_or_a_bucket():
    assert api.mounted("file:///store/rows.parquet#sha256=12") == "/store/rows.parquet"
    assert api.mounted("s3://aws_default@bucket/rows.parquet#sha256=12") == "/bucket/rows.parquet"


def test_a_pipeline_that_does_not_compile_is_told_by_the_sdk(monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_KUBEFLOW_PYTHON", sys.executable)  # where there is no kfp
    with pytest.raises(ValueError, match="No module named 'kfp'"):
        api.compiled("include.training.churn_pipeline")


@pytest.fixture
def cluster(kubernetes_platform, monkeypatch):
    kubernetes_platform.lead(monkeypatch)
    yield kubernetes_platform
    take_away("train", CLUSTER)
    assert kubernetes_platform.left() == {}


@pytest.mark.parametrize(
    ("code", "fault", "said"),
    [("raise SystemExit('no such file')", 0, "no such file"), ("", 2, "out of discs")],
)
def test_a_train_job_that_fails_is_told_by_one_of_its_nodes(cluster, code, fault, said):
    trainer = {"numNodes": 2, "image": "any", "command": ["python", "-c", code]}
    job = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": "train"},
        "spec": {"runtimeRef": {"name": "torch-distributed"}, "trainer": trainer},
    }
    sensor = TrainJobSensor(
        task_id="wait", job="train", kubernetes_conn_id=CLUSTER, poke_interval=0.1, timeout=20
    )
    with cluster.trouble("job_fails", "CreateTrainJob" if fault else "Nothing", reason=said):
        KubernetesHook(conn_id=CLUSTER).create_custom_object(*KIND, job)
        with pytest.raises(ValueError, match=said):
            sensor.execute({})
