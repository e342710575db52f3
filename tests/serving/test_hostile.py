"""The gateway's doors, in this process: whatever is sent, it answers with a reason and goes on."""

import asyncio
import errno
import gzip
import json
import os
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace

import httpx
import pytest
from aiohttp import web

from include.serving import admission, fleet, journal, tokens
from include.serving.client import Gateway as Client
from include.serving.client import Refused
from include.serving.gateway import Gateway
from include.serving.kept import NotKept
from include.serving.routing import Route, Table
from tests.waiting import until

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


def test_a_second_page_beside_our_own_is_refused(client):
    own = str(client.base_url).rstrip("/")
    for origins in ([own, EVIL], [EVIL, own]):
        headers = [*CALLER.items(), *(("Origin", each) for each in origins)]
        assert client.post(ASK, json=ROW, headers=headers).status_code == 403
    assert client.post(ASK, json=ROW, headers={**CALLER, "Origin": own}).status_code == 200


def test_the_token_for_callers_of_another_gateway_is_refused(client):
    others = {"Authorization": f"Bearer {tokens.of_callers('another operator')}"}
    assert client.post(ASK, json=ROW, headers=others).status_code == 401
    assert client.get("/metrics", headers=others).status_code == 401
    assert TOKEN not in CALLER["Authorization"]


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
    "a model with half a pair of surrogates": (
        "PUT",
        "/routes/z",
        b'{"model": "\\ud800", "weights": {"1": 1}}',
        {},
        422,
    ),
    "a shadow with half a pair": (
        "PUT",
        "/routes/z",
        b'{"model": "churn", "weights": {"1": 1}, "shadow": "\\ud800"}',
        {},
        422,
    ),
    "a version with half a pair": (
        "PUT",
        "/routes/z",
        b'{"model": "churn", "weights": {"\\ud800": 0, "1": 1}}',
        {},
        422,
    ),
    "a key that is the token": (
        "PUT",
        "/routes/z",
        b'{"model": "churn", "weights": {"1": 1}, "sticky": "Authorization"}',
        {},
        422,
    ),
    "a lease for ever": ("PUT", "/leases/churn", b'{"owner": "me", "seconds": 1e300}', {}, 422),
    "a lease of true": ("PUT", "/leases/churn", b'{"owner": "me", "seconds": true}', {}, 422),
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
    "an expectation that is no text": ("POST", ASK, b"{}", {"Expect": b"\xe9"}, 417),
    "an unknown expectation": ("GET", "/nowhere", b"", {"Expect": "tea"}, 417),
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


GONE = {"it has ended": fleet.NoAnswer("it has ended"), "it was taken away": KeyError("1")}


def logged(client, after=0):
    """The gateway's log from an offset on, page by page."""
    found = []
    for _ in range(100):
        page = client.get(f"/routes/churn/requests?after={after}", headers=OPERATOR)
        if not page.text:
            return found
        found += [json.loads(line) for line in page.text.splitlines()]
        after = page.headers["X-Next-Offset"]
    raise AssertionError(f"the log has no end: {found[-3:]}")


def counted(client, role, version, status):
    """How many answers of a kind are counted."""
    told = client.get("/metrics", headers=CALLER).text
    labels = f'role="{role}",route="churn",status="{status}",version="{version}"'
    found = [
        line for line in told.splitlines() if line.startswith(f"gateway_answers_total{{{labels}")
    ]
    return float(found[0].split()[-1]) if found else 0


@pytest.mark.parametrize("why", GONE)
def test_a_second_version_answers_where_the_first_one_fails_to(
    gateway, client, answers, asked, why
):
    gateway.table.with_route("churn", Route("churn", {"1": 1e6, "2": 1, "3": 1e-6}))
    answers["1"] = GONE[why]
    answer = client.post(ASK, json=ROW, headers=CALLER)
    assert (answer.status_code, asked) == (200, ["1", "2"])
    assert answer.headers["X-Model-Version"] == "2"
    (line,) = logged(client)
    assert (line["version"], line["status"]) == ("2", 200)


