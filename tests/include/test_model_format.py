"""Models as bytes: the same for the same training, and nothing in them is run."""

import pickle
from collections import Counter

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from include.training import model_format

ROWS = np.random.default_rng(97).normal(size=(200, 3))
LABELS = (ROWS[:, 0] > 0).astype(int)


def fitted(*steps):
    return make_pipeline(*steps, LogisticRegression()).fit(ROWS, LABELS)


def test_the_same_training_gives_the_same_bytes():
    assert model_format.dumps(fitted()) == model_format.dumps(fitted())


def test_a_model_comes_back_with_the_same_answers():
    model = fitted()
    again = model_format.loads(model_format.dumps(model))
    assert (again.predict_proba(ROWS) == model.predict_proba(ROWS)).all()


def test_a_type_that_nobody_has_reviewed_is_refused_by_name():
    content = model_format._skops().dumps(Counter("abc"))
    with pytest.raises(model_format.UntrustedModel, match=r"collections\.Counter.*TRUSTED_TYPES"):
        model_format.loads(content)


def test_a_function_of_somebody_else_is_not_called():
    content = model_format.dumps(fitted(FunctionTransformer(print_and_return)))
    with pytest.raises(model_format.UntrustedModel, match="print_and_return"):
        model_format.loads(content)


def print_and_return(rows):
    return rows


@pytest.mark.parametrize("content", [b"", pickle.dumps({"a": 1}), b"PK\x03\x04 and no more"])
def test_what_is_no_model_is_refused(content):
    with pytest.raises(model_format.UntrustedModel, match="are not a skops file"):
        model_format.loads(content)
