"""Shadow and live answers: hand-made logs, and what must be said about them."""

import pytest

from include.evaluation import shadow


def line(request_id, role, score=None, seconds=0.01, rows=1):
    answer = {"predictions": [int(score > 0.5)] * rows, "scores": [score] * rows} if score else None
    told = {"request_id": request_id, "role": role, "status": 200 if score else 500}
    return told | {"seconds": seconds, "answer": answer}


LOG = [
    line("agreed", "live", 0.7),
    line("agreed", "shadow", 0.9, seconds=0.03),
    line("turned", "live", 0.6),
    line("failed", "live", 0.2),
    line("turned", "shadow", 0.4, seconds=0.01),  # answers come in the order in which they can
    line("failed", "shadow", seconds=0.02),
    line("not copied", "live", 0.5, seconds=0.05),
]


def test_each_request_is_one_row_and_a_missing_copy_a_gap():
    log = shadow.joined(LOG)
    assert list(log.index) == ["agreed", "turned", "failed", "not copied"]
    assert log.shadow_status.tolist()[:3] == [200, 200, 500]
    assert log.shadow_status.isna().tolist() == [False, False, False, True]
    assert log.loc["turned", "shadow_scores"] == [0.4]
    assert log.loc["turned", "shadow_predictions"] == [0]
    assert log[["shadow_predictions", "shadow_scores"]].isna().all(axis=1).tolist() == [
        *[False, False, True, True]
    ]


def test_two_of_three_answers_agree_and_the_largest_difference_is_told():
    sides = [("live", 0.9), ("shadow", 0.8), ("live", 0.2), ("shadow", 0.3), ("live", 0.4)]
    log = [line(str(place // 2), *told) for place, told in enumerate([*sides, ("shadow", 0.8)])]
    measures = shadow.measured(shadow.joined(log))
    assert measures["agreement"] == 0.666667  # to six digits
    assert measures["mean_difference"] == 0.2
    assert measures["largest_difference"] == 0.4


def test_the_measures_are_those_that_one_counts_by_hand():
    assert shadow.measured(shadow.joined(LOG)) == pytest.approx({
        "copies": 0.75,
        "errors": 0.333333,
        "agreement": 0.5,
        "mean_difference": 0.2,
        "largest_difference": 0.2,
        "p50_ms": 20.0,
        "p99_ms": 29.8,
        "live_errors": 0.0,
        "live_p50_ms": 10.0,
        "live_p99_ms": 48.8,
    })


def test_a_request_with_many_rows_counts_each_of_them():
    log = shadow.joined([line("many", "live", 0.6, rows=3), line("many", "shadow", 0.7, rows=3)])
    assert len(shadow.answered_by_both(log)) == 3


def test_an_id_that_is_used_twice_counts_once():
    assert len(shadow.joined([*LOG, line("agreed", "live", 0.1)])) == 4


def test_a_shadow_that_answers_nothing_agrees_with_nobody():
    measured = shadow.measured(shadow.joined([line("one", "live", 0.6), line("one", "shadow")]))
    assert measured["errors"] == 1
    assert not measured.keys() & {"agreement", "mean_difference", "largest_difference"}


def test_without_callers_there_is_nothing_to_compare():
    with pytest.raises(ValueError, match=r"^nobody asked anything while the shadow ran"):
        shadow.measured(shadow.joined([line("late", "shadow", 0.6)]))


def test_callers_of_whom_no_copy_was_sent_are_told_of_with_the_live_measures():
    assert shadow.measured(shadow.joined([line("alone", "live", 0.6, seconds=0.02)])) == {
        "copies": 0.0,
        "live_errors": 0.0,
        "live_p50_ms": 20.0,
        "live_p99_ms": 20.0,
    }
