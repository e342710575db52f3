"""97.3.3 Vertex AI: against a local one, which runs the script, chooses a model, and answers."""

import copy
import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import ParamValidationError
from google.api_core import exceptions

from include import storage

DAG = "97_03_03_vertex_ai_pipelines"
ROWS = 1600


@pytest.fixture(scope="module", autouse=True)
def cloud(vertex):
    from google.cloud.aiplatform import training_jobs

    with pytest.MonkeyPatch.context() as patch:
        vertex.lead(patch)
        patch.setattr(training_jobs, "_JOB_WAIT_TIME", 0.2)  # between two looks at AutoML
        yield vertex


@pytest.fixture(scope="module")
def seen():
    """What was there when the run was about to remove it."""
    return {}


@pytest.fixture(scope="module")
def run(run_dag, cloud, seen):
    """Google is busy now and then, and the first worker dies when it has submitted the training."""
    from google.cloud import aiplatform

    from include.clouds import vertex_ai

    remove, defer = vertex_ai.remove, vertex_ai.CustomTraining.defer

    def dies(self, **given):
        if "submitted" not in seen:
            seen["submitted"] = cloud.left()["trainingPipelines"]
            raise ConnectionError("the worker is gone")
        defer(self, **given)

    def looking(names, *where):
        (endpoint,) = vertex_ai.known(aiplatform.Endpoint, names[0], *where)
        seen["split"] = dict(endpoint.traffic_split)
        seen["deployed"] = {each.id: each.model for each in endpoint.list_models()}
        for name in names[1:]:
            (model,) = vertex_ai.known(aiplatform.Model, name, *where)
            seen[model.resource_name] = list(model.version_aliases)
        seen["left"] = cloud.left()
        return remove(names, *where)

    with (
        pytest.MonkeyPatch.context() as patch,
        cloud.trouble("throttled", "CreateDataset"),
        cloud.trouble("unavailable", "CreateEndpoint"),
    ):
        patch.setattr(vertex_ai.CustomTraining, "defer", dies)
        patch.setattr(vertex_ai, "remove", looking)
        return run_dag(DAG)


@pytest.mark.shows("97.3.3", "Vertex AI training")
def test_the_script_ran_there_as_a_job_of_its_own(run, seen):
    assert run.xcom("train.custom") in seen["left"]["trainingPipelines"]
    assert len(seen["left"]["customJobs"]) == 1
    assert 0.70 < run.xcom("choose.compare")["auc"]["custom"] < 0.80


@pytest.mark.shows("97.3.3", "AutoML integration")
def test_automl_is_measured_on_the_same_rows_and_the_better_one_is_champion(run, registry):
    auc = run.xcom("choose.compare")["auc"]
    assert 0.70 < auc["automl"] < 0.80
    champion = max(auc, key=auc.get)
    assert run.xcom("choose.compare")["champion"] == champion
    # The batch is the champion's, and measured from its answers alone.
    assert run.xcom("predict.check")["auc"] == pytest.approx(auc[champion], abs=1e-6)
    (noted,) = registry.runs(DAG, run.key)
    assert noted.data.metrics == pytest.approx({f"{name}_auc": auc[name] for name in auc})


@pytest.mark.parametrize(
    ("task_id", "result"),
    [("train.custom", "projects/local/trainingPipelines/7"), ("predict.batch", "gs://bucket/7")],
)
def test_a_task_that_comes_back_to_an_ended_job_takes_its_result(
    dags, monkeypatch, task_id, result
):
    from include.clouds import vertex_ai

    ended = SimpleNamespace(
        name="7",
        resource_name="projects/local/trainingPipelines/7",
        state=SimpleNamespace(name="STATE_SUCCEEDED"),
        output_info=SimpleNamespace(gcs_output_directory="gs://bucket/7"),
    )
    monkeypatch.setattr(vertex_ai, "known", lambda *_: [ended])
    context = {"ti": SimpleNamespace(xcom_push=lambda key, value: None)}
    assert dags[DAG].get_task(task_id).execute(context) == result


def test_a_script_that_is_better_gets_the_callers(dags, monkeypatch):
    import mlflow

    from include import tracking
    from include.clouds import vertex_ai

    monkeypatch.setattr(vertex_ai, "lines", lambda *_: [{"auRoc": 0.8}])
    monkeypatch.setattr(vertex_ai, "measured", lambda *_: {"auRoc": 0.7})
    monkeypatch.setattr(tracking, "run", nullcontext)
    monkeypatch.setattr(mlflow, "log_metrics", lambda _: None)
    compared = dags[DAG].get_task("choose.compare").python_callable("a-bucket", "a-model")
    assert (compared["champion"], compared["split"]) == ("custom", {"1": 80, "0": 20})


@pytest.mark.shows("97.3.3", "Model deployment")
def test_both_models_stand_behind_the_endpoint_and_the_champion_has_the_alias(run, seen):
    champion = run.xcom("choose.compare")["champion"]
    models = {"custom": run.xcom("choose.register"), "automl": run.xcom("train.automl")}
    assert seen["deployed"] == {"1": models["custom"], "2": models["automl"]}
    assert seen["split"] == ({"1": 80, "2": 20} if champion == "custom" else {"1": 20, "2": 80})
    for name, model in models.items():
        assert ("champion" in seen[model]) == (name == champion)


