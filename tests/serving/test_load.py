"""What callers met: counted by hand, also where requests fail or reach the wrong version."""

from contextlib import contextmanager

import pytest

from include import processes
from include.serving import load
from include.serving.client import Gateway
from include.serving.load import Answer, Traffic

GATEWAY = Gateway("http://127.0.0.1:9", "a token")


def answers(*versions):
    return [Answer(number, 200, version, 0.01) for number, version in enumerate(versions)]


def test_the_report_is_what_one_counts_by_hand():
    seconds = [0.001 * milliseconds for milliseconds in range(100, 0, -1)]
    traffic = Traffic([Answer(n, 200, "1", each) for n, each in enumerate(seconds)], seconds=4.0)
    traffic.answers[7] = Answer(7, 503, "none", 0.093)
    traffic.answers[8] = Answer(8, 0, "", 0.092)
    traffic.answers[9] = Answer(9, 200, "2", 0.091)
    assert traffic.report() == {
        "requests": 100,
        "rps": 25.0,
        "failed": 2,
        "p50_ms": 51.0,
        "p95_ms": 96.0,
        "p99_ms": 100.0,
        "by_version": {"1": 97, "2": 1},
    }


def test_without_callers_there_is_no_latency():
    with pytest.raises(ValueError, match="nobody asked anything"):
        Traffic().milliseconds(50)


@pytest.fixture
def nobody():
    return f"http://127.0.0.1:{processes.free_port()}"


def test_callers_who_reach_no_gateway_are_no_measurement_of_a_version(nobody):
    with pytest.raises(ConnectionError, match=f"5 of 5 requests got no answer at {nobody}"):
        load.drive(nobody, [{"plan": "monthly"}], rate=1000, count=5)


def test_a_connection_that_fails_is_a_failed_request(nobody):
    with load.running(nobody, [{"plan": "monthly"}], rate=1000) as traffic:
        traffic.more(5)
    assert traffic.failed == traffic.unanswered == len(traffic.answers) >= 5
    assert traffic.by_version() == {}


@pytest.fixture
def switch(monkeypatch):
    """Switches callers from version 1 to 2: 3 are answered before, and 2 are on their way."""

    def switch(before, on_the_way, after, weights=None):
        @contextmanager
        def running(*given):
            traffic = Traffic(answers(*before), seconds=1.0, sent=len(before) + len(on_the_way))
            traffic.more = lambda count: None

            def set_route(self, name, model, to):
                everybody = answers(*before, *on_the_way, *after)
                traffic.answers += everybody[len(before) :]

            monkeypatch.setattr(Gateway, "set_route", set_route)
            yield traffic

        route = {"weights": weights or {"1": 1.0, "2": 0.0}}
        monkeypatch.setattr(Gateway, "route", lambda self, name: route)
        monkeypatch.setattr(load, "running", running)
        return load.switched(GATEWAY, "churn", "churn", "2", [], 100, 3, 3)["misrouted"]

    return switch


def test_a_switch_without_a_wrong_answer_has_nobody_misrouted(switch):
    assert switch("111", "12", "222") == 0
    assert switch("121", "12", "222", weights={"1": 0.5, "2": 0.5}) == 0


@pytest.mark.parametrize(
    ("before", "on_the_way", "after", "misrouted"),
    [
        ("121", "12", "222", 1),
        ("111", "13", "222", 1),
        ("111", "12", "212", 1),
        ("333", "33", "333", 8),
    ],
)
def test_whoever_is_answered_by_a_wrong_version_is_misrouted(
    switch, before, on_the_way, after, misrouted
):
    assert switch(before, on_the_way, after) == misrouted
