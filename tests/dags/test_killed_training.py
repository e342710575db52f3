"""Whoever kills a training, and however rudely: tried again, it ends where it would have ended."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from include.tools import environment
from tests.harness import BRIEFLY

# The task that trains, or does what the pipeline has instead of training.
TRAINING = {
    "97_01_01": "model.train",
    "97_01_02": "transform.fit",
    "97_01_03": "version.commit",
    "97_01_04": "train.train",
    "97_01_05": "store.train",
    "97_02_01": "train.taskflow",
    "97_02_02": "train.all_reduce",
    "97_02_03": "bayesian.round_2",
    "97_02_04": "trial.fit",
    "97_02_05": "training.train",
}
SETTINGS = BRIEFLY | {"97_02_04_training_dynamic_mapping": {"study": "one_impossible"}}
# What speaks of earlier runs, of which there are more by then, or of the run by its name.
NOT_COMPARED = ("clean.plan", "scale_out.manifest")
MAY_FAIL = ("trial.fit", "trial.score")
DAGS = {path.stem[:8]: path.stem for path in sorted(environment.DAGS.glob("97_0[12]_*.py"))}
DAYS = (datetime(2030, 1, 6, tzinfo=UTC) + timedelta(days=day) for day in range(1000))


def artifacts(run):
    """The digest of everything that the run passed on by reference."""
    return {
        where: re.findall(r"#sha256=([0-9a-f]{64})", str(value))
        for where, value in run.xcoms().items()
        if where[0] not in NOT_COMPARED
    }


def versions(registry, dag_id, key):
    found = registry.client.search_model_versions(f"name = '{dag_id}'")
    return sorted(each.tags["sha256"] for each in found if each.tags["airflow.run_key"] == key)


@pytest.mark.slow
@pytest.mark.parametrize("number", DAGS)
def test_a_killed_training_that_is_tried_again_ends_in_the_same_state(number, run_dag, registry):
    from tests.dags import killed

    dag_id, task_id = DAGS[number], TRAINING[number]
    conf = SETTINGS.get(dag_id, {})
    calm, rough = next(DAYS), next(DAYS)
    whole = run_dag(dag_id, conf=conf, logical_date=calm, may_fail=MAY_FAIL)
    killed.run(dag_id, conf, rough, after=task_id)
    again = run_dag(dag_id, conf=conf, logical_date=rough, may_fail=MAY_FAIL)
    assert again.states == whole.states
    assert artifacts(again) == artifacts(whole)
    assert versions(registry, dag_id, again.key) == versions(registry, dag_id, whole.key)
