"""The local Vertex AI and Cloud Storage, asked by Google's own clients."""

import json
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import aiplatform, storage
from google.cloud.aiplatform import training_jobs
from google.cloud.aiplatform_v1 import (
    DatasetServiceClient,
    EndpointServiceClient,
    JobServiceClient,
    ModelServiceClient,
    PipelineServiceClient,
    PredictionServiceClient,
    types,
)
from google.oauth2.credentials import Credentials

from include import processes
from include.data import churn
from include.local_cloud import platforms
from include.training import vertex_churn, vertex_serving
from tests.conftest import HOME
from tests.services import opened
from tests.waiting import until

REGION = "europe-west1"
COLUMNS = {
    **dict.fromkeys(["tenure_months", "monthly_fee", "usage_hours", "support_calls"], "numeric"),
    "plan": "categorical",
}
IMAGE = "europe-west1-docker.pkg.dev/my-project/ml/catalogue:latest"
CONTAINER = {"image_uri": IMAGE, **vertex_serving.CONTAINER}
MACHINE = {"machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1}


@pytest.fixture(scope="module", autouse=True)
def cloud(vertex):
    """Clients of this module are led to the platform; with the connection's key, as hooks are."""
    with pytest.MonkeyPatch.context() as patch:
        vertex.lead(patch)
        patch.setattr(training_jobs, "_JOB_WAIT_TIME", 0.2)
        yield vertex


def shown(platform):
    """The credentials that the connection names, and its project."""
    extra = platform.redirect.connections["google_cloud_default"]["extra"]
    return Credentials.from_authorized_user_file(extra["credential_config_file"]), extra["project"]


@pytest.fixture(scope="module")
def where(cloud):
    credentials, project = shown(cloud)
    aiplatform.init(project=project, location=REGION, credentials=credentials)
    return {"project": project, "location": REGION, "credentials": credentials}


@pytest.fixture(scope="module")
def parent(where):
    return f"projects/{where['project']}/locations/{REGION}"


@pytest.fixture(scope="module")
def client(where):
    return storage.Client(project=where["project"], credentials=where["credentials"])


@pytest.fixture(scope="module")
def bucket(client):
    """A bucket with a table of customers, as a pipeline leaves it there."""
    made = client.create_bucket("conformance", location="europe-west1")
    rows = churn.customers(1500)
    rows["split"] = (["TRAIN"] * 3 + ["VALIDATE", "TEST"]) * 300
    table = rows[[*COLUMNS, "churned", "split"]].to_csv(index=False)
    made.blob("data/customers.csv").upload_from_string(table, content_type="text/csv")
    yield made
    made.delete(force=True)


def service(kind, where):
    options = {"api_endpoint": f"{REGION}-aiplatform.googleapis.com"}
    return kind(credentials=where["credentials"], client_options=options)


# Cloud Storage


def test_a_bucket_is_made_found_and_deleted_when_it_is_empty(client):
    made = client.create_bucket("for-a-while")
    assert client.lookup_bucket("for-a-while") is not None
    assert "for-a-while" in [each.name for each in client.list_buckets()]
    with pytest.raises(exceptions.Conflict):
        client.create_bucket("for-a-while")
    made.blob("a").upload_from_string("x")
    with pytest.raises(exceptions.Conflict, match="not empty"):
        made.delete()
    made.delete(force=True)
    assert client.lookup_bucket("for-a-while") is None


@pytest.mark.parametrize("size", [0, 10, 700_000])
def test_what_is_uploaded_is_what_is_read_in_one_piece_or_in_chunks(bucket, size):
    content = os.urandom(size)
    whole, chunks = bucket.blob("up/whole"), bucket.blob("up/chunks", chunk_size=256 * 1024)
    whole.upload_from_string(content)
    chunks.upload_from_string(content)
    assert whole.download_as_bytes() == chunks.download_as_bytes() == content
    assert bucket.get_blob("up/whole").size == size
    if size:
        assert whole.download_as_bytes(start=2, end=5) == content[2:6]


def test_objects_are_listed_by_prefix_and_folder_replaced_and_deleted(client, bucket):
    for name in ("tree/a", "tree/b/c", "tree/b/d"):
        bucket.blob(name).upload_from_string(name)
    listed = client.list_blobs(bucket, prefix="tree/", delimiter="/")
    assert [blob.name for blob in listed] == ["tree/a"]
    assert listed.prefixes == {"tree/b/"}
    again = bucket.blob("tree/a")
    again.upload_from_string("other", content_type="text/plain")
    assert bucket.get_blob("tree/a").content_type == "text/plain"
    with pytest.raises(exceptions.PreconditionFailed):
        again.upload_from_string("third", if_generation_match=0)
    again.delete()
    with pytest.raises(exceptions.NotFound):
        again.download_as_bytes()


def test_a_busy_storage_is_asked_again_by_the_client(cloud, client, bucket):
    for kind in ("throttled", "unavailable"):
        with cloud.trouble(kind, "storage.GET.o"):
            assert bucket.blob("data/customers.csv").exists()


def test_what_storage_can_not_is_told_by_name(bucket):
    blob = bucket.blob("data/customers.csv")
    blob.metadata = {"a": "b"}
    with pytest.raises(exceptions.MethodNotImplemented, match="PATCH /storage/v1/b/conformance/o/"):
        blob.patch(retry=None)


# Who is let in, and what calls meet


def test_only_who_has_the_token_is_let_in(cloud, where, parent):
    extra = cloud.redirect.connections["google_cloud_default"]["extra"]
    assert Path(extra["credential_config_file"]).stat().st_mode & 0o777 == 0o600
    models = service(ModelServiceClient, where | {"credentials": Credentials("guessed")})
    with pytest.raises(exceptions.Unauthenticated, match="invalid authentication credentials"):
        models.list_models(parent=parent)


def test_an_unknown_call_is_refused_by_name(where, parent):
    jobs = service(JobServiceClient, where)
    with pytest.raises(exceptions.MethodNotImplemented, match="JobService/ListNasJobs"):
        jobs.list_nas_jobs(parent=parent)


def test_other_hosts_are_not_reached(where):
    from google.cloud.aiplatform_v1 import DatasetServiceClient

    elsewhere = {"api_endpoint": "storage.googleapis.com"}
    client = DatasetServiceClient(credentials=where["credentials"], client_options=elsewhere)
    with pytest.raises(exceptions.ServiceUnavailable):
        client.get_dataset(name="projects/p/locations/l/datasets/1", timeout=5)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("throttled", exceptions.ResourceExhausted),
        ("quota", exceptions.ResourceExhausted),
        ("unavailable", exceptions.ServiceUnavailable),
    ],
)
def test_trouble_has_googles_shape(cloud, where, parent, kind, error):
    models = service(ModelServiceClient, where)
    with cloud.trouble(kind, "ListModels"), pytest.raises(error):
        models.list_models(parent=parent)
    assert list(models.list_models(parent=parent)) == []


