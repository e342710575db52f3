"""Kubeflow Pipelines on loopback, asked by Kubeflow's own client in the environment that has it."""

import json
import subprocess
import textwrap
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

from include import processes
from include.local_cloud import platforms
from tests.conftest import HOME
from tests.waiting import until

# Two steps; the first one fails, or waits for a file, when it is told to.
PIPELINE = """
from kfp import compiler, dsl

@dsl.component(base_image="example.com/any", install_kfp_package=False)
def double(number: int, wait_for: str, doubled: dsl.Output[dsl.Artifact]):
    import pathlib, time
    print("doubling", number)
    if number < 0:
        raise ValueError(f"{number} is below zero")
    while wait_for and not pathlib.Path(wait_for).exists():
        time.sleep(0.05)
    pathlib.Path(doubled.path).write_text(str(2 * number))

@dsl.component(base_image="example.com/any", install_kfp_package=False)
def show(doubled: dsl.Input[dsl.Artifact], metrics: dsl.Output[dsl.Metrics]):
    import pathlib
    metrics.log_metric("doubled", float(pathlib.Path(doubled.path).read_text()))

@dsl.pipeline(name="doubling")
def doubling(number: int, wait_for: str = ""):
    show(doubled=double(number=number, wait_for=wait_for).outputs["doubled"])

compiler.Compiler().compile(doubling, target)
"""
# One process answers line by line. What the client finds becomes JSON by its own models; an error
# becomes its status and body.
CLIENT = """
import contextlib, json, sys, warnings
warnings.simplefilter("ignore")
import kfp, kfp_server_api
for line in sys.stdin:
    asked = json.loads(line)
    names = {"json": json, "answer": None, **asked["values"]}
    with contextlib.redirect_stdout(sys.stderr):
        names["client"] = kfp.Client(host=asked["host"], existing_token=asked["token"])
        try:
            exec(asked["script"], names)
            answer = kfp_server_api.ApiClient().sanitize_for_serialization(names["answer"])
        except kfp_server_api.ApiException as error:
            answer = {"status": error.status, "body": json.loads(error.body)}
    print(json.dumps(answer), flush=True)
"""
RUN = """
client.create_experiment("tests")
experiment = client.get_experiment(experiment_name="tests").experiment_id
answer = client.run_pipeline(
    experiment, name, pipeline_package_path=file, params=params, pipeline_root=root
)
"""
END = "answer = client.wait_for_run_completion(run, timeout=60, sleep_duration=0.2)"
GET = "answer = client.get_run(run)"


@pytest.fixture(scope="module")
def file(kubeflow_python):
    target = HOME / "doubling.yaml"
    code = f"target = {str(target)!r}\n{PIPELINE}"
    script = target.with_suffix(".py")  # the SDK reads the source of its steps
    script.write_text(code)
    subprocess.run([kubeflow_python, "-W", "ignore", script], check=True)
    return str(target)


@pytest.fixture(scope="module")
def connection(kubeflow_platform):
    return kubeflow_platform.redirect.connections["kubeflow_default"]


