"""Golden requests: a model that answers otherwise than it should is found, and so is no answer."""

import math

import httpx
import pytest

from include.serving import golden, load
from include.serving.client import Gateway
from include.serving.golden import WrongAnswers
from include.serving.load import Answer, Traffic
from include.serving.onnx_export import TOLERANCE

GATEWAY = Gateway("http://127.0.0.1:9", "a token")
ROWS = [{"fee": 1}, {"fee": 2}, {"fee": 3}]


@pytest.fixture
def scorer(monkeypatch):
    """Answers with these scores and this status; returns what it was asked."""

    def scorer(scores, status=200):
        asked = []

        def post(url, **more):
            asked.append((url, more))
            request = httpx.Request("POST", url)
            return httpx.Response(status, json={"scores": scores}, request=request)

        monkeypatch.setattr(httpx, "post", post)
        return asked

    return scorer


def test_a_scorer_is_asked_all_rows_at_once_and_how_far_it_is_off_is_told(scorer):
    asked = scorer([0.25, 0.5, 0.75])
    off = golden.expect("http://scorer", ROWS, [0.25 - 1e-6, 0.5, 0.75 + 2e-6])
    assert off == pytest.approx(2e-6, rel=1e-6)
    body = {"dataframe_records": ROWS}
    assert asked == [("http://scorer/invocations", {"json": body, "timeout": 60})]


@pytest.mark.parametrize("score", [TOLERANCE, -TOLERANCE])
def test_what_is_tolerated_is_no_wrong_answer(scorer, score):
    scorer([0.0, score, 0.0])
    assert golden.expect("http://scorer", ROWS, [0.0, 0.0, 0.0]) == TOLERANCE


@pytest.mark.parametrize(
    ("score", "off"), [(0.5, "0.25"), (-0.0625, "0.31"), (0.25002, "2e-05"), (math.nan, "nan")]
)
def test_a_wrong_answer_is_refused_with_how_far_it_is_off(scorer, monkeypatch, score, off):
    scorer([0.25, 0.25, 0.25])
    monkeypatch.setattr(httpx.Response, "json", lambda self: {"scores": [score, 0.25, 0.25]})
    with pytest.raises(WrongAnswers, match=f"^of 3 known answers one is off by {off}$"):
        golden.expect("http://scorer", ROWS, [0.25, 0.25, 0.25])


@pytest.mark.parametrize("scores", [[0.25, 0.25], [0.25] * 4])
def test_more_or_fewer_answers_than_rows_are_refused(scorer, scores):
    scorer(scores)
    with pytest.raises(ValueError, match=r"zip\(\) argument 2"):
        golden.expect("http://scorer", ROWS, [0.25] * 3)


def test_a_scorer_that_refuses_has_not_answered(scorer):
    scorer([0.25] * 3, status=503)
    with pytest.raises(httpx.HTTPStatusError, match="503"):
        golden.expect("http://scorer", ROWS, [0.25] * 3)


@pytest.fixture
def asked(monkeypatch):
    """Asks a gateway whose log gets these lines; returns the report, and how callers asked."""

    def asked(noted, scores):
        log, calls = [{"of": "earlier"}], []

        def requests(self, route, after=0):
            assert (self, route) == (GATEWAY, "churn")
            return log[after:], len(log)

        def drive(*given):
            calls.append(given)
            log.extend(noted)
            driven = Traffic([Answer(n, 200, "1", 0.01) for n in range(2)], seconds=1.0)
            driven.answers.append(Answer(2, 503, "none", 0.02))
            return driven

        monkeypatch.setattr(Gateway, "requests", requests)
        monkeypatch.setattr(load, "drive", drive)
        report = golden.ask(GATEWAY, "churn", ROWS, scores)
        (call,) = calls
        return report, call

    return asked


def line(number, score, role="live", status=200):
    answer = {"scores": [score]} if status == 200 else None
    return {"request_id": f"golden-{number}", "role": role, "status": status, "answer": answer}


@pytest.mark.parametrize(
    ("scores", "wrong"),
    [
        ((0.25, 0.75), 0),
        ((0.25, 0.75 + 0.9e-5), 0),
        ((0.25, 0.75 + 1.1e-5), 1),
        ((0.25, 0.25), 1),
        ((0.75, 0.25), 2),
    ],
)
def test_a_golden_request_is_wrong_when_its_score_is_off_by_more_than_is_tolerated(
    asked, scores, wrong
):
    noted = [
        line(0, scores[0]),
        line(1, scores[1]),
        line(1, 0.1, role="shadow"),
        line(2, None, status=503),
        line("of somebody else", 0.1),
    ]
    report, (address, rows, rate, count, headers) = asked(noted, [0.25, 0.75, 0.5])
    assert report == {
        "asked": 3,
        "failed": 1,
        "wrong": wrong,
        "p95_ms": 20.0,
        "by_version": {"1": 2},
    }
    assert (address, rows) == ("http://127.0.0.1:9/routes/churn", ROWS)
    assert (rate, count) == (50.0, 3)
    token = load.token(GATEWAY)
    assert headers == [token | {"X-Request-Id": f"golden-{number}"} for number in range(3)]


def test_a_score_that_is_off_by_just_what_is_tolerated_is_right(asked):
    report, _ = asked([line(0, TOLERANCE), line(1, -TOLERANCE)], [0.0, 0.0, 0.0])
    assert report["wrong"] == 0
