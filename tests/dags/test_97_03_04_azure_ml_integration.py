"""97.3.4 Azure ML: what answers is what was trained, and nothing is left or done twice."""

import json
import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from airflow.sdk import Connection
from airflow.sdk.exceptions import ParamValidationError
from sklearn.metrics import roc_auc_score

from include import storage
from include.clouds import azure_ml, azure_tasks
from include.training import azure_ml_train
from tests import services, warm
from tests.conftest import HOME

DAG = "97_03_04_azure_ml_integration"
COLORS = ("blue", "green")
PYTHON = "AIRFLOW_VAR_AZURE_ML_PYTHON"
LIBRARIES = (
    "azure.ai.ml",
    "mlflow.pyfunc",
    "mlflow.sklearn",
    "pandas",
    "sklearn.ensemble",
    "sklearn.linear_model",
)


@pytest.fixture(scope="module")
def cloud():
    """A platform of this file's own, and the DAG's connection to it.

    Tasks, jobs and deployments are forks of one process that has imported the SDK.
    """
    python, home = Path(os.environ[PYTHON]), HOME / "azure-ml"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PYTHON, str(home / "python"))
        with services.platform("azure_ml", home, home / "services") as azure_ml:
            azure_ml.lead(patch)  # the SDK looks for its cloud when it is imported
            with warm.interpreter(python, home / "python", LIBRARIES):
                yield azure_ml


@pytest.fixture(scope="module")
def run(run_dag, cloud):
    """One with the troubles that a run should survive."""
    lost = []
    submit = azure_tasks.ExternalPythonOperator.execute

    def lose_the_first(self, context):
        job = submit(self, context)
        if self.task_id == "training.blue" and not lost:
            lost.append(job)
            raise ConnectionError("the worker was lost after it had submitted the job")
        return job

    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(azure_tasks.ExternalPythonOperator, "execute", lose_the_first)
        for operation in ("Compute_CreateOrUpdate", "Jobs_Get", "OnlineEndpoints_Get"):
            stack.enter_context(cloud.trouble("throttled", operation))
        stack.enter_context(cloud.trouble("unavailable", "Models_Get"))
        finished = run_dag(DAG)
    assert lost == [finished.xcom("training.blue")]
    return finished


def jobs():
    return azure_ml.Jobs(azure_ml.Account.of(Connection.get("azure_ml_default")))


@pytest.mark.shows("97.3.4", "Azure ML compute")
def test_nodes_come_with_jobs_and_the_compute_goes_with_the_run(run, cloud):
    made = run.xcom("workspace.compute")
    assert (made["nodes"], made["idle"]) == (0, 120)
    assert [jobs().look(run.xcom(f"training.{color}")).status for color in COLORS] == [
        "Completed",
        "Completed",
    ]
    assert run.states["clean_up"] == "success"
    assert cloud.left() == {}


def test_a_task_that_lost_its_worker_takes_up_its_own_job(run):
    assert run.tries("training.blue") == 2
    assert run.tries("training.green") == 1
    for color in COLORS:
        assert run.xcom(f"training.{color}") == f"{DAG}-{run.key.lower()}-{color}-1"
        with pytest.raises(ValueError, match="404"):
            jobs().look(f"{DAG}-{run.key.lower()}-{color}-2")


@pytest.mark.shows("97.3.4", "Experiment tracking")
def test_the_workspace_knows_how_each_candidate_learnt(run):
    tracked = run.xcom("models.track")
    for color, estimator in (("blue", "boosting"), ("green", "logistic")):
        row = tracked[color]
        assert (row["job"], row["estimator"]) == (run.xcom(f"training.{color}"), estimator)
        assert list(row["curve"]) == ["10", "30", "100"]
        assert row["auc"] > 0.5 + 0.2
    assert tracked["green"]["auc"] > tracked["blue"]["auc"] + 0.01
    assert tracked["blue"]["curve"]["100"] > tracked["blue"]["curve"]["10"] + 0.05


@pytest.mark.shows("97.3.4", "Experiment tracking")
def test_what_was_logged_is_what_the_script_reaches_here(run, mlflow_store, tmp_path, monkeypatch):
    import mlflow

    mlflow.set_tracking_uri(mlflow_store)  # whatever a test before this one has set
    parts = run.xcom("workspace.prepare", "parts")
    paths = {name: azure_ml.verified(reference) for name, reference in parts.items()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "here")
    arguments = ["--train", paths["train"], "--holdout", paths["holdout"]]
    monkeypatch.setattr(
        "sys.argv", ["train", *arguments, "--label", "churned", "--estimator", "logistic"]
    )
    azure_ml_train.main()
    holdout = storage.read_frame(parts["holdout"])
    model = mlflow.sklearn.load_model("outputs/model")
    scores = model.predict_proba(holdout.drop(columns="churned"))[:, 1]
    logged = run.xcom("models.track")["green"]["auc"]
    assert roc_auc_score(holdout.churned, scores) == pytest.approx(logged, abs=1e-6)


