"""The gateway's doors, in this process: whatever is sent, it answers with a reason and goes on."""

import asyncio
import gzip
import json
import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import httpx
import pytest
from aiohttp import web

from include.serving import admission, fleet, tokens
from include.serving.client import Gateway as Client
from include.serving.client import Refused
from include.serving.gateway import Gateway
from include.serving.leases import Held, Leases
from include.serving.routing import NotKept, Route, Table

TOKEN = "the operators' own"  # noqa: S105
OPERATOR = {"Authorization": f"Bearer {TOKEN}"}
CALLER = {"Authorization": f"Bearer {tokens.of_callers(TOKEN)}"}
ROW = {"dataframe_records": [{"plan": "monthly"}]}
ASK = "/routes/churn/invocations"
EVIL = "http://evil.example"


@contextmanager
def served(gateway):
    """Have a gateway answer in a thread of its own; yields its address."""
    loop, told = asyncio.new_event_loop(), []
    ready, over = threading.Event(), asyncio.Event()

    async def live():
        runner = gateway.runner()
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        watch = asyncio.create_task(gateway.patience.look_after(runner.server))
        told.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        ready.set()
        await over.wait()
        watch.cancel()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(live()))
    thread.start()
    assert ready.wait(30)
    yield told[0]
    loop.call_soon_threadsafe(over.set)
    thread.join(30)
    loop.close()


@pytest.fixture
def gateway(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEWAY_SOURCES", str(tmp_path / "models"))
    return Gateway(tmp_path / "kept", TOKEN)


@pytest.fixture
def answers():
    """What the versions do with a request, by their number."""
    return dict.fromkeys(("1", "2", "3"), (200, b'{"predictions": [1]}'))


@pytest.fixture
def asked():
    return []


@pytest.fixture
def client(gateway, answers, asked):
    """A client of a gateway with three versions that are no processes, all callers on the first."""
    with served(gateway) as address, httpx.Client(base_url=address, timeout=30) as opened:

        async def ask(model, number, body, headers):
            asked.append(number)
            answer = answers[number]
            if callable(answer):
                answer = await answer()
            if isinstance(answer, Exception):
                raise answer
            return answer

        gateway.fleet.ask = ask
        for number in answers:
            version = fleet.Version("churn", number, {"source": "models:/churn/1"}, gateway.folder)
            version.healthy, version.keeper = True, SimpleNamespace(cancel=lambda: None)
            gateway.fleet.versions["churn", number] = version
        gateway.table.with_route("churn", Route("churn", {"1": 1.0}))
        yield opened
        gateway.fleet.versions.clear()


def is_well(client):
    answer = client.post(ASK, json=ROW, headers=CALLER)
    assert (answer.status_code, answer.headers["X-Model-Version"]) == (200, "1")


CHANGES = [
    ("PUT", "/models/churn/9", {"source": "models:/churn/9"}),
    ("DELETE", "/models/churn/2", None),
    ("PUT", "/routes/churn", {"model": "churn", "weights": {"2": 1}}),
    ("DELETE", "/routes/churn", None),
    ("PUT", "/leases/churn", {"owner": "me", "seconds": 9}),
    ("DELETE", "/leases/churn", None),
    ("GET", "/models", None),
    ("GET", "/routes", None),
    ("GET", "/leases", None),
    ("GET", "/routes/churn/requests", None),
]
EVERYTHING = [*CHANGES, ("POST", ASK, ROW), ("GET", "/metrics", None)]


def table(gateway):
    return gateway.table.routes, sorted(gateway.fleet.versions), gateway.leases.known()


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
def test_callers_can_only_ask(gateway, client, method, path, body):
    before = table(gateway)
    answer = client.request(method, path, json=body, headers=CALLER)
    assert answer.status_code == 403
    assert "callers' token" in answer.json()["error"]
    assert table(gateway) == before
    is_well(client)
    assert client.get("/metrics", headers=CALLER).status_code == 200


@pytest.mark.parametrize(("method", "path", "body"), EVERYTHING)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {TOKEN} "[:-1] + "x"},
        {"Authorization": "Bearer é".encode()},
        {"Authorization": b"Bearer \xff\xfe"},
        {**OPERATOR, "Host": "evil.example"},
        {**OPERATOR, "Origin": EVIL},
        {**OPERATOR, "Origin": "null"},
    ],
)
def test_strangers_and_pages_are_refused_and_change_nothing(
    gateway, client, method, path, body, headers
):
    before = table(gateway)
    answer = client.request(method, path, json=body, headers=headers)
    assert answer.status_code in (401, 403)
    assert answer.json()["error"]
    assert table(gateway) == before


def test_no_page_is_told_that_it_may_ask(client):
    asks = {"Origin": EVIL, "Access-Control-Request-Method": "POST"}
    answer = client.options(ASK, headers=asks)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def deep(levels=100_000):
    return b"[" * levels


