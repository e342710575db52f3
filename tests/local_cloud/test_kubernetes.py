"""The local cluster as Kubernetes' own Python client sees it."""

import base64
import json
import stat
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream

from include import processes
from include.local_cloud import platforms, server
from include.local_cloud.kubernetes import kubelet, objects, resources
from include.local_cloud.kubernetes.admission import admitted
from tests.services import Platform
from tests.waiting import until

NUMBERS = count(1)
HOME = "default"
GROUP, VERSION = "trainer.kubeflow.org", "v1alpha1"


@contextmanager
def connected(platform: Any) -> Iterator[Any]:
    """A client, by the kubeconfig that the connection names."""
    connection = platform.connections["kubernetes_default"]
    with config.new_client_from_config(connection["extra"]["kube_config_path"]) as api:
        yield api


@pytest.fixture
def api(kubernetes_platform: Platform) -> Iterator[Any]:
    """The vendor's client; whatever a test leaves is taken away."""
    with connected(kubernetes_platform.redirect) as found:
        yield found
        for name in kubernetes_platform.left().get("pods", []):
            home, _, own = name.partition("/")
            client.CoreV1Api(found).delete_namespaced_pod(own, home, grace_period_seconds=0)


@pytest.fixture
def core(api: Any) -> Any:
    """The half of it that knows pods."""
    return client.CoreV1Api(api)


def container(code: str = "", name: str = "main", **more: Any) -> dict[str, Any]:
    command = ["python", "-c", textwrap.dedent(code)]
    return {"name": name, "image": "python:3.11", "command": command} | more


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    meta = {"name": f"pod-{next(NUMBERS)}", "labels": {"app": "test"}}
    return {
        "metadata": meta,
        "spec": {"restartPolicy": "Never", "containers": list(containers)} | spec,
    }


def ended(core: Any, wanted: dict[str, Any]) -> Any:
    """Run a pod to its end."""
    name = core.create_namespaced_pod(HOME, wanted).metadata.name

    def over() -> Any:
        found = core.read_namespaced_pod(name, HOME)
        return found if found.status.phase in ("Succeeded", "Failed") else None

    return until(over, f"pod {name} to end")


def phase(core: Any, name: str) -> Any:
    """How far a pod is."""
    return core.read_namespaced_pod(name, HOME).status.phase


def printed(core: Any, found: Any, **more: Any) -> str:
    """Its log; as bytes, for the client would make `b'…'` of them."""
    log = core.read_namespaced_pod_log
    answer = log(found.metadata.name, HOME, _preload_content=False, **more)
    return str(answer.data.decode())


def running(core: Any, wanted: dict[str, Any]) -> str:
    """Start a pod that prints something once it is on its way."""
    made = core.create_namespaced_pod(HOME, wanted)
    name = str(made.metadata.name)
    until(lambda: phase(core, name), "the pod to run", "Running".__eq__)
    until(lambda: printed(core, made, container="main"), "what the pod prints")
    return name


def listen(command: Any) -> None:
    """Hear a command to its end; websocket-client 1.9 forgets a socket that the server closes."""
    command.run_forever(timeout=10)
    command.sock.shutdown()


def refusal(call: Callable[..., Any], *given: Any, **more: Any) -> tuple[int, str, str]:
    """How the cluster says no."""
    with pytest.raises(ApiException) as caught:
        call(*given, **more)
    body = json.loads(caught.value.body)
    assert (body["kind"], body["status"], body["code"]) == (
        "Status",
        "Failure",
        caught.value.status,
    )
    return body["code"], body["reason"], body["message"]


WAITS = """
    import signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    print("ready", flush=True)
    time.sleep(60)
"""


