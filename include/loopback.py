"""Who may speak to the servers that the catalogue starts: programs, and pages of the server itself.

Every page in a browser can send requests to loopback. `Origin` names the page's own server. A host
name that was led to loopback (DNS rebinding) stands in `Host`. So a server answers under its own
names alone, and refuses pages that came from elsewhere.
"""

import json
import logging
import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

VARIABLE = "ALLOWED_HOSTS"  # more names of the servers, with commas between them
NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
EXPECTED = "100-continue"
NAMED = re.compile(r"(?P<name>\[[^\]]*\]|[^:\[\]]*)(?::\d+)?")


def names() -> frozenset[str]:
    """The names under which the servers of this process answer."""
    more = (name.strip().lower() for name in os.environ.get(VARIABLE, "").split(","))
    return NAMES | frozenset(filter(None, more))


def refusal(host: str | None, origin: str | None, known: frozenset[str] = NAMES) -> str | None:
    """Why a request with these two headers is not answered, or None."""
    asked = (host or "").lower()
    named = NAMED.fullmatch(asked)
    if named is None or named["name"] not in known:
        return f"the request is for host {host!r}: {VARIABLE} names the hosts that are served"
    return of_another_page(host, origin)


def of_another_page(host: str | None, origin: str | None) -> str | None:
    """Why a request is not answered that a page of another server has sent, or None."""
    if origin is not None and origin.lower().partition("://")[2] != (host or "").lower():
        return f"the request comes from a page of {origin!r}, another server"
    return None


def origin(given: Sequence[str]) -> str | None:
    """The pages that all headers `Origin` of a request name, or None without one."""
    return ", ".join(given) if given else None


def keep_headers_out_of_logs() -> None:
    """The parser of aiohttp repeats a header that it can't read, and that may hold a token."""
    logging.getLogger("aiohttp.server").addFilter(_without_headers)


def _without_headers(record: logging.LogRecord) -> bool:
    from aiohttp.http_exceptions import HttpProcessingError

    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        record.msg, record.args = (
            "a request was refused that is no HTTP (%s)",
            (type(record.exc_info[1]).__name__,),
        )
        record.exc_info = None
    return True


def refuse_other_expectations(app: Any) -> None:
    """Answer 417 to any `Expect` but the known one, also where aiohttp would fail with 500.

    It writes what was expected into its answer, and can't where that is no text.
    """
    from aiohttp.web import HTTPExpectationFailed

    resolve = app.router.resolve

    async def checked(request: Any) -> Any:
        if request.headers.get("Expect", EXPECTED).lower() != EXPECTED:
            told = json.dumps({"error": f"only {EXPECTED} can be expected"})
            raise HTTPExpectationFailed(text=told, content_type="application/json")
        return await resolve(request)

    app.router.resolve = checked


def no_proxy() -> dict[str, str]:
    """The variables that keep a proxy of yours from what is said on this machine."""
    given = ",".join(os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY"))
    hosts = [host.strip() for host in given.split(",") if host.strip()]
    listed = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))
    return {"no_proxy": listed, "NO_PROXY": listed}


def ask(request: str | Request, seconds: float) -> Any:
    """Send a request to this machine past any proxy; a `with` block closes the answer."""
    return build_opener(ProxyHandler({})).open(request, timeout=seconds)
