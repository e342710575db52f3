"""Windows of live customers: what changed in each, and what is known of whom and when."""

from datetime import date

import numpy as np
import pytest

from include.data import churn, live

SEED, ROWS = 5, 1000


@pytest.fixture(scope="module")
def windows():
    return {planted: live.window(planted, SEED, ROWS, labelled=1.0) for planted in live.PLANTED}


def test_there_are_four_truths(windows):
    assert list(windows) == ["nothing", "usage", "plans", "meaning"]


def test_a_window_in_which_nothing_changed_has_customers_of_the_usual_kind(windows):
    came, left = windows["nothing"]
    usual = churn.customers(ROWS, SEED)
    assert came.equals(usual.drop(columns="churned"))
    assert list(left) == ["customer_id", "churned"]
    assert left["customer_id"].equals(came["customer_id"])
    assert not left["churned"].equals(usual["churned"])  # others leave than those who are known
    assert left["churned"].dtype == np.int64


def test_all_use_the_service_half_a_deviation_more(windows):
    usual, more = windows["nothing"][0], windows["usage"][0]
    assert (more["usage_hours"] - usual["usage_hours"]).unique() == pytest.approx(7.1)
    assert usual["usage_hours"].std() / 2 == pytest.approx(live.HALF_A_DEVIATION, abs=0.3)
    assert more.drop(columns="usage_hours").equals(usual.drop(columns="usage_hours"))


def test_half_of_the_monthly_customers_move_to_the_yearly_plan(windows):
    usual, moved = windows["nothing"][0], windows["plans"][0]
    monthly = usual["plan"] == "monthly"
    assert (moved["plan"][monthly] == "yearly").mean() == pytest.approx(0.5, abs=0.07)
    assert set(moved["plan"][monthly]) == {"monthly", "yearly"}
    assert moved["plan"][~monthly].equals(usual["plan"][~monthly])
    assert moved.drop(columns="plan").equals(usual.drop(columns="plan"))


def test_where_the_meaning_changed_the_customers_look_the_same(windows):
    assert windows["meaning"][0].equals(windows["nothing"][0])


@pytest.mark.parametrize("planted", live.PLANTED)
def test_customers_leave_as_often_as_the_planted_truth_says(windows, planted):
    came, left = windows[planted]
    chance = churn.chance(came, -0.45 if planted == "meaning" else 0.45)
    off = (
        (left["churned"] - chance).mean(),
        ((left["churned"] - chance) * came.support_calls).mean(),
    )
    assert off == pytest.approx((0, 0), abs=0.1)
    calls = left["churned"].corr(came["support_calls"])
    assert calls < -0.1 if planted == "meaning" else calls > 0.1


def test_the_labels_of_the_first_customers_are_known_by_the_end_of_a_window():
    came, known = live.window("nothing", SEED, ROWS)
    assert (len(came), len(known)) == (1000, 600)
    _, everybody = live.window("nothing", SEED, ROWS, labelled=1.0)
    assert known.equals(everybody.head(600))
    assert [len(each) for each in live.window("nothing", SEED)] == [2000, 1200]


@pytest.mark.parametrize(
    ("planted", "left", "yearly"),
    [
        ("nothing", 207821, 160507),
        ("usage", 180165, 160507),
        ("plans", 182592, 300173),
        ("meaning", 201052, 160507),
    ],
)
def test_the_windows_are_those_that_the_documented_numbers_rest_on(windows, planted, left, yearly):
    came, known = windows[planted]
    ids = came["customer_id"]
    assert (ids * known["churned"]).sum() == left
    assert ids[came["plan"] == "yearly"].sum() == yearly
    assert (live.ROWS, live.LABELLED_SHARE) == (2000, 0.6)


def test_a_seed_gives_the_same_window_and_another_gives_another():
    (came, known), (again, known_again) = (live.window("plans", SEED, 100) for _ in range(2))
    assert came.equals(again)
    assert known.equals(known_again)
    other, _ = live.window("plans", SEED + 1, 100)
    assert not came.equals(other)


def test_the_labels_of_a_day_become_known_within_the_three_days_after_it():
    day = date(2026, 1, 30)
    came, left = live.day("plans", day, 7)
    expected, known = live.window("plans", day.toordinal(), 7, labelled=1.0)
    assert came.equals(expected)
    assert left[["customer_id", "churned"]].equals(known)
    assert list(left) == ["customer_id", "churned", "day", "known_on"]
    assert set(left["day"]) == {"2026-01-30"}
    assert left["known_on"].tolist() == [
        *["2026-01-31"] * 3,
        *["2026-02-01"] * 2,
        *["2026-02-02"] * 2,
    ]
