"""The API server: addresses, verbs, watches, logs, and who may come in."""

import asyncio
import hmac
import json
import ssl
import threading
import time
import traceback
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from aiohttp import web

from include import loopback
from include.local_cloud import server
from include.local_cloud.kubernetes import execution, resources
from include.local_cloud.kubernetes.admission import admitted, changed
from include.local_cloud.kubernetes.kubelet import Kubelet
from include.local_cloud.kubernetes.logs import lines, wanted
from include.local_cloud.kubernetes.numbers import whole
from include.local_cloud.kubernetes.objects import Change, Object, Store
from include.local_cloud.kubernetes.patches import patched
from include.local_cloud.kubernetes.resources import PODS, Resource
from include.local_cloud.kubernetes.selectors import Matches, labelled, with_fields
from include.local_cloud.kubernetes.status import Refused, bad_request, not_implemented

LARGEST = 3 * 1024**2  # what etcd takes, about
WATCHED_FOR = 1_800.0  # seconds, where a client does not say
POLL = 0.1
LONGEST = 2**31 - 1  # seconds that a pod may take to end
POLICIES = ("Background", "Foreground", "Orphan")
# Groups of a real cluster: what is missing of them is missing here, not misspelt.
THEIRS = ("", "apps", "autoscaling", "batch", "policy")
VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Address(NamedTuple):
    """What a path names."""

    resource: Resource
    namespace: str
    name: str
    part: str
    """A subresource: status, log, exec."""