def test_bad_requests_have_googles_errors(where, parent):
    endpoints = service(EndpointServiceClient, where)
    with pytest.raises(exceptions.NotFound, match="The Endpoint does not exist"):
        endpoints.get_endpoint(name=f"{parent}/endpoints/1")
    with pytest.raises(exceptions.InvalidArgument, match="display_name"):
        endpoints.create_endpoint(parent=parent, endpoint={"display_name": "x" * 129})
    with pytest.raises(exceptions.InvalidArgument, match="filter"):
        endpoints.list_endpoints({"parent": parent, "filter": "size>3"})


# Trainings


def custom(where, name, script, arguments=(), bucket="conformance"):
    job = aiplatform.CustomTrainingJob(
        display_name=name,
        script_path=str(script),
        container_uri="europe-docker.pkg.dev/vertex-ai/training/sklearn-cpu.1-6:latest",
        staging_bucket=f"gs://{bucket}",
        **where,
    )
    with suppress(RuntimeError):  # one that has failed by the time it is looked at
        job.submit(
            base_output_dir=f"gs://{bucket}/{name}",
            args=list(arguments),
            machine_type="n1-standard-4",
        )
    return job


def ended(job, seconds=60):
    final = ("SUCCEEDED", "FAILED", "CANCELLED")
    name = until(lambda: job.state.name, "the job to end", lambda at: at.endswith(final), seconds)
    return name.rpartition("_")[2]


