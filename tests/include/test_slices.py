"""A model on parts of its data: each part by hand, and the rows that belong to none."""

import numpy as np
import pandas as pd
import pytest

from include.evaluation import slices

ROWS = pd.DataFrame(
    {
        "plan": ["a", "a", None, None, None, None],
        "region": [1, 2, 1, 2, 2, 2],
        "label": [0, 1, 0, 1, 1, 0],
        "score": [0.1, 0.9, 0.9, 0.1, 0.2, 0.8],
    },
    index=range(10, 16),
)


def test_rows_without_a_part_are_a_part_of_their_own():
    assert slices.named(ROWS["plan"]).tolist() == ["a", "a", *["(missing)"] * 4]
    assert slices.named(ROWS["region"]).tolist() == ["1", "2", "1", "2", "2", "2"]
    assert slices.auc_by(ROWS["plan"], ROWS["label"], ROWS["score"]) == {
        "(missing)": 0.0,
        "a": 1.0,
    }
    rates = slices.rates_by(ROWS["plan"], ROWS["label"], ROWS["score"] > 0.5)
    assert rates["(missing)"] == {"of all": 0.5, "of true": 0.0, "of false": 1.0}
    assert rates["widest gap"] == {"of all": 0.0, "of true": 1.0, "of false": 1.0}


def test_a_category_of_pandas_may_be_missing_too():
    assert slices.named(ROWS["plan"].astype("category")).tolist()[1:3] == ["a", "(missing)"]


def test_a_table_has_a_row_for_each_part_of_each_column():
    table = slices.table(ROWS, ["plan", "region"], "label", "score")
    assert list(table) == ["column", "part", "rows", "auc"]
    assert table.drop(columns="auc").to_numpy().tolist() == [
        ["plan", "(missing)", 4],
        ["plan", "a", 2],
        ["region", "1", 2],
        ["region", "2", 4],
    ]
    # The two of region 1 are both of one label; of the 3 pairs of region 2 one is in order.
    assert table["auc"].tolist() == pytest.approx([0, 1, np.nan, 1 / 3], nan_ok=True)


def test_an_auc_between_nothing_and_all_by_hand():
    part = pd.Series(["a"] * 4)
    assert slices.auc_by(part, [0, 1, 0, 1], [0.1, 0.3, 0.5, 0.9]) == {"a": 3 / 4}


def test_rates_of_two_groups_by_hand():
    part = pd.Series(["a"] * 4 + ["b"] * 4)
    labels = [1, 1, 0, 0] * 2
    decided = [True, True, True, False, True, False, False, False]
    rates = slices.rates_by(part, labels, decided)
    assert rates == {
        "a": {"of all": 0.75, "of true": 1.0, "of false": 0.5},
        "b": {"of all": 0.25, "of true": 0.5, "of false": 0.0},
        "widest gap": {"of all": 0.5, "of true": 0.5, "of false": 0.5},
    }
