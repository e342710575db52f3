"""Airflow's doorkeeper refuses other hosts and other sites' pages, whatever they ask for."""

import asyncio

import pytest

from plugins.doorkeeper import Doorkeeper


@pytest.fixture
def answered(monkeypatch):
    """Send a request with these headers through; returns what was sent, and who answered."""
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/here")
    monkeypatch.setenv("AIRFLOW__API__ACCESS_CONTROL_ALLOW_ORIGINS", "https://friend.example")
    reached = []

    async def airflow(scope, receive, send):
        reached.append(scope["type"])

    def ask(*headers, kind="http"):
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": kind, "method": "GET", "path": "/", "headers": list(headers)}
        asyncio.run(Doorkeeper(airflow)(scope, None, send))
        return sent, reached.copy()

    return ask


HOST = (b"host", b"127.0.0.1:8080")


@pytest.mark.parametrize(
    "headers",
    [
        [HOST],
        [HOST, (b"origin", b"http://127.0.0.1:8080")],
        [(b"host", b"airflow.example")],
        [(b"host", b"airflow.example"), (b"origin", b"https://airflow.example")],
        [HOST, (b"origin", b"https://friend.example")],
    ],
)
def test_requests_under_its_own_names_and_of_allowed_origins_reach_airflow(answered, headers):
    assert answered(*headers) == ([], ["http"])


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ([], b"None"),
        ([(b"host", b"evil.example")], b"evil.example"),
        ([HOST, (b"host", b"evil.example")], b"None"),
        ([HOST, (b"origin", b"null")], b"null"),
        ([HOST, (b"origin", b"http://evil.example")], b"evil.example"),
        ([HOST, (b"origin", b"https://friend.example"), (b"origin", b"null")], b"null"),
    ],
)
def test_all_others_are_refused_with_the_reason(answered, headers, named):
    (start, body), reached = answered(*headers)
    assert start["status"] == 403
    assert named in body["body"]
    assert reached == []


def test_a_websocket_of_another_site_is_closed(answered):
    (closed,), reached = answered((b"host", b"evil.example"), kind="websocket")
    assert (closed["type"], reached) == ("websocket.close", [])


def test_a_star_in_airflows_origins_stands_for_any_page(answered, monkeypatch):
    monkeypatch.setenv("AIRFLOW__API__ACCESS_CONTROL_ALLOW_ORIGINS", "https://*.friend.example")
    assert answered(HOST, (b"origin", b"https://a.friend.example")) == ([], ["http"])
    (start, _), _ = answered(HOST, (b"origin", b"https://friend.example.evil.example"))
    assert start["status"] == 403


def test_what_is_no_request_passes(monkeypatch):
    seen = []

    async def airflow(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(Doorkeeper(airflow)({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]