def test_only_who_has_the_token_comes_in(kubernetes_platform: Platform, api: Any) -> None:
    path = Path(
        kubernetes_platform.redirect.connections["kubernetes_default"]["extra"]["kube_config_path"]
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    stranger = client.Configuration()
    stranger.host, stranger.ssl_ca_cert = api.configuration.host, api.configuration.ssl_ca_cert
    with client.ApiClient(stranger) as other:
        assert refusal(client.CoreV1Api(other).list_namespaced_pod, HOME)[:2] == (
            401,
            "Unauthorized",
        )


def test_a_pod_tells_how_it_ended(core: Any) -> None:
    good = ended(core, pod(container("print('a'); print('b')")))
    state = good.status.container_statuses[0].state.terminated
    assert (good.status.phase, state.exit_code, state.reason) == ("Succeeded", 0, "Completed")
    assert printed(core, good) == "a\nb\n"
    assert printed(core, good, tail_lines=1) == "b\n"
    stamp, word = printed(core, good, timestamps=True).splitlines()[0].split()
    assert (stamp[-1], word) == ("Z", "a")
    bad = ended(core, pod(container("raise SystemExit(3)")))
    assert bad.status.phase == "Failed"
    assert bad.status.container_statuses[0].state.terminated.exit_code == 3
    never = ended(core, pod(container() | {"command": ["no-such-program"]}))
    assert never.status.container_statuses[0].state.terminated.reason == "StartError"
    reasons = core.list_namespaced_event(
        HOME, field_selector=f"involvedObject.name={never.metadata.name}"
    )
    assert {"Scheduled", "NotPulled", "Failed"} <= {each.reason for each in reasons.items}


def test_what_is_mounted_and_said_arrives(core: Any) -> None:
    core.create_namespaced_config_map(
        HOME, {"metadata": {"name": "settings"}, "data": {"depth": "4", "model.json": "{}"}}
    )
    secret = {"metadata": {"name": "key"}, "stringData": {"token": "t0p"}}
    core.create_namespaced_secret(HOME, secret)
    assert base64.b64decode(core.read_namespaced_secret("key", HOME).data["token"]) == b"t0p"
    env = [
        {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "DEPTH", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "depth"}}},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "key", "key": "token"}}},
        {"name": "BOTH", "value": "$(DEPTH)-$(TOKEN)-$$(ME)"},
        {"name": "OUT", "value": "/data/out.txt"},
    ]
    mounts = [
        {"name": "scratch", "mountPath": "/data"},
        {"name": "settings", "mountPath": "/etc/settings"},
    ]
    first = container("open('/data/in.txt', 'w').write('from before')", "first")
    main = container(
        """
        import os
        print(os.environ["ME"], os.environ["BOTH"], "AIRFLOW_HOME" in os.environ)
        print(open("/data/in.txt").read(), open("/etc/settings/model.json").read())
        """
    )
    found = ended(
        core,
        pod(
            main | {"env": env, "volumeMounts": mounts},
            initContainers=[first | {"volumeMounts": mounts}],
            volumes=[
                {"name": "scratch", "emptyDir": {}},
                {"name": "settings", "configMap": {"name": "settings"}},
            ],
        ),
    )
    name = found.metadata.name
    assert printed(core, found, container="main").splitlines() == [
        f"{name} 4-t0p-$(ME) False",
        "from before {}",
    ]
    core.delete_namespaced_config_map("settings", HOME)
    core.delete_namespaced_secret("key", HOME)


def test_a_pod_waits_for_what_is_missing(core: Any) -> None:
    source = [{"configMapRef": {"name": "late"}}]
    name = core.create_namespaced_pod(
        HOME, pod(container("import os; print(os.environ['WORD'])", envFrom=source))
    ).metadata.name

    def waits() -> Any:
        status = core.read_namespaced_pod(name, HOME).status.container_statuses
        return status and status[0].state.waiting.message

    assert until(waits, "the reason why the pod waits") == 'configmap "late" not found'
    core.create_namespaced_config_map(HOME, {"metadata": {"name": "late"}, "data": {"WORD": "hi"}})
    until(lambda: phase(core, name), "the pod to succeed", "Succeeded".__eq__)
    assert printed(core, core.read_namespaced_pod(name, HOME)) == "hi\n"
    core.delete_namespaced_config_map("late", HOME)


def test_a_container_is_restarted_where_its_policy_says_so(core: Any, tmp_path: Path) -> None:
    code = f"""
        import pathlib, sys
        mark = pathlib.Path({str(tmp_path / "mark")!r})
        sys.exit(0 if mark.exists() else mark.touch() or 1)
    """
    found = ended(core, pod(container(code), restartPolicy="OnFailure"))
    status = found.status.container_statuses[0]
    assert (found.status.phase, status.restart_count) == ("Succeeded", 1)
    assert status.last_state.terminated.exit_code == 1


def test_a_pod_that_takes_too_long_is_ended(core: Any) -> None:
    found = ended(core, pod(container(WAITS), activeDeadlineSeconds=1))
    assert (found.status.phase, found.status.reason) == ("Failed", "DeadlineExceeded")


def test_a_deleted_pod_may_end_in_its_own_way_first(core: Any) -> None:
    name = running(core, pod(container(WAITS)))
    watching = watch.Watch()
    for event in watching.stream(
        core.list_namespaced_pod, HOME, field_selector=f"metadata.name={name}", timeout_seconds=20
    ):
        last = event["object"]
        if event["type"] == "ADDED":
            core.delete_namespaced_pod(name, HOME)
        elif event["type"] == "DELETED":
            watching.stop()
    assert last.metadata.deletion_grace_period_seconds == 30
    assert last.status.container_statuses[0].state.terminated.exit_code == 7
    assert refusal(core.read_namespaced_pod, name, HOME)[:2] == (404, "NotFound")


