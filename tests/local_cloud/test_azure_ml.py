"""The local Azure ML, as Microsoft's own SDK finds it."""

import os
import time

import pytest

from include import processes
from include.local_cloud import platforms
from tests.conftest import HOME
from tests.local_cloud import sdk
from tests.services import opened, platform

TRAIN = """
import sys

import mlflow
import pandas as pd
from sklearn.linear_model import LogisticRegression

rows = pd.read_csv(sys.argv[1])
with mlflow.start_run():
    mlflow.log_param("power", sys.argv[2])
    for step in range(3):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
model = LogisticRegression().fit(rows[["hours"]], rows["passed"])
print(model.predict_proba(rows[["hours"]])[:2, 1].tolist())
mlflow.sklearn.save_model(model, "outputs/model", serialization_format="cloudpickle",
                          pyfunc_predict_fn="predict_proba", pip_requirements=["scikit-learn"])
"""
ROWS = "hours,passed\n" + "".join(f"{hour},{int(hour > 9)}\n" for hour in range(20))
MODEL = "azureml://jobs/{}/outputs/artifacts/paths/outputs/model/"


def sign_in():
    """What each function of a test finds: a client, and the SDK's own words."""
    global MLClient, ml, mlflow, entities, command, Input, credential, os, time, json, tempfile
    import json
    import os
    import tempfile
    import time

    import mlflow
    from azure.ai.ml import Input, MLClient, command, entities
    from azure.identity import ClientSecretCredential

    def credential(secret):
        names = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID")
        given = [os.environ[name] for name in names]
        return ClientSecretCredential(*given, secret, disable_instance_discovery=True)

    ml = MLClient(
        credential(os.environ["AZURE_CLIENT_SECRET"]),
        *os.environ["PLACE"].split("/"),
        show_progress=False,
    )


def environment(cloud):
    """What leads the SDK there, and nothing that leads it elsewhere."""
    (connection,) = cloud.redirect.connections.values()
    extra = connection["extra"]
    place = "/".join(extra[name] for name in ("subscriptionId", "resourceGroup", "workspace"))
    return {
        "PATH": os.environ["PATH"],
        "PLACE": place,
        "AZURE_TENANT_ID": extra["tenantId"],
        "AZURE_CLIENT_ID": connection["login"],
        "AZURE_CLIENT_SECRET": connection["password"],
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **cloud.redirect.env,
    }


def connected(cloud):
    return sdk.client(os.environ["AIRFLOW_VAR_AZURE_ML_PYTHON"], sign_in, environment(cloud))


@pytest.fixture(scope="module")
def cloud():
    home, records = HOME / "azure-ml-alone", HOME / "azure-ml-alone" / "processes"
    with platform("azure_ml", home, records) as started:
        yield started


@pytest.fixture(scope="module")
def azure(cloud):
    with connected(cloud) as ask:
        yield ask


@pytest.fixture(scope="module")
def compute(azure):
    def create(name, nodes):
        wanted = entities.AmlCompute(
            name=name, size="Standard_DS3_v2", max_instances=nodes, idle_time_before_scale_down=1
        )
        return ml.compute.begin_create_or_update(wanted).result().name

    return azure(create, "cpu", 1)


def submit(name, line, code=None, inputs=None, compute="cpu"):
    inputs = dict(inputs or {})
    if "rows" in inputs:
        inputs["rows"] = Input(type="uri_file", path=inputs["rows"])
    job = command(
        name=name,
        code=code,
        command=line,
        inputs=inputs,
        environment="azureml://registries/azureml/environments/sklearn-1.5/labels/latest",
        compute=compute,
        experiment_name="exams",
    )
    return ml.jobs.create_or_update(job).status


def wait(name, *states):
    until = time.monotonic() + 60
    while (state := ml.jobs.get(name).status) not in states:
        if time.monotonic() > until:
            raise TimeoutError(f"{name} is {state}")
        time.sleep(0.05)
    return state


def reason(name):
    ml.jobs.stream(name)


def nodes(name):
    return len(list(ml.compute.list_nodes(name)))