@pytest.fixture(scope="module")
def trained(where, bucket):
    """A model of a script that really ran, and one that AutoML chose, at the same time."""
    mine = custom(
        where,
        "mine",
        vertex_churn.__file__,
        ["--data", "gs://conformance/data/customers.csv", "--trees", "20"],
    )
    data = aiplatform.TabularDataset.create(
        display_name="customers", gcs_source="gs://conformance/data/customers.csv", **where
    )
    theirs = aiplatform.AutoMLTabularTrainingJob(
        display_name="theirs",
        optimization_prediction_type="classification",
        column_specs=COLUMNS,
        **where,
    ).run(data, "churned", predefined_split_column_name="split", model_display_name="theirs")
    assert ended(mine) == "SUCCEEDED"
    uploaded = aiplatform.Model.upload(
        display_name="mine",
        artifact_uri="gs://conformance/mine/model",
        serving_container_image_uri=IMAGE,
        serving_container_command=CONTAINER["command"],
        serving_container_health_route=CONTAINER["health_route"],
        serving_container_predict_route=CONTAINER["predict_route"],
        version_aliases=["candidate"],
        **where,
    )
    yield mine, uploaded, theirs
    for model in (uploaded, theirs):
        model.delete()
    for kind in (aiplatform.CustomTrainingJob, aiplatform.AutoMLTabularTrainingJob):
        for job in kind.list(**where):
            job.delete()
    for job in aiplatform.CustomJob.list(**where):
        job.delete()
    data.delete()


def test_a_script_runs_and_its_job_says_so(trained, bucket, where):
    mine, _, _ = trained
    metrics = json.loads(bucket.blob("mine/model/metrics.json").download_as_bytes())
    assert metrics["rows"] == 300
    assert 0.65 < metrics["auRoc"] < 0.85
    pipeline = mine.to_dict()
    (job,) = aiplatform.CustomJob.list(filter='display_name="mine"', **where)
    assert pipeline["trainingTaskMetadata"]["backingCustomJob"] == job.resource_name
    assert job.state.name == "JOB_STATE_SUCCEEDED"


def test_automl_measures_what_it_chose_on_rows_that_chose_nothing(trained):
    _, _, theirs = trained
    (evaluation,) = theirs.list_model_evaluations()
    metrics = dict(evaluation.metrics)
    assert metrics.keys() == {"auRoc", "auPrc", "logLoss"}
    assert 0.65 < metrics["auRoc"] < 0.85


def test_a_script_that_raises_fails_its_job_with_its_last_words(where, bucket, tmp_path):
    script = tmp_path / "broken.py"
    script.write_text("raise ValueError('the data is of yesterday')")
    job = custom(where, "broken", script)
    assert ended(job) == "FAILED"
    assert job.error.message.startswith("The replica workerpool0-0 exited with a non-zero status")
    assert "ValueError: the data is of yesterday" in job.error.message


def test_a_cancelled_training_leaves_no_process(where, bucket, tmp_path):
    script, stamp = tmp_path / "long.py", tmp_path / "pid"
    script.write_text(f"import os, time\nopen({str(stamp)!r}, 'w').write(str(os.getpid()))\n")
    with script.open("a") as more:
        more.write("time.sleep(600)\n")
    job = custom(where, "long", script)
    until(lambda: stamp.exists() and stamp.read_text(), "the process of the training")
    with pytest.raises(exceptions.FailedPrecondition, match="cancel it first"):
        service(PipelineServiceClient, where).delete_training_pipeline(name=job.resource_name)
    job.cancel()
    assert ended(job) == "CANCELLED"
    assert not Path(f"/proc/{stamp.read_text()}").exists()


def test_a_job_fails_when_that_is_asked_for(cloud, where, bucket, tmp_path):
    script = tmp_path / "good.py"
    script.write_text("print('done')")
    with cloud.trouble("job_fails", "CreateTrainingPipeline", reason="out of machines"):
        job = custom(where, "unlucky", script)
        assert ended(job) == "FAILED"
    assert "out of machines" in job.error.message


# Models