@pytest.mark.shows("97.3.3", "Prediction endpoints")
def test_both_answer_callers_in_their_shares_and_a_batch_agrees(run):
    asked = run.xcom("predict.online")
    assert asked["custom"] + asked["automl"] == 60
    assert 36 <= asked[run.xcom("choose.compare")["champion"]] <= 58
    answers = storage.read_json(run.reference("predict.online", "answers"))
    assert sorted(int(row) for told in answers.values() for row in told) == list(range(300))
    checked = run.xcom("predict.check")
    assert checked["rows"] == ROWS
    assert checked["apart"] < 1e-6


def test_nothing_is_left_there(run, seen, cloud):
    assert seen["left"].keys() >= {"models", "endpoints", "datasets", "batchPredictionJobs"}
    assert cloud.left() == {}
    assert run.xcom("remove") == 7


def test_a_task_that_comes_back_goes_on_with_the_job_that_it_had(run, seen):
    assert run.tries("train.custom") == 2
    assert seen["submitted"] == [run.xcom("train.custom")]
    assert len(seen["left"]["trainingPipelines"]) == 2  # that one and AutoML's


def test_who_is_told_to_wait_asks_again(run, dags):
    assert run.tries("train.dataset") == run.tries("serve.endpoint") == 2
    for task in ("train.custom", "predict.batch"):
        waiting = dags[DAG].get_task(task)
        with pytest.raises(ConnectionError, match="429"):  # which is tried again
            waiting.execute_complete({}, {"status": "error", "message": "429 Quota exceeded"})


def test_a_failing_job_fails_its_task_with_the_reason_and_nothing_is_left(
    run, run_dag, warehouse, cloud
):
    warehouse.execute("UPDATE customers SET churned = 2 WHERE customer_id <= 50")
    failed = run_dag(DAG, expect="failed")
    reason = failed.error("train.custom")
    assert "PIPELINE_STATE_FAILED" in reason
    assert "ValueError: churned must be 0 or 1, and is also [2]" in reason
    assert "churned has 3 classes: only two can be learnt" in failed.error("train.automl")
    assert failed.tries("train.custom") == failed.tries("train.automl") == 1
    assert failed.states["serve.endpoint"] == "upstream_failed"
    assert failed.states["remove"] == "success"
    assert cloud.left() == {}


def test_a_refused_request_is_not_made_again():
    from include.clouds import vertex_ai

    for error, action in (
        (exceptions.InvalidArgument("no"), RetryAction.FAIL),
        (exceptions.PermissionDenied("no"), RetryAction.FAIL),
        (exceptions.ResourceExhausted("later"), RetryAction.RETRY),
        (exceptions.ServiceUnavailable("later"), RetryAction.DEFAULT),
    ):
        assert vertex_ai.POLICY.evaluate(error, try_number=1, max_tries=3).action == action


def test_a_deployment_that_fails_says_what_google_says(cloud, dags):
    from airflow.providers.google.cloud.hooks.gcs import GCSHook
    from google.cloud import aiplatform

    from include.clouds import vertex_ai

    conn_id, region = "google_cloud_default", "europe-west1"
    hook = GCSHook(gcp_conn_id=conn_id)
    bucket = hook.get_conn().create_bucket("deployments")
    bucket.blob("model/model.onnx").upload_from_string("no model")
    where = {"project": hook.project_id, "location": region, "credentials": hook.get_credentials()}
    aiplatform.init(**where)
    model = aiplatform.Model.upload(
        display_name="broken",
        artifact_uri="gs://deployments/model",
        serving_container_image_uri="an-image",
        **where,
    )
    deploy = copy.copy(dags[DAG].get_task("serve.deploy_custom"))
    deploy.endpoint_id = aiplatform.Endpoint.create(display_name="broken", **where).name
    deploy.project_id = hook.project_id
    deploy.deployed_model = deploy.deployed_model | {"model": model.resource_name}
    with (
        cloud.trouble("job_fails", "DeployModel", reason="Model server never became ready."),
        pytest.raises(exceptions.FailedPrecondition, match="never became ready"),
    ):
        deploy.execute({})
    assert vertex_ai.remove(["broken"], hook.project_id, region, conn_id) == 2
    bucket.delete(force=True)
    assert cloud.left() == {}


@pytest.mark.parametrize("conf", [{"trees": 0}, {"trees": "many"}])
def test_a_wrong_param_is_refused_before_any_task_starts(run_dag, conf):
    with pytest.raises(ParamValidationError):
        run_dag(DAG, conf=conf)


def test_what_is_passed_on_by_own_tasks_is_small(run):
    own = ("data.bucket", "data.upload", "choose.compare", "predict.online", "predict.check")
    for (task, *_), what in run.xcoms().items():
        assert task not in own or len(json.dumps(what)) < 1024
