"""Servers on loopback answer under their own names, and no page of another server."""

import pytest

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
    assert f"host {host!r}" in loopback.refusal(host, None)


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
    ],
)
def test_a_page_of_another_server_is_refused_by_its_origin(origin):
    assert f"page of {origin!r}" in loopback.refusal("127.0.0.1:8080", origin)


def test_a_setting_adds_names(monkeypatch):
    monkeypatch.setenv("ALLOWED_HOSTS", " Airflow.example ,, gateway ")
    known = loopback.names()
    assert known == loopback.NAMES | {"airflow.example", "gateway"}
    assert loopback.refusal("airflow.example:8080", None, known) is None
    assert loopback.refusal("other.example:8080", None, known)
    assert loopback.refusal("gateway:8090", "http://evil.example", known)
