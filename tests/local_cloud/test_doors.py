"""No page in a browser, and nobody without credentials, gets anything from a platform."""

import http.client
import json
import socket
import ssl
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.services import Platform

EVIL = "http://evil.example"
WAYS = {
    "a preflight": ("OPTIONS", {"Origin": EVIL, "Access-Control-Request-Method": "POST"}),
    "a page": (None, {"Origin": EVIL, "Content-Type": "text/plain"}),
    "a sandboxed page": (None, {"Origin": "null"}),
    "a page whose name leads here": (None, {"Host": "evil.example"}),
    "a picture of such a page": ("GET", {"Host": "evil.example"}),
    "nobody": (None, {}),
    "a wrong token": (None, {"Authorization": "Bearer wrong"}),
    "a token that is not ASCII": (None, {"Authorization": "Bearer \xe9\xff"}),
}


@dataclass
class Door:
    """An address of a platform, with a call that would change something there."""

    address: str
    path: str
    body: bytes
    headers: dict[str, str]
    method: str = "POST"

    def connect(self) -> http.client.HTTPConnection:
        """Talk to it without looking at its certificate."""
        url = urlsplit(self.address)
        if url.scheme == "http":
            return http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(
            url.hostname or "", url.port, timeout=30, context=context
        )

    def ask(self, method: str, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
        """Status and headers of the answer to this call."""
        connection = self.connect()
        try:
            connection.request(method, self.path, self.body, self.headers | headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()


def sagemaker(platform: Platform) -> Door:
    job = {
        "ProcessingJobName": "evil",
        "ProcessingResources": {
            "ClusterConfig": {
                "InstanceCount": 1,
                "InstanceType": "ml.m5.large",
                "VolumeSizeInGB": 5,
            }
        },
        "AppSpecification": {"ImageUri": "any", "ContainerEntrypoint": ["sh", "-c", "exit"]},
        "RoleArn": "arn:aws:iam::123456789012:role/SageMakerExecution",
    }
    address = platform.redirect.connections["aws_default"]["extra"]["endpoint_url"]
    headers = {"X-Amz-Target": "SageMaker.CreateProcessingJob"}
    return Door(address, "/", json.dumps(job).encode(), headers)


def moto(platform: Platform) -> Door:
    address = platform.redirect.connections["aws_default"]["extra"]["endpoint_url"]
    return Door(address, "/moto-api/reset", b"", {})


def vertex(platform: Platform) -> Door:
    address = platform.redirect.env["API_ENDPOINT_OVERRIDE"]
    return Door(address, "/storage/v1/b", b'{"name": "evil"}', {})


def kubeflow(platform: Platform) -> Door:
    found = platform.redirect.connections["kubeflow_default"]
    body = b'{"display_name": "evil"}'
    address = f"http://{found['host']}:{found['port']}"
    return Door(address, "/apis/v2beta1/experiments", body, {})


def kubernetes(platform: Platform) -> Door:
    (connection,) = platform.redirect.connections.values()
    config = json.loads(Path(connection["extra"]["kube_config_path"]).read_text())
    address = config["clusters"][0]["cluster"]["server"]
    body = b'{"metadata": {"name": "evil"}}'
    return Door(address, "/api/v1/namespaces/default/configmaps", body, {})


def azure_ml(platform: Platform) -> Door:
    (connection,) = platform.redirect.connections.values()
    extra = connection["extra"]
    path = (
        f"/subscriptions/{extra['subscriptionId']}/resourceGroups/{extra['resourceGroup']}/providers"
        f"/Microsoft.MachineLearningServices/workspaces/{extra['workspace']}/computes/evil"
    )
    body = b'{"properties": {"computeType": "AmlCompute"}}'
    return Door(connection["host"], path, body, {}, method="PUT")


def side(platform: Platform) -> Door:
    return Door(platform.door, "/faults", b'{"kind": "throttled"}', {})


DOORS = {
    "sagemaker": (sagemaker, moto, side),
    "vertex": (vertex, side),
    "kubeflow": (kubeflow, side),
    "kubernetes": (kubernetes, side),
    "azure_ml": (azure_ml, side),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "door"), [(name, door) for name, doors in DOORS.items() for door in doors]
)
def test_strangers_are_refused_and_change_nothing(
    local_cloud: Callable[[str], Platform],
    name: str,
    door: Callable[[Platform], Door],
    way: str,
) -> None:
    platform = local_cloud(name)
    left, opened, (method, headers) = platform.left(), door(platform), WAYS[way]
    status, answered = opened.ask(method or opened.method, headers)
    assert status in (401, 403), status
    assert not [each for each in answered if each.startswith("access-control-")]
    assert platform.left() == left


@pytest.mark.parametrize("name", DOORS)
def test_a_request_in_the_body_of_a_refused_one_is_not_read(
    local_cloud: Callable[[str], Platform], name: str
) -> None:
    """A page chooses the body, and may write into it what would be a request of its own."""
    platform = local_cloud(name)
    url = urlsplit(platform.door)
    inner = (
        f"GET /resources HTTP/1.1\r\nHost: {url.netloc}\r\n"
        f"Authorization: Bearer {platform.token}\r\n\r\n"
    )
    outer = f"POST /faults HTTP/1.1\r\nHost: {url.netloc}\r\nOrigin: {EVIL}\r\n"
    with socket.create_connection((url.hostname or "", url.port), timeout=30) as line:
        line.sendall(f"{outer}Content-Length: {len(inner)}\r\n\r\n{inner}".encode())
        said = b"".join(iter(lambda: line.recv(65536), b""))
    assert said.count(b"HTTP/1.") == 1, said
    assert b" 403 " in said


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Content-Length: -1", 400),
        ("Content-Length: two", 400),
        ("Content-Length: 999999999999999999", 413),
        ("Transfer-Encoding: chunked", 501),
    ],
)
@pytest.mark.parametrize("enter", [azure_ml, kubeflow, sagemaker, side, vertex])
def test_a_body_without_a_sensible_length_is_refused_at_once(
    local_cloud: Callable[[str], Platform],
    enter: Callable[[Platform], Door],
    header: str,
    status: int,
) -> None:
    door = enter(local_cloud("vertex" if enter is side else enter.__name__))
    name, value = header.split(": ")
    with closing(door.connect()) as connection:
        connection.putrequest(door.method, door.path)
        connection.putheader(name, value)
        connection.endheaders()
        assert connection.getresponse().status == status