@pytest.fixture(scope="module")
def trained(azure, compute, tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    (folder / "train.py").write_text(TRAIN)
    data = tmp_path_factory.mktemp("data") / "rows.csv"
    data.write_text(ROWS)
    line = "python train.py ${{inputs.rows}} ${{inputs.power}}"
    azure(submit, "trained", line, str(folder), {"rows": str(data), "power": 2})
    assert azure(wait, "trained", "Completed", "Failed", "Canceled") == "Completed"
    return "trained"


@pytest.fixture(scope="module")
def served(azure, trained):
    def register(name, path):
        model = entities.Model(name=name, version="1", path=path, type="mlflow_model")
        return ml.models.create_or_update(model).version

    def deploy(endpoint, color, model):
        new = entities.ManagedOnlineEndpoint(name=endpoint, auth_mode="key")
        ml.online_endpoints.begin_create_or_update(new).result()
        wanted = entities.ManagedOnlineDeployment(
            name=color,
            endpoint_name=endpoint,
            model=model,
            instance_type="Standard_DS3_v2",
            instance_count=1,
        )
        return ml.online_deployments.begin_create_or_update(wanted).result().provisioning_state

    azure(register, "exams", MODEL.format(trained))
    assert azure(deploy, "exams", "blue", "azureml:exams:1") == "Succeeded"
    azure(share, "exams", {"blue": 100})
    return "exams"


def share(endpoint, traffic):
    found = ml.online_endpoints.get(endpoint)
    found.traffic = traffic
    return ml.online_endpoints.begin_create_or_update(found).result().traffic


def invoke(endpoint, hours):
    asked = {"input_data": {"columns": ["hours"], "data": [[hour] for hour in hours]}}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asked, file)
        file.flush()
        return json.loads(ml.online_endpoints.invoke(endpoint, request_file=file.name))


def test_a_job_reads_its_data_and_tells_the_workspaces_mlflow(azure, trained):
    def logged(job):
        tracking = ml.workspaces.get(ml.workspace_name).mlflow_tracking_uri
        client = mlflow.MlflowClient(tracking)
        client.set_tag(job, "seen", "yes")
        run = client.get_run(job)
        history = [[p.step, p.value] for p in client.get_metric_history(job, "loss")]
        (found,) = client.search_runs([client.get_experiment_by_name("exams").experiment_id])
        same = found.info.run_id == run.info.run_id
        return tracking, run.data.params, run.data.tags, run.info.status, history, same

    tracking, params, tags, status, history, same = azure(logged, trained)
    assert tracking.startswith("azureml://")
    assert (params, tags, status, same) == ({"power": "2"}, {"seen": "yes"}, "FINISHED", True)
    assert history == [[0, 1.0], [1, 1 / 2], [2, 1 / 3]]


def test_what_mlflow_would_refuse_is_refused(azure, trained):
    def change(job):
        tracking = ml.workspaces.get(ml.workspace_name).mlflow_tracking_uri
        mlflow.MlflowClient(tracking).log_param(job, "power", 3)

    def filtered():
        mlflow.set_tracking_uri(ml.workspaces.get(ml.workspace_name).mlflow_tracking_uri)
        mlflow.search_runs(experiment_names=["exams"], filter_string="metrics.loss < 1")

    with pytest.raises(sdk.SdkError, match="Param 'power' was already logged with value '2'"):
        azure(change, trained)
    with pytest.raises(sdk.SdkError, match="does not implement filters"):
        azure(filtered)


def test_an_endpoint_answers_from_the_registered_model(azure, served):
    def printed(job):
        (log,) = ml.jobs._runs_operations.get_run_details(job).log_files.values()
        return ml.jobs._requests_pipeline.get(log).text()

    scores = [row[1] for row in azure(invoke, served, [0, 1])]
    assert str(scores) in azure(printed, "trained")


