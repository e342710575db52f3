"""97.3.2 SageMaker: jobs that are found again, callers moved step by step, nothing left behind."""

import json
import tarfile
from datetime import UTC, datetime
from functools import cache

import joblib
import numpy as np
import pytest
from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.providers.amazon.aws.operators import sagemaker as operators
from airflow.sdk.definitions import dag as dag_module
from airflow.sdk.exceptions import ParamValidationError
from botocore import session
from sklearn.metrics import roc_auc_score

from include import storage
from include.clouds.sagemaker import account
from include.training.sagemaker import process
from tests import services

DAG = "97_03_02_sagemaker_pipelines"
SHORT = {"trials": 2}
WHEN = datetime(2026, 9, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def sagemaker():
    """A platform of this file's own."""
    libraries = ("joblib", "numpy", "pandas", "sklearn.ensemble", "sklearn.metrics")
    with services.warm_platform("sagemaker", libraries) as platform:
        yield platform


@pytest.fixture(scope="module")
def led(sagemaker, dags):
    """Pipelines find the local SageMaker, and look often: its jobs are over within seconds."""
    with pytest.MonkeyPatch.context() as patch:
        sagemaker.lead(patch)
        patch.setenv("AWS_MAX_ATTEMPTS", "1")  # who tries again is Airflow
        patch.setattr(account, "LOOK_EVERY", 0.1)
        for task in dags[DAG].tasks:
            if hasattr(task, "check_interval") and task.task_id != "pipeline.judge":
                patch.setattr(task, "check_interval", 0.2)
        # For each of dozens of clients AWS's description is read again, and, for the name of the
        # caller in the user agent, the source of everything on the stack.
        patch.setattr(session, "create_loader", cache(session.create_loader))
        patch.setattr(AwsBaseHook, "_find_operator_class_name", lambda _: "Tests")
        yield patch


@pytest.fixture(scope="module")
def seen(led):
    """What triggers tasks were handed over to, and what callers were answered."""
    deferred, answers = [], []
    wait, ask = dag_module._run_inline_trigger, account.ask

    def waiting(trigger, task):
        deferred.append((task.task_id, type(trigger).__name__))
        return wait(trigger, task)

    def asking(*arguments):
        answers.append(ask(*arguments))
        return answers[-1]

    led.setattr(dag_module, "_run_inline_trigger", waiting)
    led.setattr(account, "ask", asking)
    return {"deferred": deferred, "answers": answers}


@pytest.fixture(scope="module")
def first_job():
    """The training job of a worker that is lost right after it has submitted it."""
    return {}


@pytest.fixture(scope="module")
def run(run_dag, seen, first_job, sagemaker):
    """One with the troubles that a run should survive."""
    defer = operators.SageMakerTrainingOperator.defer

    def lose_the_first(self, **more):
        if self.task_id == "training.train" and not first_job:
            api = AwsBaseHook(aws_conn_id="aws_default", client_type="sagemaker").conn
            first_job.update(
                api.describe_training_job(TrainingJobName=self.config["TrainingJobName"])
            )
            raise ConnectionError("the worker was lost after it had submitted the job")
        defer(self, **more)

    with (
        pytest.MonkeyPatch.context() as patch,
        sagemaker.trouble("throttled", "CreateEndpointConfig"),
        sagemaker.trouble("job_fails", "CreateTransformJob", reason="InternalServerError: sorry"),
    ):
        patch.setattr(operators.SageMakerTrainingOperator, "defer", lose_the_first)
        return run_dag(DAG, conf=SHORT, logical_date=WHEN)


@pytest.fixture(scope="module")
def model(run, tmp_path_factory):
    """The tuned model, as the run has kept it."""
    folder = tmp_path_factory.mktemp("model")
    with tarfile.open(storage.local_path(run.reference("batch.keep", "model"))) as archive:
        archive.extractall(folder, filter="data")
    return joblib.load(folder / "model.joblib")


@pytest.fixture(scope="module")
def parts(warehouse_file, tmp_path_factory):
    """What the processing job should have made of the customers, made here."""
    import sqlite3

    import pandas as pd

    folder = tmp_path_factory.mktemp("parts")
    with sqlite3.connect(warehouse_file) as database:
        customers = pd.read_sql("SELECT * FROM customers", database)
    database.close()
    customers.to_csv(folder / "customers.csv", index=False)
    process.main(folder, folder)
    return {
        name: np.loadtxt(folder / name / f"{name}.csv", delimiter=",")
        for name in ("validation", "holdout", "requests")
    }


def auc(model, rows):
    return roc_auc_score(rows[:, 0], model.predict_proba(rows[:, 1:])[:, 1])


@pytest.mark.shows("97.3.2", "SageMakerTrainingOperator")
def test_jobs_train_while_no_worker_waits_and_the_best_settings_win(run, seen, dags, model, parts):
    train = dags[DAG].get_task("training.train")
    assert isinstance(train, operators.SageMakerTrainingOperator)
    assert train.deferrable
    assert ("endpoint.deploy", "SageMakerTrigger") in seen["deferred"]
    job = run.xcom("training.train")["Training"]
    assert job["TrainingJobStatus"] == "Completed"
    guessed = job["FinalMetricDataList"][0]["Value"]
    best = run.xcom("training.tune")["Tuning"]["BestTrainingJob"]
    tuned = best["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
    assert tuned > guessed + 0.02
    assert tuned == pytest.approx(auc(model, parts["validation"]), abs=1e-6)
    settings = best["TunedHyperParameters"]
    assert model.learning_rate == float(settings["learning_rate"])
    assert model.max_leaf_nodes == int(settings["max_leaf_nodes"])


@pytest.mark.shows("97.3.2", "SageMakerTrainingOperator")
def test_after_a_kill_the_same_job_is_found_and_a_busy_api_is_asked_again(run, first_job):
    job = run.xcom("training.train")["Training"]
    assert job["TrainingJobArn"] == first_job["TrainingJobArn"]
    assert job["CreationTime"] == repr(first_job["CreationTime"])
    assert run.tries("training.train") == 2
    assert run.tries("endpoint.deploy") == 2


def test_a_job_that_the_vendor_has_lost_is_followed_by_another(run):
    assert run.tries("batch.transform") == 2
    job = run.xcom("batch.transform")["Transform"]
    assert job["TransformJobName"].endswith("-transform-2")


@pytest.mark.shows("97.3.2", "SageMaker Processing")
def test_processing_jobs_prepare_the_data_and_judge_the_models(run, seen, model, parts):
    assert run.xcom("data.process")["Processing"]["ProcessingJobStatus"] == "Completed"
    assert ("pipeline.judge", "ExecutionTrigger") in seen["deferred"]
    measured = run.xcom("pipeline.approve")
    assert measured["tuned"] == pytest.approx(auc(model, parts["holdout"]), abs=1e-12)
    assert measured["tuned"] > measured["trained"] > 0.65


@pytest.mark.shows("97.3.2", "Model deployment")
def test_what_callers_get_is_what_the_trained_model_says(run, seen, model, parts):
    assert run.xcom("models.register").endswith("/1")
    assert run.xcom("endpoint.deploy")["Endpoint"]["EndpointStatus"] == "InService"
    own = model.predict_proba(parts["requests"])[:, 1]
    everybody = seen["answers"][-1]
    assert len(everybody) == 100
    for row, (variant, answer) in enumerate(everybody):
        assert (variant, float(answer)) == ("tuned", own[row])
    scores = storage.read_bytes(run.reference("batch.keep", "scores"))
    assert [float(line) for line in scores.split()] == own.tolist()


@pytest.mark.shows("97.3.2", "Endpoint management")
def test_callers_are_moved_step_by_step_and_nothing_is_left(run, sagemaker, registry):
    assert [run.xcom(f"endpoint.at_{share}") for share in (10, 50, 100)] == [
        {"trained": 90, "tuned": 10},
        {"trained": 50, "tuned": 50},
        {"trained": 0, "tuned": 100},
    ]
    cleaned = run.xcom("clean_up")
    assert (cleaned["endpoints"], cleaned["models"], cleaned["pipelines"]) == (1, 2, 1)
    assert cleaned["jobs"] == 1 + 1 + (1 + 2) + 2
    assert sagemaker.left() == {}
    kept = registry.client.get_run(run.xcom("batch.keep")["run"])
    assert kept.data.metrics["auc_tuned"] == run.xcom("pipeline.approve")["tuned"]


@pytest.mark.slow
def test_a_training_that_fails_fails_its_task_with_the_vendors_reason(run, run_dag, sagemaker):
    reason = "AlgorithmError: out of memory"
    with sagemaker.trouble("job_fails", "CreateTrainingJob", reason=reason):
        failed = run_dag(DAG, conf=SHORT, expect="failed")
    assert reason in failed.error("training.train")
    assert failed.tries("training.train") == 1
    assert failed.states["endpoint.deploy"] == "upstream_failed"
    assert failed.states["clean_up"] == "success"
    assert sagemaker.left() == {}


def test_customers_without_a_fee_are_named_by_the_job_that_refuses_them(
    run, run_dag, sagemaker, warehouse
):
    warehouse.execute("UPDATE customers SET monthly_fee = NULL WHERE customer_id <= 40")
    failed = run_dag(DAG, conf=SHORT, expect="failed")
    told = failed.error("data.process")
    assert "of 8000 customers 40 have no monthly_fee: mend the source" in told
    assert failed.tries("data.process") == 1
    assert failed.states["training.train"] == "upstream_failed"
    assert sagemaker.left() == {}


def test_a_connection_without_a_role_is_refused_before_anything_is_made(
    run_dag, led, sagemaker, monkeypatch
):
    fields = json.loads(json.dumps(sagemaker.redirect.connections["aws_default"]))
    del fields["extra"]["sagemaker_role"]
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(fields))
    failed = run_dag(DAG, expect="failed")
    assert "the extra of connection aws_default lacks ['sagemaker_role']" in failed.error(
        "data.begin"
    )
    assert failed.tries("data.begin") == 1
    assert sagemaker.left() == {}


@pytest.mark.slow
def test_the_same_date_again_ends_in_the_same_model_and_scores(run, run_dag, sagemaker):
    again = run_dag(DAG, conf=SHORT, logical_date=WHEN)
    for kept in ("model", "scores"):
        assert again.digest("batch.keep", kept) == run.digest("batch.keep", kept)
    assert again.xcom("batch.keep")["run"] == run.xcom("batch.keep")["run"]
    assert again.xcom("pipeline.approve") == run.xcom("pipeline.approve")
    # The vendor forgets no transform job, and the scores of the first one are gone.
    first = run.xcom("batch.transform")["Transform"]["TransformJobName"]
    second = again.xcom("batch.transform")["Transform"]["TransformJobName"]
    assert (first[-2:], second) == ("-2", f"{first[:-2]}-3")
    assert sagemaker.left() == {}


@pytest.mark.slow
def test_a_model_that_answers_otherwise_than_it_was_trained_loses_its_callers(
    run, run_dag, sagemaker, monkeypatch
):
    shifts, ask, shift = [], account.ask, account.shift
    monkeypatch.setattr(account, "ask", lambda *args: [(m, b"0.5") for m, _ in ask(*args)])
    monkeypatch.setattr(account, "shift", lambda *args: shifts.append(args[2]) or shift(*args))
    failed = run_dag(DAG, conf={"trials": 1}, expect="failed")
    assert "answers b'0.5', where it says" in failed.error("endpoint.at_10")
    assert shifts == [{"trained": 90, "tuned": 10}, {"trained": 100, "tuned": 0}]
    assert failed.tries("endpoint.at_10") == 1
    assert failed.states["batch.transform"] == "upstream_failed"
    assert sagemaker.left() == {}


@pytest.mark.slow
def test_a_model_that_is_not_good_enough_is_rejected_before_it_gets_callers(
    run, run_dag, sagemaker
):
    failed = run_dag(DAG, conf={"trials": 1, "min_auc": 0.99}, expect="failed")
    assert "The tuned model is rejected: AUC 0." in failed.error("pipeline.approve")
    assert failed.tries("pipeline.approve") == 1
    assert failed.states["endpoint.deploy"] == "upstream_failed"
    assert sagemaker.left() == {}


@pytest.mark.parametrize(("name", "value"), [("trials", 0), ("min_auc", 2)])
def test_a_wrong_param_is_refused_before_any_task_starts(run_dag, name, value):
    with pytest.raises(ParamValidationError, match=str(value)):
        run_dag(DAG, conf={name: value})


def test_own_tasks_pass_on_less_than_a_kilobyte(run, dags):
    for (task_id, _, _), value in run.xcoms().items():
        if dags[DAG].get_task(task_id).task_type.startswith("_Python"):
            assert len(json.dumps(value)) < 1024, task_id
