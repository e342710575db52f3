"""2,000 random and mutated requests: a gateway with a real scorer answers the next good one."""

import json
import random
import socket
import string

import httpx
import pytest

from include.serving import tokens
from tests.serving.conftest import TOKEN

REQUESTS = 2000
MODEL, ROUTE = "fuzzed", "fuzzed"
SECONDS = 20.0
HASTY_SECONDS = 0.05
"""How long a client waits that may have sent half a request."""
CALLERS = f"Bearer {tokens.of_callers(TOKEN)}".encode()
OPERATORS = f"Bearer {TOKEN}".encode()
SPLICES = [
    *(b"null", b"NaN", b"1e999", b"[[[[", b"{", b'"', b"-0", b"\x00", b"\xff", b"\r\n\r\n"),
    *(b'"\\ud800"', b"9" * 400, b"true", b'{"a": {}}', b"\\u0000", "½é😀".encode()),
]


@pytest.fixture(scope="module")
def gateway(start_gateway, exported):
    operator, process = start_gateway()
    operator.start_version(MODEL, "1", str(exported))
    operator.set_route(ROUTE, MODEL, {"1": 1.0}, sticky="X-Customer")
    yield operator
    assert process.alive(), process.last_words()


@pytest.fixture(scope="module")
def client(gateway):
    headers = {"Authorization": CALLERS.decode()}
    with httpx.Client(base_url=gateway.address, headers=headers, timeout=SECONDS) as opened:
        yield opened


def good(rows, source):
    """Requests that are answered with 200 as they stand, or that change nothing of the route."""
    ask = f"/routes/{ROUTE}/invocations"
    columns = list(rows[0])
    bodies = [
        {"dataframe_records": rows[:2]},
        {"inputs": {name: [row[name] for row in rows[:2]] for name in columns}},
        {"dataframe_split": {"columns": columns, "data": [list(rows[0].values())]}},
    ]
    return [
        *(("POST", ask, CALLERS, body) for body in bodies * 3),
        ("PUT", "/routes/spare", OPERATORS, {"model": MODEL, "weights": {"1": 1}}),
        ("PUT", f"/models/{MODEL}/1", OPERATORS, {"source": source}),
        ("PUT", "/leases/another", OPERATORS, {"owner": "fuzz", "seconds": 9}),
        ("DELETE", "/leases/another", OPERATORS, None),
        ("DELETE", f"/models/{MODEL}/9", OPERATORS, None),
        ("GET", f"/routes/{ROUTE}/requests?after=0", OPERATORS, None),
        ("GET", "/metrics", CALLERS, None),
        ("GET", "/models", OPERATORS, None),
    ]


def spoiled_body(body, rng):
    """Cut it, turn a byte, put something in, or make it large."""
    kind, at = rng.randrange(8), rng.randrange(len(body) + 1)
    if kind == 0:
        return body[:at]
    if kind == 1:
        return body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :]
    if kind in (2, 3, 4):
        return body[:at] + rng.choice(SPLICES) + body[at + rng.randrange(4) :]
    if kind == 5:
        return b"[" * rng.choice([10, 10_000, 200_000])
    if kind == 6:
        names = {f"column {number}": 1 for number in range(rng.choice([3, 20_000]))}
        return json.dumps({"dataframe_records": [names]}).encode()
    return b" " * rng.choice([1, 2**20, 2**20 + 1]) + body


def spoiled_headers(headers, rng):
    """Change, add or double a header."""
    name, value = rng.choice([
        (b"Host", b"evil.example"),
        (b"Origin", b"http://evil.example"),
        (b"Authorization", b"Bearer wrong"),
        (b"Authorization", b"Bearer \xe9\xff"),
        (b"Content-Length", b"-1"),
        (b"Content-Length", b"999"),
        (b"Content-Length", b"9" * 40),
        (b"Transfer-Encoding", b"chunked"),
        (b"Content-Encoding", b"gzip"),
        (b"X-Request-Id", b"\xff\xfe"),
        (b"X-Customer", b"x" * 10_000),
        (b"X-Customer", "é".encode()),
        (b"X-Lease-Owner", b"\x01"),
        (b"Expect", b"100-continue"),
        (b"Upgrade", b"websocket"),
        (b"A" * 20_000, b"long"),
        (b"Bad Name", b"x"),
    ])
    kept = [each for each in headers if each[0] != name or rng.random() < 0.2]
    return [*kept, (name, value)]


