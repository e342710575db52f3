"""MLflow's login: who is let in, who is refused, and what else a request may not do."""

import asyncio
import base64
import json
import os
import secrets
import time
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.request import Request

import jwt
import psutil
import pytest
from mlflow import MlflowClient

from include import loopback, tracking
from include.tools import environment, tracking_server
from tests.services import beyond_loopback, http_connection

PASSWORD = "the right one: it has a colon"  # noqa: S105
SECRET = "s" * 128
HOST = (b"host", b"127.0.0.1:5000")
OWN = (b"origin", b"http://127.0.0.1:5000")
ENV = {"MLFLOW_PASSWORD": PASSWORD, "AIRFLOW__API_AUTH__JWT_SECRET": SECRET}


@pytest.fixture
def ask():
    """Send a request to a guarded application, which answers 200 to all that reaches it."""

    def ask(*headers, kind="http", method="GET", path="/", env=ENV):
        sent, reached = [], []

        async def mlflow(scope, receive, send):
            reached.append(scope["type"])

        async def send(message):
            sent.append(message)

        door = tracking_server.guarded(mlflow, env)
        scope = {"type": kind, "method": method, "path": path, "headers": list(headers)}
        asyncio.run(door(scope, None, send))
        if reached:
            return SimpleNamespace(status=200)
        first, text = sent[0], sent[-1].get("body", b"").decode()
        return SimpleNamespace(
            status=first.get("status", first.get("code")),
            headers=dict(first.get("headers", [])),
            text=text,
        )

    return ask


def basic(user, password, scheme="Basic"):
    login = base64.b64encode(f"{user}:{password}".encode()).decode()
    return (b"authorization", f"{scheme} {login}".encode())


LOGIN = basic("catalogue", PASSWORD)


def token(secret=SECRET, algorithm="HS512", **claims):
    now = int(time.time())
    held = {"iss": None, "sub": "admin", "role": "ADMIN", "aud": "apache-airflow"}
    held |= {"iat": now, "nbf": now, "exp": now + 60} | claims
    kept = {name: value for name, value in held.items() if value is not None}
    return jwt.encode(kept, secret, algorithm)


def cookie(value):
    return (b"cookie", f"theme=dark; _token={value}".encode())


@pytest.mark.parametrize("header", [LOGIN, basic("catalogue", PASSWORD, scheme="bAsIc")])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_the_right_password_is_let_in(ask, header, method):
    assert ask(HOST, header, method=method).status == 200


def encoded(login):
    return (b"authorization", b"Basic " + base64.b64encode(login))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [basic("catalogue", "wrong")],
        [basic("catalogue", "")],
        [basic("catalogue", PASSWORD + " ")],
        [basic("admin", PASSWORD)],
        [basic("catalogue", PASSWORD, scheme="Bearer")],
        [encoded(b"catalogue")],
        [encoded(b"")],
        [encoded("catalogué:pässwörd".encode())],
        [encoded(b"catalogue:\xff\x00")],
        [encoded(b"c" * 10_000 + b":x")],
        [(b"authorization", b"")],
        [(b"authorization", b"Basic")],
        [(b"authorization", b"Basic \xff\xfe")],
        [(b"authorization", b"Basic !!!!")],
        [(b"authorization", b"Basic Y2F0")],
        [(b"authorization", b"Basic Y2F0YQ=")],
        [LOGIN, LOGIN],
        [LOGIN, basic("catalogue", "wrong")],
        [basic("catalogue", "wrong"), LOGIN],
        [basic("catalogue", "wrong"), cookie(token())],
    ],
)
def test_any_other_login_is_asked_for_the_right_one(ask, headers):
    refused = ask(HOST, *headers)
    assert refused.status == 401
    assert refused.headers[b"www-authenticate"].startswith(b'Basic realm="MLflow of the catalogue"')
    assert "make -s env | grep MLFLOW_PASSWORD" in refused.text
    assert "secrets.json" in refused.text
    assert PASSWORD not in refused.text


