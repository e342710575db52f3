"""The feature store of payments, event by event, and its point-in-time join."""

import math

import pandas as pd
import pytest

from include.features import payments

NOON = pd.Timestamp("2026-01-01 12:00:00")
HOUR = pd.Timedelta(hours=1)


def seen(accounts, account=1, at=NOON, amount=0.0):
    return accounts.features(account, at, amount)


def test_the_features_of_a_first_payment_by_hand():
    assert seen(payments.Accounts(), amount=math.e - 1) == {
        "log_amount": pytest.approx(1),
        "at_night": 0.0,
        "payments_24h": 0.0,
        "disputes_known": 0.0,
    }


@pytest.mark.parametrize(("hour", "night"), [(0, 1), (5, 1), (6, 0), (23, 0)])
def test_it_is_night_before_six(hour, night):
    at = pd.Timestamp(f"2026-01-01 {hour:02}:59:59")
    assert seen(payments.Accounts(), at=at)["at_night"] == night


def test_payments_of_the_last_twenty_four_hours_are_counted_for_each_account():
    accounts = payments.Accounts()
    for hours in (0, 10, 20):
        accounts.pay(1, NOON + hours * HOUR)
    accounts.pay(2, NOON)
    assert seen(accounts, at=NOON + 24 * HOUR)["payments_24h"] == 3
    later = NOON + 24 * HOUR + pd.Timedelta(seconds=1)
    assert seen(accounts, at=later)["payments_24h"] == 2
    assert seen(accounts, at=NOON + 60 * HOUR)["payments_24h"] == 0
    assert seen(accounts, account=2, at=NOON)["payments_24h"] == 1
    assert seen(accounts, account=3, at=NOON)["payments_24h"] == 0


def test_disputes_are_counted_for_each_account():
    accounts = payments.Accounts()
    for account in (1, 1, 2):
        accounts.dispute(account)
    assert [seen(accounts, account)["disputes_known"] for account in (1, 2, 3)] == [2, 1, 0]


def test_to_ask_for_features_changes_nothing():
    accounts = payments.Accounts()
    assert seen(accounts) == seen(accounts)


def test_history_is_told_to_each_payment_as_of_its_own_moment():
    paid = pd.DataFrame(
        {
            "account": [1, 1, 2, 1],
            "at": [NOON, NOON + HOUR, NOON + HOUR, NOON + 2 * HOUR],
            "amount": [0.0, 0.0, math.e - 1, 0.0],
        },
        index=[10, 11, 12, 13],
    )
    disputes = pd.DataFrame({
        "account": [1, 1, 2],
        "known_at": [NOON + HOUR, NOON + 2 * HOUR, NOON + 3 * HOUR],
    })
    found = payments.as_of(paid, disputes)
    assert list(found) == ["log_amount", "at_night", "payments_24h", "disputes_known"]
    assert found.index.tolist() == [10, 11, 12, 13]
    assert found["log_amount"].tolist() == pytest.approx([0, 0, 1, 0])
    assert found["payments_24h"].tolist() == [0, 1, 0, 2]
    assert found["disputes_known"].tolist() == [0, 1, 0, 2]  # known from their very moment on
    without = payments.as_of(paid, disputes.head(0))
    assert without["disputes_known"].tolist() == [0] * 4
    nobody = payments.as_of(paid.head(0), disputes)
    assert (list(nobody), len(nobody)) == (payments.FEATURES, 0)


def test_the_first_feature_that_differs_in_a_bit_is_named():
    served = pd.DataFrame({name: [1.0] for name in payments.FEATURES})
    assert payments.first_difference(served, served.copy()) is None
    replayed = served.assign(at_night=math.nextafter(1, 2), disputes_known=2.0)
    assert payments.first_difference(served, replayed) == "at_night"
