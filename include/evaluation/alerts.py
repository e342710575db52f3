"""When is somebody to be told? Rules as data, and how long one keeps quiet after it has spoken.

A rule compares one measure of the last so many days with a threshold. What could not be measured
breaks no rule; it is shown as unknown, which is not the same as good.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date
from typing import Any

SEVERITIES = ("warning", "critical")
RETRAIN = "retrain"


@dataclass(frozen=True)
class Rule:
    """One line of the table."""

    name: str
    metric: str
    days: int
    """The window: so many days, the run's own the last of them."""
    alert: str
    """`above` or `below`."""
    threshold: float
    severity: str
    cool_down: int
    """So many days after an alert the next one may come; 1 for each day."""
    then: str | None = None
    """What a machine does about it, beside people being told."""


def judged(rule: Rule, value: float | None) -> dict[str, Any]:
    """The rule with the value that it met; `broken` is None where there was no value."""
    broken = None
    if value is not None:
        broken = value > rule.threshold if rule.alert == "above" else value < rule.threshold
    return asdict(rule) | {"value": value, "broken": broken}


def new(
    verdicts: Iterable[Mapping[str, Any]], said: Mapping[str, Iterable[date]], day: date
) -> list[Mapping[str, Any]]:
    """Those that are to be spoken of: not twice on a day, and not while they cool down."""
    return [
        each
        for each in verdicts
        if each["broken"]
        and not any(0 <= (day - at).days < each["cool_down"] for at in said.get(each["name"], []))
    ]


def sentence(verdict: Mapping[str, Any]) -> str:
    """A verdict as people read it."""
    over = "1 day" if verdict["days"] == 1 else f"{verdict['days']} days"
    return (
        f"{verdict['severity']}: {verdict['name']}: {verdict['metric']} over {over} is "
        f"{verdict['value']:.4g}, {verdict['alert']} {verdict['threshold']:g}"
    )


def rules(
    table: Mapping[str, Mapping[str, Any]], metrics: Collection[str], most_days: int
) -> list[Rule]:
    """Read a table of rules, or say which one is wrong, and in what."""
    if not isinstance(table, Mapping) or not table:
        raise ValueError("there must be one rule at least, each a name with its fields")
    return [_rule(name, given, metrics, most_days) for name, given in table.items()]


def _rule(name: str, given: Mapping[str, Any], metrics: Collection[str], most_days: int) -> Rule:
    known = {field.name for field in fields(Rule)} - {"name"}
    if not isinstance(given, Mapping) or not known - {"then"} <= given.keys() <= known:
        raise ValueError(f"rule {name!r} must have {', '.join(sorted(known - {'then'}))}")
    days = range(1, most_days + 1)
    fits = {
        "metric": (given["metric"] in list(metrics), f"one of {', '.join(metrics)}"),
        "days": (_whole(given["days"]) and given["days"] in days, f"1 to {most_days}"),
        "alert": (given["alert"] in ("above", "below"), "above or below"),
        "threshold": (_number(given["threshold"]), "a number"),
        "severity": (given["severity"] in SEVERITIES, " or ".join(SEVERITIES)),
        "cool_down": (_whole(given["cool_down"]) and given["cool_down"] >= 1, "1 day or more"),
        "then": (given.get("then") in (None, RETRAIN), f"{RETRAIN}, or left out"),
    }
    for field, (right, wanted) in fits.items():
        if not right:
            raise ValueError(f"rule {name!r}: {field} must be {wanted}, not {given[field]!r}")
    return Rule(name, **given)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return _whole(value) or (isinstance(value, float) and value == value)