def test_whether_it_is_well_is_told_to_everybody_and_nothing_else(ask):
    assert ask(HOST, path="/health").status == 200
    for path in ("/version", "/health/", "//health", "/health/../api", "/", "/metrics"):
        assert ask(HOST, path=path).status == 401


def test_the_cookie_of_an_admin_of_airflow_is_let_in(ask):
    assert ask(HOST, cookie(token())).status == 200
    assert ask(HOST, cookie(token()), method="HEAD").status == 200
    assert ask(HOST, cookie(token()), OWN, method="POST").status == 200
    assert ask(HOST, cookie("old"), cookie(token())).status == 200


def test_the_cookie_that_airflow_itself_makes_is_let_in(ask):
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    made = {
        role: SimpleAuthManager().generate_jwt(SimpleAuthManagerUser(username="a", role=role))
        for role in ("admin", "ADMIN", "op", "viewer")
    }
    env = ENV | {tracking_server.AIRFLOWS_SECRET: os.environ[tracking_server.AIRFLOWS_SECRET]}
    answers = {role: ask(HOST, cookie(made[role]), env=env).status for role in made}
    assert answers == {"admin": 200, "ADMIN": 200, "op": 401, "viewer": 401}


NESTED = base64.urlsafe_b64encode(b'{"alg":' + b"[" * 30_000).decode().rstrip("=")
COOKIES = {
    "nothing": "",
    "no token": "a.b",
    "not ASCII": "é.é.é",
    "many dots": "." * 5000,
    "nested": f"{NESTED}.e30.e30",
    "of another secret": token("o" * 128),
    "of another algorithm": token(algorithm="HS256"),
    "unsigned": token(None, "none"),
    "expired": token(exp=int(time.time()) - 60),
    "of later": token(nbf=int(time.time()) + 600),
    "without an end": token(exp=None),
    "of a task": token(aud="urn:airflow.apache.org:task"),
    "for nobody": token(aud=None),
    "of a viewer": token(role="VIEWER"),
    "of another login": token(role=None),
    "of a strange role": token(role=["ADMIN"]),
}


@pytest.mark.parametrize("value", COOKIES.values(), ids=COOKIES)
def test_another_cookie_is_asked_for_the_password(ask, value):
    assert ask(HOST, (b"cookie", f"_token={value}".encode())).status == 401


def test_an_empty_secret_of_airflow_believes_no_cookie(ask):
    for env in ({"MLFLOW_PASSWORD": PASSWORD}, ENV | {"AIRFLOW__API_AUTH__JWT_SECRET": ""}):
        assert ask(HOST, cookie(token()), env=env).status == 401
        assert ask(HOST, cookie(token(None, "none")), env=env).status == 401


def test_a_cookie_changes_nothing_unless_the_page_is_mlflows_own(ask):
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        assert ask(HOST, cookie(token()), method=method).status == 401
    anybody = ENV | {"MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*"}
    other = (b"origin", b"http://127.0.0.1:3000")
    assert ask(HOST, cookie(token()), other, method="POST", env=anybody).status == 401
    assert ask(HOST, cookie(token()), OWN, OWN, method="POST", env=anybody).status == 401
    assert ask(HOST, LOGIN, other, method="POST", env=anybody).status == 200


@pytest.mark.parametrize("known", [LOGIN, cookie(token())], ids=["password", "cookie"])
@pytest.mark.parametrize(
    "foreign",
    [
        [],
        [(b"host", b"evil.example:5000")],
        [HOST, HOST],
        [HOST, (b"origin", b"http://evil.example")],
        [HOST, (b"origin", b"http://127.0.0.1:8080")],
        [HOST, (b"origin", b"http://localhost:5000")],
        [HOST, (b"origin", b"null")],
    ],
)
def test_a_foreign_host_or_page_is_refused_whoever_asks(ask, foreign, known):
    for path in ("/", "/health"):
        assert ask(*foreign, known, path=path).status == 403


