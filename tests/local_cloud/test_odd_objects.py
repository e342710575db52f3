"""One object, however odd, is refused or kept: no list and no other call suffers from it."""

import copy
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from include.local_cloud.kubernetes import resources
from include.local_cloud.kubernetes.objects import Store
from include.local_cloud.state import Table
from tests.local_cloud.test_malformed import (
    PODS,
    SCOPE,
    Caller,
    azure_ml,
    kubeflow,
    kubernetes,
    vertex,
)
from tests.services import Platform
from tests.waiting import until

INFINITE = float("inf")
HOME = PODS.removesuffix("/pods")
BATCH = HOME.replace("/api/v1", "/apis/batch/v1")
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MLFLOW = f"/mlflow/v1.0{SCOPE}/api/2.0/mlflow"
V2 = "/apis/v2beta1"


def nested(levels: int) -> Any:
    """A list in a list in a list."""
    made: Any = []
    for _ in range(levels):
        made = [made]
    return made


ODD = (
    *(None, True, 7, "", [], {}, [[]], [{}], INFINITE),
    *("a" * 300, "\ud800", nested(60), nested(900)),
)


@dataclass
class Line:
    """One connection to a platform, for many requests in a short time."""

    caller: Caller
    connection: HTTPConnection = field(init=False)

    def __post_init__(self) -> None:
        """Connect when the first request comes."""
        url = urlsplit(self.caller.address)
        if url.scheme == "http":
            self.connection = HTTPConnection(url.hostname or "", url.port, timeout=30)
        else:
            tls = ssl.create_default_context(cafile=self.caller.authority)
            self.connection = HTTPSConnection(url.hostname or "", url.port, timeout=30, context=tls)

    def close(self) -> None:
        """Hang up."""
        self.connection.close()

    def ask(self, call: str, body: Any = None, kind: str = "application/json") -> tuple[int, Any]:
        """Status and content of the answer; what Python calls Infinity is sent as 1e400."""
        method, path = call.split(" ", 1)
        if not isinstance(body, bytes):
            text = "" if body is None else json.dumps(body).replace("Infinity", "1e400")
            body = text.encode()
        headers = {"Authorization": f"Bearer {self.caller.token}", "Content-Type": kind}
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content or b"null", parse_constant=pytest.fail)


