"""What a bank knew of an account when its card was used, and the numbers that it becomes."""

import numpy as np
import pandas as pd
import pytest

from include.features import payment_risk


def at(*times):
    return pd.to_datetime([f"2026-01-{each}" for each in times])


PAYMENTS = pd.DataFrame({
    "payment_id": [1, 2, 3, 4],
    "account": [7, 7, 8, 7],
    "at": at("01 05:59:59", "05 06:00:00", "05 07:00:00", "09 23:00:00"),
    "amount": [10.0, 20.0, 30.0, 40.0],
    "shop": ["groceries", "electronics", "groceries", "groceries"],
})
DISPUTES = pd.DataFrame({
    "account": [7, 7],
    "event_at": at("01 05:59:59", "05 06:00:00"),
    "known_at": at("04 00:00:00", "08 00:00:00"),
})
RATINGS = pd.DataFrame({
    "account": [7, 7],
    "event_at": at("01 00:00:00", "01 00:00:00"),
    "known_at": at("03 00:00:00", "07 00:00:00"),
    "rating": [600.0, 520.0],
})


def test_each_payment_knows_the_disputes_and_the_rating_of_its_moment():
    rows = payment_risk.joined(PAYMENTS, DISPUTES, RATINGS)
    assert list(rows) == [
        *PAYMENTS,
        "dispute_known_at",
        "disputes_known",
        "rating_known_at",
        "rating",
        "part_of_day",
    ]
    assert rows["payment_id"].tolist() == [1, 2, 3, 4]
    assert rows["disputes_known"].tolist() == [0, 1, 0, 2]
    assert rows["rating"].tolist() == pytest.approx([np.nan, 600, np.nan, 520], nan_ok=True)
    assert rows["part_of_day"].tolist() == ["night", "day", "day", "day"]
    known = rows.loc[[1, 3], ["dispute_known_at", "rating_known_at"]].to_numpy().tolist()
    assert known == [[*at("04", "03")], [*at("08", "07")]]
    assert rows.loc[[0, 2], ["dispute_known_at", "rating_known_at"]].isna().all(axis=None)


ROWS = pd.DataFrame({
    "amount": np.expm1([1.0, 2.0, 3.0, 2.0]),
    "disputes_known": [0.0, 2.0, 0.0, 2.0],
    "rating": [500.0, np.nan, 600.0, 800.0],
    "shop": ["groceries", "electronics", "groceries", "groceries"],
    "part_of_day": ["day", "day", "night", "day"],
    "account": [1, 2, 3, 4],
})


def test_the_numbers_of_a_payment_by_hand():
    transformer = payment_risk.transformer().fit(ROWS)
    names = transformer.get_feature_names_out().tolist()
    assert names == [
        "log__amount",
        "scaled__disputes_known",
        "filled__rating",
        "filled__missingindicator_rating",
        "spread__shop_electronics",
        "spread__shop_groceries",
        "spread__part_of_day_day",
        "spread__part_of_day_night",
    ]
    found = pd.DataFrame(transformer.transform(ROWS), columns=names)
    assert found["log__amount"].tolist() == pytest.approx([-np.sqrt(2), 0, np.sqrt(2), 0])
    assert found["scaled__disputes_known"].tolist() == pytest.approx([-1, 1, -1, 1])
    # The gap is filled with the median, 600: the mean is 625, the variance 11,875.
    filled = (np.array([500, 600, 600, 800]) - 625) / np.sqrt(11_875)
    assert found["filled__rating"].tolist() == pytest.approx(filled.tolist())
    assert found["filled__missingindicator_rating"].tolist() == pytest.approx([
        -1 / np.sqrt(3),
        np.sqrt(3),
        -1 / np.sqrt(3),
        -1 / np.sqrt(3),
    ])
    assert found["spread__shop_electronics"].tolist() == [0, 1, 0, 0]
    assert found["spread__part_of_day_night"].tolist() == [0, 0, 1, 0]


def test_many_shops_give_a_table_without_holes():
    rows = pd.concat([ROWS] * 10).assign(shop=[f"shop {number}" for number in range(40)])
    assert isinstance(payment_risk.transformer().fit_transform(rows), np.ndarray)


def test_a_shop_that_nobody_has_met_is_none_of_the_known():
    transformer = payment_risk.transformer().fit(ROWS)
    (row,) = transformer.transform(ROWS.head(1).assign(shop="casino"))
    assert row[4:6].tolist() == [0, 0]