@pytest.mark.shows("97.3.4", "Model registration")
def test_each_model_is_a_version_named_after_its_job(run):
    assert run.xcom("models.register") == {
        color: f"azureml:{DAG}:{run.key.lower()}-{color}-1" for color in COLORS
    }


@pytest.mark.shows("97.3.4", "Deployment")
def test_the_endpoint_answers_from_the_registered_models(run):
    tracked = run.xcom("models.track")
    for color, task_id in (("blue", "endpoint.serve_blue"), ("green", "endpoint.add_green")):
        answered = run.xcom(task_id)
        assert answered["auc"] == pytest.approx(tracked[color]["auc"], abs=1e-6)
        assert all(0 < score < 1 for score in answered["first"])


@pytest.mark.shows("97.3.4", "Deployment")
def test_green_gets_more_and_more_of_the_traffic_until_it_has_all(run):
    assert run.xcom("endpoint.switch") == {"10": 2, "50": 10, "100": 20}


def test_xcom_carries_no_secret_and_less_than_a_kilobyte(run, cloud):
    (connection,) = cloud.redirect.connections.values()
    for (task_id, _, _), value in run.xcoms().items():
        assert len(json.dumps(value)) < 1024, task_id
        assert connection["password"] not in json.dumps(value), task_id


def test_a_training_that_fails_says_why_at_once_and_leaves_nothing(run_dag, cloud, warehouse):
    warehouse.execute("UPDATE customers SET monthly_fee = NULL WHERE customer_id <= 40")
    failed = run_dag(DAG, expect="failed")
    for color in COLORS:
        told = failed.error(f"training.{color}")
        assert f"{color}-1 is Failed. UserError: Execution failed" in told
        assert "monthly_fee has empty cells" in told
        assert failed.tries(f"training.{color}") == 1
    assert failed.states["models.track"] == "upstream_failed"
    assert failed.states["clean_up"] == "success"
    assert cloud.left() == {}


def test_a_wrong_secret_fails_at_once_in_azures_words(run_dag, cloud, monkeypatch):
    connection = json.loads(os.environ["AIRFLOW_CONN_AZURE_ML_DEFAULT"]) | {"password": "guessed"}
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_ML_DEFAULT", json.dumps(connection))
    failed = run_dag(DAG, expect="failed")
    assert "AADSTS7000215: Invalid client secret" in failed.error("workspace.compute")
    assert failed.tries("workspace.compute") == 1


def test_a_connection_that_lacks_something_is_told_what(run_dag, cloud, monkeypatch):
    connection = json.loads(os.environ["AIRFLOW_CONN_AZURE_ML_DEFAULT"])
    del connection["extra"]["workspace"], connection["login"]
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_ML_DEFAULT", json.dumps(connection))
    failed = run_dag(DAG, expect="failed")
    assert "azure_ml_default lacks login, workspace" in failed.error("workspace.compute")
    assert failed.tries("workspace.compute") == 1


def test_a_missing_interpreter_fails_at_once_and_says_how_to_make_one(run_dag, cloud, monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_AZURE_ML_PYTHON", "/nowhere/bin/python")
    failed = run_dag(DAG, expect="failed")
    assert "/nowhere/bin/python" in failed.error("workspace.compute")
    assert "make install" in failed.error("workspace.compute")
    assert failed.tries("workspace.compute") == 1


@pytest.mark.parametrize("value", [0, 29, "soon"])
def test_a_wrong_param_is_refused_before_any_task_starts(run_dag, value):
    with pytest.raises(ParamValidationError, match=str(value)):
        run_dag(DAG, conf={"idle_seconds": value})


@pytest.mark.slow
def test_the_same_date_again_trains_nothing_and_comes_to_the_same(run, run_dag, cloud, monkeypatch):
    monkeypatch.setattr(azure_tasks.AzureMLJob, "defer", None)  # its jobs have ended
    again = run_dag(DAG, logical_date=run.logical_date)
    for task_id in ("training.blue", "models.track", "models.register", "endpoint.switch"):
        assert again.xcom(task_id) == run.xcom(task_id), task_id
    assert cloud.left() == {}