def test_no_third_version_is_asked_and_the_failure_is_logged(gateway, client, answers, asked):
    gateway.table.with_route("churn", Route("churn", {"1": 1e6, "2": 1, "3": 1e-6}))
    answers["1"], answers["2"] = GONE.values()
    answer = client.post(ASK, json=ROW, headers=CALLER)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert asked == ["1", "2"]
    assert "no version of churn answers" in answer.json()["error"]
    (line,) = logged(client)
    assert (line["version"], line["status"], line["answer"]) == ("none", 503, None)
    assert counted(client, "live", "none", 503) == 1


def test_what_a_version_refuses_reaches_the_caller_and_the_log_as_it_is(client, answers, asked):
    answers["1"] = (422, b'{"error": "the model also wants the column fee"}')
    answer = client.post(ASK, json=ROW, headers=CALLER)
    assert (answer.status_code, answer.content) == answers["1"]
    assert (asked, answer.headers["X-Model-Version"]) == (["1"], "1")
    (line,) = logged(client)
    assert (line["version"], line["status"], line["answer"]) == ("1", 422, None)
    assert "asked" not in line
    assert counted(client, "live", "1", 422) == 1
    assert counted(client, "live", "1", 200) == 0


@pytest.mark.parametrize("fault", [*GONE.values(), fleet.TooSlow("it is slow"), (500, b"{}")])
def test_a_shadow_that_fails_is_logged_and_the_caller_is_answered(gateway, client, answers, fault):
    gateway.table.with_route("churn", Route("churn", {"1": 1.0}, shadow="2"))
    answers["2"] = fault
    is_well(client)
    lines = until(lambda: logged(client), "both lines", lambda lines: len(lines) == 2, seconds=10)
    statuses = {line["role"]: (line["version"], line["status"]) for line in lines}
    expected = fault[0] if isinstance(fault, tuple) else 503
    assert statuses == {"live": ("1", 200), "shadow": ("2", expected)}
    assert counted(client, "shadow", "2", expected) == 1


