"""Start Airflow once on copies of the pipelines that are to be proved, and keep the ledger."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.prove import ledger
from tests.prove.cases import CASES
from tests.prove.claims import CLAIMS
from tests.prove.world import World, copied, opened

FAST_DISK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()  # noqa: S108


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--dags", default="", help="the pipelines to prove, with commas between them")


def named(config: pytest.Config) -> list[str]:
    """The pipelines that are to be proved."""
    return [name for name in config.getoption("--dags").split(",") if name]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "dag_id" in metafunc.fixturenames:
        metafunc.parametrize("dag_id", named(metafunc.config), scope="session")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Keeper(named(config)))
    for sign in (signal.SIGINT, signal.SIGTERM):  # Airflow ends with the proofs, however they end
        signal.signal(sign, signal.default_int_handler)


class Keeper:
    """Enters in the ledger what was proved, as it stood when the proofs began."""

    def __init__(self, dag_ids: list[str]) -> None:
        """Take the digests before anybody changes a file."""
        self.digests = {dag_id: ledger.digest(dag_id) for dag_id in dag_ids}
        self.outcomes: dict[str, list[str]] = {dag_id: [] for dag_id in dag_ids}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember how each pipeline's tests ended."""
        for dag_id, outcomes in self.outcomes.items():
            if dag_id in report.nodeid and (report.when == "call" or not report.passed):
                outcomes.append(report.outcome)

    def pytest_sessionfinish(self) -> None:
        """Enter the pipelines of which every claim held, and strike those of which one failed."""
        whole = ["passed"] * len(CLAIMS)  # less where the proofs were interrupted
        proved = [name for name, outcomes in self.outcomes.items() if outcomes == whole]
        failed = [name for name, outcomes in self.outcomes.items() if "failed" in outcomes]
        ledger.record({name: self.digests[name] for name in proved}, failed)


@pytest.fixture(scope="session")
def world(pytestconfig: pytest.Config) -> Iterator[World]:
    """The Airflow that runs the copies."""
    pipelines = [copied(dag_id, CASES[dag_id]) for dag_id in named(pytestconfig)]
    with (
        tempfile.TemporaryDirectory(prefix="catalogue-proofs-", dir=FAST_DISK) as home,
        opened(Path(home) / "world", pipelines) as started,
    ):
        yield started
