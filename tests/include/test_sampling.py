"""Ways to make a rare label count: how many rows there are, and what each weighs."""

import pandas as pd
import pytest

from include.data import sampling

TRAIN = pd.DataFrame({
    "payment_id": range(100, 120),
    "amount": [float(number) for number in range(20)],
    "age": range(20, 40),
    "shop": ["a", "b"] * 10,
    "fraud": [1, 0, 0, 0, 0] * 4,
})


def test_untouched_rows_weigh_the_same():
    weighed = sampling.untouched(TRAIN)
    assert weighed.drop(columns="weight").equals(TRAIN)
    assert weighed["weight"].tolist() == [1.0] * 20
    assert "weight" not in TRAIN


def test_class_weights_keep_all_rows_and_make_both_labels_weigh_the_same():
    weighed = sampling.class_weights(TRAIN, "fraud")
    assert weighed.drop(columns="weight").equals(TRAIN)
    # 4 of 20 are fraud: each weighs 20 / (2 * 4), each other 20 / (2 * 16).
    assert weighed["weight"].tolist() == [2.5, 0.625, 0.625, 0.625, 0.625] * 4


def test_undersampling_keeps_all_of_the_rare_label_and_as_many_others():
    drawn = sampling.undersampled(TRAIN, "fraud", seed=1)
    assert drawn["fraud"].value_counts().to_dict() == {0: 4, 1: 4}
    assert set(drawn["payment_id"][drawn["fraud"] == 1]) == {100, 105, 110, 115}
    assert drawn["payment_id"].is_unique
    assert set(drawn["weight"]) == {1.0}
    assert drawn.equals(sampling.undersampled(TRAIN, "fraud", seed=1))
    assert not drawn.equals(sampling.undersampled(TRAIN, "fraud", seed=2))


def test_oversampling_repeats_rows_of_the_rare_label():
    drawn = sampling.oversampled(TRAIN, "fraud", seed=1)
    assert drawn["fraud"].value_counts().to_dict() == {0: 16, 1: 16}
    assert set(drawn["payment_id"][drawn["fraud"] == 1]) == {100, 105, 110, 115}
    assert drawn.head(20).drop(columns="weight").equals(TRAIN)
    assert set(drawn["weight"]) == {1.0}
    assert drawn.equals(sampling.oversampled(TRAIN, "fraud", seed=1))
    assert not drawn.equals(sampling.oversampled(TRAIN, "fraud", seed=2))


@pytest.fixture(scope="module")
def many():
    """Rows enough that each of the rare label has five neighbours."""
    rows = pd.concat([TRAIN] * 2, ignore_index=True)
    return rows.assign(
        payment_id=range(100, 140), amount=[number / 4 for number in range(40)], note="real"
    ).set_axis(range(500, 540))  # as a split leaves them: not counted from 0


def test_smote_makes_rows_between_neighbours_that_have_no_id(many):
    drawn = sampling.smote(many, "fraud", ["amount", "age"], ["shop"], seed=1)
    assert drawn["fraud"].value_counts().to_dict() == {0: 32, 1: 32}
    assert drawn.index.tolist() == list(range(64))
    real, made = drawn.head(40), drawn.tail(24)
    assert real["payment_id"].tolist() == many["payment_id"].tolist()
    assert real.drop(columns=["payment_id", "weight"]).equals(
        many.drop(columns="payment_id").reset_index(drop=True)
    )
    assert made[["payment_id", "note"]].isna().all(axis=None)
    assert set(made["fraud"]) == {1}
    assert set(drawn["weight"]) == {1.0}
    known = many[many["fraud"] == 1]
    assert made["amount"].between(known["amount"].min(), known["amount"].max()).all()
    assert not set(made["amount"]) <= set(known["amount"])
    assert set(made["shop"]) <= {"a", "b"}


def test_smote_keeps_ids_whole_and_features_and_labels_as_they_were(many):
    drawn = sampling.smote(many, "fraud", ["amount", "age"], ["shop"], seed=1)
    kinds = {name: str(kind) for name, kind in drawn.dtypes.items()}
    assert kinds["payment_id"] == "Int64"
    assert (kinds["amount"], kinds["age"], kinds["fraud"]) == ("float64", "int64", "int64")


def test_smote_draws_by_its_seed(many):
    once, again, other = (
        sampling.smote(many, "fraud", ["amount", "age"], ["shop"], seed) for seed in (1, 1, 2)
    )
    assert once.equals(again)
    assert not once.equals(other)
