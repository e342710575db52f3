"""What may mend itself is tried again; what can't fails at once."""

import json

import pytest
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import AirflowNotFoundException

from include import retries, storage
from include.data.quality import BrokenExpectations
from include.training.model_format import UntrustedModel


def action(error):
    return retries.POLICY.evaluate(error, try_number=1, max_tries=3).action


@pytest.mark.parametrize(
    "error",
    [ConnectionError(), ConnectionResetError(), TimeoutError(), BlockingIOError()],
    ids=lambda error: type(error).__name__,
)
def test_a_passing_fault_is_tried_again(error):
    assert action(error) == RetryAction.RETRY


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        KeyError("column"),
        AssertionError(),
        ZeroDivisionError(),
        ModuleNotFoundError(),
        FileNotFoundError(),
        json.JSONDecodeError("no JSON", "", 0),
        storage.DamagedArtifact(),
        BrokenExpectations(),
        UntrustedModel(),
        AirflowNotFoundException(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_lasting_fault_fails_at_once(error):
    assert action(error) == RetryAction.FAIL


def test_what_no_rule_names_is_retried_as_usual():
    assert action(RuntimeError()) == RetryAction.DEFAULT
