"""Alert rules: what they say, what is wrong with them, and when they keep quiet."""

from dataclasses import FrozenInstanceError
from datetime import date, timedelta

import pytest

from include.evaluation import alerts

METRICS = ["p95_ms", "roc_auc"]
SLOW = {
    "metric": "p95_ms",
    "days": 1,
    "alert": "above",
    "threshold": 200,
    "severity": "critical",
    "cool_down": 3,
}
DAY = date(2026, 1, 4)


def slow(**other):
    (rule,) = alerts.rules({"slow": SLOW | other}, METRICS, 7)
    return rule


@pytest.mark.parametrize(
    ("alert", "value", "broken"),
    [
        ("above", 200.1, True),
        ("above", 200, False),
        ("below", 199.9, True),
        ("below", 200, False),
        ("above", None, None),
    ],
)
def test_a_value_on_the_threshold_is_good_and_one_that_is_not_there_is_unknown(
    alert, value, broken
):
    assert alerts.judged(slow(alert=alert), value)["broken"] is broken


def test_it_speaks_once_a_day_and_not_while_it_cools_down():
    verdicts = [alerts.judged(slow(), 300)]

    def speaks(days_later, *said):
        return bool(alerts.new(verdicts, {"slow": said}, DAY + timedelta(days=days_later)))

    assert alerts.new(verdicts, {}, DAY) == verdicts
    assert [speaks(days, DAY) for days in range(5)] == [False, False, False, True, True]
    assert not speaks(4, DAY, DAY + timedelta(days=3))
    assert speaks(-1, DAY)  # a day before is another matter: it was not told of yet
    assert alerts.new(verdicts, {"another": [DAY]}, DAY) == verdicts


def test_what_is_good_or_unknown_is_never_spoken_of():
    assert alerts.new([alerts.judged(slow(), each) for each in (100, None)], {}, DAY) == []


def test_a_verdict_can_be_read():
    assert alerts.sentence(alerts.judged(slow(), 300)) == (
        "critical: slow: p95_ms over 1 day is 300, above 200"
    )
    weekly = slow(metric="roc_auc", days=7, alert="below", threshold=0.75, severity="warning")
    assert alerts.sentence(alerts.judged(weekly, 0.654321)) == (
        "warning: slow: roc_auc over 7 days is 0.6543, below 0.75"
    )


def test_a_verdict_holds_the_whole_rule_its_value_and_the_answer():
    verdict = alerts.judged(slow(), 300)
    assert verdict == {"name": "slow", **SLOW, "then": None, "value": 300, "broken": True}


def test_a_rule_can_not_be_changed():
    with pytest.raises(FrozenInstanceError):
        slow().threshold = 900


@pytest.mark.parametrize(
    "other",
    [
        {"days": 7},
        {"cool_down": 1},
        {"threshold": 0.5},
        {"then": "retrain"},
        {"then": None},
        {"severity": "warning"},
    ],
)
def test_a_rule_at_the_edge_of_what_is_allowed_is_read(other):
    assert vars(slow(**other)) == {"name": "slow", "then": None} | SLOW | other


def test_rules_are_read_in_the_order_of_the_table():
    table = {"slow": SLOW, "slower": SLOW | {"threshold": 900}}
    read = alerts.rules(table, METRICS, 7)
    assert [(rule.name, rule.threshold) for rule in read] == [("slow", 200), ("slower", 900)]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"metric": "luck"}, "metric must be one of p95_ms, roc_auc, not 'luck'"),
        ({"metric": ["p95_ms"]}, "metric must be one of p95_ms, roc_auc, not ['p95_ms']"),
        ({"days": 0}, "days must be 1 to 7, not 0"),
        ({"days": 8}, "days must be 1 to 7, not 8"),
        ({"days": True}, "days must be 1 to 7, not True"),
        ({"alert": ">"}, "alert must be above or below, not '>'"),
        ({"threshold": "200"}, "threshold must be a number, not '200'"),
        ({"threshold": True}, "threshold must be a number, not True"),
        ({"threshold": float("nan")}, "threshold must be a number, not nan"),
        ({"severity": "high"}, "severity must be warning or critical, not 'high'"),
        ({"cool_down": 0}, "cool_down must be 1 day or more, not 0"),
        ({"cool_down": True}, "cool_down must be 1 day or more, not True"),
        ({"cool_down": 1.5}, "cool_down must be 1 day or more, not 1.5"),
        ({"then": "panic"}, "then must be retrain, or left out, not 'panic'"),
    ],
)
def test_a_wrong_field_is_refused_with_what_it_must_be(other, message):
    with pytest.raises(ValueError, match="rule") as refused:
        slow(**other)
    assert str(refused.value) == f"rule 'slow': {message}"


FIELDS = "rule 'slow' must have alert, cool_down, days, metric, severity, threshold"


@pytest.mark.parametrize(
    "given",
    [
        SLOW | {"wait": 3},
        {name: SLOW[name] for name in SLOW if name != "days"},
        list(SLOW),
        None,
    ],
    ids=["a field too many", "a field too few", "a list", "nothing"],
)
def test_a_rule_without_its_fields_is_refused_with_their_names(given):
    with pytest.raises(ValueError, match="rule") as refused:
        alerts.rules({"slow": given}, METRICS, 7)
    assert str(refused.value) == FIELDS


@pytest.mark.parametrize("table", [None, {}, [], ["slow"]])
def test_a_table_without_rules_is_refused(table):
    with pytest.raises(ValueError, match=r"^there must be one rule at least, each a name with its"):
        alerts.rules(table, METRICS, 7)
