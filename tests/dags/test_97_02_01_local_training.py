"""97.2.1 Local Training Tasks: three ways, one model, and a pool that the ways share."""

import json
import subprocess
import sys
from datetime import timedelta

import pandas as pd
import pytest
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import AirflowException, ParamValidationError
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
def test_each_training_takes_slots_of_the_gpu_pool_and_has_a_time_limit(dags):
    tasks = {way: dags[DAG].get_task(f"train.{way}") for way in WAYS}
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
    # A process of its own, without Airflow in it, is much the smaller one.
    assert (
        run.xcom("train.isolated")["peak_memory_mb"]
        < run.xcom("train.taskflow")["peak_memory_mb"] - 50
    )


def test_the_memory_of_the_process_that_started_a_training_is_not_counted():
    ask = "from include.training import neural; print(neural._peak_memory_mb('cpu'))"
    ballast = bytearray(b"x") * (600 * 2**20)
    took = float(subprocess.check_output([sys.executable, "-c", ask]))
    assert len(ballast) / 2**20 > took > 1


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


@pytest.mark.parametrize("damage", ["cut short", "other rows"])
def test_training_rows_that_were_changed_are_refused_at_once_by_each_way(
    run_dag, training_python, monkeypatch, damage
):
    find = storage.local_path

    def damaged(reference):
        path = find(reference)
        if damage == "cut short":
            path.write_bytes(path.read_bytes()[:500])
        else:
            pd.read_parquet(path).head(1000).to_parquet(path)
        return path

    monkeypatch.setattr(storage, "local_path", damaged)
    failed = run_dag(DAG, expect="failed")
    for way in WAYS:
        assert "train.parquet was changed after it was written" in failed.error(f"train.{way}")
        assert failed.tries(f"train.{way}") == 1
    assert failed.states["outputs.compare"] == "upstream_failed"


def test_a_store_whose_path_has_a_space_serves_each_way(
    run_dag, training_python, monkeypatch, tmp_path
):
    monkeypatch.setenv("AIRFLOW_VAR_ARTIFACT_STORE", (tmp_path / "my store").as_uri())
    spaced = run_dag(DAG, conf={"epochs": 1})
    assert len({spaced.digest(f"train.{way}", "weights") for way in WAYS}) == 1


def test_an_isolated_training_that_was_killed_is_tried_again(dags):
    policy = dags[DAG].get_task("train.isolated").retry_policy
    tell = {
        "raised": AirflowException("Process returned non-zero exit status 1."),
        "killed": subprocess.CalledProcessError(-9, "python"),
    }
    decided = {name: policy.evaluate(error, 1, 3).action for name, error in tell.items()}
    assert decided["raised"] == RetryAction.FAIL
    assert decided["killed"] != RetryAction.FAIL


def test_a_missing_interpreter_fails_at_once_and_says_how_to_make_one(run_dag, monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_TRAINING_PYTHON", "/nowhere/bin/python")
    failed = run_dag(DAG, expect="failed")
    assert "/nowhere/bin/python" in failed.error("train.find_interpreter")
    assert "make install" in failed.error("train.find_interpreter")
    assert failed.tries("train.find_interpreter") == 1
    assert failed.states["train.taskflow"] == "success"
    assert failed.states["train.isolated"] == "upstream_failed"
    assert failed.states["outputs.compare"] == "upstream_failed"


@pytest.mark.parametrize(("name", "value"), [("epochs", 0), ("threads", 65), ("hidden", "many")])
def test_a_wrong_param_is_refused_before_any_task_starts(run_dag, name, value):
    with pytest.raises(ParamValidationError, match=str(value)):
        run_dag(DAG, conf={name: value})


@pytest.mark.parametrize(("there", "picked"), [(True, "cuda"), (False, "cpu")])
def test_the_card_is_picked_where_there_is_one(monkeypatch, there, picked):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert neural.device() == picked


@pytest.mark.gpu
def test_the_training_really_ran_on_the_card(run):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here: the same tasks ran on the processor")
    for way in WAYS:
        cost = run.xcom(f"train.{way}")
        assert cost["device"] == torch.cuda.get_device_name()
        assert cost["peak_memory_mb"] > 0
