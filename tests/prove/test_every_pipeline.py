"""What must hold of every pipeline: on a copy, in a whole Airflow, at two dates at once."""

import pytest

from tests.prove.claims import CLAIMS


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_pipeline_keeps_the_promise(world, dag_id, claim):
    CLAIMS[claim](world, f"copy_of_{dag_id[:8]}")
