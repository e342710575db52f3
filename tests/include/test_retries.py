"""What may mend itself is tried again; what can't fails at once."""

import json
from datetime import timedelta

import pytest
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import AirflowNotFoundException

from include import retries, storage
from include.data.quality import BrokenExpectations
from include.training.model_format import UntrustedModel


def decision(error):
    return retries.POLICY.evaluate(error, try_number=1, max_tries=3)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError(),
        ConnectionResetError(),
        TimeoutError(),
        BlockingIOError(),
        InterruptedError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_passing_fault_is_tried_again_when_a_service_may_be_back(error):
    decided = decision(error)
    assert (decided.action, decided.reason) == (RetryAction.RETRY, "the service may come back")
    assert decided.retry_delay == timedelta(seconds=30)


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        TypeError(),
        KeyError("column"),
        AttributeError(),
        AssertionError(),
        ZeroDivisionError(),
        ModuleNotFoundError(),
        NotImplementedError(),
        FileNotFoundError(),
        PermissionError(),
        MemoryError(),
        json.JSONDecodeError("no JSON", "", 0),
        storage.DamagedArtifact(),
        BrokenExpectations(),
        UntrustedModel(),
        AirflowNotFoundException(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_lasting_fault_fails_at_once(error):
    decided = decision(error)
    assert decided.action == RetryAction.FAIL
    assert decided.reason == "another try would fail in the same way"


def test_what_no_rule_names_is_retried_as_usual():
    assert decision(RuntimeError()).action == RetryAction.DEFAULT