def test_a_log_is_followed_to_the_end(core: Any) -> None:
    code = "import time\nfor n in range(4): print(n, flush=True); time.sleep(0.2)"
    name = running(core, pod(container(code)))
    lines = watch.Watch().stream(core.read_namespaced_pod_log, name, HOME)
    assert list(lines) == ["0", "1", "2", "3"]


def test_a_command_runs_beside_a_container(core: Any) -> None:
    name = running(core, pod(container(WAITS)))

    def execute(*command: str, **more: Any) -> Any:
        call = core.connect_get_namespaced_pod_exec
        flags = {"stdin": False, "stdout": True, "stderr": True, "tty": False} | more
        return stream(call, name, HOME, command=list(command), _preload_content=False, **flags)

    asked = execute("sh", "-c", "echo out; echo err >&2; exit 3")
    listen(asked)
    assert (asked.read_stdout(), asked.read_stderr()) == ("out\n", "err\n")
    assert asked.returncode == 3
    reader = execute("python", "-c", "print(input().upper())", stdin=True)
    reader.write_stdin("hello\n")
    listen(reader)
    assert reader.read_stdout() == "HELLO\n"
    # Nobody but the container hears it, whatever else runs on this machine.
    shell = execute("/bin/sh", stdin=True)
    shell.write_stdin("kill -15 $(pgrep -u $(id -u) -f 'python')\n")
    listen(shell)
    until(lambda: phase(core, name), "the pod to fail", "Failed".__eq__)
    state = core.read_namespaced_pod(name, HOME).status.container_statuses[0].state
    assert state.terminated.exit_code == 7


def test_an_indexed_job_runs_each_part_once(api: Any, core: Any) -> None:
    batch = client.BatchV1Api(api)
    code = "import os; print('part', os.environ['JOB_COMPLETION_INDEX'])"
    template = {"spec": pod(container(code))["spec"]}
    spec = {"completions": 3, "parallelism": 2, "completionMode": "Indexed", "template": template}
    batch.create_namespaced_job(HOME, {"metadata": {"name": "parts"}, "spec": spec})
    until(
        lambda: batch.read_namespaced_job("parts", HOME).status,
        "the job to be complete",
        lambda status: status.completion_time,
    )
    assert batch.read_namespaced_job("parts", HOME).status.succeeded == 3
    pods = core.list_namespaced_pod(HOME, label_selector="job-name=parts").items
    assert sorted(printed(core, each) for each in pods) == ["part 0\n", "part 1\n", "part 2\n"]
    batch.delete_namespaced_job("parts", HOME, propagation_policy="Background")
    assert core.list_namespaced_pod(HOME, label_selector="job-name in (parts)").items == []