def test_a_page_of_the_log_holds_whole_lines(client, monkeypatch):
    for _ in range(7):
        is_well(client)
    whole = logged(client)
    assert len(whole) == 7
    longest = max(len(json.dumps(line)) for line in whole)
    monkeypatch.setattr(journal, "MOST_READ", 2 * longest + longest // 2)  # two and a half lines
    assert logged(client) == whole


def test_a_restart_brings_back_what_was_there_and_nothing_that_was_removed(
    gateway, client, monkeypatch
):
    async def remove(model, number, grace):
        del gateway.fleet.versions[model, number]

    monkeypatch.setattr(gateway.fleet, "remove", remove)
    made_of = {"source": "models:/churn/1", "error_every": 3, "delay_seconds": 0.5}
    for number in ("1", "2"):
        gateway.table.with_version("churn", number, made_of)
    gateway.table.with_route("old", Route("churn", {"1": 1.0}))
    assert client.delete("/models/churn/2", headers=OPERATOR).status_code == 200
    assert client.delete("/routes/old", headers=OPERATOR).status_code == 200
    restored = []
    monkeypatch.setattr(fleet.Fleet, "restore", lambda self, *given: restored.append(given))
    with served(Gateway(gateway.folder, TOKEN)) as address:
        routes = httpx.get(f"{address}/routes", headers=OPERATOR).json()
    assert restored == [("churn", "1", made_of)]
    assert {name: route["weights"] for name, route in routes.items()} == {"churn": {"1": 1.0}}


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


@pytest.mark.parametrize("content", [b" " * 1001, iter([b" " * 500, b" " * 501])])
def test_bytes_at_work_are_bounded(client, monkeypatch, content):
    monkeypatch.setattr(admission, "MOST_BYTES_AT_ONCE", 1000)
    answer = client.post(ASK, content=content, headers=CALLER)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    is_well(client)


@pytest.mark.parametrize("content", [b" " * (2**20 + 1), iter([b" " * 2**19] * 3)])
def test_a_body_that_is_too_long_is_not_asked_for_again(client, content):
    answer = client.post(ASK, content=content, headers=CALLER)
    assert answer.status_code == 413
    assert "longer than 1048576 bytes" in answer.json()["error"]
    is_well(client)


def test_slow_senders_take_no_room_from_others(client):
    url = client.base_url
    head = (
        f"POST {ASK} HTTP/1.1\r\nHost: {url.host}:{url.port}\r\n"
        f"Authorization: {CALLER['Authorization']}\r\nContent-Length: 1048576\r\n\r\n{{"
    ).encode()
    with ExitStack() as lines:
        for _ in range(100):
            line = lines.enter_context(socket.create_connection((url.host, url.port), timeout=30))
            line.sendall(head)
        for _ in range(20):
            is_well(client)


@pytest.mark.parametrize(
    "request_line", [f"POST {ASK}", "PUT /routes/churn", "PUT /models/churn/9", "PUT /leases/churn"]
)
def test_half_a_body_is_waited_for_only_so_long(client, monkeypatch, request_line):
    monkeypatch.setattr(admission, "BODY_SECONDS", 0.1)
    url = client.base_url
    with socket.create_connection((url.host, url.port), timeout=10) as line:
        line.sendall(
            f"{request_line} HTTP/1.1\r\nHost: {url.host}:{url.port}\r\n"
            f"Authorization: {OPERATOR['Authorization']}\r\n"
            "Content-Length: 100\r\n\r\nhalf".encode()
        )
        assert b" 408 " in line.recv(4096)
    is_well(client)


def test_no_copy_is_sent_where_it_would_not_fit(gateway, client, asked, monkeypatch):
    gateway.table.with_route("churn", Route("churn", {"1": 1.0}, shadow="2"))
    monkeypatch.setattr(admission, "MOST_REQUESTS_AT_ONCE", 1)
    is_well(client)
    assert asked == ["1"]
    told = client.get("/metrics", headers=CALLER).text
    assert 'gateway_shadow_dropped_total{route="churn"} 1.0' in told


def test_a_copy_on_its_way_takes_room(gateway, client, answers, asked, monkeypatch):
    go_on = threading.Event()

    async def waits():
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        return 200, b"{}"

    gateway.table.with_route("churn", Route("churn", {"1": 1.0}, shadow="2"))
    answers["2"] = waits
    is_well(client)
    until(lambda: sorted(asked), "both versions to be asked", ["1", "2"].__eq__, seconds=10)
    monkeypatch.setattr(admission, "MOST_REQUESTS_AT_ONCE", 1)
    assert client.post(ASK, json=ROW, headers=CALLER).status_code == 429
    go_on.set()
    until(lambda: gateway.room.requests, "room", lambda taken: taken == 0, seconds=10)
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


def test_a_version_stays_what_it_was_made_of_and_another_model_has_its_own(gateway, client):
    made_of = {"source": "models:/churn/1", "error_every": 0, "delay_seconds": 0.0}
    gateway.fleet.versions["churn", "1"].made_of = made_of
    assert client.put("/models/churn/1", json=made_of, headers=OPERATOR).status_code == 200
    for other in ({"source": "models:/churn/2"}, {"error_every": 2}, {"delay_seconds": 1.0}):
        answer = client.put("/models/churn/1", json=made_of | other, headers=OPERATOR)
        assert answer.status_code == 409
        assert "remove it first" in answer.json()["error"]
    assert gateway.fleet.versions["churn", "1"].made_of == made_of
    route = {"model": "fraud", "weights": {"1": 1}}
    answer = client.put("/routes/fraud", json=route, headers=OPERATOR)
    assert answer.status_code == 409
    assert "version 1 of fraud is not there" in answer.json()["error"]


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


def test_a_version_that_can_not_be_started_now_is_asked_for_again(client, monkeypatch):
    async def refused(*command, **options):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refused)
    answer = client.put("/models/churn/9", json={"source": "models:/churn/9"}, headers=OPERATOR)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "Too many open files" in answer.json()["error"]
    assert client.get("/models", headers=OPERATOR).json()["churn"].keys() == {"1", "2", "3"}
    is_well(client)


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
        with pytest.raises(fleet.NotNow, match="Too many open files"):
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
