"""Alert rules: what they say, what is wrong with them, and when they keep quiet."""

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


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"metric": "luck"}, "metric must be one of p95_ms, roc_auc, not 'luck'"),
        ({"metric": ["p95_ms"]}, "metric must be one of"),
        ({"days": 0}, "days must be 1 to 7, not 0"),
        ({"days": 8}, "days must be 1 to 7, not 8"),
        ({"days": True}, "days must be 1 to 7"),
        ({"alert": ">"}, "alert must be above or below, not '>'"),
        ({"threshold": "200"}, "threshold must be a number, not '200'"),
        ({"threshold": float("nan")}, "threshold must be a number"),
        ({"severity": "high"}, "severity must be warning or critical, not 'high'"),
        ({"cool_down": 0}, "cool_down must be 1 day or more, not 0"),
        ({"then": "panic"}, "then must be retrain, or left out, not 'panic'"),
        ({"wait": 3}, "must have alert, cool_down, days, metric, severity, threshold"),
    ],
)
def test_a_wrong_rule_is_refused_by_name(other, message):
    with pytest.raises(ValueError, match=r"rule 'slow'") as refused:
        slow(**other)
    assert message in str(refused.value)


@pytest.mark.parametrize("table", [None, {}, []])
def test_no_rules_at_all_are_refused(table):
    with pytest.raises(ValueError, match="one rule at least"):
        alerts.rules(table, METRICS, 7)