class Api:
    """The server, in a thread and a loop of its own."""

    def __init__(
        self,
        store: Store,
        kubelet: Kubelet,
        faults: server.Faults,
        token: str,
        tls: ssl.SSLContext,
        port: int,
    ) -> None:
        """Listen on a port."""
        self._store, self._kubelet, self._faults, self._token = store, kubelet, faults, token
        self._watches: set[asyncio.Event] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(tls, port), self._loop).result(30)
        store.listeners.append(self._hear)

    def close(self) -> None:
        """Hang up on everybody."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)

    async def _listen(self, tls: ssl.SSLContext, port: int) -> None:
        app = web.Application(client_max_size=LARGEST)
        loopback.refuse_other_expectations(app)
        app.router.add_route("*", "/{path:.*}", self._guarded)
        loopback.keep_headers_out_of_logs()
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, server.HOST, port, ssl_context=tls)
        await site.start()

    def _hear(self, _: Change) -> None:
        def wake() -> None:
            for watch in self._watches:
                watch.set()

        self._loop.call_soon_threadsafe(wake)

    async def _guarded(self, request: web.Request) -> web.StreamResponse:
        try:
            asked = loopback.origin(request.headers.getall("Host", []))
            origin = loopback.origin(request.headers.getall("Origin", []))
            if why := loopback.refusal(asked, origin):
                raise Refused(403, "Forbidden", why)
            given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
            if not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
                raise Refused(401, "Unauthorized", "Unauthorized")
            return await self._answer(request)
        except Refused as why:
            after = {"Retry-After": "1"} if why.code == 429 else {}
            return web.json_response(why.body(), status=why.code, headers=after)
        except server.MALFORMED as error:
            traceback.print_exc()
            malformed = bad_request(f"the request cannot be handled: {error!r}")
            return web.json_response(malformed.body(), status=400)
        except web.HTTPRequestEntityTooLarge:
            large = Refused(413, "RequestEntityTooLarge", f"limit is {LARGEST}")
            return web.json_response(large.body(), status=413)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/version":
            return web.json_response({"major": "1", "minor": "34", "gitVersion": "v1.34.0+local"})
        if request.path in ("/healthz", "/livez", "/readyz"):
            return web.Response(text="ok")
        known = self._store.resources()
        if request.method == "GET" and (found := resources.discovery(request.path, known)):
            return web.json_response(found)
        address = _address(request.method, request.path, known)
        verb = _verb(request, address)
        await self._trouble(verb, address)
        if address.part in ("log", "exec"):
            return await (self._log if address.part == "log" else self._exec)(request, address)
        match verb:
            case "watch":
                return await self._watch(request, address)
            case "list":
                return web.json_response(self._list(request, address))
            case "get":
                return web.json_response(self._store.get(*address[:3]))
            case "create":
                return await self._create(request, address)
            case "update" | "patch":
                return await self._change(request, address)
            case _:
                return await self._delete(request, address)

    async def _trouble(self, verb: str, address: Address) -> None:
        """Answer as was asked for by a fault."""
        operation = f"{(address.part or verb).title()}{address.resource.kind}"
        fault = await asyncio.to_thread(self._faults.meet, operation)
        if fault is None:
            return
        name = f'{address.resource.name} "{address.name}" is forbidden: exceeded quota'
        raise {
            "throttled": Refused(
                429, "TooManyRequests", "Too many requests, please try again later."
            ),
            "quota": Refused(403, "Forbidden", f"{name}: {fault.reason}"),
            "unavailable": Refused(503, "ServiceUnavailable", "apiserver not ready"),
        }[fault.kind]

    def _list(self, request: web.Request, address: Address) -> dict[str, Any]:
        matches = _matches(request, address)
        version = str(self._store.version)
        found = self._store.all(address.resource, address.namespace)
        return {
            "kind": f"{address.resource.kind}List",
            "apiVersion": address.resource.api_version,
            "metadata": {"resourceVersion": version},
            "items": [each for each in found if matches(each)],
        }

    async def _create(self, request: web.Request, address: Address) -> web.Response:
        resource, namespace = address.resource, address.namespace
        if resource.namespaced and not namespace:
            raise bad_request("an empty namespace may not be set during creation")
        given = await _body(request)
        thing = admitted(resource, namespace, given, self._store)
        if "dryRun" in request.query:
            return web.json_response(thing, status=201)
        return web.json_response(self._store.create(resource, namespace, thing), status=201)

    async def _change(self, request: web.Request, address: Address) -> web.Response:
        resource, given = address.resource, await _body(request)

        def change(before: Object) -> Object:
            after: Object = given
            if request.method == "PATCH":
                after = patched(before, given, request.content_type)
            fixed = {"spec"} if address.part == "status" else {"status"}
            kept = {field: before[field] for field in fixed & before.keys()}
            if not isinstance(after, dict):
                raise bad_request("the object provided is unrecognized: it must be a JSON object")
            after = {field: after[field] for field in after.keys() - fixed} | kept
            return changed(resource, before, server.checked(after), self._store)

        if "dryRun" in request.query:
            return web.json_response(change(self._store.get(*address[:3])))
        return web.json_response(self._store.update(*address[:3], change))

    async def _delete(self, request: web.Request, address: Address) -> web.Response:
        options = await _body(request) if request.can_read_body else {}
        options = {**(options or {}), **request.query}
        policy = options.get("propagationPolicy")
        policy = "Background" if policy is None else policy
        if policy not in POLICIES:
            raise bad_request(f"propagationPolicy: {policy!r:.100} is none of {POLICIES}")
        given = (whole(options, "gracePeriodSeconds", most=LONGEST), policy)
        if address.name:
            uid = (options.get("preconditions") or {}).get("uid")
            there = self._store.get(*address[:3])
            if uid not in (None, there["metadata"]["uid"]):
                raise Refused(409, "Conflict", "the UID in the precondition does not match")
            gone = await asyncio.to_thread(self._store.delete, *address[:3], *given)
            return web.json_response(gone)
        found = self._list(request, address)
        for each in found["items"]:
            meta = each["metadata"]
            home = meta.get("namespace", "")
            await asyncio.to_thread(
                self._store.delete, address.resource, home, meta["name"], *given
            )
        return web.json_response(found)

    async def _watch(self, request: web.Request, address: Address) -> web.StreamResponse:
        matches = _matches(request, address)
        until = time.monotonic() + (whole(request.query, "timeoutSeconds") or WATCHED_FOR)
        start = whole(request.query, "resourceVersion") or 0
        changed = asyncio.Event()
        self._watches.add(changed)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            async for event in self._changes(address, matches, start, changed, until):
                await response.write(json.dumps(event).encode() + b"\n")
        except Refused as why:
            await response.write(
                json.dumps({"type": "ERROR", "object": why.body()}).encode() + b"\n"
            )
        except ConnectionResetError:
            return response  # nobody listens any more
        finally:
            self._watches.discard(changed)
        await response.write_eof()
        return response

    async def _changes(
        self,
        address: Address,
        matches: Matches,
        version: int,
        changed: asyncio.Event,
        until: float,
    ) -> AsyncIterator[dict[str, Any]]:
        if version == 0:
            version = self._store.version
            for each in self._store.all(address.resource, address.namespace):
                if matches(each):
                    yield {"type": "ADDED", "object": each}
        while (left := until - time.monotonic()) > 0:
            changed.clear()
            for change in self._store.since(version):
                version = change.version
                if _concerns(change, address) and (kind := _seen_as(change, matches)):
                    yield {"type": kind, "object": change.after}
            try:
                await asyncio.wait_for(changed.wait(), left)
            except TimeoutError:
                return

    async def _log(self, request: web.Request, address: Address) -> web.StreamResponse:
        pod = self._store.get(PODS, address.namespace, address.name)
        uid, container = pod["metadata"]["uid"], _container(request, pod)
        if "previous" in request.query and request.query["previous"].lower() == "true":
            raise not_implemented("logs of a container before its restart (previous=true)")
        waiting = _state(pod, container).get("waiting")
        if waiting and not self._kubelet.log(uid, container).exists():
            raise bad_request(
                f'container "{container}" in pod "{address.name}" is waiting to start: '
                f"{waiting.get('reason', 'ContainerCreating')}"
            )
        asked = wanted(request.query)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        follow = request.query.get("follow", "").lower() == "true"
        file, place = self._kubelet.log(uid, container), 0
        try:
            while True:
                now = self._store.find(PODS, address.namespace, address.name)
                over = now is None or "terminated" in _state(now, container)
                text, place = lines(file, place, asked)
                asked = asked.rest()
                if text:
                    await response.write(text)
                if over or not follow:
                    break
                await asyncio.sleep(POLL)
        except ConnectionResetError:
            return response
        await response.write_eof()
        return response

    async def _exec(self, request: web.Request, address: Address) -> web.StreamResponse:
        pod = self._store.get(PODS, address.namespace, address.name)
        command, streams = execution.wanted(request)
        name = _container(request, pod)
        container = self._kubelet.container(pod["metadata"]["uid"], name)
        if container is None or not container.running:
            raise bad_request(f"container {name} of pod {address.name} is not running")
        return await execution.execute(request, container, command, streams)


def _address(method: str, path: str, known: list[Resource]) -> Address:
    """Read a path; whatever it can't name, it says by its name."""
    head, *parts = path.strip("/").split("/")
    group = "" if head == "api" else (parts.pop(0) if parts else "")
    version, *rest = parts or [""]
    named = [(each.group, each.version, each.plural) for each in known]
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces" and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    plural, name, part, *more = [*rest, "", "", ""][: max(len(rest), 3)]
    if head not in ("api", "apis") or (group, version, plural) not in named or any(more):
        if head in ("api", "apis") and (group in THEIRS or group.endswith(".k8s.io")):
            raise not_implemented(f"{method} {path}")
        raise Refused(404, "NotFound", f"the server could not find the requested resource: {path}")
    resource = known[named.index((group, version, plural))]
    if part and part not in resource.subresources:
        raise not_implemented(f"{method} {path}")
    return Address(resource, namespace, name, part)