SPOILED = {
    "deep JSON to PUT": ("PUT", "/routes/churn", deep(), {}, 400),
    "no UTF-8": ("PUT", "/routes/churn", b"\xff", {}, 400),
    "a list": ("PUT", "/routes/churn", b"[]", {}, 400),
    "a weight of 400 digits": (
        "PUT",
        "/routes/churn",
        b'{"model": "churn", "weights": {"1": ' + b"9" * 400 + b"}}",
        {},
        422,
    ),
    "a weight of 5,000 digits": (
        "PUT",
        "/routes/churn",
        b'{"model": "churn", "weights": {"1": ' + b"9" * 5000 + b"}}",
        {},
        400,
    ),
    "a shadow that is an object": (
        "PUT",
        "/routes/churn",
        b'{"model": "churn", "weights": {"1": 1}, "shadow": {}}',
        {},
        422,
    ),
    "a source with a NUL": ("PUT", "/models/churn/9", b'{"source": "/a\\u0000b"}', {}, 403),
    "half a pair of surrogates": ("PUT", "/models/churn/9", b'{"source": "/\\ud800"}', {}, 403),
    "a source elsewhere": ("PUT", "/models/churn/9", b'{"source": "/etc"}', {}, 403),
    "a source that climbs": (
        "PUT",
        "/models/churn/9",
        b'{"source": "models:/../../etc/1"}',
        {},
        403,
    ),
    "an endless delay": (
        "PUT",
        "/models/churn/9",
        b'{"source": "models:/a/1", "delay_seconds": NaN}',
        {},
        422,
    ),
    "a lease for ever": ("PUT", "/leases/churn", b'{"owner": "me", "seconds": 1e300}', {}, 422),
    "a lease of nobody": ("PUT", "/leases/churn", b'{"owner": "", "seconds": 1}', {}, 422),
    "an offset of 30 digits": ("GET", f"/routes/churn/requests?after={'9' * 30}", b"", {}, 400),
    "an offset below nothing": ("GET", "/routes/churn/requests?after=-1", b"", {}, 400),
    "an offset in other digits": ("GET", "/routes/churn/requests?after=٣", b"", {}, 400),
    "an id that is not ASCII": ("POST", ASK, b"{}", {"X-Request-Id": "é".encode()}, 400),
    "an id of broken bytes": ("POST", ASK, b"{}", {"X-Request-Id": b"\xff"}, 400),
    "a long id": ("POST", ASK, b"{}", {"X-Request-Id": "x" * 201}, 400),
    "a gzip": ("POST", ASK, gzip.compress(b"{}"), {"Content-Encoding": "gzip"}, 415),
    "a broken gzip": ("POST", ASK, b"no gzip", {"Content-Encoding": "gzip"}, 415),
    "a gzip to PUT": ("PUT", "/routes/churn", b"x", {"Content-Encoding": "gzip"}, 415),
    "another encoding": ("POST", ASK, b"x", {"Content-Encoding": "zstd"}, 415),
    "a long body": ("POST", ASK, b" " * (2**20 + 1), {}, 413),
    "a name that climbs": ("GET", "/routes/..%2f..%2fetc/requests", b"", {}, 400),
    "no such path": ("GET", "/nowhere", b"", {}, 404),
    "no such method": ("PATCH", "/routes/churn", b"", {}, 405),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_spoiled_request_is_refused_with_a_reason_and_the_next_is_answered(gateway, client, kind):
    before = table(gateway)
    method, path, body, headers, status = SPOILED[kind]
    answer = client.request(method, path, content=body, headers=OPERATOR | headers)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]
    assert table(gateway) == before
    is_well(client)


def test_a_request_that_was_too_slow_for_one_version_is_not_tried_on_the_next(
    gateway, client, answers, asked
):
    gateway.table.with_route("churn", Route("churn", {"1": 1e6, "2": 1e-6}))
    answers["1"] = fleet.TooSlow("version 1 of churn did not answer in time")
    answer = client.post(ASK, json=ROW, headers=CALLER)
    assert (answer.status_code, asked) == (503, ["1"])
    assert "did not answer in time" in answer.json()["error"]
    asked.clear()
    answers["1"] = fleet.NoAnswer("it has ended")
    answer = client.post(ASK, json=ROW, headers=CALLER)
    assert (answer.status_code, asked) == (200, ["1", "2"])


