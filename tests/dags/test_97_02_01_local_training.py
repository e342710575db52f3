"""97.2.1 Local Training Tasks: three ways, one model, and a pool that the ways share."""

import json
from datetime import timedelta

import pytest
from sklearn.metrics import roc_auc_score

from include import storage
from include.training import neural

DAG = "97_02_01_local_training"
WAYS = ("python_operator", "taskflow", "isolated")


@pytest.fixture(scope="module")
def run(run_dag, training_python):
    return run_dag(DAG)


def weights(run, way):
    return neural.loads(storage.read_bytes(run.reference(f"train.{way}", "weights")))


def auc(run, way):
    holdout = run.frame("data.prepare", "holdout")
    scored = neural.scores(weights(run, way), holdout.drop(columns="churned").to_numpy())
    return roc_auc_score(holdout.churned, scored)


@pytest.mark.shows("97.2.1", "PythonOperator training")
def test_the_python_operator_trains_a_model_that_tells_who_leaves(run):
    assert auc(run, "python_operator") > 0.5 + 0.2


@pytest.mark.shows("97.2.1", "TaskFlow training task")
@pytest.mark.parametrize("way", ["taskflow", "isolated"])
def test_the_other_ways_give_the_same_weights_bit_for_bit(run, way):
    assert run.digest(f"train.{way}", "weights") == run.digest("train.python_operator", "weights")


@pytest.mark.shows("97.2.1", "Resource allocation")
def test_each_training_takes_slots_of_the_gpu_pool_and_has_a_time_limit(dagbag):
    tasks = {way: dagbag.dags[DAG].get_task(f"train.{way}") for way in WAYS}
    assert {way: (t.pool, t.pool_slots) for way, t in tasks.items()} == {
        "python_operator": ("gpu_pool", 1),
        "taskflow": ("gpu_pool", 1),
        "isolated": ("gpu_pool", 2),
    }
    assert {t.execution_timeout for t in tasks.values()} == {timedelta(minutes=10)}


@pytest.mark.shows("97.2.1", "Resource allocation")
def test_what_each_training_took_is_recorded(run):
    for way in WAYS:
        cost = run.xcom(f"train.{way}")
        assert cost["device"]
        assert cost["seconds"] > 0
        assert cost["peak_memory_mb"] > 1


@pytest.mark.shows("97.2.1", "Output handling")
def test_xcom_carries_references_and_less_than_a_kilobyte(run):
    for (task_id, _, key), value in run.xcoms().items():
        if key == "return_value":
            assert len(json.dumps(value)) < 1024, task_id


@pytest.mark.shows("97.2.1", "Output handling")
def test_the_kept_run_has_the_settings_the_weights_and_the_score(run, registry):
    kept = registry.client.get_run(run.xcom("outputs.keep"))
    files = [each.path for each in registry.client.list_artifacts(kept.info.run_id)]
    assert sorted(files) == ["seconds.png", "weights.npz"]
    assert kept.data.params["epochs"] == "20"
    assert kept.data.metrics["auc"] == pytest.approx(auc(run, "taskflow"), abs=1e-4)


def test_the_thread_limit_ends_with_the_training(run):
    import torch

    before = torch.get_num_threads()
    rows = run.frame("data.prepare", "train").head(300)
    inputs, labels = rows.drop(columns="churned").to_numpy(), rows["churned"].to_numpy()
    neural.train(inputs, labels, neural.Settings(epochs=1, threads=before + 1))
    assert torch.get_num_threads() == before


def test_other_settings_give_another_model(run, run_dag):
    other = run_dag(DAG, conf={"hidden": 4})
    assert weights(other, "isolated")["inner"].shape[1] == 4
    assert other.digest("train.taskflow", "weights") == other.digest("train.isolated", "weights")


def test_the_same_date_again_gives_the_same_weights_and_the_same_mlflow_run(run, run_dag):
    again = run_dag(DAG, logical_date=run.logical_date)
    assert again.digest("train.isolated", "weights") == run.digest("train.isolated", "weights")
    assert again.xcom("outputs.keep") == run.xcom("outputs.keep")


def test_a_missing_interpreter_fails_at_once_and_is_named(run_dag, monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_TRAINING_PYTHON", "/nowhere/bin/python")
    failed = run_dag(DAG, expect="failed")
    assert "/nowhere/bin/python" in failed.error("train.isolated")
    assert failed.tries("train.isolated") == 1
    assert failed.states["outputs.compare"] == "upstream_failed"


@pytest.mark.gpu
def test_the_training_really_ran_on_the_card(run):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here: the same tasks ran on the processor")
    for way in WAYS:
        cost = run.xcom(f"train.{way}")
        assert cost["device"] == torch.cuda.get_device_name()
        assert cost["peak_memory_mb"] > 0