def test_versions_have_numbers_and_aliases_move(trained, where, parent):
    _, mine, _ = trained
    models = service(ModelServiceClient, where)
    assert sorted(mine.version_aliases) == ["candidate", "default"]
    second = models.upload_model({
        "parent": parent,
        "parent_model": mine.resource_name,
        "model": {
            "display_name": "mine",
            "artifact_uri": "gs://conformance/mine/model",
            "container_spec": CONTAINER,
            "version_aliases": ["candidate"],
        },
    }).result()
    assert second.model_version_id == "2"
    named = {
        each.version_id: each.version_aliases
        for each in models.list_model_versions(name=mine.resource_name)
    }
    assert named == {"1": ["default"], "2": ["candidate"]}
    assert models.get_model(name=f"{mine.resource_name}@candidate").version_id == "2"
    models.merge_version_aliases(
        name=f"{mine.resource_name}@2", version_aliases=["champion", "-candidate"]
    )
    assert models.get_model(name=f"{mine.resource_name}@2").version_aliases == ["champion"]
    models.delete_model_version(name=f"{mine.resource_name}@2").result()
    with pytest.raises(exceptions.NotFound):
        models.get_model(name=f"{mine.resource_name}@champion")


def test_a_model_without_files_is_not_taken(where, parent):
    models = service(ModelServiceClient, where)
    empty = {"display_name": "x", "artifact_uri": "gs://nowhere/x", "container_spec": CONTAINER}
    with pytest.raises(exceptions.InvalidArgument, match="is empty or missing"):
        models.upload_model(parent=parent, model=empty)


LONG = "x" * 300
DEEP = {"a": [[[[[[[[["b"]]]]]]]]]}
BY_NAME = [
    *((EndpointServiceClient, call) for call in ("get_endpoint", "delete_endpoint")),
    *((ModelServiceClient, call) for call in ("get_model", "delete_model")),
    *((DatasetServiceClient, call) for call in ("get_dataset", "delete_dataset")),
    *((JobServiceClient, call) for call in ("get_custom_job", "delete_custom_job")),
    (JobServiceClient, "get_batch_prediction_job"),
    (JobServiceClient, "cancel_batch_prediction_job"),
    *((PipelineServiceClient, f"{verb}_training_pipeline") for verb in ("get", "cancel", "delete")),
]


@pytest.mark.parametrize("prefix", ["", "{}/endpoints/", "{}/"])
@pytest.mark.parametrize(("kind", "call"), BY_NAME)
def test_a_name_that_nothing_can_have_is_refused_as_google_does(where, parent, kind, call, prefix):
    refused = (exceptions.InvalidArgument, exceptions.NotFound)
    with pytest.raises(refused):
        getattr(service(kind, where), call)(name=prefix.format(parent) + LONG)


def test_an_endpoint_that_nothing_can_be_is_neither_asked_nor_changed(where, parent):
    name, endpoints = f"{parent}/endpoints/{LONG}", service(EndpointServiceClient, where)
    deployed = {"model": name, "dedicated_resources": MACHINE}
    for call in (
        lambda: service(PredictionServiceClient, where).predict(endpoint=name, instances=[]),
        lambda: endpoints.deploy_model(endpoint=name, deployed_model=deployed),
        lambda: endpoints.undeploy_model(endpoint=name, deployed_model_id="1"),
        lambda: endpoints.update_endpoint(
            endpoint={"name": name}, update_mask={"paths": ["display_name"]}
        ),
    ):
        with pytest.raises(exceptions.InvalidArgument):
            call()


def test_bytes_that_are_no_message_are_refused(where):
    channel = service(EndpointServiceClient, where).transport.grpc_channel
    call = channel.unary_unary("/google.cloud.aiplatform.v1.EndpointService/GetEndpoint")
    token = [("authorization", f"Bearer {where['credentials'].token}")]
    with pytest.raises(grpc.RpcError) as refused:
        call(b"\xff", metadata=token, timeout=30)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "odd",
    [
        *({"display_name": text} for text in ("", LONG, "\n", "é" * 128, "../..")),
        *({"description": text} for text in ("\0", "x" * 5000)),
        *({"labels": {key: "b"}} for key in ("", LONG, "é")),
        {"deployed_models": [{"model": LONG}]},
        {"traffic_split": {"1": 2**31 - 1}},
        {"metadata": DEEP},
        {"metadata": {"a": float("inf")}},
    ],
)
def test_no_odd_thing_spoils_the_lists_of_vertex(cloud, where, parent, odd):
    before = cloud.left()
    datasets, endpoints = (
        service(kind, where) for kind in (DatasetServiceClient, EndpointServiceClient)
    )
    models, pipelines = (
        service(kind, where) for kind in (ModelServiceClient, PipelineServiceClient)
    )
    jobs, place = service(JobServiceClient, where), parent.replace("local", LONG)
    said = {"display_name": "odd"} | odd
    own = ("deployed_models", "traffic_split")
    dataset = {field: value for field, value in said.items() if field not in own}
    endpoint = {field: value for field, value in said.items() if field != "metadata"}
    made = []
    for home in (parent, place):
        for create, delete in (
            (
                lambda at: datasets.create_dataset(parent=at, dataset=dataset),
                datasets.delete_dataset,
            ),
            (
                lambda at: endpoints.create_endpoint(parent=at, endpoint=endpoint),
                endpoints.delete_endpoint,
            ),
        ):
            with suppress(exceptions.InvalidArgument):
                made.append((delete, create(home).result().name))
        for listed in (
            *(datasets.list_datasets, endpoints.list_endpoints, models.list_models),
            *(pipelines.list_training_pipelines, jobs.list_custom_jobs),
            jobs.list_batch_prediction_jobs,
        ):
            list(listed(parent=home))
    for delete, name in made:
        delete(name=name).result()
    assert cloud.left() == before


