"""What no client of a vendor sends: refused as the vendor refuses, and the platform goes on."""

import json
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.services import Platform
from tests.waiting import until

TEXT = "a text where an object should be"


@dataclass
class Caller:
    """Who may come in, and asks what it likes."""

    address: str
    token: str = ""
    authority: str | None = None

    def ask(self, method: str, path: str, body: Any = None, kind: str = "json") -> tuple[int, Any]:
        """Status and content of the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = kind if "/" in kind else f"application/{kind}"
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
        wanted = Request(f"{self.address}{path}", data, headers, method=method)
        tls = ssl.create_default_context(cafile=self.authority) if self.authority else None
        try:
            with urlopen(wanted, timeout=30, context=tls) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except HTTPError as error:
            with error:
                return error.code, json.load(error)


def kubeflow(platform: Platform) -> Caller:
    connection = platform.redirect.connections["kubeflow_default"]
    return Caller(f"http://{connection['host']}:{connection['port']}", connection["password"])


def kubernetes(platform: Platform) -> Caller:
    connection = platform.redirect.connections["kubernetes_default"]
    config = json.loads(Path(connection["extra"]["kube_config_path"]).read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    return Caller(cluster["server"], user["token"], cluster["certificate-authority"])


def vertex(platform: Platform) -> Caller:
    env = platform.redirect.env
    (connection,) = platform.redirect.connections.values()
    credentials = json.loads(Path(connection["extra"]["credential_config_file"]).read_text())
    return Caller(env["API_ENDPOINT_OVERRIDE"], credentials["token"])


def azure_ml(platform: Platform) -> Caller:
    (connection,) = platform.redirect.connections.values()
    stranger = Caller(connection["host"], authority=platform.redirect.env["REQUESTS_CA_BUNDLE"])
    form = {"client_id": connection["login"], "client_secret": connection["password"]}
    body = urlencode(form | {"grant_type": "client_credentials"}).encode()
    path = f"/{connection['extra']['tenantId']}/oauth2/v2.0/token"
    _, granted = stranger.ask("POST", path, body, "x-www-form-urlencoded")
    return Caller(stranger.address, granted["access_token"], stranger.authority)


PODS = "/api/v1/namespaces/default/pods"
SCOPE = (
    "/subscriptions/97030400-0000-4000-8000-000000000001/resourceGroups/local/providers"
    "/Microsoft.MachineLearningServices/workspaces/catalogue"
)
DEEP, LONG = b"[" * 100_000, "a" * 300
COMPUTE = {"computeType": "AmlCompute", "properties": 7}


@pytest.mark.parametrize(
    ("enter", "call", "body", "says", "look"),
    [
        (kubeflow, "POST /apis/v2beta1/runs", {"runtime_config": TEXT}, "code", "experiments"),
        (kubeflow, "POST /apis/v2beta1/experiments", [TEXT], "code", "experiments"),
        (kubernetes, f"POST {PODS}", {"metadata": TEXT, "spec": {}}, "reason", "pods"),
        (kubernetes, f"POST {PODS}", {"metadata": {"name": 7}, "spec": TEXT}, "reason", "pods"),
        (kubernetes, f"GET {PODS}?labelSelector==,=&limit=x", None, "reason", "pods"),
        (vertex, "POST /storage/v1/b", [TEXT], "error", "b"),
        (vertex, "POST /storage/v1/b", b"{", "error", "b"),
        (azure_ml, f"PUT {SCOPE}/jobs/j", {"properties": TEXT}, "error", ""),
        (azure_ml, f"PUT {SCOPE}/computes/c", {"properties": COMPUTE}, "error", ""),
        (kubeflow, "POST /apis/v2beta1/runs", DEEP, "code", "experiments"),
        (kubernetes, f"POST {PODS}", DEEP, "reason", "pods"),
        (vertex, "POST /storage/v1/b", DEEP, "error", "b"),
        (azure_ml, f"PUT {SCOPE}/jobs/j", DEEP, "error", ""),
        (kubeflow, f"GET /apis/v2beta1/experiments/{LONG}", None, "code", ""),
        (vertex, f"GET /storage/v1/b/{LONG}", None, "error", ""),
        (azure_ml, f"PUT {SCOPE}/jobs/{LONG}", {"properties": {}}, "error", ""),
    ],
)
def test_a_malformed_request_is_refused_in_the_vendors_shape_and_changes_nothing(
    local_cloud: Callable[[str], Platform],
    enter: Callable[[Platform], Caller],
    call: str,
    body: Any,
    says: str,
    look: str,
) -> None:
    platform = local_cloud(enter.__name__)
    caller, left = enter(platform), platform.left()
    method, path = call.split(" ", 1)
    status, told = caller.ask(method, path, body)
    assert 400 <= status < 500, told
    assert told[says]
    parent = path.partition("?")[0].rpartition("/")[0]
    status, _ = caller.ask("GET", f"{parent}/{look}".rstrip("/"))
    assert status == 200
    assert platform.left() == left


def test_a_number_that_is_no_json_is_not_kept_by_sagemaker(
    local_cloud: Callable[[str], Platform],
) -> None:
    fields = local_cloud("sagemaker").redirect.connections["aws_default"]
    client = boto3.client(
        "sagemaker",
        endpoint_url=fields["extra"]["endpoint_url"],
        region_name=fields["extra"]["region_name"],
        aws_access_key_id=fields["login"],
        aws_secret_access_key=fields["password"],
    )
    variant = {"VariantName": "only", "ModelName": "plain", "InstanceType": "ml.m5.large"}
    variant |= {"InitialInstanceCount": 1, "InitialVariantWeight": 7e77}

    def make_it_infinite(params: dict[str, Any], **_: Any) -> None:
        params["body"] = params["body"].replace(b"7e+77", b"1e400")
        assert b"1e400" in params["body"]

    client.meta.events.register("before-call.sagemaker.CreateEndpointConfig", make_it_infinite)
    with pytest.raises(ClientError) as refused:
        client.create_endpoint_config(EndpointConfigName="odd", ProductionVariants=[variant])
    assert refused.value.response["Error"]["Code"] == "SerializationException"
    assert client.list_endpoint_configs(NameContains="odd")["EndpointConfigs"] == []


@pytest.fixture
def pod(local_cloud: Callable[[str], Platform]) -> Iterator[Caller]:
    """A cluster with a pod `plain` that has ended."""
    caller = kubernetes(local_cloud("kubernetes"))
    spec = {"restartPolicy": "Never", "containers": [{"name": "only", "image": "python"}]}
    assert caller.ask("POST", PODS, {"metadata": {"name": "plain"}, "spec": spec})[0] == 201
    until(
        lambda: caller.ask("GET", f"{PODS}/plain")[1]["status"]["phase"],
        "the pod to end",
        lambda phase: phase == "Failed",
    )
    yield caller
    assert caller.ask("DELETE", f"{PODS}/plain", {"gracePeriodSeconds": 0})[0] == 200


@pytest.mark.parametrize(
    "asked",
    [
        *("plain/log?tailLines=x", "plain/log?tailLines=-3", "plain/log?limitBytes=x"),
        *("plain/log?sinceSeconds=x", "plain/log?sinceSeconds=nan", "plain/log?sinceTime=x"),
        *("plain/log?sinceTime=0001-01-01T00:00:00", f"plain/log?tailLines={'9' * 400}"),
        *("?watch=1&resourceVersion=x", f"?watch=1&resourceVersion={'9' * 5000}"),
        *("?watch=1&timeoutSeconds=x", "?watch=1&timeoutSeconds=nan"),
    ],
)
def test_a_number_that_cant_be_read_is_refused_before_the_answer_begins(
    pod: Caller, asked: str
) -> None:
    status, told = pod.ask("GET", f"{PODS}/{asked}".replace("/?", "?"))
    assert (status, told["kind"], told["reason"]) == (400, "Status", "BadRequest")


@pytest.mark.parametrize(
    "options",
    [
        b'{"gracePeriodSeconds": 1e400}',
        b'{"gracePeriodSeconds": NaN}',
        b'{"gracePeriodSeconds": %s}' % (b"9" * 400),
        b'{"gracePeriodSeconds": "inf"}',
        b'{"gracePeriodSeconds": -1}',
        b'{"propagationPolicy": []}',
        b'{"preconditions": 5}',
        b"[5]",
    ],
)
def test_a_pod_is_not_deleted_with_options_that_cant_be_read(pod: Caller, options: bytes) -> None:
    status, told = pod.ask("DELETE", f"{PODS}/plain", options)
    assert (status, told["reason"]) == (400, "BadRequest")
    assert "deletionTimestamp" not in pod.ask("GET", f"{PODS}/plain")[1]["metadata"]


@pytest.mark.parametrize(
    "said",
    [
        {"name": 1},
        {"name": "a\nb"},
        {"name": "a" * 1100},
        {"name": "x", "contentType": "a\r\nX-Evil: 1"},
        {"name": "x", "contentType": 5},
        {"name": "x", "metadata": 1},
    ],
)
def test_an_object_that_could_not_be_listed_is_not_kept(
    local_cloud: Callable[[str], Platform], said: dict[str, Any]
) -> None:
    caller = vertex(local_cloud("vertex"))
    bucket = "/storage/v1/b/odd-names"
    assert caller.ask("POST", "/storage/v1/b", {"name": "odd-names"})[0] == 200
    body = b"--a\r\n\r\n" + json.dumps(said).encode() + b"\r\n--a\r\n\r\nx\r\n--a--"
    kind = "multipart/related; boundary=a"
    path = "/upload/storage/v1/b/odd-names/o?uploadType=multipart"
    status, told = caller.ask("POST", path, body, kind)
    assert (status, told["error"]["errors"][0]["reason"]) == (400, "invalid")
    assert caller.ask("GET", f"{bucket}/o")[1]["items"] == []
    assert caller.ask("DELETE", bucket)[0] == 204
