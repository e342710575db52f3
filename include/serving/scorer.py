"""One version of one model behind HTTP: `python -m include.serving.scorer --model … --port …`.

It speaks MLflow's scoring protocol: `/ping`, `/version` and `/invocations`, and `/metrics` beside
them. A request that the model can't use is refused with a reason; whatever comes in, the process
stays. Where the variable SCORER_TOKEN is set, as a gateway does, only who shows it is answered.
"""

import argparse
import asyncio
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import uvicorn
from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram
from prometheus_client import generate_latest as as_text

from include import loopback
from include.serving import engine, protocol, tokens

REQUEST_ID = "X-Request-Id"
SERVED_BY = "X-Model-Version"
TOKEN = "SCORER_TOKEN"  # noqa: S105
KEPT_SECONDS = 60
"""A connection is kept longer than the gateway keeps it: neither meets one that is just closed."""
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(frozen=True)
class Faults:
    """What goes wrong on purpose, for those who practise a rollout or test one."""

    error_every: int = 0
    """Every so many-th request is answered with a 500; 0 for none."""
    delay_seconds: float = 0.0
    """How much later than it could each answer comes."""


def app(model: engine.Engine, name: str, version: str, faults: Faults, token: str = "") -> FastAPI:
    """The service for a loaded model."""
    registry = CollectorRegistry()
    labels = {"model": name, "version": version}
    answers = Counter(
        "scorer_answers", "Answers by HTTP status.", [*labels, "status"], registry=registry
    )
    took = Histogram(
        "scorer_seconds", "Time to an answer.", list(labels), buckets=SECONDS, registry=registry
    )
    scored = Counter("scorer_rows", "Rows that were scored.", list(labels), registry=registry)
    asked = 0
    service = FastAPI(openapi_url=None)

    @service.middleware("http")
    async def guard(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        host, origin = request.headers.get("host"), request.headers.get("origin")
        if why := loopback.of_another_page(host, origin):
            return _refused(403, why)
        shown = request.headers.get("authorization", "")
        if token and request.url.path != "/ping" and not tokens.same(shown, token):
            return _refused(401, "the token is missing or wrong")
        return await go_on(request)

    @service.get("/ping")
    async def ping() -> Response:
        return Response("\n", headers={SERVED_BY: version})

    @service.get("/version")
    async def mlflow_version() -> Response:
        return Response(model.made_by, headers={SERVED_BY: version}, media_type="text/plain")

    @service.get("/metrics")
    async def metrics() -> Response:
        return Response(as_text(registry), media_type=CONTENT_TYPE_LATEST)

    @service.post("/invocations")
    async def invocations(request: Request) -> Response:
        nonlocal asked
        asked += 1
        began = time.perf_counter()
        request_id = request.headers.get(REQUEST_ID) or uuid4().hex
        try:
            if faults.delay_seconds:
                await asyncio.sleep(faults.delay_seconds)
            if faults.error_every and asked % faults.error_every == 0:
                raise protocol.Refused("this version fails on purpose: it was told to", 500)
            body = await whole(request)
            # In a thread: meanwhile the process answers whether it is well.
            status, answer = 200, await asyncio.to_thread(score, body)
        except protocol.Refused as refused:
            status, answer = refused.status, json.dumps({"error": str(refused)})
        answers.labels(**labels, status=status).inc()
        took.labels(**labels).observe(time.perf_counter() - began)
        headers = {REQUEST_ID: request_id, SERVED_BY: version}
        return Response(answer, status, headers, media_type="application/json")

    def score(body: bytes) -> str:
        rows = protocol.rows(body, model.columns)
        try:
            predictions, scores = model.score(rows)
        except ValueError as error:  # scikit-learn's own, of numbers that a forest can't hold
            raise protocol.Refused(f"the model can't score this: {str(error)[:200]}") from None
        protocol.refuse_undefined(predictions)
        protocol.refuse_undefined(scores or [])
        answer: dict[str, Any] = {"predictions": predictions}
        if scores is not None:
            answer["scores"] = scores
        scored.labels(**labels).inc(len(rows))
        return json.dumps(answer)

    return service


def _refused(status: int, why: str) -> Response:
    return Response(json.dumps({"error": why}), status, media_type="application/json")


async def whole(request: Request) -> bytes:
    """The body, unless it is longer than anybody needs: no more of it is taken in than that."""
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > protocol.MOST_BYTES:
            raise protocol.Refused(f"the body is longer than {protocol.MOST_BYTES} bytes", 413)
    return b"".join(parts)


async def _ends_with_its_parent(server: uvicorn.Server, parent: int) -> None:
    """A version that nobody routes to any more must not stay for ever."""
    while os.getppid() == parent:
        await asyncio.sleep(0.5)
    server.should_exit = True


async def serve(service: FastAPI, listener: socket.socket, parent: int | None) -> None:
    """Answer until asked to stop, or until the parent is gone."""
    config = uvicorn.Config(
        service, log_level="warning", access_log=False, timeout_keep_alive=KEPT_SECONDS
    )
    server = uvicorn.Server(config)
    watch = asyncio.create_task(_ends_with_its_parent(server, parent)) if parent else None
    await server.serve(sockets=[listener])
    if watch is not None:
        watch.cancel()


def main() -> None:
    """Load first and listen then: whoever gets an answer gets one from the model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="a folder, or models:/name/version")
    parser.add_argument("--name", default="model")
    parser.add_argument("--version", default="1")
    parser.add_argument("--host", default="127.0.0.1")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int)
    where.add_argument("--fd", type=int, help="a socket that listens already")
    parser.add_argument("--error-every", type=int, default=0)
    parser.add_argument("--delay-seconds", type=float, default=0.0)
    parser.add_argument("--parent", type=int, help="end when this process has")
    given = parser.parse_args()

    model = engine.load(given.model)
    faults = Faults(given.error_every, given.delay_seconds)
    service = app(model, given.name, given.version, faults, os.environ.get(TOKEN, ""))
    fd = given.fd
    if fd is None:
        fd = socket.create_server((given.host, given.port)).detach()
    # Taken over by its number, a socket knows that it is TCP, and asyncio sends answers at once.
    # One that was just created doesn't, and answers wait 40 ms for the caller's acknowledgement.
    with socket.socket(fileno=fd) as listener:
        asyncio.run(serve(service, listener, given.parent))


if __name__ == "__main__":
    main()