def test_calls_are_dealt_out_by_the_traffic(azure, served):
    def green(endpoint, model):
        wanted = entities.ManagedOnlineDeployment(
            name="green",
            endpoint_name=endpoint,
            model=model,
            instance_type="Standard_DS3_v2",
            instance_count=1,
        )
        ml.online_deployments.begin_create_or_update(wanted).result()

    def answered(endpoint, calls):
        found, keys = ml.online_endpoints.get(endpoint), ml.online_endpoints.get_keys(endpoint)
        headers = {"Authorization": f"Bearer {keys.primary_key}"}
        asked, post = (
            {"input_data": {"columns": ["hours"], "data": [[1]]}},
            ml.jobs._requests_pipeline,
        )
        given = [post.post(found.scoring_uri, json=asked, headers=headers) for _ in range(calls)]
        return [each.headers["azureml-model-deployment"] for each in given].count("green")

    azure(green, served, "azureml:exams:1")
    assert azure(share, served, {"blue": 90, "green": 10}) == {"blue": 90, "green": 10}
    assert azure(answered, served, 100) == 10
    with pytest.raises(sdk.SdkError, match="Traffic must sum to 0 or 100"):
        azure(share, served, {"blue": 90, "green": 11})
    with pytest.raises(sdk.SdkError, match="There is no deployment red"):
        azure(share, served, {"red": 100})


def test_a_wrong_key_gets_no_answer(azure, served):
    def uninvited(endpoint):
        found = ml.online_endpoints.get(endpoint)
        answer = ml.jobs._requests_pipeline.post(
            found.scoring_uri, json={}, headers={"Authorization": "Bearer guessed"}
        )
        return answer.status_code

    assert azure(uninvited, served) == 401


def test_a_request_without_rows_is_refused(azure, served):
    def asked(endpoint):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"rows": []}, file)
            file.flush()
            ml.online_endpoints.invoke(endpoint, request_file=file.name)

    with pytest.raises(sdk.SdkError, match="the request lacks 'input_data'"):
        azure(asked, served)


def test_a_model_that_can_not_be_loaded_fails_its_deployment_with_what_it_said(azure, served):
    def deploy(endpoint, job, path):
        model = entities.Model(name="broken", version="1", path=path, type="mlflow_model")
        ml.models.create_or_update(model)
        wanted = entities.ManagedOnlineDeployment(
            name="broken", endpoint_name=endpoint, model="azureml:broken:1", instance_count=1
        )
        ml.online_deployments.begin_create_or_update(wanted).result()

    azure(submit, "left-a-note", "echo hello > outputs/note.txt")
    azure(wait, "left-a-note", "Completed")
    path = "azureml://jobs/left-a-note/outputs/artifacts/paths/outputs/"
    with pytest.raises(sdk.SdkError, match="MLmodel"):
        azure(deploy, served, "left-a-note", path)


def test_a_version_points_to_something_and_stays_as_it_is(azure, served):
    def register(path):
        model = entities.Model(name="exams", version="1", path=path, type="mlflow_model")
        ml.models.create_or_update(model)

    with pytest.raises(sdk.SdkError, match="nothing to register"):
        azure(register, MODEL.format("nobody"))
    with pytest.raises(sdk.SdkError, match="can't be changed"):
        azure(register, MODEL.format("trained").removesuffix("model/"))


def test_a_job_that_fails_says_why(azure, compute):
    azure(submit, "fails", "python -c 'raise ValueError(\"no such exam\")'")
    assert azure(wait, "fails", "Completed", "Failed") == "Failed"
    with pytest.raises(
        sdk.SdkError, match=r"(?s)UserError.*exited with status code 1.*no such exam"
    ):
        azure(reason, "fails")


def test_nodes_come_with_jobs_and_go_when_idle(azure, compute):
    """Auto-shutdown: of the one node that there may be, the second job waits for the first."""
    until = time.monotonic() + 10
    while azure(nodes, compute) and time.monotonic() < until:
        time.sleep(0.1)
    assert azure(nodes, compute) == 0
    azure(submit, "first", "sleep 60")
    azure(wait, "first", "Running")
    assert azure(submit, "second", "true") == "Queued"
    assert azure(nodes, compute) == 1

    def cancel(name):
        ml.jobs.begin_cancel(name).result()

    azure(cancel, "first")
    assert azure(wait, "first", "Canceled", "Failed") == "Canceled"
    azure(wait, "second", "Completed")
    assert azure(nodes, compute) == 1
    time.sleep(1.1)
    assert azure(nodes, compute) == 0


def test_the_same_name_is_the_same_job(azure, compute):
    azure(submit, "once", "true")
    azure(wait, "once", "Completed")
    assert azure(submit, "once", "true") == "Completed"
    with pytest.raises(sdk.SdkError, match="'once' already exists"):
        azure(submit, "once", "false")