def places(body: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is a value in a body: its leaves, and what holds them."""
    if path:
        yield path
    if isinstance(body, dict):
        inner: Any = body.items()
    else:
        inner = enumerate(body) if isinstance(body, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


def with_odd_values(body: Any, path: tuple[Any, ...]) -> Iterator[Any]:
    """The body with something odd at one place, for each odd thing."""
    for odd in ODD:
        changed = copy.deepcopy(body)
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = odd
        yield changed


def check_lists(line: Line, lists: list[tuple[str, Any]], why: str) -> None:
    for call, body in lists:
        status, told = line.ask(call, body)
        assert status == 200, (why, call, told)


def definition(**changed: Any) -> dict[str, Any]:
    spec = {
        "group": "odd.example",
        "scope": "Namespaced",
        "names": {"plural": "odds", "kind": "Odd"},
        "versions": [{"name": "v1", "served": True, "subresources": {"status": {}}}],
    }
    return {"metadata": {"name": "odds.odd.example"}, "spec": spec | changed}


OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "b"}
META = {
    "labels": {"a": "b"},
    "annotations": {"c": "d"},
    "ownerReferences": [OWNER],
}
POD_SPEC = {
    "restartPolicy": "Never",
    "terminationGracePeriodSeconds": 1,
    "initContainers": [{"name": "first", "image": "python"}],
    "containers": [{"name": "only", "image": "python", "env": [{"name": "A", "value": "b"}]}],
    "volumes": [{"name": "here", "emptyDir": {}}],
}
OBJECTS = {
    f"{HOME}/configmaps": {"metadata": META, "data": {"a": "b"}},
    f"{HOME}/secrets": {"metadata": META, "data": {"a": "Yg=="}, "type": "Opaque"},
    f"{HOME}/persistentvolumeclaims": {"metadata": META, "spec": {"accessModes": ["x"]}},
    PODS: {"metadata": META, "spec": POD_SPEC},
    f"{BATCH}/jobs": {
        "metadata": META,
        "spec": {
            "suspend": True,
            "parallelism": 1,
            "template": {"metadata": META, "spec": POD_SPEC},
        },
    },
    DEFINITIONS: definition(),
}
LISTS: list[tuple[str, Any]] = [
    (f"GET {path}?labelSelector=a%3Db&fieldSelector=a.b%3Dc", None) for path in OBJECTS
]


@pytest.mark.parametrize("path", OBJECTS)
def test_no_odd_object_spoils_the_lists_of_a_cluster(
    local_cloud: Callable[[str], Platform], path: str
) -> None:
    platform, good = local_cloud("kubernetes"), OBJECTS[path]
    left, name = platform.left(), "odds.odd.example" if path == DEFINITIONS else "odd"
    good = good | {"metadata": {"name": name, **good["metadata"]}}
    with closing(Line(kubernetes(platform))) as line:
        for place in places(good):
            for body in with_odd_values(good, place):
                status, told = line.ask(f"POST {path}", body)
                assert status in (201, 400, 403, 404, 422), (place, told)
                check_lists(line, LISTS[:1] if status > 201 else LISTS, str(place))
                if status != 201:
                    continue
                there = f"{path}/{told['metadata']['name']}"
                line.ask("POST " + f"{HOME}/configmaps", {"metadata": {"name": "other"}})
                assert line.ask(f"DELETE {HOME}/configmaps/other")[0] == 200, place
                status, told = line.ask(f"DELETE {there}?gracePeriodSeconds=0")
                assert status == 200, (place, told)
                gone = partial(line.ask, f"GET {there}")
                until(gone, "the object to be gone", lambda answer: answer[0] == 404, 10)
    until(platform.left, "nothing is left", lambda now: now == left, 10)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("path", OBJECTS)
def test_no_change_makes_an_object_odd(
    local_cloud: Callable[[str], Platform], path: str, method: str
) -> None:
    name = "odds.odd.example" if path == DEFINITIONS else "odd"
    good = OBJECTS[path] | {"metadata": {"name": name, **OBJECTS[path]["metadata"]}}
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    with closing(Line(kubernetes(local_cloud("kubernetes")))) as line:
        status, made = line.ask(f"POST {path}", good)
        assert status == 201, made
        for place in places(good):
            for body in with_odd_values(made, place):
                line.ask(f"{method} {path}/{name}", body | {"status": {}}, kind)
                status, told = line.ask(f"GET {path}/{name}")
                assert status == 200, told
                assert told["metadata"]["name"] == name
            check_lists(line, LISTS, str(place))
        assert line.ask(f"DELETE {path}/{name}?gracePeriodSeconds=0")[0] == 200


@pytest.mark.parametrize(
    "changed",
    [
        {"versions": True},
        {"versions": [7]},
        {"versions": [{"name": "v1"}, {"name": "v1"}]},
        {"versions": [{"name": "v1", "subresources": 7}]},
        {"names": {"plural": "odds", "kind": ["Odd"]}},
        {"names": True},
        {"scope": []},
    ],
)
def test_a_broken_definition_is_neither_created_nor_made(
    local_cloud: Callable[[str], Platform], changed: dict[str, Any]
) -> None:
    broken, there = definition(**changed), f"{DEFINITIONS}/odds.odd.example"
    with closing(Line(kubernetes(local_cloud("kubernetes")))) as line:
        status, told = line.ask(f"POST {DEFINITIONS}", broken)
        assert (status, told["reason"]) == (422, "Invalid")
        assert line.ask(f"POST {DEFINITIONS}", definition())[0] == 201
        for method, kind in (("PUT", "json"), ("PATCH", "merge-patch+json")):
            status, told = line.ask(f"{method} {there}", broken, f"application/{kind}")
            assert (status, told["reason"]) == (422, "Invalid")
        assert line.ask("GET /apis/odd.example/v1/odds")[1]["items"] == []
        assert line.ask(f"DELETE {there}")[0] == 200


def test_a_definition_cant_take_the_place_of_a_built_in_kind(
    local_cloud: Callable[[str], Platform],
) -> None:
    taken = definition(group="batch", names={"plural": "jobs", "kind": "Odd"})
    taken["metadata"]["name"] = "jobs.batch"
    status, told = kubernetes(local_cloud("kubernetes")).ask("POST", DEFINITIONS, taken)
    assert (status, told["reason"]) == (422, "Invalid")


@pytest.mark.parametrize(
    "said",
    [
        {"ownerReferences": [{}]},
        {"ownerReferences": 5},
        {"ownerReferences": [5]},
        {"ownerReferences": [OWNER | {"uid": ""}]},
        {"labels": True},
        {"labels": {"a": 5}},
        {"annotations": {"a": None}},
        {"finalizers": "x"},
        {"finalizers": [5]},
    ],
)
def test_metadata_of_another_kind_is_refused_at_creation_and_at_change(
    local_cloud: Callable[[str], Platform], said: dict[str, Any]
) -> None:
    maps, meta = f"{HOME}/configmaps", {"name": "odd"}
    with closing(Line(kubernetes(local_cloud("kubernetes")))) as line:
        status, told = line.ask(f"POST {maps}", {"metadata": meta | said})
        assert (status, told["reason"]) == (422, "Invalid")
        assert line.ask(f"POST {maps}", {"metadata": meta})[0] == 201
        status, told = line.ask(f"PUT {maps}/odd", {"metadata": meta | said})
        assert (status, told["reason"]) == (422, "Invalid")
        (name,) = said
        step = [{"op": "add", "path": f"/metadata/{name}", "value": said[name]}]
        status, told = line.ask(f"PATCH {maps}/odd", step, "application/json-patch+json")
        assert (status, told["reason"]) == (422, "Invalid")
        assert line.ask(f"DELETE {maps}/odd")[0] == 200


def test_a_client_cant_say_when_an_object_was_deleted(
    local_cloud: Callable[[str], Platform],
) -> None:
    maps, meta = f"{HOME}/configmaps", {"name": "held", "finalizers": ["a/b"]}
    gone = {"deletionTimestamp": "x", "deletionGracePeriodSeconds": "y", "generation": "z"}
    with closing(Line(kubernetes(local_cloud("kubernetes")))) as line:
        status, made = line.ask(f"POST {maps}", {"metadata": meta | gone})
        assert (status, made["metadata"].keys() & gone.keys()) == (201, set())
        status, put = line.ask(f"PUT {maps}/held", {"metadata": meta | gone})
        assert (status, put["metadata"].keys() & gone.keys()) == (200, set())
        assert line.ask(f"DELETE {maps}/held")[0] == 200
        status, put = line.ask(f"PUT {maps}/held", {"metadata": meta})
        assert "deletionTimestamp" in put["metadata"]
        line.ask(f"PUT {maps}/held", {"metadata": {"name": "held"}})
        assert line.ask(f"GET {maps}/held")[0] == 404


def test_a_cluster_starts_and_works_with_odd_objects_of_an_earlier_one(tmp_path: Path) -> None:
    maps, kept = resources.CONFIG_MAPS, Table(tmp_path / resources.DEFINITIONS.name)
    for name, spec in (("a", None), ("b", {"versions": True}), ("c", definition()["spec"])):
        kept.put(name, {"metadata": {"name": name, "uid": name}, "spec": spec})
    for name, owners in (("a", 5), ("b", [5]), ("c", [{}])):
        meta = {"name": name, "uid": name, "namespace": "default", "ownerReferences": owners}
        Table(tmp_path / maps.name).put(name, {"metadata": meta, "spec": "a text"})
    store = Store(tmp_path)
    assert [each.plural for each in store.resources()][len(resources.BUILT_IN) :] == ["odds"]
    made = store.create(maps, "default", {"metadata": {"name": "other"}})
    store.delete(maps, "default", made["metadata"]["name"])
    assert [each["metadata"]["name"] for each in store.all(maps)] == ["a", "b", "c"]


COMPUTE = {
    "computeType": "AmlCompute",
    "description": "a",
    "properties": {
        "vmSize": "any",
        "scaleSettings": {
            "minNodeCount": 0,
            "maxNodeCount": 0,
            "nodeIdleTimeBeforeScaleDown": "PT1M",
        },
    },
}
JOB = {
    "jobType": "Command",
    "command": "true",
    "computeId": f"{SCOPE}/computes/never",
    "experimentName": "odd",
    "displayName": "a",
    "environmentVariables": {"A": "b"},
    "inputs": {"a": {"jobInputType": "literal", "value": "b"}},
    "tags": {"a": "b"},
    "properties": {"a": "b"},
}
DATA = {"dataType": "uri_file", "dataUri": "azureml://a", "tags": {"a": "b"}, "isArchived": True}
MODEL = {
    "modelType": "custom_model",
    "tags": {"a": "b"},
    "flavors": {"a": {"b": "c"}},
    "isArchived": True,
}
DEPLOYMENT = {
    "properties": {
        "model": f"{SCOPE}/models/none/versions/1",
        "instanceType": "any",
        "environmentVariables": {"A": "b"},
        "scaleSettings": {"scaleType": "Default"},
    },
    "sku": {"name": "Default", "capacity": 1},
    "tags": {"a": "b"},
}
ENDPOINT = {"authMode": "Key", "traffic": {}, "properties": {"a": "b"}, "description": "a"}
AZURE = {
    "computes/odd": {"properties": COMPUTE},
    "onlineEndpoints/odd": {"properties": ENDPOINT, "tags": {"a": "b"}, "location": "a"},
    "jobs/odd{}": {"properties": JOB},
    "data/odd/versions/{}": {"properties": DATA},
    "codes/odd/versions/{}": {"properties": {"codeUri": "azureml://a", "tags": {"a": "b"}}},
}
AZURE_LISTS = [
    *((f"GET {SCOPE}/{kind}", None) for kind in ("computes", "jobs", "onlineEndpoints")),
    *((f"GET {SCOPE}/{kind}/odd/versions", None) for kind in ("data", "codes", "models")),
    (f"POST {MLFLOW}/experiments/search", {}),
]


@pytest.fixture
def azure(local_cloud: Callable[[str], Platform]) -> Iterator[Line]:
    """A line to Azure ML, with a compute on which no job ever starts."""
    platform = local_cloud("azure_ml")
    left = platform.left()
    with closing(Line(azure_ml(platform))) as line:
        assert line.ask(f"PUT {SCOPE}/computes/never", {"properties": COMPUTE})[0] == 201
        yield line
        assert line.ask(f"DELETE {SCOPE}/computes/never")[0] == 200
    until(platform.left, "nothing is left", lambda now: now == left, 10)


@pytest.mark.parametrize("path", AZURE)
def test_no_odd_object_spoils_the_lists_of_a_workspace(azure: Line, path: str) -> None:
    number = 0
    for place in places(AZURE[path]):
        for body in with_odd_values(AZURE[path], place):
            number += 1
            there = f"{SCOPE}/{path.format(number)}"
            status, told = azure.ask(f"PUT {there}", body)
            assert status in (200, 201, 400, 404, 501), (place, told)
            check_lists(azure, AZURE_LISTS, str(place))
            if status < 300 and path.startswith("jobs"):
                assert azure.ask(f"POST {there}/cancel")[0] == 202
            elif path.startswith(("computes", "online")):
                gone = azure.ask(f"DELETE {there}")[0]
                assert gone == (200 if status < 300 else 204), (place, told)


def test_no_odd_model_spoils_the_lists_of_a_workspace(
    azure: Line, local_cloud: Callable[[str], Platform]
) -> None:
    upload = f"POST {SCOPE}/data/odd/versions/1/startPendingUpload"
    where = azure.ask(upload, {})[1]["blobReferenceForConsumption"]
    address = urlsplit(where["credential"]["sasUri"])
    assert azure.ask(f"PUT {address.path}?{address.query}", b"a")[0] == 201
    good = {"properties": MODEL | {"modelUri": where["blobUri"]}}
    for number, place in enumerate(places(good)):
        for odd, body in enumerate(with_odd_values(good, place)):
            there = f"{SCOPE}/models/odd/versions/{number}.{odd}"
            status, told = azure.ask(f"PUT {there}", body)
            assert status in (201, 400), (place, told)
            check_lists(azure, AZURE_LISTS, str(place))
            assert isinstance(local_cloud("azure_ml").left(), dict)
            if status == 201:
                assert azure.ask(f"PUT {there}", good)[0] == 200


def test_no_odd_deployment_is_kept(azure: Line) -> None:
    """What is like the good one is refused too: its model isn't there."""
    endpoint = f"{SCOPE}/onlineEndpoints/odd"
    assert azure.ask(f"PUT {endpoint}", AZURE["onlineEndpoints/odd"])[0] == 201
    for place in places(DEPLOYMENT):
        for body in with_odd_values(DEPLOYMENT, place):
            status, told = azure.ask(f"PUT {endpoint}/deployments/blue", body)
            assert status in (400, 404), (place, told)
            assert azure.ask(f"GET {endpoint}/deployments") == (200, {"value": []}), place
    assert azure.ask(f"PUT {endpoint}/deployments/blue", DEPLOYMENT)[0] == 404
    assert azure.ask(f"DELETE {endpoint}")[0] == 200


@pytest.mark.parametrize("field", ["tags", "displayName", "isArchived"])
def test_no_change_makes_a_job_odd(azure: Line, field: str) -> None:
    there, number = f"{SCOPE}/jobs/changed-{field}", 7
    good = {"properties": JOB}
    assert azure.ask(f"PUT {there}", good)[0] == 201
    status, told = azure.ask(f"PUT {there}", {"properties": JOB | {field: number}})
    assert (status, told["error"]["code"]) == (400, "UserError")
    assert azure.ask(f"GET {there}")[1]["properties"].get(field) == JOB.get(field)
    assert azure.ask(f"POST {there}/cancel")[0] == 202


@pytest.mark.parametrize(
    "inner",
    [
        {},
        {"properties": {"scaleSettings": 5}},
        {"properties": {"scaleSettings": {"minNodeCount": "1"}}},
        {"properties": {"scaleSettings": {"minNodeCount": 2, "maxNodeCount": 1}}},
        {"properties": {"scaleSettings": {"maxNodeCount": True}}},
        {"properties": {"scaleSettings": {"nodeIdleTimeBeforeScaleDown": "soon"}}},
    ],
)
def test_a_compute_that_could_not_be_shown_is_not_kept(azure: Line, inner: dict[str, Any]) -> None:
    said = {"properties": {"computeType": "AmlCompute"} | inner}
    status, told = azure.ask(f"PUT {SCOPE}/computes/odd", said)
    assert (status, told["error"]["code"]) == (400, "BadArgument")
    assert azure.ask(f"GET {SCOPE}/computes/odd")[0] == 404
    (known,) = azure.ask(f"GET {SCOPE}/computes")[1]["value"]
    assert known["name"] == "never"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("log-metric", {"value": 1}),
        ("log-metric", {"key": [], "value": 1}),
        ("log-metric", {"key": "a", "value": "b"}),
        ("log-metric", {"key": "a", "value": 1, "step": "x"}),
        ("log-parameter", {"key": "a"}),
        ("log-parameter", {"key": "a", "value": []}),
        ("set-tag", {"key": {}, "value": "b"}),
        ("set-tag", {"key": "a", "value": 1}),
        ("log-batch", {"metrics": [5]}),
        ("log-batch", {"metrics": "ab"}),
        ("log-batch", {"params": [{"key": "a", "value": [[]]}]}),
        ("log-batch", {"tags": [{"key": "a", "value": {}}]}),
        ("update", {"run_name": []}),
        ("update", {"status": 5}),
    ],
)
def test_what_a_run_could_not_show_is_not_logged(
    azure: Line, call: str, said: dict[str, Any]
) -> None:
    _, made = azure.ask(f"POST {MLFLOW}/experiments/create", {"name": "odd"})
    _, begun = azure.ask(f"POST {MLFLOW}/runs/create", made)
    run = {"run_id": begun["run"]["info"]["run_id"]}
    status, told = azure.ask(f"POST {MLFLOW}/runs/{call}", run | said)
    assert (status, told["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert azure.ask(f"GET {MLFLOW}/runs/get?{urlencode(run)}")[1] == begun
    search = {"experiment_ids": [made["experiment_id"]]}
    status, found = azure.ask(f"POST {MLFLOW}/runs/search", search)
    assert (status, begun["run"] in found["runs"]) == (200, True)


@pytest.mark.parametrize("said", [{"run_name": 5}, {"tags": 5}, {"tags": [{"key": "a"}]}])
def test_a_run_with_an_odd_name_or_tag_is_not_begun(azure: Line, said: dict[str, Any]) -> None:
    _, made = azure.ask(f"POST {MLFLOW}/experiments/create", {"name": "none"})
    status, told = azure.ask(f"POST {MLFLOW}/runs/create", made | said)
    assert (status, told["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    search = {"experiment_ids": [made["experiment_id"]]}
    assert azure.ask(f"POST {MLFLOW}/runs/search", search) == (200, {"runs": []})


def test_a_version_that_no_reference_can_name_is_refused(azure: Line) -> None:
    status, told = azure.ask(f"PUT {SCOPE}/data/odd/versions/1:2", {"properties": DATA})
    assert (status, told["error"]["code"]) == (400, "BadArgument")


SPEC = {
    "pipelineInfo": {"name": "odd"},
    "deploymentSpec": {"executors": {}},
    "root": {
        "dag": {"tasks": {"first": {"taskInfo": {"name": "first"}}}},
        "inputDefinitions": {"parameters": {"a": {"parameterType": "STRING"}}},
    },
    "schemaVersion": "2.1.0",
}
KUBEFLOW = {
    "experiments": {"display_name": "odd", "description": "a"},
    "runs": {
        "display_name": "odd",
        "description": "a",
        "service_account": "b",
        "pipeline_spec": SPEC,
        "runtime_config": {"parameters": {"a": "b"}},
    },
    "pipelines/upload": SPEC,
}
IDS = {"experiments": "experiment_id", "runs": "run_id", "pipelines": "pipeline_id"}
UPLOAD = 'Content-Disposition: form-data; name="uploadfile"; filename="a.yaml"'


def uploaded(spec: Any) -> bytes:
    return f"--x\r\n{UPLOAD}\r\n\r\n{json.dumps(spec)}\r\n--x--\r\n".encode()


@pytest.mark.parametrize("path", KUBEFLOW)
def test_no_odd_object_spoils_the_lists_of_kubeflow(
    local_cloud: Callable[[str], Platform], path: str
) -> None:
    """All runs are to fail: what is executed costs seconds, and is not what this is about."""
    platform, kind = local_cloud("kubeflow"), path.partition("/")[0]
    lists = [(f"GET {V2}/{each}", None) for each in IDS]
    left = platform.left()
    with closing(Line(kubeflow(platform))) as line, platform.trouble("job_fails", times=10_000):
        for place in places(KUBEFLOW[path]):
            for body in with_odd_values(KUBEFLOW[path], place):
                if kind == "pipelines":
                    form = "multipart/form-data; boundary=x"
                    status, told = line.ask(f"POST {V2}/{path}", uploaded(body), form)
                else:
                    status, told = line.ask(f"POST {V2}/{path}", body)
                assert status in (200, 400, 409), (place, told)
                check_lists(line, lists, str(place))
                if status == 200:
                    there = f"{V2}/{kind}/{told[IDS[kind]]}"
                    assert line.ask(f"DELETE {there}?cascade=true")[0] == 200
    assert platform.left() == left


def test_no_odd_bucket_spoils_the_list_of_buckets(local_cloud: Callable[[str], Platform]) -> None:
    platform, good = local_cloud("vertex"), {"name": "odd", "location": "a", "labels": {"a": "b"}}
    left = platform.left()
    with closing(Line(vertex(platform))) as line:
        for place in places(good | {"storageClass": "c"}):
            for body in with_odd_values(good | {"storageClass": "c"}, place):
                status, told = line.ask("POST /storage/v1/b", body)
                assert status in (200, 400), (place, told)
                listed = line.ask("GET /storage/v1/b")[1]["items"]
                for each in (each for each in listed if each["name"] == "odd"):
                    kinds = (each["location"], each["storageClass"], *each["labels"].values())
                    assert all(isinstance(one, str) for one in kinds), (place, each)
                if status == 200:
                    assert line.ask("DELETE /storage/v1/b/odd")[0] == 204
    assert platform.left() == left
