"""The payments, disputes and ratings: the same for each seed, and with their planted truth."""

import numpy as np
import pandas as pd
import pytest

from include.data import payments

DAY = pd.Timedelta(days=1)


@pytest.fixture(scope="module")
def stream():
    return payments.stream()


@pytest.fixture(scope="module")
def ratings(stream):
    return payments.ratings(stream[1])


def test_the_stream_is_the_one_that_the_documented_numbers_rest_on(stream):
    paid, disputes = stream
    assert paid.head(3).to_dict("list") == {
        "payment_id": [1, 2, 3],
        "account": [313, 176, 313],
        "at": [
            pd.Timestamp("2026-01-01 00:03:59"),
            pd.Timestamp("2026-01-01 00:05:33"),
            pd.Timestamp("2026-01-01 00:13:07"),
        ],
        "shop": ["groceries", "electronics", "electronics"],
        "amount": [41.71, 320.51, 125.28],
        "fraud": [0, 1, 0],
    }
    assert paid[["account", "amount", "fraud"]].sum().tolist() == pytest.approx([
        2255968,
        1269807.47,
        790,
    ])
    assert paid["shop"].value_counts().to_dict() == {"groceries": 4500, "electronics": 4500}
    assert disputes["account"].sum() == 195638
    waited = (disputes["known_at"] - disputes["event_at"]).sum()
    assert waited == pd.Timedelta("4739 days 19:17:31")


def test_payments_come_in_the_order_of_time_within_ninety_days(stream):
    paid, _ = stream
    assert paid["payment_id"].tolist() == list(range(1, 9001))
    assert paid["at"].is_monotonic_increasing
    assert paid["at"].min() >= pd.Timestamp("2026-01-01")
    assert paid["at"].max() < pd.Timestamp("2026-01-01") + 90 * DAY
    assert set(paid["account"]) == set(range(500))


def test_each_fraud_is_disputed_once_two_to_ten_days_later(stream):
    paid, disputes = stream
    fraud = paid[paid["fraud"] == 1]
    assert list(disputes) == ["account", "event_at", "known_at"]
    assert disputes.index.tolist() == list(range(len(fraud)))
    assert disputes["known_at"].is_monotonic_increasing
    told = disputes.sort_values("event_at")[["account", "event_at"]].to_numpy().tolist()
    assert told == fraud[["account", "at"]].to_numpy().tolist()
    wait = disputes["known_at"] - disputes["event_at"]
    assert 2 * DAY <= wait.min() < 2.1 * DAY
    assert 9.9 * DAY < wait.max() < 10 * DAY


def test_fraud_is_likelier_for_high_amounts_at_night_and_for_whom_it_met_before(stream):
    paid, _ = stream
    night = paid["at"].dt.hour < 6
    share = paid["fraud"].mean()
    assert paid["fraud"][night].mean() > 1.5 * paid["fraud"][~night].mean()
    high = paid["amount"] > paid["amount"].quantile(0.75)
    assert paid["fraud"][high].mean() > 1.5 * share
    of_account = paid.groupby("account")["fraud"].sum()
    assert of_account.var() > 1.5 * of_account.mean()  # chance alone would make them equal


def test_electronics_cost_more_than_groceries(stream):
    logarithms = np.log(stream[0]["amount"]).groupby(stream[0]["shop"])
    assert logarithms.mean().to_dict() == pytest.approx(
        {"groceries": 3.2, "electronics": 5.2}, abs=0.05
    )
    assert logarithms.std().to_dict() == pytest.approx(
        {"groceries": 0.8, "electronics": 0.8}, abs=0.03
    )


def test_the_ratings_are_those_that_the_documented_numbers_rest_on(ratings):
    assert list(ratings) == ["account", "event_at", "known_at", "rating"]
    assert ratings.head(2).to_numpy().tolist() == [
        [348, pd.Timestamp("2025-12-01"), pd.Timestamp("2025-12-04 00:14"), 592.6],
        [93, pd.Timestamp("2025-12-01"), pd.Timestamp("2025-12-04 00:21"), 564.9],
    ]
    assert (len(ratings), ratings["account"].nunique()) == (2262, 452)
    assert ratings["rating"].sum() == pytest.approx(1325398.4)
    waited = (ratings["known_at"] - ratings["event_at"]).sum()
    assert waited == pd.Timedelta("18839 days 09:17:00")
    assert ratings.index.tolist() == list(range(2262))
    assert ratings["known_at"].is_monotonic_increasing
    at_once = ratings[ratings["known_at"].duplicated(keep=False)].groupby("known_at")["account"]
    assert at_once.is_monotonic_increasing.all()


def test_a_rating_is_published_in_the_first_days_of_its_month(ratings):
    first = ratings.drop_duplicates(["account", "event_at"])
    assert first["event_at"].value_counts().to_dict() == {
        pd.Timestamp(f"{month}-01"): 452 for month in ("2025-12", "2026-01", "2026-02", "2026-03")
    }
    wait = first["known_at"] - first["event_at"]
    assert 3 * DAY <= wait.min() < 3.1 * DAY
    assert 5.9 * DAY < wait.max() < 6 * DAY


def test_a_rating_lies_on_the_scale_and_falls_with_the_exposure_of_its_account(stream, ratings):
    assert (ratings["rating"].min(), ratings["rating"].max()) == (300, 850)
    fraud = stream[0].groupby("account")["fraud"].sum()
    december = ratings[ratings["event_at"] == "2025-12-01"].set_index("account")["rating"]
    assert december.corr(fraud.reindex(december.index)) < -0.2


def test_a_rating_is_lowered_by_forty_for_each_fraud_of_its_month_a_day_after_it_is_known():
    account = 348  # the first that is rated
    disputes = pd.DataFrame({
        "account": [account, account, account, 10_000],
        "event_at": pd.to_datetime([
            "2026-01-05 07",
            "2026-01-31 23",
            "2026-02-01 00",
            "2026-01-05 00",
        ]),
        "known_at": pd.to_datetime([
            "2026-02-08 10:00:00",
            "2026-02-03 12:00:01",
            "2026-02-09 10:00:00",
            "2026-02-08 00:00:00",
        ]),
    })
    ratings = payments.ratings(disputes)
    assert len(ratings) == 4 * 452 + 2  # nobody rates the last account
    of_account = ratings[ratings["account"] == account]
    january = of_account[of_account["event_at"] == "2026-01-01"]
    assert january["known_at"].tolist()[1:] == [pd.Timestamp("2026-02-09 10:00")]
    assert january["rating"].diff().tolist()[1:] == pytest.approx([-80])
    february = of_account[of_account["event_at"] == "2026-02-01"]
    assert february["known_at"].tolist()[1:] == [pd.Timestamp("2026-02-10 10:00")]
    assert february["rating"].diff().tolist()[1:] == pytest.approx([-40])
    to_the_minute = payments.ratings(disputes.iloc[1:2])
    assert pd.Timestamp("2026-02-04 12:01") in to_the_minute["known_at"].tolist()


def test_a_seed_gives_the_same_data_and_another_gives_other(stream):
    paid, disputes = payments.stream(200)
    again, other = payments.stream(200, seed=97), payments.stream(200, seed=98)
    assert paid.equals(again[0])
    assert disputes.equals(again[1])
    assert not paid.equals(other[0])
    assert payments.ratings(disputes).equals(payments.ratings(disputes, seed=97))
    assert not payments.ratings(disputes).equals(payments.ratings(disputes, seed=98))
