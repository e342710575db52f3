"""The gateway in front of all versions: `python -m include.serving.gateway --folder …`.

A route is a name that callers use; behind it are versions with weights. What operators do to a
route takes effect between two requests: none is lost. Operators show the token that the gateway was
started with in GATEWAY_TOKEN. Callers show one that is made of it (`tokens.py`), and may only ask
and read the counters; `/ping` goes without.

    PUT    /models/{model}/{version}      {"source": "models:/churn/3"}: start it, wait, answer
    DELETE /models/{model}/{version}      drain it and stop it; refused while a route needs it
    PUT    /routes/{route}                {"model": …, "weights": {"3": 95, "4": 5}, …}
    DELETE /routes/{route}
    PUT    /leases/{model}                {"owner": …, "seconds": 900}: nobody else changes anything
    DELETE /leases/{model}
    GET    /models, /routes, /leases
    GET    /metrics                       callers too
    POST   /routes/{route}/invocations    MLflow's scoring protocol; callers too
    GET    /routes/{route}/requests       who was answered by which version, as JSON lines

Who holds a lease says so in the header X-Lease-Owner.
"""

import argparse
import asyncio
import json
import math
import os
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram
from prometheus_client import generate_latest as as_text

from include import loopback
from include.serving import admission, protocol, tokens
from include.serving.fleet import DidNotStart, Fleet, NoAnswer, NotNow, TooSlow
from include.serving.journal import Journal
from include.serving.kept import NotKept
from include.serving.leases import MOST_SECONDS, Held, Leases
from include.serving.routing import NAME, Route, Table

