"""How many processes `make test` starts."""

import pytest

from tests.conftest import GIB, workers


@pytest.mark.parametrize(
    ("cores", "gib", "expected"),
    [(1, 64, 1), (2, 3, 2), (2, 24, 2), (4, 16, 4), (8, 16, 4), (16, 2, 2)],
)
def test_each_core_gets_a_worker_while_there_are_4_gib_for_each(cores, gib, expected):
    assert workers(cores, gib * GIB) == expected
