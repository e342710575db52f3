"""Servers on loopback answer under their own names, and no page of another server."""

import logging
import socket
import time

import pytest
from aiohttp.http_exceptions import BadHttpMessage

from include import loopback


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8080", None),
        ("localhost", None),
        ("LOCALHOST:8080", None),
        ("[::1]:8080", None),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("localhost:8443", "https://localhost:8443"),
        ("LocalHost:8443", "https://localhost:8443"),
    ],
)
def test_programs_and_pages_of_the_server_itself_are_answered(host, origin):
    assert loopback.refusal(host, origin) is None


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:8080",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8080",
        "evil.example@127.0.0.1",
        "127.0.0.1@evil.example",
        "[::1",
        "[::1].evil.example:80",
        "0.0.0.0:8080",
        "127.0.0.2:8080",
        ":8080",
    ],
)
def test_another_host_is_refused_by_its_name(host):
    expected = f"the request is for host {host!r}: ALLOWED_HOSTS names the hosts that are served"
    assert loopback.refusal(host, None) == expected


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://evil.example",
        "http://127.0.0.1",
        "http://127.0.0.1:3000",
        "http://127.0.0.1:8080.evil.example",
        "http://127.0.0.1:8080@evil.example",
        "http://localhost:8080",
        "chrome-extension://abcdef",
        "http://evil.example://127.0.0.1:8080",
    ],
)
def test_a_page_of_another_server_is_refused_by_its_origin(origin):
    expected = f"the request comes from a page of {origin!r}, another server"
    assert loopback.refusal("127.0.0.1:8080", origin) == expected
    assert loopback.of_another_page("127.0.0.1:8080", origin) == expected


def test_a_setting_adds_names(monkeypatch):
    monkeypatch.setenv("ALLOWED_HOSTS", " Airflow.example ,, gateway ")
    known = loopback.names()
    assert known == loopback.NAMES | {"airflow.example", "gateway"}
    assert loopback.refusal("airflow.example:8080", None, known) is None
    assert loopback.refusal("other.example:8080", None, known)
    assert loopback.refusal("gateway:8090", "http://evil.example", known)


def test_a_header_that_can_not_be_read_is_not_written_into_the_log(caplog):
    loopback.keep_headers_out_of_logs()
    log = logging.getLogger("aiohttp.server")
    try:
        raise BadHttpMessage("Invalid header value: Bearer a-token")
    except BadHttpMessage:
        log.exception("Error handling request from %s", "127.0.0.1")
    try:
        raise ValueError("a fault of ours")
    except ValueError:
        log.exception("Error handling request from %s", "127.0.0.1")
    log.warning("a line without an exception")
    assert caplog.messages == [
        "a request was refused that is no HTTP (BadHttpMessage)",
        "Error handling request from 127.0.0.1",
        "a line without an exception",
    ]
    assert "a-token" not in caplog.text
    assert "a fault of ours" in caplog.text


def test_all_headers_that_name_a_page_count():
    assert loopback.origin([]) is None
    assert loopback.origin(["http://a.example"]) == "http://a.example"
    assert loopback.origin(["http://a.example", "null"]) == "http://a.example, null"


def test_a_server_under_any_name_answers_its_own_pages_and_programs():
    for host, origin in (("Any.example", "http://any.example"), ("any", None), (None, None)):
        assert loopback.of_another_page(host, origin) is None
    assert loopback.of_another_page(None, "http://evil.example")
    assert loopback.of_another_page(None, "null") is None


def test_without_the_setting_only_loopback_is_served(monkeypatch):
    monkeypatch.delenv("ALLOWED_HOSTS", raising=False)
    assert loopback.names() == {"127.0.0.1", "localhost", "[::1]"}


@pytest.mark.parametrize(
    ("given", "listed"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"no_proxy": " a , ,b"}, "a,b,127.0.0.1,localhost"),
        ({"NO_PROXY": "c,localhost"}, "c,localhost,127.0.0.1"),
        ({"no_proxy": "a", "NO_PROXY": "a,d"}, "a,d,127.0.0.1,localhost"),
    ],
)
def test_a_proxy_is_kept_from_loopback_and_from_what_it_was_kept_from(monkeypatch, given, listed):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, hosts in given.items():
        monkeypatch.setenv(name, hosts)
    assert loopback.no_proxy() == {"no_proxy": listed, "NO_PROXY": listed}


@pytest.fixture
def at_most_five_seconds():
    """What is asked without a limit of its own waits so long."""
    socket.setdefaulttimeout(5)
    yield
    socket.setdefaulttimeout(None)


@pytest.mark.usefixtures("at_most_five_seconds")
def test_this_machine_is_asked_past_a_proxy_and_not_for_ever(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            loopback.ask("http://127.0.0.1:{1}/".format(*silent.getsockname()), 0.05)
        assert time.monotonic() - began < 4
        with silent.accept()[0] as asked:
            assert asked.recv(5) == b"GET /"
