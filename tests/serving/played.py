"""A gateway and a registry in memory, which note what is done to them in its order."""

from types import SimpleNamespace
from typing import Any

from include import tracking


class PlayedGateway:
    """Routes and versions, as `client.Gateway` shows them."""

    def __init__(self, done: list[tuple[Any, ...]]) -> None:
        """Note in this list what is done."""
        self.done = done
        self.running: dict[str, dict[str, str]] = {}
        self.routes: dict[str, dict[str, Any]] = {}

    def versions(self, model: str) -> dict[str, str]:
        """The versions that run."""
        return dict(self.running.get(model, {}))

    def start_version(self, model: str, version: str, source: str) -> None:
        """Start one that doesn't run."""
        assert version not in self.running.setdefault(model, {})
        self.running[model][version] = source
        self.done.append(("start", model, version, source))

    def stop_version(self, model: str, version: str) -> None:
        """Stop one that runs."""
        del self.running[model][version]
        self.done.append(("stop", model, version))

    def route(self, route: str) -> dict[str, Any] | None:
        """What is done with requests for a name."""
        return self.routes.get(route)

    def set_route(
        self,
        route: str,
        model: str,
        weights: dict[str, float],
        sticky: str | None = None,
        shadow: str | None = None,
    ) -> None:
        """Switch callers."""
        assert weights.keys() <= self.running[model].keys()
        changed = {"model": model, "weights": weights, "sticky": sticky, "shadow": shadow}
        self.routes[route] = changed
        self.done.append(("route", route, changed))

    def remove_route(self, route: str) -> None:
        """Take a name away."""
        self.routes.pop(route, None)
        self.done.append(("no route", route))


class PlayedRegistry:
    """The versions of one model, as MLflow's client shows them."""

    def __init__(self, model: str, done: list[tuple[Any, ...]]) -> None:
        """Note in this list what is done."""
        self.model, self.done = model, done
        self.tags: dict[str, dict[str, str]] = {}
        self.champion: str | None = None

    def set_model_version_tag(self, name: str, number: str, key: str, value: str) -> None:
        """Set a tag."""
        assert name == self.model
        self.tags[number][key] = value

    def delete_model_version_tag(self, name: str, number: str, key: str) -> None:
        """Take a tag away, if it is there."""
        assert name == self.model
        self.tags[number].pop(key, None)

    def get_model_version(self, name: str, number: str) -> SimpleNamespace:
        """One version."""
        assert name == self.model
        return SimpleNamespace(version=int(number), tags=self.tags[number])

    def search_model_versions(self, filter_string: str, order_by: list[str]) -> list:
        """All versions, newest first."""
        assert (filter_string, order_by) == (f"name = '{self.model}'", ["version_number DESC"])
        return [self.get_model_version(self.model, n) for n in sorted(self.tags, reverse=True)]

    def set_registered_model_alias(self, name: str, alias: str, number: str) -> None:
        """Say which version callers get."""
        assert (name, alias) == (self.model, "champion")
        self.champion = number
        self.done.append(("alias", number))

    def found(self, name: str) -> tracking.Version | None:
        """The version that callers get, as `tracking.champion` finds it."""
        assert name == self.model
        if self.champion is None:
            return None
        return tracking.Version(name, self.champion, "", f"run of {self.champion}", "", None)
