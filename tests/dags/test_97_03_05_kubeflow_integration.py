"""97.3.5 Kubeflow Integration: against Kubeflow Pipelines and a cluster, both on loopback."""

import gc
import json
from datetime import UTC, datetime

import pytest
from airflow.sdk.definitions import dag as dag_module
from airflow.sdk.exceptions import ParamValidationError
from mlflow import MlflowClient
from sklearn.metrics import roc_auc_score

from include import storage
from include.clouds.kubeflow import run as kubeflow_run
from include.clouds.kubeflow.api import Pipelines
from include.training import neural
from tests import services, warm
from tests.conftest import HOME

# What the Kubernetes client forgets is found here, and not in a later test.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed <ssl.SSLSocket:ResourceWarning",
    "ignore:Exception ignored in. <ssl.SSLSocket",
)
DAG = "97_03_05_kubeflow_integration"
SHORT = {"trees": 10}
BEGUN = datetime(2026, 8, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def kubeflow_platform(kubeflow_python):
    """Kubeflow Pipelines of this file's own: it runs steps in forks of one warm process."""
    stand_in = HOME / "kubeflow" / "python"
    stand_in.parent.mkdir()
    libraries = ("kfp.local", "pandas", "pyarrow.parquet", "sklearn.ensemble", "skops.io")
    with (
        warm.interpreter(kubeflow_python, stand_in, libraries),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AIRFLOW_VAR_KUBEFLOW_PYTHON", str(stand_in))
        with services.platform("kubeflow", stand_in.parent, stand_in.parent / "services") as found:
            yield found


@pytest.fixture(scope="module")
def kubernetes_platform():
    """A cluster of this file's own: its containers run in forks of one warm process."""
    libraries = ("pandas", "sklearn.ensemble", "skops.io", "torch._dynamo", "torch.distributed.run")
    with services.warm_platform("kubernetes", libraries) as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def connected(kubeflow_platform, kubernetes_platform, mlflow_server, dags):
    """Pipelines find both, and look often: what is waited for here is over within seconds."""
    with pytest.MonkeyPatch.context() as patch:
        kubeflow_platform.lead(patch)
        kubernetes_platform.lead(patch)
        patch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", mlflow_server.connection)
        patch.setattr(kubeflow_run, "POLL_SECONDS", 0.1)
        patch.setattr(dags[DAG].get_task("kubernetes.wait"), "poke_interval", 0.1)
        score = dags[DAG].get_task("kubernetes.score")
        patch.setattr(score, "startup_check_interval_seconds", 0.1)
        patch.setattr(score, "base_container_status_polling_interval", 0.1)
        yield
    gc.collect()


@pytest.fixture(autouse=True)
def nothing_left(connected, kubeflow_platform, kubernetes_platform):
    """However a run ends, it leaves nothing behind."""
    yield
    assert (kubeflow_platform.left(), kubernetes_platform.left()) == ({}, {})


@pytest.fixture(scope="module")
def deferred():
    """Every trigger that a task was handed over to, as Airflow stores it."""
    handed_over = []
    wait = dag_module._run_inline_trigger

    def recording(trigger, task):
        handed_over.append((task.task_id, *trigger.serialize()))
        return wait(trigger, task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dag_module, "_run_inline_trigger", recording)
        yield handed_over


@pytest.fixture(scope="module")
def begun():
    """The run of Kubeflow whose task loses its worker while it waits."""
    return []


@pytest.fixture(scope="module")
def run(run_dag, connected, deferred, begun):
    """One with a worker that is lost right after it has started Kubeflow's run."""
    defer = kubeflow_run.PipelineRun.defer

    def lose_the_first(self, **more):
        if not begun:
            begun.append(more["trigger"].run_id)
            raise ConnectionError("the worker was lost after it had started the run")
        defer(self, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubeflow_run.PipelineRun, "defer", lose_the_first)
        return run_dag(DAG, conf=SHORT, logical_date=BEGUN)


@pytest.fixture(scope="module")
def client(mlflow_server):
    return MlflowClient(mlflow_server.with_login)


def runs_of(run):
    """Kubeflow's runs for one of ours."""
    server = Pipelines.at()
    return server.runs(server.experiment(DAG), run.key)


@pytest.mark.shows("97.3.5", "Kubeflow pipeline trigger")
def test_a_compiled_pipeline_is_run_by_kubeflow_while_no_worker_waits(run, deferred):
    (theirs,) = runs_of(run)
    assert theirs["run_id"] == run.xcom("kubeflow.pipeline")["run"]
    assert theirs["state"] == "SUCCEEDED"
    assert theirs["pipeline_spec"]["pipelineInfo"]["name"] == "churn"
    assert theirs["runtime_config"]["parameters"]["trees"] == 10
    states = {s["display_name"]: s["state"] for s in theirs["run_details"]["task_details"]}
    assert {"train": "SUCCEEDED", "evaluate": "SUCCEEDED"}.items() <= states.items()
    task_id, trigger, values = deferred[0]
    assert (task_id, trigger) == ("kubeflow.pipeline", "include.clouds.kubeflow.run.RunTrigger")
    assert values["run_id"] == theirs["run_id"]


def test_a_task_that_lost_its_worker_while_it_waited_finds_its_own_run(run, begun):
    assert run.tries("kubeflow.pipeline") == 2
    assert [theirs["run_id"] for theirs in runs_of(run)] == begun
    assert run.xcom("kubeflow.pipeline")["run"] == begun[0]


@pytest.mark.shows("97.3.5", "Hybrid orchestration")
def test_a_pod_scores_with_the_model_that_the_pipeline_trained(run):
    beside = run.reference("prepare.rows", "holdout").partition("#")[0]
    told = run.xcom("kubernetes.score")
    scores = storage.read_frame(f"{beside}.scores#sha256={told['sha256']}")["score"]
    holdout = run.frame("prepare.rows", "holdout")
    assert told["rows"] == len(holdout)
    model = run.model("kubeflow.pipeline", "model")
    assert scores.to_numpy() == pytest.approx(model.predict_proba(holdout)[:, 1])
    told = storage.read_json(run.reference("kubeflow.pipeline", "report"))
    assert told["roc_auc"] == pytest.approx(roc_auc_score(holdout.churned, scores))
    assert run.xcom("kubernetes.decide")["auc"]["kubeflow"] == told["roc_auc"]


@pytest.mark.shows("97.3.5", "Hybrid orchestration")
def test_a_train_job_trains_on_two_nodes_and_the_better_model_is_chosen(run):
    folder = HOME / "artifacts" / DAG / run.key / "kubernetes.train_job" / "job"
    stories = [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*.json"))]
    assert [(story["rank"], story["node"]) for story in stories] == [(0, 0), (1, 1)]
    weights = neural.loads(storage.read_bytes(run.reference("kubernetes.weights")))
    unseen = neural.loads(storage.read_bytes(run.reference("prepare.rows", "holdout_numbers")))
    auc = roc_auc_score(unseen["labels"], neural.scores(weights, unseen["features"]))
    decided = run.xcom("kubernetes.decide")
    assert decided["auc"]["train_job"] == pytest.approx(auc)
    assert auc > 0.5 + 0.15
    assert decided["chosen"] == max(decided["auc"], key=decided["auc"].get)


@pytest.mark.shows("97.3.5", "Experiment tracking")
def test_settings_measures_files_and_model_of_the_pipeline_are_in_mlflow(run, client):
    tracked = client.get_run(run.xcom("metadata.to_mlflow")).data
    assert tracked.params["trees"] == "10"
    told = storage.read_json(run.reference("kubeflow.pipeline", "report"))
    assert {f"kubeflow.{name}": value for name, value in told.items()}.items() <= (
        tracked.metrics.items()
    )
    assert tracked.metrics["kubeflow.train.seconds"] > 0
    assert tracked.tags["chosen"] == run.xcom("kubernetes.decide")["chosen"]
    files = {each.path for each in client.list_artifacts(run.xcom("metadata.to_mlflow"))}
    assert {"pipeline.yaml", "report.json"} <= files
    assert len(models(run, client)) == 1


@pytest.mark.shows("97.3.5", "Metadata sync")
def test_each_run_leads_to_the_other_by_its_id_and_by_a_link(run, client):
    (theirs,) = runs_of(run)
    ours = client.get_run(run.xcom("metadata.to_mlflow"))
    assert theirs["runtime_config"]["parameters"]["mlflow_run"] == ours.info.run_id
    assert theirs["description"].endswith(ours.info.run_id)
    assert ours.data.tags["kubeflow.run"] == theirs["run_id"]
    assert ours.data.tags["kubeflow.page"].endswith(f"/#/runs/details/{theirs['run_id']}")
    assert run.xcom("metadata.both_ways") == {
        "mlflow": theirs["description"],
        "kubeflow": ours.data.tags["kubeflow.page"],
    }
    assert theirs["storage_state"] == "ARCHIVED", "put away, and its page is still there"


@pytest.mark.shows("97.3.5", "Metadata sync")
def test_told_again_mlflow_knows_the_same_and_a_busy_server_is_asked_again(
    run, run_dag, client, kubeflow_platform, dags, monkeypatch
):
    monkeypatch.setattr(dags[DAG].get_task("kubeflow.pipeline"), "defer", None)  # it has ended
    with kubeflow_platform.trouble("throttled", "ListRuns"):
        again = run_dag(DAG, conf=SHORT, logical_date=run.logical_date)
    assert again.tries("kubeflow.pipeline") == 2
    assert [theirs["run_id"] for theirs in runs_of(run)] == [run.xcom("kubeflow.pipeline")["run"]]
    tracked = again.xcom("metadata.to_mlflow")
    assert tracked == run.xcom("metadata.to_mlflow")
    for measure in client.get_run(tracked).data.metrics:
        assert len(client.get_metric_history(tracked, measure)) == 1, measure
    assert len(models(run, client)) == 1
    for task, key in (("kubeflow.pipeline", "model"), ("kubernetes.weights", "return_value")):
        assert again.digest(task, key) == run.digest(task, key)


def models(run, client):
    experiment = client.get_experiment_by_name(DAG).experiment_id
    found = client.search_logged_models([experiment])
    return [each for each in found if each.source_run_id == run.xcom("metadata.to_mlflow")]


def test_a_step_that_fails_fails_the_task_at_once_with_its_words(run_dag, kubeflow_platform):
    with kubeflow_platform.trouble("job_fails", "CreateRun", reason="no such column: fee"):
        failed = run_dag(DAG, conf=SHORT, expect="failed")
    assert "is FAILED" in failed.error("kubeflow.pipeline")
    assert "no such column: fee" in failed.error("kubeflow.pipeline")
    assert failed.tries("kubeflow.pipeline") == 1
    assert failed.states["kubernetes.train_job"] == "upstream_failed"
    assert failed.states["put_all_away"] == "success"


def test_no_interpreter_with_the_sdk_is_said_with_the_way_out(run_dag, monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_KUBEFLOW_PYTHON", "/nowhere/bin/python")
    failed = run_dag(DAG, conf=SHORT, expect="failed")
    assert "/nowhere/bin/python" in failed.error("prepare.compile")
    assert "make install" in failed.error("prepare.compile")
    assert failed.tries("prepare.compile") == 1


@pytest.mark.parametrize(("name", "value"), [("trees", 1), ("trees", "many")])
def test_a_wrong_param_is_refused_before_any_task_starts(run_dag, name, value):
    with pytest.raises(ParamValidationError, match=str(value)):
        run_dag(DAG, conf={name: value})