def test_a_model_with_an_odd_alias_is_not_kept(where, parent, bucket):
    models = service(ModelServiceClient, where)
    bucket.blob("odd/model").upload_from_string("x")
    said = {"display_name": "odd", "artifact_uri": "gs://conformance/odd"}
    said |= {"container_spec": CONTAINER, "version_aliases": ["Odd!"]}
    with pytest.raises(exceptions.InvalidArgument, match="alias"):
        models.upload_model(parent=parent, model=said)
    assert "odd" not in [each.display_name for each in models.list_models(parent=parent)]


# Endpoints and batches


@pytest.fixture(scope="module")
def endpoint(trained, where):
    _, mine, theirs = trained
    made = aiplatform.Endpoint.create(display_name="ours", **where)
    for model, share in ((mine, 100), (theirs, 30)):
        made.deploy(model, machine_type="n1-standard-2", traffic_percentage=share)
    yield made
    made.delete(force=True)


@pytest.fixture(scope="module")
def rows():
    table = churn.customers(40)[list(COLUMNS)].astype(str)
    return table.to_dict("records")


def scores(answers):
    return [answer["scores"][answer["classes"].index("1")] for answer in answers]


def test_both_models_answer_in_their_shares_each_as_it_was_trained(
    endpoint, trained, bucket, rows, tmp_path
):
    import onnxruntime

    _, mine, theirs = trained
    by_model = {}
    for _ in range(60):
        answer = endpoint.predict(rows)
        by_model.setdefault(answer.model_resource_name, []).append(scores(answer.predictions))
    assert by_model.keys() == {mine.resource_name, theirs.resource_name}
    assert 5 <= len(by_model[theirs.resource_name]) <= 32
    content = bucket.blob("mine/model/model.onnx").download_as_bytes()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert by_model[mine.resource_name][0] == pytest.approx(
        scores(vertex_serving.answers(session, rows))
    )
    assert by_model[mine.resource_name][0] != by_model[theirs.resource_name][0]


def test_wrong_questions_and_wrong_shares_are_refused(endpoint, where):
    with pytest.raises(exceptions.InvalidArgument, match="tenure_months"):
        endpoint.predict([{"plan": "monthly"}])
    with pytest.raises(exceptions.InvalidArgument, match="must be 100, and is 90"):
        service(EndpointServiceClient, where).update_endpoint(
            endpoint={
                "name": endpoint.resource_name,
                "traffic_split": dict.fromkeys(endpoint.traffic_split, 45),
            },
            update_mask={"paths": ["traffic_split"]},
        )
    with pytest.raises(exceptions.FailedPrecondition, match="undeploy them first"):
        service(EndpointServiceClient, where).delete_endpoint(name=endpoint.resource_name)


def test_a_model_in_use_is_not_deleted(endpoint, trained):
    with pytest.raises(exceptions.FailedPrecondition, match="is deployed at"):
        trained[1].delete()


def test_traffic_is_shifted(endpoint, trained, rows):
    first, second = endpoint.traffic_split
    before = dict(endpoint.traffic_split)
    endpoint.update(traffic_split={first: 0, second: 100})
    told = {endpoint.predict(rows[:2]).deployed_model_id for _ in range(12)}
    assert told == {second}
    endpoint.update(traffic_split=before)


