"""Golden requests: rows whose scores are known, asked over the wire as callers ask."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from include.serving import load
from include.serving.client import Gateway
from include.serving.onnx_export import TOLERANCE

RATE = 50.0


class WrongAnswers(ValueError):
    """What answers is not the model that it is said to be."""


def expect(address: str, rows: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> float:
    """Ask a scorer all rows at once; returns how far it is off, or refuses what is too far."""
    body = {"dataframe_records": [dict(row) for row in rows]}
    answer = httpx.post(f"{address}/invocations", json=body, timeout=60)
    answer.raise_for_status()
    given = answer.json()["scores"]
    difference = max(abs(a - b) for a, b in zip(given, scores, strict=True))
    if not difference <= TOLERANCE:
        raise WrongAnswers(f"of {len(rows)} known answers one is off by {difference:.2g}")
    return float(difference)


def ask(
    gateway: Gateway, route: str, rows: Sequence[Mapping[str, Any]], scores: Sequence[float]
) -> dict[str, Any]:
    """Ask a route each row once, and count what failed and what was answered otherwise."""
    _, earlier = gateway.requests(route)
    ids = [{"X-Request-Id": f"golden-{place}"} for place in range(len(rows))]
    headers = [load.token(gateway) | each for each in ids]
    address = load.route_address(gateway, route)
    asked = load.drive(address, rows, RATE, len(rows), headers).report()
    noted, _ = gateway.requests(route, after=earlier)
    known = {f"golden-{place}": score for place, score in enumerate(scores)}
    wrong = sum(
        abs(each["answer"]["scores"][0] - known[each["request_id"]]) > TOLERANCE
        for each in noted
        if each["status"] == 200 and each["role"] == "live" and each["request_id"] in known
    )
    return {
        "asked": asked["requests"],
        "failed": asked["failed"],
        "wrong": wrong,
        "p95_ms": asked["p95_ms"],
        "by_version": asked["by_version"],
    }