def test_more_than_fits_is_told_to_ask_again_and_the_rest_is_answered(client, answers, monkeypatch):
    monkeypatch.setattr(admission, "MOST_REQUESTS_AT_ONCE", 5)
    go_on = threading.Event()

    async def waits():
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        return 200, b"{}"

    answers["1"] = waits
    found = []

    def call():
        answer = httpx.post(f"{client.base_url}{ASK}", json=ROW, headers=CALLER, timeout=60)
        found.append((answer.status_code, answer.headers.get("Retry-After")))

    callers = [threading.Thread(target=call) for _ in range(12)]
    for caller in callers:
        caller.start()
    deadline = time.monotonic() + 30
    while len(found) < 7:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    assert found == [(429, "1")] * 7
    go_on.set()
    for caller in callers:
        caller.join()
    assert found[7:] == [(200, None)] * 5
    is_well(client)


def test_bytes_on_their_way_are_bounded_before_they_are_read(client, monkeypatch):
    monkeypatch.setattr(admission, "MOST_BYTES_AT_ONCE", 1000)
    answer = client.post(ASK, content=b" " * 1001, headers=CALLER)
    assert answer.status_code == 429
    is_well(client)


def test_half_a_body_is_waited_for_only_so_long(client, monkeypatch):
    monkeypatch.setattr(admission, "BODY_SECONDS", 0.1)
    url = client.base_url
    with socket.create_connection((url.host, url.port), timeout=30) as line:
        line.sendall(
            f"POST {ASK} HTTP/1.1\r\nHost: {url.host}:{url.port}\r\n"
            f"Authorization: {CALLER['Authorization']}\r\nContent-Length: 100\r\n\r\nhalf".encode()
        )
        assert b" 408 " in line.recv(4096)
    is_well(client)


