"""Which failures are worth another try. Every pipeline hands `POLICY` to its tasks.

Plain `retries=2` alone makes a typo cost three tries and two hundred lines of log. What can't mend
itself fails at once, with its message; what may mend itself, a connection or a busy server, is
retried. The first rule that fits decides, so the passing faults that are subclasses of a lasting
one (a lost connection is an OSError) come first. What no rule names is retried as usual.

A lost connection is tried again after half a minute: a service that ended is back by then.
"""

from datetime import timedelta

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

PASSING: list[type[BaseException] | str] = [
    ConnectionError,
    TimeoutError,
    BlockingIOError,
    InterruptedError,
]
LASTING: list[type[BaseException] | str] = [
    ValueError,  # wrong parameters, broken files, failed expectations
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    ImportError,
    NotImplementedError,
    FileNotFoundError,
    PermissionError,
    MemoryError,
    "airflow.sdk.exceptions.AirflowNotFoundException",  # a missing connection or variable
]

RESTART = timedelta(seconds=30)
"""Longer than a service takes to start again on a busy machine."""

POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            PASSING, RetryAction.RETRY, retry_delay=RESTART, reason="the service may come back"
        ),
        RetryRule(LASTING, RetryAction.FAIL, reason="another try would fail in the same way"),
    ]
)
