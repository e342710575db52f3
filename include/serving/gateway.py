"""The gateway in front of all versions: `python -m include.serving.gateway --folder …`.

A route is a name that callers use; behind it are versions with weights. What operators do to a
route takes effect between two requests: none is lost. Everybody shows the token that the gateway
was started with in GATEWAY_TOKEN; only `/ping` goes without.

    PUT    /models/{model}/{version}      {"source": "models:/churn/3"}: start it, wait, answer
    DELETE /models/{model}/{version}      drain it and stop it; refused while a route needs it
    PUT    /routes/{route}                {"model": …, "weights": {"3": 95, "4": 5}, …}
    DELETE /routes/{route}
    GET    /models, /routes, /metrics
    POST   /routes/{route}/invocations    MLflow's scoring protocol
    GET    /routes/{route}/requests       who was answered by which version, as JSON lines
    GET    /models/{model}/{version}/predictions
"""

import argparse
import asyncio
import hmac
import json
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram
from prometheus_client import generate_latest as as_text

from include.serving import protocol
from include.serving.fleet import DidNotStart, Fleet, NoAnswer
from include.serving.routing import Route, Table

REQUEST_ID = "X-Request-Id"
SERVED_BY = "X-Model-Version"
NEXT = "X-Next-Offset"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
MOST_MIRRORED = 32
"""So many copies may wait for a slow shadow; further ones are dropped, and counted."""
DRAIN_SECONDS = 30.0
MOST_READ = 2**22
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gateway:
    """Routes, versions, and what passes between them."""

    def __init__(self, folder: Path, token: str) -> None:
        """Take up what the folder holds."""
        self.folder = folder
        self.table = Table.load(folder / "table.json")
        self.token = token.encode()
        self.fleet: Fleet
        self.starting_or_stopping = asyncio.Lock()  # slow, and no route change waits for it
        self.mirrored: set[asyncio.Task[None]] = set()
        self.logs: dict[str, Any] = {}
        self.registry = CollectorRegistry()
        answer = ["route", "version", "role", "status"]
        self.answers = Counter("gateway_answers", "Answers.", answer, registry=self.registry)
        self.dropped = Counter(
            "gateway_shadow_dropped", "Copies not sent.", ["route"], registry=self.registry
        )
        self.took = Histogram(
            "gateway_seconds", "Time.", ["route"], buckets=SECONDS, registry=self.registry
        )

    def app(self) -> web.Application:
        """The service."""
        app = web.Application(
            client_max_size=protocol.MOST_BYTES, middlewares=[self.guard, self.explain]
        )
        app.add_routes([
            web.get("/ping", self.ping),
            web.get("/metrics", self.metrics),
            web.get("/models", self.models),
            web.put("/models/{model}/{version}", self.put_version),
            web.delete("/models/{model}/{version}", self.delete_version),
            web.get("/models/{model}/{version}/predictions", self.predictions),
            web.get("/routes", self.routes),
            web.put("/routes/{route}", self.put_route),
            web.delete("/routes/{route}", self.delete_route),
            web.get("/routes/{route}/requests", self.requests),
            web.post("/routes/{route}/invocations", self.invocations),
        ])
        app.cleanup_ctx.append(self.life)
        return app

    async def life(self, _: web.Application) -> AsyncIterator[None]:
        """Start what ran when the gateway last stopped; take everything along at the end."""
        self.fleet = Fleet(self.folder / "versions")
        for model, versions in self.table.models.items():
            for version, made_of in versions.items():
                self.fleet.restore(model, version, made_of)
        yield
        for task in self.mirrored:
            task.cancel()
        await self.fleet.close()
        for log in self.logs.values():
            log.close()

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let nobody in without the token; how wrong it is can't be learned from the time."""
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode()
        if request.path != "/ping" and not hmac.compare_digest(given, self.token):
            return _refusal(401, "the token is missing or wrong: see connection model_gateway")
        return await handler(request)

    @web.middleware
    async def explain(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer faults of the caller with a reason, and names that can't be files at once."""
        for kind, name in request.match_info.items():
            if not NAME.fullmatch(name):
                return _refusal(400, f"{kind} must be letters, digits, '_', '-' and '.'")
        try:
            return await handler(request)
        except web.HTTPException as known:
            return _refusal(known.status, known.text or known.reason)

    async def ping(self, _: web.Request) -> web.Response:
        """Say that somebody is there."""
        return web.Response(text="\n")

    async def metrics(self, _: web.Request) -> web.Response:
        """Counts and times, for Prometheus."""
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return web.Response(body=as_text(self.registry), headers=headers)

    async def models(self, _: web.Request) -> web.Response:
        """What runs, and how it is."""
        found: dict[str, dict[str, Any]] = {}
        for each in self.fleet.versions.values():
            found.setdefault(each.model, {})[each.number] = {
                **each.made_of,
                "healthy": each.healthy,
                "in_flight": each.in_flight,
                "pid": each.process.pid if each.process else None,
            }
        return web.json_response(found)

    async def put_version(self, request: web.Request) -> web.Response:
        """Start a version and answer when it does; the same once more changes nothing."""
        model, version = request.match_info["model"], request.match_info["version"]
        made_of = _made_of(await _document(request))
        async with self.starting_or_stopping:
            known = self.fleet.versions.get((model, version))
            if known is not None and known.made_of != made_of:
                raise web.HTTPConflict(
                    text=f"version {version} of {model} runs from {known.made_of}; remove it first"
                )
            if known is None:
                try:
                    await self.fleet.put(model, version, made_of)
                except DidNotStart as reason:
                    raise web.HTTPUnprocessableEntity(
                        text=f"version {version} of {model} does not start: {reason}"
                    ) from reason
                self.table.with_version(model, version, made_of)
        return web.json_response({}, status=200 if known else 201)

    async def delete_version(self, request: web.Request) -> web.Response:
        """Drain a version that no route needs, and stop it; an absent one is gone already."""
        model, version = request.match_info["model"], request.match_info["version"]
        async with self.starting_or_stopping:
            if routes := self.table.used_by(model, version):
                raise web.HTTPConflict(
                    text=f"version {version} of {model} is needed by: {', '.join(routes)}"
                )
            if (model, version) in self.fleet.versions:
                self.table.with_version(model, version, None)
                await self.fleet.remove(model, version, DRAIN_SECONDS)
        return web.json_response({})

    async def routes(self, _: web.Request) -> web.Response:
        """The whole table."""
        return web.json_response({name: asdict(r) for name, r in self.table.routes.items()})

    async def put_route(self, request: web.Request) -> web.Response:
        """Switch: requests before this go by the old route, all later ones by the new."""
        try:
            route = Route.parse(await _document(request))
        except ValueError as reason:
            raise web.HTTPUnprocessableEntity(text=str(reason)) from reason
        if absent := sorted(route.versions() - self.fleet.healthy(route.model)):
            raise web.HTTPConflict(
                text=f"version {', '.join(absent)} of {route.model} is not there or not well"
            )
        self.table.with_route(request.match_info["route"], route)
        return web.json_response(asdict(route))

    async def delete_route(self, request: web.Request) -> web.Response:
        """Take a name away from callers; one that isn't there is gone already."""
        self.table.with_route(request.match_info["route"], None)
        return web.json_response({})

    async def invocations(self, request: web.Request) -> web.Response:
        """Have the caller's version answer; where that fails to, once another one."""
        name = request.match_info["route"]
        body, began = await request.read(), time.perf_counter()
        route = self.table.routes.get(name)
        if route is None:
            raise web.HTTPNotFound(text=f"there is no route {name}")
        request_id = request.headers.get(REQUEST_ID) or uuid4().hex
        key = (request.headers.get(route.sticky) if route.sticky else None) or request_id
        headers = {REQUEST_ID: request_id, "Content-Type": "application/json"}
        if route.shadow:
            self._mirror(name, route, body, headers, key)
        failed: set[str] = set()
        while len(failed) < 2:
            version = route.pick(key, self.fleet.healthy(route.model) - failed)
            if version is None:
                break
            try:
                status, answer = await self.fleet.ask(route.model, version, body, headers)
            except NoAnswer:
                failed.add(version)
                continue
            seconds = time.perf_counter() - began
            self.took.labels(name).observe(seconds)
            self._note(name, request_id, key, version, "live", status, seconds, answer)
            return web.Response(
                body=answer,
                status=status,
                content_type="application/json",
                headers={REQUEST_ID: request_id, SERVED_BY: version},
            )
        seconds = time.perf_counter() - began
        self._note(name, request_id, key, "none", "live", 503, seconds, b"")
        raise web.HTTPServiceUnavailable(text=f"no version of {route.model} answers")

    async def requests(self, request: web.Request) -> web.Response:
        """What was asked through a route, from an offset on."""
        return _lines(request, self._requests(request.match_info["route"]))

    async def predictions(self, request: web.Request) -> web.Response:
        """What a version has answered, from an offset on."""
        model, version = request.match_info["model"], request.match_info["version"]
        return _lines(request, self.folder / "versions" / f"{model}@{version}.predictions.jsonl")

    def _mirror(
        self, name: str, route: Route, body: bytes, headers: dict[str, str], key: str
    ) -> None:
        """Send a copy on its way; the caller does not wait for it, nor hear of it."""
        assert route.shadow is not None  # noqa: S101
        if len(self.mirrored) >= MOST_MIRRORED:
            self.dropped.labels(name).inc()
            return
        task = asyncio.create_task(
            self._ask_shadow(name, route.model, route.shadow, body, headers, key)
        )
        self.mirrored.add(task)
        task.add_done_callback(self.mirrored.discard)

    async def _ask_shadow(
        self, name: str, model: str, version: str, body: bytes, headers: dict[str, str], key: str
    ) -> None:
        began = time.perf_counter()
        try:
            status, answer = await self.fleet.ask(model, version, body, headers)
        except (NoAnswer, KeyError):  # it is slow, dead, or was taken away meanwhile
            status, answer = 503, b""
        seconds = time.perf_counter() - began
        self._note(name, headers[REQUEST_ID], key, version, "shadow", status, seconds, answer)

    def _note(
        self,
        name: str,
        request_id: str,
        key: str,
        version: str,
        role: str,
        status: int,
        seconds: float,
        answer: bytes,
    ) -> None:
        self.answers.labels(name, version, role, status).inc()
        if name not in self.logs:
            self._requests(name).parent.mkdir(parents=True, exist_ok=True)
            self.logs[name] = self._requests(name).open("a", encoding="utf-8", buffering=1)
        line = {
            "request_id": request_id,
            "at": datetime.now(UTC).isoformat(),
            "key": key,
            "version": version,
            "role": role,
            "status": status,
            "seconds": round(seconds, 6),
            "answer": json.loads(answer) if status == 200 else None,
        }
        self.logs[name].write(json.dumps(line) + "\n")

    def _requests(self, name: str) -> Path:
        return self.folder / "routes" / f"{name}.requests.jsonl"


def _made_of(given: dict[str, Any]) -> dict[str, Any]:
    """What a version is started from, with nothing left open."""
    known: dict[str, Any] = {"source": None, "error_every": 0, "delay_seconds": 0.0}
    made_of = known | given
    fits = (
        made_of.keys() == known.keys()
        and isinstance(made_of["source"], str)
        and type(made_of["error_every"]) is int
        and type(made_of["delay_seconds"]) in (int, float)
        and made_of["error_every"] >= 0
        and 0 <= made_of["delay_seconds"] < 60
    )
    if not fits:
        raise web.HTTPUnprocessableEntity(
            text="a version has a 'source' (a folder, or models:/name/version), and may have "
            "'error_every' (a number of requests) and 'delay_seconds' (under 60)"
        )
    return made_of


async def _document(request: web.Request) -> dict[str, Any]:
    try:
        document = await request.json()
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise web.HTTPBadRequest(text="the body must be a JSON object")
    return document


def _lines(request: web.Request, file: Path) -> web.Response:
    """Whole lines of a log from an offset on, and the offset to ask for next."""
    given = request.query.get("after", "0")
    if not given.isdecimal():
        raise web.HTTPBadRequest(text="'after' must be a number of bytes, as X-Next-Offset says")
    after, content = int(given), b""
    if file.exists():
        with file.open("rb") as log:
            log.seek(after)
            content = log.read(MOST_READ)
    content = content[: content.rfind(b"\n") + 1]
    return web.Response(
        body=content,
        content_type="application/x-ndjson",
        headers={NEXT: str(after + len(content))},
    )


def _refusal(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=status)


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="table and logs")
    parser.add_argument("--registry", help="the MLflow that models:/name/version are fetched from")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090)
    given = parser.parse_args()
    token = os.environ.get("GATEWAY_TOKEN", "")
    if not token:
        raise SystemExit("GATEWAY_TOKEN is not set: a gateway without a token would obey anybody.")

    if given.registry:
        os.environ["MLFLOW_TRACKING_URI"] = given.registry  # for the scorers

    async def made() -> web.Application:
        return Gateway(given.folder, token).app()

    web.run_app(made(), host=given.host, port=given.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