def test_connections_that_never_send_a_whole_request_are_ended(client, monkeypatch):
    monkeypatch.setattr(admission, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(admission, "SILENT_SECONDS", 0.2)
    url = client.base_url
    lines = [socket.create_connection((url.host, url.port), timeout=30) for _ in range(50)]
    for line in lines:
        line.sendall(b"POST / HTTP/1.1\r\nHost: ")
    for line in lines:
        with line, suppress(ConnectionResetError):
            assert line.recv(100) == b""
    is_well(client)


def test_a_way_back_is_never_refused_and_what_is_not_well_is_asked_for_again(gateway, client):
    def put(*versions):
        body = {"model": "churn", "weights": dict.fromkeys(versions, 1)}
        return client.put("/routes/churn", json=body, headers=OPERATOR)

    assert put("1", "2").status_code == 200  # a canary
    gateway.fleet.versions["churn", "1"].healthy = False  # stable is started again
    assert put("1").status_code == 200
    gateway.fleet.versions["churn", "1"].healthy = True
    assert put("2").status_code == 200
    gateway.fleet.versions["churn", "1"].healthy = False
    assert put("1").status_code == 200  # it was there before
    gateway.fleet.versions["churn", "3"].healthy = False
    refused = put("1", "3")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert "version 3 of churn is not well now" in refused.json()["error"]
    assert put("4").status_code == 409
    assert gateway.table.routes["churn"].versions() == {"1"}


@pytest.mark.parametrize(("method", "path", "body"), CHANGES[1:4])
def test_what_can_not_be_written_is_refused_and_changes_nothing(
    gateway, client, monkeypatch, method, path, body
):
    def full(number):
        raise OSError(28, "No space left on device")

    before = table(gateway)
    if path.startswith("/models"):
        gateway.table.with_version("churn", "2", {"source": "models:/churn/1"})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        answer = client.request(method, path, json=body, headers=OPERATOR)
        assert answer.status_code == 503
        assert "No space left" in answer.json()["error"]
        assert table(gateway) == before
        is_well(client)
    assert list(gateway.folder.glob("*.part")) == []
    assert Table.load(gateway.folder / "table.json").routes == gateway.table.routes


def test_a_version_that_can_not_be_remembered_is_stopped_again(gateway, client, monkeypatch):
    removed = []

    async def put(model, number, made_of):
        gateway.fleet.versions[model, number] = object()

    async def remove(model, number, grace):
        removed.append(gateway.fleet.versions.pop((model, number)))

    def full(*_):
        raise NotKept("no space")

    monkeypatch.setattr(gateway.fleet, "put", put)
    monkeypatch.setattr(gateway.fleet, "remove", remove)
    monkeypatch.setattr(gateway.table, "with_version", full)
    answer = client.put("/models/churn/9", json={"source": "models:/churn/9"}, headers=OPERATOR)
    assert (answer.status_code, len(removed)) == (503, 1)


def test_one_model_that_does_not_start_keeps_no_other_waiting(gateway, client, monkeypatch):
    began, go_on = threading.Event(), threading.Event()

    async def put(model, number, made_of):
        began.set()
        while model == "slow" and not go_on.is_set():
            await asyncio.sleep(0.01)

    monkeypatch.setattr(gateway.fleet, "put", put)
    made_of = {"source": "models:/churn/9"}

    def slow():
        httpx.put(f"{client.base_url}/models/slow/1", json=made_of, headers=OPERATOR, timeout=60)

    waiting = threading.Thread(target=slow)
    waiting.start()
    assert began.wait(30)
    assert client.put("/models/other/1", json=made_of, headers=OPERATOR).status_code == 201
    go_on.set()
    waiting.join()


def test_a_keeper_outlives_what_keeps_a_process_from_starting(tmp_path, monkeypatch):
    """No file descriptor, no memory: a version that answered before is tried until it does."""
    faults = [OSError(24, "Too many open files"), ValueError("embedded null byte"), MemoryError()]
    ended = []

    async def spawn(self, version):
        if faults:
            raise faults.pop(0)
        version.process = SimpleNamespace(returncode=None)
        return version.process

    async def answers(self, version, seconds):
        return True

    async def end(process):
        ended.append(process)

    async def looks_after(self, version, process):
        await asyncio.sleep(60)

    async def live():
        found = fleet.Fleet(tmp_path)
        with pytest.raises(fleet.DidNotStart, match="Too many open files"):
            await found.put("churn", "new", {"source": "x"})
        assert found.versions == {}
        found.restore("churn", "1", {"source": "x"})
        while not found.healthy("churn"):
            await asyncio.sleep(0.01)
        await found.close()

    monkeypatch.setattr(fleet.Fleet, "_spawn", spawn)
    monkeypatch.setattr(fleet.Fleet, "_answers", answers)
    monkeypatch.setattr(fleet.Fleet, "_look_after", looks_after)
    monkeypatch.setattr(fleet, "_end", end)
    asyncio.run(asyncio.wait_for(live(), 30))
    assert faults == []
    assert len(ended) == 1


def test_a_second_owner_is_told_who_releases_and_changes_nothing(client):
    one, other = (Client(str(client.base_url), TOKEN, name) for name in ("one", "other"))
    one.take_lease("churn")
    for change in (
        lambda: other.take_lease("churn"),
        lambda: other.release_lease("churn"),
        lambda: other.set_route("churn", "churn", {"2": 1.0}),
        lambda: other.set_route("free", "churn", {"2": 1.0}),
        lambda: other.remove_route("churn"),
        lambda: other.start_version("churn", "9", "models:/churn/9"),
        lambda: other.stop_version("churn", "2"),
        lambda: Client(str(client.base_url), TOKEN).stop_version("churn", "2"),
    ):
        with pytest.raises(Refused, match=r"409.*being released by 'one'"):
            change()
    one.set_route("churn", "churn", {"2": 1.0})
    one.release_lease("churn")
    other.set_route("churn", "churn", {"1": 1.0})
    is_well(client)


def test_a_lease_ends_by_itself_and_goes_on_while_its_owner_is_heard_of(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    leases = Leases()
    leases.take("churn", "one", 10)
    now[0] = 109
    leases.check("churn", "one")
    now[0] = 118
    with pytest.raises(Held, match="not been heard of for 9 s; its lease ends in 1 s"):
        leases.check("churn", "other")
    now[0] = 119.5
    leases.take("churn", "other", 10)
    assert list(leases.known()) == ["churn"]
    now[0] = 130
    assert leases.known() == {}


@pytest.mark.parametrize(
    ("source", "good"),
    [
        ("models:/churn/3", True),
        ("models:/with spaces and-dots.v2/12", True),
        ("models:/churn/latest", False),
        ("models:/churn@champion", False),
        ("models:/../etc/1", False),
        ("runs:/abc/model", False),
        ("http://evil.example/model", False),
        ("here/model", True),
        ("file://HERE/model", True),
        ("HERE", True),
        ("HERE/../elsewhere", False),
        ("HERE/link", False),
        ("", False),
        ("HERE\0", False),
        ("/\ud800", False),
    ],
)
def test_models_come_from_the_registry_or_from_named_folders(tmp_path, monkeypatch, source, good):
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert admission.allowed(source.replace("HERE", str(folder)), (folder,)) is good


def test_a_client_asks_again_where_the_gateway_is_not_well_for_a_moment(gateway, client):
    gateway.fleet.versions["churn", "3"].healthy = False
    timer = threading.Timer(
        0.5, lambda: setattr(gateway.fleet.versions["churn", "3"], "healthy", True)
    )
    timer.start()
    Client(str(client.base_url), TOKEN).set_route("churn", "churn", {"3": 1.0})
    assert gateway.table.routes["churn"].versions() == {"3"}


def test_lines_that_could_not_be_logged_are_counted(gateway, client, monkeypatch):
    def full(number, content):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for _ in range(5):
            is_well(client)
        assert client.get("/routes/churn/requests", headers=OPERATOR).content == b""
    is_well(client)
    lines = client.get("/routes/churn/requests", headers=OPERATOR).text.splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["asked"] == ROW
    counted = client.get("/metrics", headers=CALLER).text
    assert 'gateway_log_dropped_total{route="churn"} 5.0' in counted