REQUEST_ID = "X-Request-Id"
SERVED_BY = "X-Model-Version"
OWNER = "X-Lease-Owner"
NEXT = "X-Next-Offset"
MOST_MIRRORED = 32
"""So many copies may wait for a slow shadow; further ones are dropped, and counted."""
DRAIN_SECONDS = 30.0
FLUSH_SECONDS = 5.0
STOP_SECONDS = 5.0
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gateway:
    """Routes, versions, and what passes between them."""

    def __init__(self, folder: Path, token: str, sources: Iterable[Path] = ()) -> None:
        """Take up what the folder holds; models may lie below `sources`."""
        self.table = Table.load(folder / "table.json")
        self.folder, self.token, self.callers = folder, token, tokens.of_callers(token)
        self.hosts, self.sources = loopback.names(), admission.sources(sources)
        self.room, self.patience = admission.Room(), admission.Patience()
        self.leases = Leases(folder / "leases.json")
        self.fleet: Fleet
        # Slow, one after another for a model; no route change waits for it.
        self.starting_or_stopping: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.mirrored: set[asyncio.Task[None]] = set()
        self.registry = CollectorRegistry()
        answer = ["route", "version", "role", "status"]
        self.answers = Counter("gateway_answers", "Answers.", answer, registry=self.registry)
        self.dropped = Counter(
            "gateway_shadow_dropped", "Copies not sent.", ["route"], registry=self.registry
        )
        self.unlogged = Counter(
            "gateway_log_dropped", "Answers not logged.", ["route"], registry=self.registry
        )
        self.took = Histogram(
            "gateway_seconds", "Time.", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.journal = Journal(folder / "requests", lambda route: self.unlogged.labels(route).inc())

    def app(self) -> web.Application:
        """The service."""
        app = web.Application(
            client_max_size=protocol.MOST_BYTES, middlewares=[self.explain, self.guard]
        )
        app.add_routes([
            web.get("/ping", self.ping),
            web.get("/metrics", self.metrics),
            web.get("/models", self.models),
            web.put("/models/{model}/{version}", self.put_version),
            web.delete("/models/{model}/{version}", self.delete_version),
            web.get("/leases", self.known_leases),
            web.put("/leases/{model}", self.put_lease),
            web.delete("/leases/{model}", self.delete_lease),
            web.get("/routes", self.routes),
            web.put("/routes/{route}", self.put_route),
            web.delete("/routes/{route}", self.delete_route),
            web.get("/routes/{route}/requests", self.requests),
            web.post("/routes/{route}/invocations", self.invocations),
        ])
        app.cleanup_ctx.append(self.life)
        loopback.refuse_other_expectations(app)
        return app

    def runner(self) -> web.AppRunner:
        """What listens; a packed body is refused, and so never unpacked."""
        return web.AppRunner(
            self.app(), access_log=None, shutdown_timeout=STOP_SECONDS, auto_decompress=False
        )

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
        await asyncio.to_thread(self.journal.close)

    @web.middleware
    async def explain(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer what can't be done with a reason."""
        with self.patience.at_work(request):
            try:
                return await handler(request)
            except web.HTTPException as known:
                after = known.headers.get("Retry-After")
                return _refusal(known.status, known.text or known.reason, after)
            except Held as held:
                return _refusal(409, str(held))
            except NotKept as error:
                return _refusal(503, f"nothing was changed: {error}", after="5")
            except TimeoutError:
                return _refusal(408, "the body did not come in time")
            except web.RequestPayloadError as error:
                return _refusal(400, f"the body can't be read: {error}")

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in who shows a token that is enough, and no page of another server."""
        hosts = request.headers.getall("Host", [])
        host = hosts[0] if len(hosts) == 1 else None
        origin = loopback.origin(request.headers.getall("Origin", []))
        if why := loopback.refusal(host, origin, self.hosts):
            return _refusal(403, why)
        if request.headers.get("Content-Encoding", "identity") != "identity":
            return _refusal(415, "send the body as it is, without a Content-Encoding")
        shown = request.headers.get("Authorization", "")
        if request.path != "/ping" and not tokens.same(shown, self.token):
            if not tokens.same(shown, self.callers):
                return _refusal(401, "the token is missing or wrong: see connection model_gateway")
            if handler not in (self.invocations, self.metrics):
                return _refusal(403, "this is the callers' token, which can only ask a route")
        for kind, name in request.match_info.items():
            if not NAME.fullmatch(name):
                return _refusal(400, f"{kind} must be letters, digits, '_', '-' and '.'")
        return await handler(request)

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
        self.leases.check(model, _owner(request))
        made_of = self._made_of(await _document(request))
        async with self.starting_or_stopping[model]:
            known = self.fleet.versions.get((model, version))
            if known is not None and known.made_of != made_of:
                raise web.HTTPConflict(
                    text=f"version {version} of {model} runs from {known.made_of}; remove it first"
                )
            if known is None:
                try:
                    await self.fleet.put(model, version, made_of)
                except NotNow as reason:
                    raise web.HTTPServiceUnavailable(
                        text=f"version {version} of {model} can't be started now: {reason}",
                        headers={"Retry-After": "5"},
                    ) from reason
                except DidNotStart as reason:
                    raise web.HTTPUnprocessableEntity(
                        text=f"version {version} of {model} does not start: {reason}"
                    ) from reason
                try:
                    self.table.with_version(model, version, made_of)
                except NotKept:
                    await self.fleet.remove(model, version, grace=0.0)
                    raise
        return web.json_response({}, status=200 if known else 201)

    async def delete_version(self, request: web.Request) -> web.Response:
        """Drain a version that no route needs, and stop it; an absent one is gone already."""
        model, version = request.match_info["model"], request.match_info["version"]
        self.leases.check(model, _owner(request))
        async with self.starting_or_stopping[model]:
            if routes := self.table.used_by(model, version):
                raise web.HTTPConflict(
                    text=f"version {version} of {model} is needed by: {', '.join(routes)}"
                )
            if (model, version) in self.fleet.versions:
                self.table.with_version(model, version, None)
                await self.fleet.remove(model, version, DRAIN_SECONDS)
        return web.json_response({})

    async def known_leases(self, _: web.Request) -> web.Response:
        """Who holds what."""
        return web.json_response(self.leases.known())

    async def put_lease(self, request: web.Request) -> web.Response:
        """Give a model to an owner for a while, unless another one has it."""
        owner, seconds = _lease(await _document(request))
        self.leases.take(request.match_info["model"], owner, seconds)
        return web.json_response({})

    async def delete_lease(self, request: web.Request) -> web.Response:
        """Take a lease back from its owner, who asks for it."""
        self.leases.release(request.match_info["model"], _owner(request))
        return web.json_response({})

    async def routes(self, _: web.Request) -> web.Response:
        """The whole table."""
        return web.json_response({name: asdict(r) for name, r in self.table.routes.items()})

    async def put_route(self, request: web.Request) -> web.Response:
        """Switch: requests before this go by the old route, all later ones by the new."""
        name = request.match_info["route"]
        try:
            route = Route.parse(await _document(request))
        except ValueError as reason:
            raise web.HTTPUnprocessableEntity(text=str(reason)) from reason
        self._check_leases(request, name, route.model)
        there = {number for model, number in self.fleet.versions if model == route.model}
        if absent := sorted(route.versions() - there):
            raise web.HTTPConflict(
                text=f"version {', '.join(absent)} of {route.model} is not there"
            )
        # Back to what callers have or had is never refused: it may be the way out of worse.
        needed = route.versions() - self.table.back(name)
        if unwell := sorted(needed - self.fleet.healthy(route.model)):
            raise web.HTTPServiceUnavailable(
                text=f"version {', '.join(unwell)} of {route.model} is not well now: ask again",
                headers={"Retry-After": "1"},
            )
        self.table.with_route(name, route)
        return web.json_response(asdict(route))

    async def delete_route(self, request: web.Request) -> web.Response:
        """Take a name away from callers; one that isn't there is gone already."""
        name = request.match_info["route"]
        self._check_leases(request, name)
        self.table.with_route(name, None)
        return web.json_response({})

    async def invocations(self, request: web.Request) -> web.Response:
        """Have the caller's version answer; where that fails to, once another one."""
        name, began = request.match_info["route"], time.perf_counter()
        route = self.table.routes.get(name)
        if route is None:
            raise web.HTTPNotFound(text=f"there is no route {name}")
        request_id = admission.text(request, REQUEST_ID) or uuid4().hex
        key = (admission.text(request, route.sticky) if route.sticky else None) or request_id
        async with self.room.taken(request) as body:
            return await self._answered(name, route, body, request_id, key, began)

    async def _answered(
        self, name: str, route: Route, body: bytes, request_id: str, key: str, began: float
    ) -> web.Response:
        headers = {REQUEST_ID: request_id, "Content-Type": "application/json"}
        if route.shadow:
            self._mirror(name, route, body, headers, key)
        failed: set[str] = set()
        why = f"no version of {route.model} answers"
        while len(failed) < 2:
            version = route.pick(key, self.fleet.healthy(route.model) - failed)
            if version is None:
                break
            try:
                status, answer = await self.fleet.ask(route.model, version, body, headers)
            except TooSlow as slow:
                why = str(slow)
                break
            except (NoAnswer, KeyError):  # it ended, or was taken away
                failed.add(version)
                continue
            seconds = time.perf_counter() - began
            self.took.labels(name).observe(seconds)
            self._note(name, request_id, key, version, "live", status, seconds, answer, body)
            return web.Response(
                body=answer,
                status=status,
                content_type="application/json",
                headers={REQUEST_ID: request_id, SERVED_BY: version},
            )
        seconds = time.perf_counter() - began
        self._note(name, request_id, key, "none", "live", 503, seconds, b"")
        raise web.HTTPServiceUnavailable(text=why, headers={"Retry-After": "1"})

    async def requests(self, request: web.Request) -> web.Response:
        """What was asked through a route, from an offset on."""
        name, after = request.match_info["route"], admission.offset(request)
        await asyncio.to_thread(self.journal.flush, FLUSH_SECONDS)
        content, after = await asyncio.to_thread(self.journal.read, name, after)
        return web.Response(
            body=content, content_type="application/x-ndjson", headers={NEXT: str(after)}
        )

    def _check_leases(self, request: web.Request, name: str, *models: str) -> None:
        """Refuse to change a route from or to a model that another one holds."""
        old = self.table.routes.get(name)
        for model in {*models, *([old.model] if old else [])}:
            self.leases.check(model, _owner(request))

    def _mirror(
        self, name: str, route: Route, body: bytes, headers: dict[str, str], key: str
    ) -> None:
        """Send a copy on its way; the caller does not wait for it, nor hear of it."""
        assert route.shadow is not None  # noqa: S101
        if len(self.mirrored) >= MOST_MIRRORED or not self.room.has(len(body)):
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
            with self.room.held(len(body)):
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
        asked: bytes = b"",
    ) -> None:
        """Count an answer and have it logged, with what was asked where a model could use it."""
        self.answers.labels(name, version, role, status).inc()
        line = json.dumps({
            "request_id": request_id,
            "at": datetime.now(UTC).isoformat(),
            "key": key,
            "version": version,
            "role": role,
            "status": status,
            "seconds": round(seconds, 6),
        }).encode()
        parts = {b"answer": answer if status == 200 else b"null"}
        if asked and status == 200:  # then both are JSON, in which a new line is only a space
            parts[b"asked"] = asked
        for part, content in parts.items():
            text = content.replace(b"\n", b" ").replace(b"\r", b" ")
            line = line[:-1] + b', "' + part + b'": ' + text + b"}"
        self.journal.note(name, line + b"\n")

    def _made_of(self, given: dict[str, Any]) -> dict[str, Any]:
        """What a version is started from, with nothing left open."""
        known: dict[str, Any] = {"source": None, "error_every": 0, "delay_seconds": 0.0}
        made_of = known | given
        fits = (
            made_of.keys() == known.keys()
            and isinstance(made_of["source"], str)
            and type(made_of["error_every"]) is int
            and type(made_of["delay_seconds"]) in (int, float)
            and 0 <= made_of["error_every"] < 2**31
            and 0 <= made_of["delay_seconds"] < 60
            and math.isfinite(made_of["delay_seconds"])
        )
        if not fits:
            raise web.HTTPUnprocessableEntity(
                text="a version has a 'source' (a folder, or models:/name/version), and may have "
                "'error_every' (a number of requests) and 'delay_seconds' (under 60)"
            )
        if not admission.allowed(made_of["source"], self.sources):
            folders = ", ".join(map(str, self.sources)) or "no folder"
            raise web.HTTPForbidden(
                text="'source' must be models:/name/version, or lie below a folder that "
                f"the gateway allows: {folders}. GATEWAY_SOURCES sets them."
            )
        return made_of


def _lease(given: dict[str, Any]) -> tuple[str, float]:
    match given:
        case {"owner": str(owner), "seconds": int() | float() as seconds, **more} if (
            not more
            and admission.TEXT.fullmatch(owner)
            and not isinstance(seconds, bool)
            and 0 < seconds <= MOST_SECONDS
        ):
            return owner, seconds
    raise web.HTTPUnprocessableEntity(
        text="a lease has an 'owner' (1 to 200 characters that ASCII can print) and 'seconds' "
        f"(more than 0, {MOST_SECONDS:.0f} at most)"
    )


def _owner(request: web.Request) -> str:
    return admission.text(request, OWNER) or "somebody without a name"


async def _document(request: web.Request) -> dict[str, Any]:
    try:
        async with asyncio.timeout(admission.BODY_SECONDS):
            document = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise web.HTTPBadRequest(text=f"the body is not JSON: {str(error)[:120]}") from error
    if not isinstance(document, dict):
        raise web.HTTPBadRequest(text="the body must be a JSON object")
    return document


def _refusal(status: int, reason: str, after: str | None = None) -> web.Response:
    headers = {"Retry-After": after} if after else {}
    return web.json_response({"error": reason}, status=status, headers=headers)


async def serve(gateway: Gateway, host: str, port: int) -> None:
    """Answer until a signal comes."""
    ended = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, ended.set)
    runner = gateway.runner()
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        assert runner.server is not None  # noqa: S101
        watch = asyncio.create_task(gateway.patience.look_after(runner.server))
        await ended.wait()
        watch.cancel()
    finally:
        await runner.cleanup()


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="table and logs")
    parser.add_argument("--registry", help="the MLflow that models:/name/version are fetched from")
    parser.add_argument(
        "--registry-user", help="who logs in there; the password is in MLFLOW_PASSWORD"
    )
    parser.add_argument(
        "--sources", type=Path, action="append", default=[], help="a folder that models may lie in"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090)
    given = parser.parse_args()
    token = os.environ.get("GATEWAY_TOKEN", "")
    if not token:
        raise SystemExit("GATEWAY_TOKEN is not set: a gateway without a token would obey anybody.")

    if given.registry:
        os.environ["MLFLOW_TRACKING_URI"] = given.registry  # for the scorers
    if given.registry_user:
        os.environ["MLFLOW_TRACKING_USERNAME"] = given.registry_user
        os.environ["MLFLOW_TRACKING_PASSWORD"] = os.environ.get("MLFLOW_PASSWORD", "")

    loopback.keep_headers_out_of_logs()
    gateway = Gateway(given.folder, token, given.sources)
    asyncio.run(serve(gateway, given.host, given.port))


if __name__ == "__main__":
    main()