def spoiled_path(path, rng):
    """Names that climb, offsets that are none, and what no path may hold."""
    return rng.choice([
        path.replace(ROUTE, "..%2f..%2fetc"),
        path.replace(ROUTE, "%00"),
        path.replace(ROUTE, "x" * 9000),
        path.replace(ROUTE, "nobody"),
        path + "%ff",
        path.partition("?")[0] + f"?after={rng.choice(['-1', '9' * 30, 'x', '%00'])}",
        f"http://evil.example{path}",
        "//",
        "*",
        path + "\x7f",
    ])


def made(rng, kinds):
    """The bytes of one request, and what is wrong with it."""
    method, path, token, document = rng.choice(kinds)
    body = b"" if document is None else json.dumps(document).encode()
    spoil = {part for part in ("body", "headers", "path", "method", "line") if rng.random() < 0.3}
    if "body" in spoil:
        body = spoiled_body(body, rng)
    headers = [(b"Host", b"127.0.0.1:8090"), (b"Authorization", token)]
    headers += [(b"Connection", b"close"), (b"Content-Length", str(len(body)).encode())]
    if "headers" in spoil:
        headers = spoiled_headers(headers, rng)
    if "path" in spoil:
        path = spoiled_path(path, rng)
    if "method" in spoil:
        method = rng.choice(["PATCH", "OPTIONS", "TRACE", "get", "G" * 300, "", "DELETE", "HEAD"])
        path = path if method != "DELETE" else "/routes/spare"
    version = rng.choice(["HTTP/0.9", "HTTP/9.9", "HTTP/1.0", "X", ""]) if "line" in spoil else ""
    first = f"{method} {path} {version or 'HTTP/1.1'}".encode()
    lines = [first, *(name + b": " + value for name, value in headers)]
    sent = b"\r\n".join(lines) + b"\r\n\r\n" + body
    if "line" in spoil and rng.random() < 0.2:
        sent = bytes(rng.choices(string.printable.encode(), k=rng.randrange(1, 400)))
        spoil.add("cut")
    if rng.random() < 0.05:
        spoil.add("cut")
        sent = sent[: rng.randrange(len(sent))]
    return sent, spoil


def answer(port, sent, hasty):
    """Status and body of the answer to these bytes; no status where there was none."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as caller:
        received = b""
        try:
            caller.sendall(sent)
            caller.settimeout(HASTY_SECONDS if hasty else SECONDS)
            while part := caller.recv(65536):
                received += part
        except (ConnectionResetError, BrokenPipeError):
            pass  # it was refused before it was read
        except TimeoutError:
            assert hasty, f"no answer within {SECONDS:.0f} s to {sent[:300]!r}"
    head, _, body = received.partition(b"\r\n\r\n")
    first = head.split(b"\r\n")[0].split(b" ")
    return (int(first[1]) if len(first) > 1 else None), body


@pytest.mark.slow
def test_no_request_breaks_the_gateway_or_its_scorer(gateway, client, exported, rows):
    rng = random.Random(97)  # noqa: S311
    right = json.dumps({"dataframe_records": rows[:1]})
    kinds, port = good(rows, str(exported)), int(gateway.address.rpartition(":")[2])
    seen = {}
    for number in range(REQUESTS):
        sent, spoil = made(rng, kinds)
        status, body = answer(port, sent, hasty=spoil & {"cut", "headers"})
        told = f"request {number}: {sent[:300]!r} was answered with {status} {body[:300]!r}"
        seen[status] = seen.get(status, 0) + 1
        if status == 503:
            assert json.loads(body)["error"], told
        else:
            assert status is None or status < 500, told
        assert spoil or status in (200, 201, 409), told  # 409: another one has the lease
        next_one = client.post(f"/routes/{ROUTE}/invocations", content=right)
        assert (next_one.status_code, next_one.headers["X-Model-Version"]) == (200, "1"), told
    print(f"\nanswers by status: {seen}")
    assert {200, 400, 401, 403, 404, 405, 413, 415, 422} <= seen.keys()
    assert list(gateway.versions(MODEL)) == ["1"]