@pytest.mark.parametrize("path", ["/api/v1/pods", "/nowhere"])
def test_an_expectation_that_is_no_text_is_refused(
    local_cloud: Callable[[str], Platform], path: str
) -> None:
    door = kubernetes(local_cloud("kubernetes"))
    with closing(door.connect()) as connection:
        connection.request("GET", path, headers={"Expect": "\xe9"})
        assert connection.getresponse().status == 417


@pytest.mark.parametrize(
    "address", ["http://[x", "http://127.0.0.1:99999/", "http://127.0.0.1:abc/"]
)
@pytest.mark.parametrize("enter", [azure_ml, kubeflow, kubernetes, sagemaker, side, vertex])
def test_an_address_that_cant_be_read_is_refused_before_anything_else(
    local_cloud: Callable[[str], Platform], enter: Callable[[Platform], Door], address: str
) -> None:
    door = enter(local_cloud("vertex" if enter is side else enter.__name__))
    with closing(door.connect()) as connection:
        connection.putrequest("GET", address, skip_host=True)
        connection.putheader("Host", urlsplit(door.address).netloc)
        connection.endheaders()
        assert connection.getresponse().status == 400


def test_a_chunk_that_never_comes_is_not_waited_for(
    local_cloud: Callable[[str], Platform],
) -> None:
    door = kubernetes(local_cloud("kubernetes"))
    with closing(door.connect()) as connection:
        connection.putrequest(door.method, door.path)
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders(b"FFFFFFFF\r\n")
        assert connection.getresponse().status == 401


@pytest.fixture
def client(sagemaker: Platform) -> Callable[..., Any]:
    fields = sagemaker.redirect.connections["aws_default"]

    def made(service: str, **changed: str) -> Any:
        known = {
            "endpoint_url": fields["extra"]["endpoint_url"],
            "region_name": fields["extra"]["region_name"],
            "aws_access_key_id": fields["login"],
            "aws_secret_access_key": fields["password"],
        }
        config = Config(retries={"total_max_attempts": 1})
        return boto3.client(service, config=config, **known | changed)

    return made


CALLS = {
    "sagemaker": lambda client: client.list_models(),
    "s3": lambda client: client.list_buckets(),
    "logs": lambda client: client.describe_log_groups(),
    "sts": lambda client: client.get_caller_identity(),
}


@pytest.mark.parametrize("service", CALLS)
@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"aws_access_key_id": "SOMEBODY"}, "UnrecognizedClientException"),
        ({"aws_secret_access_key": "guessed"}, "SignatureDoesNotMatch"),
    ],
)
def test_a_key_that_is_not_the_accounts_is_refused_in_the_services_shape(
    client: Callable[..., Any], service: str, changed: dict[str, str], code: str
) -> None:
    CALLS[service](client(service))
    with pytest.raises(ClientError) as refused:
        CALLS[service](client(service, **changed))
    assert refused.value.response["Error"]["Code"] == code


@pytest.mark.parametrize(
    "key", ["plain", "a folder/and a name", "ä?&=+%20*~'()", "twice//over/./here/../there"]
)
def test_keys_of_every_kind_are_signed_alike_on_both_sides(
    client: Callable[..., Any], key: str
) -> None:
    s3 = client("s3")
    s3.create_bucket(Bucket="signed", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="signed", Key=key, Body=b"x" * 100_000, Metadata={"said": "  two  words "})
    assert s3.get_object(Bucket="signed", Key=key)["Body"].read() == b"x" * 100_000
    listed = s3.list_objects_v2(Bucket="signed", Prefix=key, Delimiter="|")
    assert [each["Key"] for each in listed["Contents"]] == [key]
    s3.delete_object(Bucket="signed", Key=key)
    s3.delete_bucket(Bucket="signed")