def test_objects_are_changed_by_each_kind_of_patch(api: Any, core: Any) -> None:
    made = core.create_namespaced_config_map(
        HOME, {"metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}}
    )
    patch = core.patch_namespaced_config_map
    assert patch("c", HOME, {"data": {"a": None, "c": "3"}}).data == {"b": "2", "c": "3"}
    steps = [{"op": "replace", "path": "/data/b", "value": "4"}]
    assert patch("c", HOME, steps).data["b"] == "4"
    made.data = {"x": "y"}
    assert refusal(core.replace_namespaced_config_map, "c", HOME, made)[:2] == (409, "Conflict")
    made.metadata.resource_version = None
    assert core.replace_namespaced_config_map("c", HOME, made).data == {"x": "y"}
    assert core.list_namespaced_config_map(HOME, label_selector="app=other").items == []
    core.delete_namespaced_config_map("c", HOME)


def test_a_definition_adds_a_kind(api: Any, kubernetes_platform: Platform, tmp_path: Path) -> None:
    names = {"plural": "reports", "kind": "Report", "singular": "report"}
    version = {"name": "v1", "served": True, "storage": True, "schema": {}}
    definition = {
        "metadata": {"name": "reports.example.org"},
        "spec": {
            "group": "example.org",
            "names": names,
            "scope": "Namespaced",
            "versions": [version],
        },
    }
    client.ApiextensionsV1Api(api).create_custom_resource_definition(definition)
    found = dynamic.DynamicClient(api, cache_file=tmp_path / "kinds").resources
    assert found.get(api_version="example.org/v1", kind="Report").name == "reports"
    custom = client.CustomObjectsApi(api)
    place = ("example.org", "v1", HOME, "reports")
    custom.create_namespaced_custom_object(*place, {"metadata": {"name": "r"}, "spec": {"a": 1}})
    assert custom.get_namespaced_custom_object(*place, "r")["spec"] == {"a": 1}
    custom.delete_namespaced_custom_object(*place, "r")
    client.ApiextensionsV1Api(api).delete_custom_resource_definition("reports.example.org")
    assert refusal(custom.list_namespaced_custom_object, *place)[0] == 404
    assert kubernetes_platform.left() == {}


ANSWERS = """
    import http.server, os
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(os.environ["SAYS"].encode())
        def log_message(self, *_): ...
    http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.fixture
def services(api: Any, kubernetes_platform: Platform, tmp_path: Path) -> Iterator[Any]:
    """KServe's kind, by the client that learns from the cluster which kinds there are."""
    found = dynamic.DynamicClient(api, cache_file=tmp_path / "kinds").resources
    yield found.get(api_version="serving.kserve.io/v1beta1", kind="InferenceService")
    until(kubernetes_platform.left, "nothing to be left", lambda left: left == {})


def serving(says: str) -> dict[str, Any]:
    predictor = container(ANSWERS, env=[{"name": "SAYS", "value": says}])
    return {"spec": {"predictor": {"containers": [predictor]}}}


def state(services: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = services.get(name=name, namespace=HOME).to_dict().get("status") or {}
    return found | {each["type"]: each["status"] for each in found.get("conditions", [])}


def is_ready(services: Any, name: str, wanted: str) -> None:
    """Wait for what a service says about itself."""
    until(
        lambda: state(services, name),
        f"service {name} with Ready {wanted}",
        lambda found: found.get("Ready") == wanted,
    )


def answer(services: Any, name: str) -> str:
    with urlopen(state(services, name)["url"], timeout=10) as page:
        return str(page.read().decode())


def test_an_inference_service_answers_and_is_replaced_without_a_gap(services: Any) -> None:
    services.create(body={"metadata": {"name": "scorer"}} | serving("one"), namespace=HOME)
    is_ready(services, "scorer", "True")
    assert answer(services, "scorer") == "one"
    merge = {"content_type": "application/merge-patch+json"}
    services.patch(name="scorer", body=serving("two"), namespace=HOME, **merge)
    heard = [answer(services, "scorer")]
    until(
        lambda: heard.append(answer(services, "scorer")) or heard[-1],
        "an answer of the new service",
        "two".__eq__,
    )
    assert set(heard) == {"one", "two"}
    is_ready(services, "scorer", "True")
    services.delete(name="scorer", namespace=HOME)


def test_an_inference_service_says_why_it_is_not_ready(services: Any) -> None:
    broken = {"spec": {"predictor": {"containers": [container("raise SystemExit('no model')")]}}}
    services.create(body={"metadata": {"name": "broken"}} | broken, namespace=HOME)
    is_ready(services, "broken", "False")
    lost = state(services, "broken")["modelStatus"]["lastFailureInfo"]
    assert (lost["reason"], lost["exitCode"]) == ("ModelLoadFailed", 1)
    assert "no model" in lost["message"]
    model = {"modelFormat": {"name": "mlflow"}, "storageUri": "s3://models/churn/2"}
    wanted = {"metadata": {"name": "format"}, "spec": {"predictor": {"model": model}}}
    services.create(body=wanted, namespace=HOME)
    is_ready(services, "format", "False")
    lost = state(services, "format")["modelStatus"]["lastFailureInfo"]
    assert lost["reason"] == "NoSupportingRuntime"
    for name in ("broken", "format"):
        services.delete(name=name, namespace=HOME)
    nothing = {"metadata": {"name": "nothing"}, "spec": {"predictor": {"minReplicas": 1}}}
    code, reason, message = refusal(services.create, body=nothing, namespace=HOME)
    assert (code, reason) == (403, "Forbidden")
    assert "Exactly one of [Custom, Model" in message


def test_what_can_not_be_is_refused_as_by_the_vendor(api: Any, core: Any) -> None:
    make, custom = core.create_namespaced_pod, client.CustomObjectsApi(api)
    wrong = pod(container())
    wrong["metadata"]["name"] = "Not_A_Name"
    assert refusal(make, HOME, wrong)[:2] == (422, "Invalid")
    assert "spec.containers" in refusal(make, HOME, pod())[2]
    assert refusal(make, HOME, {"metadata": {"name": "x"}, "spec": "no object"})[0] == 400
    assert refusal(api.call_api, "/", "GET", auth_settings=["BearerToken"])[0] == 404
    assert refusal(make, "nowhere", pod(container()))[2] == 'namespaces "nowhere" not found'
    spec = {"runtimeRef": {"name": "no-such-runtime"}}
    train = {"metadata": {"name": "t"}, "spec": spec}
    place = (GROUP, VERSION, HOME, "trainjobs")
    code, reason, message = refusal(custom.create_namespaced_custom_object, *place, train)
    assert (code, reason) == (403, "Forbidden")
    assert '"no-such-runtime" not found' in message
    apps = client.AppsV1Api(api)
    code, reason, message = refusal(apps.list_namespaced_deployment, HOME)
    assert (code, reason) == (501, "NotImplemented")
    assert "GET /apis/apps/v1/namespaces/default/deployments" in message


@pytest.mark.parametrize(
    ("kind", "code", "reason"),
    [
        ("throttled", 429, "TooManyRequests"),
        ("unavailable", 503, "ServiceUnavailable"),
        ("quota", 403, "Forbidden"),
    ],
)
def test_trouble_looks_like_the_vendors(
    core: Any, kubernetes_platform: Platform, kind: str, code: int, reason: str
) -> None:
    with kubernetes_platform.trouble(kind, "CreatePod", times=9):
        assert refusal(core.create_namespaced_pod, HOME, pod(container()))[:2] == (code, reason)
        core.list_namespaced_pod(HOME)


@contextmanager
def started(home: Path) -> Iterator[Any]:
    """A client of a cluster of its own, which is gone afterwards."""
    (entry,) = (each for each in platforms.PLATFORMS if each.name == "kubernetes")
    process = platforms.start(entry, home, home, {})
    try:
        with connected(platforms.redirects(home, ["kubernetes"])) as api:
            yield client.CoreV1Api(api)
    finally:
        processes.stop(home, [process])
    assert not process.family()


def test_a_cluster_remembers_over_a_restart(tmp_path: Path) -> None:
    wanted = pod(container("import time; print('ready'); time.sleep(60)"))
    with started(tmp_path) as core:
        core.create_namespaced_config_map(HOME, {"metadata": {"name": "kept"}, "data": {"a": "1"}})
        name = running(core, wanted)
    with started(tmp_path) as core:
        assert core.read_namespaced_config_map("kept", HOME).data == {"a": "1"}
        found = core.read_namespaced_pod(name, HOME)
        assert found.status.phase == "Failed"
        state = found.status.container_statuses[0].state.terminated
        assert state.exit_code in (143, 137), "told to end, or not found any more"
        assert printed(core, found) == "ready\n"


def test_old_events_are_forgotten_by_several_pods_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "EVENTS_LAST", -1)  # each event is old at once
    store = objects.Store(tmp_path)
    about = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": HOME, "uid": "1"}}

    def tell(number: int) -> None:
        meta = about["metadata"] | {"name": f"pod-{number}"}
        for _ in range(50):
            store.event(about | {"metadata": meta}, "Started", "Started container main")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tell, range(8)))
    assert len(store.all(resources.EVENTS)) <= 8


