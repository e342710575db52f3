"""Who answers which request: weights, sticky assignment, and a table that is kept on disk.

A request goes to a version by a hash of its key, so that the same caller always meets the same
version. The draw is a race of hashes, one for each version, with the weights as their speeds:
changing a weight moves only callers that come to or leave that version.
"""

import hashlib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from include.serving import kept

MOST_VERSIONS = 100
MOST_WEIGHT = 1_000_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
NAMES = "1 to 100 letters, digits, '_', '-' and '.'"
NEVER_KEYS = ("authorization", "cookie", "proxy-authorization")
"""Headers that hold secrets: the key of a request stands in the log."""


@dataclass(frozen=True)
class Route:
    """What is done with requests for one name."""

    model: str
    weights: dict[str, float]
    """The share of each version; they need not add up to one."""
    sticky: str | None = None
    """The header that names the caller; without it each request is drawn by itself."""
    shadow: str | None = None
    """A version that gets a copy of every request, and whose answers nobody sees."""

    @classmethod
    def parse(cls, given: Any) -> "Route":
        """Read what an operator sends, or say what is wrong with it."""
        known = {"model", "weights", "sticky", "shadow"}
        if not isinstance(given, dict) or not {"model", "weights"} <= given.keys() <= known:
            raise ValueError(f"a route has 'model' and 'weights', and may have {sorted(known)}")
        sticky, shadow = given.get("sticky"), given.get("shadow")
        if not _is_name(given["model"]):
            raise ValueError(f"'model' must be {NAMES}")
        if not (shadow is None or _is_name(shadow)):
            raise ValueError(f"'shadow' must be null or {NAMES}")
        if not (sticky is None or (_is_name(sticky) and sticky.lower() not in NEVER_KEYS)):
            raise ValueError(
                f"'sticky' must be null or the name of a header that names callers: {NAMES}"
            )
        weights = given["weights"]
        if not isinstance(weights, dict) or not 0 < len(weights) <= MOST_VERSIONS:
            raise ValueError(f"'weights' must give each of 1 to {MOST_VERSIONS} versions its share")
        for version, weight in weights.items():
            if not _is_name(version):
                raise ValueError(f"the name of a version must be {NAMES}")
            number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not number or not 0 <= weight <= MOST_WEIGHT:  # also not NaN
                raise ValueError(
                    f"the weight of version {version[:80]!r} must be from 0 to {MOST_WEIGHT}"
                )
        if not sum(weights.values()) > 0:
            raise ValueError("one version at least must have a weight above 0")
        route = cls(**given)
        if route.shadow in {v for v, weight in weights.items() if weight > 0}:
            raise ValueError(f"version {route.shadow} can't be live and shadow at once")
        return route

    def versions(self) -> set[str]:
        """All versions that it needs."""
        return {v for v, weight in self.weights.items() if weight > 0} | (
            {self.shadow} if self.shadow else set()
        )

    def pick(self, key: str, healthy: Collection[str]) -> str | None:
        """The version for this caller, among those that answer."""
        racing = {v: w for v, w in self.weights.items() if w > 0 and v in healthy}
        if not racing:
            return None
        return min(racing, key=lambda version: finish(self.model, version, key) / racing[version])


def _is_name(given: Any) -> bool:
    return isinstance(given, str) and NAME.fullmatch(given) is not None


def finish(model: str, version: str, key: str) -> float:
    """When a version with weight one would win the race for a key: exponential, and repeatable."""
    drawn = hashlib.blake2b(f"{model}/{version}/{key}".encode(), digest_size=8).digest()
    return -math.log((int.from_bytes(drawn) + 1) / 2**64)


@dataclass
class Table:
    """All routes, and the versions that were put in place; what a gateway must not forget."""

    file: Path
    routes: dict[str, Route]
    models: dict[str, dict[str, dict[str, Any]]]
    """For each model its versions, with what is needed to start them again."""
    before: dict[str, Route] = field(default_factory=dict)
    """For each name the route before the present one, since the gateway has started."""

    @classmethod
    def load(cls, file: Path) -> "Table":
        """What was kept, or an empty table."""
        found = kept.read(file, {"routes": {}, "models": {}})
        routes = {name: Route(**route) for name, route in found["routes"].items()}
        return cls(file, routes, found["models"])

    def with_route(self, name: str, route: Route | None) -> None:
        """Take a route in, or out for None: on disk first, then for the next request."""
        routes = {n: r for n, r in self.routes.items() if n != name}
        if route is not None:
            routes[name] = route
        self._keep(routes, self.models)
        if (old := self.routes.get(name)) is not None and old != route:
            self.before[name] = old
        self.routes = routes

    def back(self, name: str) -> set[str]:
        """The versions that callers of a name have, or had before: the way back to them is free."""
        known = (self.routes.get(name), self.before.get(name))
        return {version for route in known if route for version in route.versions()}

    def with_version(self, model: str, version: str, made_of: Mapping[str, Any] | None) -> None:
        """Remember what a version is made of, or forget it for None."""
        versions = {v: m for v, m in self.models.get(model, {}).items() if v != version}
        if made_of is not None:
            versions[version] = dict(made_of)
        models = {m: v for m, v in ({**self.models, model: versions}).items() if v}
        self._keep(self.routes, models)
        self.models = models

    def used_by(self, model: str, version: str) -> list[str]:
        """The routes that need a version."""
        return sorted(
            name
            for name, route in self.routes.items()
            if route.model == model and version in route.versions()
        )

    def _keep(self, routes: Mapping[str, Route], models: Mapping[str, Any]) -> None:
        kept.write(
            self.file, {"routes": {n: asdict(r) for n, r in routes.items()}, "models": models}
        )