def test_what_is_busy_is_asked_again(azure, cloud, compute):
    def known(name):
        return ml.compute.get(name).name

    for kind in ("throttled", "unavailable"):
        with cloud.trouble(kind, "Compute_Get", times=1):
            assert azure(known, compute) == compute


def test_quota_and_a_fault_of_a_job_reach_the_client_in_the_vendors_words(azure, cloud, compute):
    with (
        cloud.trouble("quota", "Jobs_CreateOrUpdate"),
        pytest.raises(sdk.SdkError, match="OutOfQuota"),
    ):
        azure(submit, "too-much", "true")
    with cloud.trouble("job_fails", "Jobs_CreateOrUpdate", reason="the node ran out of disk"):
        azure(submit, "unlucky", "true")
        assert azure(wait, "unlucky", "Completed", "Failed") == "Failed"
    with pytest.raises(sdk.SdkError, match="the node ran out of disk"):
        azure(reason, "unlucky")


def test_bad_requests_are_answered_as_resource_manager_does(azure):
    def compute_named(name):
        wanted = entities.AmlCompute(name=name, size="Standard_DS3_v2")
        ml.compute.begin_create_or_update(wanted).result()

    def job_named(name):
        ml.jobs.get(name)

    def elsewhere():
        MLClient(ml._credential, ml.subscription_id, ml.resource_group_name, "other").compute.get(
            "x"
        )

    with pytest.raises(sdk.SdkError, match=r"HttpResponseError: \(BadArgument\).*no name"):
        azure(compute_named, "much-too-long-for-a-compute")
    with pytest.raises(sdk.SdkError, match=r"ResourceNotFoundError: \(ResourceNotFound\).*nobody"):
        azure(job_named, "nobody")
    with pytest.raises(sdk.SdkError, match="There is no workspace"):
        azure(elsewhere)


def test_unknown_calls_are_named(azure):
    def batch():
        return [each.name for each in ml.batch_endpoints.list()]

    with pytest.raises(sdk.SdkError, match=r"NotImplemented.*GET …/batchEndpoints"):
        azure(batch)


def test_a_wrong_secret_gets_no_token(azure):
    def guess():
        credential("guessed").get_token("https://management.azure.com/.default")

    with pytest.raises(sdk.SdkError, match="AADSTS7000215"):
        azure(guess)


def test_what_users_leave_is_listed_until_they_take_it_away(azure, cloud, served):
    def archive():
        for name in ("exams", "broken"):
            ml.models.archive(name, "1")

    left = cloud.left()
    assert set(left["deployments"]) >= {"exams/blue", "exams/green"}
    assert (left["computes"], left["endpoints"]) == (["cpu"], ["exams"])
    assert "exams:1" in left["models"]
    azure(archive)
    assert "models" not in cloud.left()


def test_after_a_restart_everything_is_there_and_the_running_job_is_lost(cloud, azure, served):
    (entry,) = (each for each in platforms.PLATFORMS if each.name == "azure_ml")
    home = HOME / "azure-ml-alone"
    records = home / "processes"
    azure(share, served, {"blue": 100})

    def undeploy(endpoint, color):
        ml.online_deployments.begin_delete(color, endpoint).result()

    with pytest.raises(sdk.SdkError, match="still gets traffic"):
        azure(undeploy, served, "blue")
    for color in ("green", "broken"):
        azure(undeploy, served, color)
    answers = azure(invoke, served, [1, 15])
    azure(submit, "interrupted", "sleep 60")
    azure(wait, "interrupted", "Running")
    processes.stop(records, processes.recorded(records))
    process = platforms.start(entry, home, records, {})
    again = opened(entry, home, process)
    with connected(again) as ask:
        assert ask(wait, "interrupted", "Completed", "Failed") == "Failed"
        with pytest.raises(sdk.SdkError, match=r"(?s)ServiceError.*The node was lost"):
            ask(reason, "interrupted")

        until = time.monotonic() + 30
        while True:
            try:
                assert ask(invoke, served, [1, 15]) == answers
                break
            except sdk.SdkError:
                assert time.monotonic() < until, "waited 30 s for the old answers"
                time.sleep(0.1)

        def remove(endpoint, compute):
            ml.online_endpoints.begin_delete(endpoint).result()
            ml.compute.begin_delete(compute).result()

        ask(remove, served, "cpu")
    assert again.left() == {}
    processes.stop(records, [process])