def test_an_event_about_what_lies_in_no_namespace_any_more_is_left_out(tmp_path: Path) -> None:
    store = objects.Store(tmp_path)
    meta = {"name": "pod", "namespace": "gone", "uid": "1"}
    store.event({"apiVersion": "v1", "kind": "Pod", "metadata": meta}, "Killing", "Stopping main")
    assert store.all(resources.EVENTS) == []


@pytest.mark.parametrize("at", ["Scheduled", "Started"])
def test_a_fault_of_the_kubelet_ends_the_pod_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    store = objects.Store(tmp_path / "objects")
    node = kubelet.Kubelet(store, server.Faults(), tmp_path)
    tell = store.event

    def full(about: Any, reason: str, *more: Any) -> None:
        if reason == at:
            raise OSError(28, "No space left on device")
        tell(about, reason, *more)

    monkeypatch.setattr(store, "event", full)
    wanted = pod(container("import time; time.sleep(600)"))
    store.create(resources.PODS, HOME, admitted(resources.PODS, HOME, wanted, store))

    def status() -> Any:
        return store.get(resources.PODS, HOME, wanted["metadata"]["name"])["status"]

    try:
        found = until(status, "the pod to end", lambda it: it.get("phase") == "Failed")
        assert found["reason"] == "KubeletError"
        assert "No space left on device" in found["message"]
    finally:
        node.close()