@pytest.fixture(scope="module")
def ask(kubeflow_python, connection):
    """Run lines of Python that have `client`, and take what they leave in `answer`."""

    def asked(script, to=connection, token=None, **values):
        content = {
            "host": f"http://{to['host']}:{to['port']}",
            "token": token or to["password"],
            "script": textwrap.dedent(script),
            "values": {"root": None} | values,
        }
        print(json.dumps(content), file=process.stdin, flush=True)
        answer = process.stdout.readline()
        assert answer, "the client ended: what it said is on standard error"
        return json.loads(answer)

    with subprocess.Popen(
        [kubeflow_python, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield asked
        process.stdin.close()


@pytest.fixture
def started(ask, file, request):
    """Start a run of the pipeline; no test leaves one behind."""
    begun = []

    def start(number, **values):
        params = {"number": number} | values.pop("more", {})
        run = ask(RUN, name=request.node.name, file=file, params=params, **values)
        begun.append(run.get("run_id"))
        return run

    yield start
    ask("[client.delete_run(run) for run in runs]", runs=[run for run in begun if run])


def get(connection, path, token=None):
    """A request past the client."""
    address = f"http://{connection['host']}:{connection['port']}{path}"
    headers = {"Authorization": f"Bearer {token or connection['password']}"}
    with urlopen(Request(address, headers=headers), timeout=10) as answer:
        return answer.read().decode()


def tasks(run):
    return {each["display_name"]: each for each in run["run_details"]["task_details"]}


def test_a_run_from_a_file_computes_and_leaves_its_artifacts_below_its_root(ask, started, tmp_path):
    begun = started(21, root=str(tmp_path))
    assert (begun["state"], begun["finished_at"][:4]) == ("PENDING", "1970")
    ended = ask(END, run=begun["run_id"])
    assert ended["state"] == "SUCCEEDED"
    assert [each["state"] for each in ended["state_history"]] == ["PENDING", "RUNNING", "SUCCEEDED"]
    assert {name: task["state"] for name, task in tasks(ended).items()} == {
        "double": "SUCCEEDED",
        "show": "SUCCEEDED",
    }
    assert ended["created_at"] < tasks(ended)["show"]["start_time"] < ended["finished_at"]
    assert ended["pipeline_spec"]["pipelineInfo"]["name"] == "doubling"
    (written,) = (tmp_path / "doubling" / begun["run_id"]).rglob("doubled")
    assert written.read_text() == "42"


def test_a_run_of_an_uploaded_version_is_the_same_run(ask, file):
    told = ask(
        """
        pipeline = client.upload_pipeline(file, "kept").pipeline_id
        (first,) = client.list_pipeline_versions(pipeline).pipeline_versions
        second = client.upload_pipeline_version(file, "second", pipeline_id=pipeline)
        experiment = client.create_experiment("versions").experiment_id
        version = second.pipeline_version_id
        run = client.run_pipeline(
            experiment, "by version", pipeline_id=pipeline, version_id=version,
            params={"number": 4},
        )
        ended = client.wait_for_run_completion(run.run_id, timeout=60, sleep_duration=0.2)
        answer = [
            ended, version, client.get_pipeline_id("kept") == pipeline,
            client.get_pipeline_version(pipeline, version).pipeline_spec["pipelineInfo"],
        ]
        """,
        file=file,
    )
    run, version, found, info = told
    assert (run["state"], found, info) == ("SUCCEEDED", True, {"name": "doubling"})
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version
    answer = ask(
        """
        run = client.list_runs(experiment_id=experiment).runs[0].run_id
        client.delete_run(run)
        client.delete_experiment(experiment)
        pipeline = client.get_pipeline_id("kept")
        for version in client.list_pipeline_versions(pipeline).pipeline_versions:
            client.delete_pipeline_version(pipeline, version.pipeline_version_id)
        client.delete_pipeline(pipeline)
        answer = client.get_pipeline_id("kept")
        """,
        experiment=run["experiment_id"],
    )
    assert answer is None


def test_a_step_that_raises_fails_the_run_and_says_why_in_its_log(ask, started, connection):
    ended = ask(END, run=started(-1)["run_id"])
    assert ended["state"] == "FAILED"
    assert list(tasks(ended)) == ["double"]
    assert tasks(ended)["double"]["state"] == "FAILED"
    (child,) = tasks(ended)["double"]["child_tasks"]
    path = f"/apis/v1alpha1/runs/{ended['run_id']}/nodes/{child['pod_name']}/log"
    log = get(connection, path)
    assert "doubling -1" in log
    assert log.endswith("ValueError: -1 is below zero")
    unknown = get(connection, path.replace(child["pod_name"], "no-such-node"))
    assert "Failed to read logs" in json.loads(unknown)["error_message"]


def test_a_run_that_was_asked_to_fail_does(ask, started, kubeflow_platform, connection):
    with kubeflow_platform.trouble("job_fails", "CreateRun", reason="no node has room"):
        begun = started(1)
    ended = ask(END, run=begun["run_id"])
    assert ended["state"] == "FAILED"
    (child,) = tasks(ended)["double"]["child_tasks"]
    log = get(connection, f"/apis/v1alpha1/runs/{ended['run_id']}/nodes/{child['pod_name']}/log")
    assert log == "RuntimeError: no node has room"


def test_a_terminated_run_is_cancelled_and_its_process_is_gone(ask, started, tmp_path):
    run = started(1, more={"wait_for": str(tmp_path / "never")})["run_id"]
    until(
        lambda: ask(GET, run=run),
        "the task that doubles",
        lambda found: "run_details" in found and "double" in tasks(found),
    )
    assert executed(run)
    ask("client.terminate_run(run)", run=run)
    until(lambda: ask(GET, run=run)["state"], "the run to be cancelled", "CANCELED".__eq__)
    assert tasks(ask(GET, run=run))["double"]["state"] == "CANCELED"
    assert not executed(run)
    refused = ask("client.terminate_run(run)", run=run)
    assert (refused["status"], refused["body"]["code"]) == (400, 3)


def executed(run):
    return [p for p in psutil.process_iter(["cmdline"]) if run in " ".join(p.info["cmdline"] or [])]


def test_lists_are_filtered_sorted_and_come_in_pages(ask, started, kubeflow_platform):
    with kubeflow_platform.trouble("job_fails", "CreateRun", times=3):
        runs = [started(number)["run_id"] for number in (1, 2, 3)]
    first, second, nothing, archived = ask(
        """
        wanted = json.dumps({"predicates": [
            {"operation": "EQUALS", "key": "display_name", "stringValue": name}
        ]})
        first = client.list_runs(page_size=2, sort_by="created_at desc", filter=wanted)
        second = client.list_runs(
            page_size=2, sort_by="created_at desc", filter=wanted, page_token=first.next_page_token
        )
        client.archive_run(runs[0])
        answer = [
            first, second, client.list_runs(filter=wanted.replace(name, "another")),
            client.get_run(runs[0]),
        ]
        """,
        runs=runs,
        name="test_lists_are_filtered_sorted_and_come_in_pages",
    )
    assert [each["run_id"] for each in first["runs"]] == runs[:0:-1]
    assert first["total_size"] == 3
    assert [each["run_id"] for each in second["runs"]] == runs[:1]
    assert "next_page_token" not in second
    assert nothing == {}
    assert archived["storage_state"] == "ARCHIVED"
    assert len(kubeflow_platform.left()["runs"]) == 2


@pytest.mark.parametrize(
    ("script", "status", "code", "said"),
    [
        (GET, 404, 5, "no-such-run not found"),
        ("client.get_experiment('x')", 404, 5, "Experiment x not found"),
        ("client.list_runs(filter='{\"predicates\": [{\"key\": \"mood\"}]}')", 400, 3, "mood"),
        ("client.list_runs(sort_by='mood')", 400, 3, "Invalid sorting field"),
        (RUN.replace("params=params", "params={}"), 400, 3, "number is not optional"),
        (RUN.replace("params=params", "params={'number': 'x'}"), 400, 3, "NUMBER_INTEGER"),
        (RUN.replace("params=params", "params={'numbers': 1}"), 400, 3, "numbers is not defined"),
        (RUN.replace("root=root", "root='s3://x'"), 400, 3, "pipeline root"),
        ("client._experiment_api.experiment_service_create_experiment("
         "{'display_name': 'Default'})", 409, 6, "already exists"),
        ("client.list_recurring_runs()", 501, 12, "GET /apis/v2beta1/recurringruns"),
        ("client._run_api.run_service_retry_run(run)", 501, 12, ":retry is not implemented"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_the_api_s_own_shape(
    ask, file, script, status, code, said
):
    params = {"number": 1}
    refused = ask(script, run="no-such-run", name="refused", file=file, params=params)
    assert (refused["status"], refused["body"]["code"]) == (status, code)
    assert said in refused["body"]["message"]


def test_nobody_is_told_more_than_that_the_server_is_there_without_the_token(ask, connection):
    refused = ask("client.list_experiments()", token="guessed")  # noqa: S106
    assert (refused["status"], refused["body"]["code"]) == (401, 16)
    assert "pipeline_store" in get(connection, "/apis/v2beta1/healthz", token="guessed")  # noqa: S106
    with pytest.raises(HTTPError, match="401"):
        get(connection, "/apis/v2beta1/runs", token="guessed")  # noqa: S106


def test_an_upload_that_is_no_pipeline_is_refused(ask, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("just: words\n")
    refused = ask("client.upload_pipeline(file, 'bad')", file=str(bad))
    assert refused["status"] == 400
    assert "pipeline spec is invalid" in refused["body"]["error_message"]


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [("throttled", 429, 8), ("unavailable", 503, 14), ("quota", 500, 13)],
)
def test_trouble_is_met_as_often_as_asked(ask, kubeflow_platform, kind, status, code):
    with kubeflow_platform.trouble(kind, "List*"):
        script = """
        try:
            client.list_experiments()
        except Exception as error:
            answer = [error.status, error.body, client.list_experiments().total_size]
        """
        met, body, then = ask(script)
    assert (met, json.loads(body)["code"]) == (status, code)
    assert then >= 1


def test_what_there_was_is_there_after_a_restart_and_what_ran_has_failed(
    ask, file, connection, tmp_path
):
    (entry,) = (each for each in platforms.PLATFORMS if each.name == "kubeflow")
    process = platforms.start(entry, tmp_path, tmp_path, {})
    try:
        first = platforms.redirects(tmp_path, ["kubeflow"]).connections["kubeflow_default"]
        params = {"number": 1, "wait_for": str(tmp_path / "never")}
        run = ask(RUN, to=first, name="long", file=file, params=params)["run_id"]
        until(lambda: executed(run), "a process of the run")
        processes.stop(tmp_path, [process])
        assert not executed(run)
        process = platforms.start(entry, tmp_path, tmp_path, {})
        second = platforms.redirects(tmp_path, ["kubeflow"]).connections["kubeflow_default"]
        assert second["password"] == first["password"]
        found = ask(GET, to=second, run=run)
    finally:
        processes.stop(tmp_path, [process])
    assert found["state"] == "FAILED"
    last = found["state_history"][-1]
    assert (last["state"], last["error"]["code"]) == ("FAILED", 13)
    assert "ended from outside" in last["error"]["message"]
    assert not list((Path(tmp_path) / "local-cloud" / "kubeflow" / "work").glob("*"))
