"""A JSON body with NaN or Infinity is refused before Airflow reads it."""

import asyncio
import json
import threading

import pytest

from plugins import strict_json

KIND = (b"content-type", b"application/json; charset=utf-8")


@pytest.fixture
def answered():
    """Send a body in two parts; returns the refusal if there is one, and what Airflow read."""

    def ask(body, *headers):
        read, sent = [], []
        parts = [body[:5], body[5:]]

        async def receive():
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        async def send(message):
            sent.append(message)

        async def airflow(scope, receive, send):
            message = await receive()
            read.append(message["body"])
            while message["more_body"]:
                message = await receive()
                read.append(message["body"])

        scope = {"type": "http", "method": "POST", "path": "/", "headers": list(headers)}
        asyncio.run(strict_json.StrictJson(airflow)(scope, receive, send))
        refusal = (sent[0]["status"], json.loads(sent[1]["body"])["detail"]) if sent else None
        return refusal, b"".join(read)

    return ask


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_a_body_with_no_number_where_one_should_be_is_refused(answered, word):
    refusal, read = answered(f'{{"conf": {{"rates": [1, {word}]}}}}'.encode(), KIND)
    assert refusal == (400, f"the body holds {word}, which JSON does not have: give a number")
    assert read == b""


@pytest.mark.parametrize(
    "body",
    [
        b'{"conf": {"name": "NaN", "rate": 0.5}}',
        b"",
        '{"note": "\N{GRINNING FACE}"}'.encode(),
        rb'{"note": "\ud83d\ude00"}',
    ],
)
def test_all_other_bodies_reach_airflow_unchanged(answered, body):
    assert answered(body, KIND) == (None, body)


@pytest.mark.parametrize(
    "body", [b'{"conf": ', b"\xff\xfe no text", b'{"a": "\x01"}', b"[" + b"9" * 5000 + b"]"]
)
def test_a_body_that_is_no_json_is_refused(answered, body):
    refusal, read = answered(body, KIND)
    assert refusal[0] == 400
    assert refusal[1].startswith("the body is no JSON: ")
    assert read == b""


def test_a_body_of_another_kind_is_not_read_as_json(answered):
    assert answered(b"rate=NaN and more", (b"content-type", b"text/plain"))[0] is None


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a": ' * 60 + b"1" + b"}" * 60])
def test_a_deep_body_is_refused(answered, body):
    assert answered(body, KIND)[0] == (400, "the body is nested too deeply")


@pytest.mark.parametrize("body", [rb'{"note": "\ud800"}', rb'{"conf": {"\udfff": [1]}}'])
def test_half_a_pair_of_surrogates_is_refused(answered, body):
    assert answered(body, KIND)[0] == (
        400,
        "a text in the body holds half of a pair of surrogates",
    )


def test_a_body_without_end_is_not_kept(answered, monkeypatch):
    monkeypatch.setattr(strict_json, "MOST_BYTES", 10)
    assert answered(b'"much longer than that"', KIND)[0][0] == 413


@pytest.mark.parametrize(
    "body", [b"[" + b"[]," * 200_000 + b"0]", b"[" + b"0," * 200_001 + b"0]", b"[{}]" * 100_001]
)
def test_a_body_of_very_many_values_is_refused_before_it_is_read(answered, body, monkeypatch):
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was read"))
    refusal = strict_json._fault(body)
    monkeypatch.undo()
    assert refusal == (413, "the body holds more than 200000 values")
    assert answered(body, KIND) == (refusal, b"")


def test_a_long_text_is_read():
    assert strict_json._fault(b'{"note": "' + b"x" * 2**20 + b'"}') is None


def test_others_are_answered_while_a_body_is_read(monkeypatch):
    reading, go_on = threading.Event(), threading.Event()

    def slow(body):
        reading.set()
        assert go_on.wait(30)

    monkeypatch.setattr(strict_json, "_fault", slow)

    async def both():
        async def receive():
            return {"type": "http.request", "body": b"1"}

        async def airflow(scope, receive, send):
            done.append(scope["path"])

        done = []
        checked = strict_json.StrictJson(airflow)
        scope = {"type": "http", "method": "POST", "path": "/slow", "headers": [KIND]}
        first = asyncio.create_task(checked(scope, receive, None))
        await asyncio.to_thread(reading.wait, 30)
        await checked({"type": "http", "method": "GET", "path": "/quick"}, receive, None)
        go_on.set()
        await first
        return done

    assert asyncio.run(both()) == ["/quick", "/slow"]


def test_a_body_without_a_kind_is_read_as_json(answered):
    assert answered(b'{"rate": NaN}')[0][0] == 400
    assert answered(b'{"rate": 1}') == (None, b'{"rate": 1}')


def test_what_is_no_request_passes():
    seen = []

    async def airflow(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(strict_json.StrictJson(airflow)({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]