def test_a_container_that_dies_fails_the_deployment_with_its_last_words(
    endpoint, bucket, where, parent
):
    bucket.blob("not-a-model/model.onnx").upload_from_string("no")
    broken = aiplatform.Model.upload(
        display_name="broken",
        artifact_uri="gs://conformance/not-a-model",
        serving_container_image_uri=IMAGE,
        serving_container_command=CONTAINER["command"],
        serving_container_health_route="/health",
        serving_container_predict_route="/predict",
        **where,
    )
    with pytest.raises(exceptions.FailedPrecondition, match=r"never became ready[\s\S]*protobuf"):
        endpoint.deploy(broken, machine_type="n1-standard-2", traffic_percentage=0)
    assert len(endpoint.list_models()) == 2
    broken.delete()


def test_a_batch_says_of_each_row_what_the_endpoint_would(endpoint, trained, bucket, rows, where):
    _, mine, _ = trained
    lines = "\n".join(json.dumps(row) for row in rows)
    bucket.blob("batch/rows.jsonl").upload_from_string(lines)
    job = aiplatform.BatchPredictionJob.submit(
        job_display_name="all",
        model_name=mine,
        gcs_source="gs://conformance/batch/rows.jsonl",
        gcs_destination_prefix="gs://conformance/batch/out",
        machine_type="n1-standard-2",
        **where,
    )
    assert ended(job) == "SUCCEEDED"
    (results,) = [each for each in job.iter_outputs() if "prediction.results" in each.name]
    answers = [json.loads(line) for line in results.download_as_text().splitlines()]
    assert [answer["instance"] for answer in answers] == rows
    online = until(
        lambda: endpoint.predict(rows),
        "an answer of the other model",
        lambda found: found.model_resource_name == mine.resource_name,
    )
    assert scores(answer["prediction"] for answer in answers) == scores(online.predictions)
    job.delete()


def test_a_batch_of_wrong_rows_fails_with_the_containers_words(trained, bucket, where):
    bucket.blob("batch/wrong.jsonl").upload_from_string('{"plan": "monthly"}\n')
    job = aiplatform.BatchPredictionJob.submit(
        job_display_name="wrong",
        model_name=trained[1],
        gcs_source="gs://conformance/batch/wrong.jsonl",
        gcs_destination_prefix="gs://conformance/batch/out",
        machine_type="n1-standard-2",
        **where,
    )
    assert ended(job) == "FAILED"
    assert "KeyError: 'tenure_months'" in job.error.message
    job.delete()


# After all


@contextmanager
def started(home):
    (entry,) = (each for each in platforms.PLATFORMS if each.name == "vertex")
    process = platforms.start(entry, home, home / "processes", {})
    try:
        yield opened(entry, home, process)
    finally:
        processes.stop(home / "processes", [process])
    assert process.family() == []


def test_what_is_kept_survives_a_restart_and_what_ran_is_found_failed(
    cloud, where, tmp_path, monkeypatch
):
    home = HOME / "restarted"
    ours = Path(cloud.redirect.env["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"]).parent
    # gRPC reads once in a process whom it shall trust.
    shutil.copytree(ours, home / "local-cloud" / "vertex" / "certificates")
    script = tmp_path / "long.py"
    script.write_text("import time\ntime.sleep(600)\n")
    with started(home) as before:
        before.lead(monkeypatch)
        there = where | {"credentials": shown(before)[0]}
        client = storage.Client(project=where["project"], credentials=there["credentials"])
        client.create_bucket("kept").blob("a").upload_from_string("a")
        job = custom(there, "long", script, bucket="kept")
        aiplatform.Endpoint.create(display_name="stays", **there)
        left = before.left()
        assert left["buckets"] == ["kept"]
        assert left["trainingPipelines"] == [job.resource_name]
    with started(home) as after:
        after.lead(monkeypatch)
        assert after.left() == left
        client = storage.Client(project=where["project"], credentials=there["credentials"])
        assert client.bucket("kept").blob("a").download_as_text() == "a"
        found = service(PipelineServiceClient, there).get_training_pipeline(name=job.resource_name)
        assert found.state == types.PipelineState.PIPELINE_STATE_FAILED
        assert found.error.message == "Internal error occurred for the current attempt."
        assert not (home / "local-cloud" / "vertex" / "work").exists()