def test_a_websocket_is_judged_likewise(ask):
    for headers, status in (
        ([HOST], 1008),
        ([HOST, cookie(token())], 1008),
        ([(b"host", b"evil.example"), LOGIN], 1008),
        ([HOST, cookie(token()), OWN], 200),
        ([HOST, LOGIN], 200),
    ):
        assert ask(*headers, kind="websocket").status == status


def test_what_you_set_for_mlflow_counts(ask):
    hosts = ENV | {"MLFLOW_SERVER_ALLOWED_HOSTS": "ml.example"}
    assert ask((b"host", b"ml.example"), LOGIN, env=hosts).status == 200
    assert ask((b"host", b"ml.example"), env=hosts).status == 401
    foreign = (b"origin", b"https://evil.example")
    assert ask((b"host", b"ml.example"), LOGIN, foreign, env=hosts).status == 403
    origins = ENV | {"MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "https://me.example, https://*.org"}
    for origin, status in (("https://me.example", 200), ("https://a.org", 200), ("null", 403)):
        headers = [HOST, (b"origin", origin.encode())]
        assert ask(*headers, LOGIN, env=origins).status == status
        first = (b"access-control-request-method", b"POST")
        assert ask(*headers, first, method="OPTIONS", env=origins).status == status


def test_the_password_is_made_once_unless_you_set_it(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_PASSWORD")
    made = environment.airflow(tmp_path, store=tmp_path)["MLFLOW_PASSWORD"]
    assert len(made) >= 32
    assert environment.airflow(tmp_path, store=tmp_path)["MLFLOW_PASSWORD"] == made
    assert json.loads((tmp_path / "secrets.json").read_text())["mlflow"] == made
    yours = secrets.token_urlsafe()
    monkeypatch.setenv("MLFLOW_PASSWORD", yours)
    assert environment.airflow(tmp_path, store=tmp_path)["MLFLOW_PASSWORD"] == yours


def test_without_a_password_it_does_not_start(monkeypatch):
    monkeypatch.setenv("MLFLOW_PASSWORD", "")
    monkeypatch.setattr("sys.argv", ["tracking_server", "--store", "s", "--artifacts", "a"])
    with pytest.raises(SystemExit, match="MLFLOW_PASSWORD is not set"):
        tracking_server.main()


def test_mlflow_asks_for_the_login_that_its_connection_has(mlflow_server, monkeypatch):
    def status(path, **headers):
        request = Request(f"{mlflow_server.address}{path}", headers=headers)
        try:
            with loopback.ask(request, 30) as answer:
                return answer.status
        except HTTPError as error:
            return error.code

    assert status("/health") == 200
    search = "/api/2.0/mlflow/experiments/search?max_results=1"
    known = mlflow_server.page(mlflow_server.address).headers
    assert [status(path) for path in ("/", "/version", search)] == [401] * 3
    assert [status(path, **known) for path in ("/", "/version", search)] == [200] * 3
    assert status(search, **known, Host="evil.example") == 403
    assert status(search, **known, Origin="http://127.0.0.1:8080") == 403
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", mlflow_server.connection)
    assert tracking.server()
    assert tracking.client().search_experiments(max_results=1)
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", http_connection(mlflow_server.port))
    with pytest.raises(PermissionError, match=r"HTTP 401\. Look at host, port, login and password"):
        tracking.server()


def test_mlflow_listens_on_loopback_and_its_password_is_on_no_command_line(mlflow_server):
    password = json.loads(mlflow_server.connection)["password"]
    family = mlflow_server.process.family()
    assert family
    assert not [each for each in family if password in " ".join(psutil.Process(each.pid).cmdline())]
    assert password not in json.dumps(mlflow_server.process.command)
    assert beyond_loopback(mlflow_server.process) == []
    assert MlflowClient(mlflow_server.with_login).search_experiments(max_results=1)