def _verb(request: web.Request, address: Address) -> str:
    verb = VERBS.get(request.method, "")
    if not verb or (verb in ("update", "patch") and not address.name):
        raise Refused(405, "MethodNotAllowed", f"{request.method} is not allowed on {request.path}")
    if verb == "create" and address.name and address.part != "exec":
        raise Refused(405, "MethodNotAllowed", f"POST is not allowed on {request.path}")
    if verb == "get" and not address.name:
        return "watch" if request.query.get("watch", "").lower() in ("1", "true") else "list"
    return verb


def _matches(request: web.Request, address: Address) -> Matches:
    by_label = labelled(request.query.get("labelSelector", ""))
    by_field = with_fields(request.query.get("fieldSelector", ""))
    return lambda thing: (
        by_label(thing) and by_field(thing) and address.name in ("", thing["metadata"]["name"])
    )


def _concerns(change: Change, address: Address) -> bool:
    home = change.after["metadata"].get("namespace", "")
    return change.resource.name == address.resource.name and address.namespace in ("", home)


def _seen_as(change: Change, matches: Matches) -> str | None:
    """What a change is to somebody who sees only some of the objects."""
    before, after = change.before is not None and matches(change.before), matches(change.after)
    if change.type == "MODIFIED" and before != after:
        return "ADDED" if after else "DELETED"
    return change.type if after else None


def _container(request: web.Request, pod: Object) -> str:
    spec, name = pod["spec"], pod["metadata"]["name"]
    names = [each["name"] for each in [*(spec.get("initContainers") or []), *spec["containers"]]]
    given = request.query.get("container")
    if given is None and len(names) > 1:
        listed = " ".join(names)
        raise bad_request(
            f"a container name must be specified for pod {name}, choose one of: [{listed}]"
        )
    if given not in (None, *names):
        raise bad_request(f"container {given} is not valid for pod {name}")
    return given or names[0]


def _state(pod: Object, container: str) -> dict[str, Any]:
    status = pod.get("status", {})
    known = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    found = [each["state"] for each in known if each["name"] == container]
    return found[0] if found else {"waiting": {"reason": "ContainerCreating"}}


async def _body(request: web.Request) -> Any:
    try:
        return server.parsed(await request.read() or b"{}")
    except ValueError as error:
        raise bad_request(f"couldn't get object from the request: {error}") from None
