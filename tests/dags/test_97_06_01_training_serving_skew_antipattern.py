"""97.6.1 Training-Serving Skew: the mistakes cost what the file says, the cure has none."""

import pytest
from sklearn.metrics import roc_auc_score

from include import storage
from include.features import payments as features

DAG = "97_06_01_training_serving_skew_antipattern"
MISTAKES = {
    "copied_transformation": "log_amount",
    "batch_statistics": "log_amount",
    "value_of_now": "disputes_known",
}


@pytest.fixture(scope="module")
def run(run_dag):
    return run_dag(DAG)


@pytest.fixture(scope="module")
def paid(run):
    return run.frame("data.payments", "payments")


@pytest.mark.shows("97.6.1", "Show skew examples")
@pytest.mark.parametrize(("mistake", "feature"), MISTAKES.items())
def test_each_mistake_feeds_the_model_something_else_than_training_computes(run, mistake, feature):
    served = run.frame(f"wrong.{mistake}", "served")
    proper = run.frame("right.serve")
    assert (served[feature] != proper[feature]).mean() > 0.05


@pytest.mark.shows("97.6.1", "Demonstrate prediction errors")
def test_the_table_states_what_was_delivered_and_how_many_decisions_changed(run, paid):
    harm = run.xcom("compare")
    for mistake in MISTAKES:
        served = run.frame(f"wrong.{mistake}", "served")
        expected = roc_auc_score(paid.loc[served.index, "fraud"], served["score"])
        assert harm[mistake]["delivered"] == pytest.approx(expected, abs=1e-4)
    assert harm["copied_transformation"]["decided_differently"] > 0.5
    assert abs(harm["copied_transformation"]["auc_lost"]) < 0.01  # the AUC does not see it
    assert harm["batch_statistics"]["auc_lost"] > 0.05
    assert harm["value_of_now"]["auc_lost"] > 0.05


@pytest.mark.shows("97.6.1", "Provide feature store patterns")
def test_online_and_offline_features_are_the_same_bytes(run, paid):
    offline = features.as_of(paid, run.frame("data.payments", "disputes"))
    online = run.frame("right.serve")
    for feature in features.FEATURES:
        same = offline.loc[online.index, feature]
        assert online[feature].to_numpy().tobytes() == same.to_numpy().tobytes()


@pytest.mark.shows("97.6.1", "Provide feature store patterns")
def test_a_late_dispute_never_reaches_an_earlier_payment(paid, run):
    disputes = run.frame("data.payments", "disputes")
    training = features.as_of(paid, disputes)
    for row in paid.sample(200, random_state=0).itertuples():
        known = (disputes["account"] == row.account) & (disputes["known_at"] <= row.at)
        assert training.loc[row.Index, "disputes_known"] == known.sum()


@pytest.mark.shows("97.6.1", "Include consistency testing")
def test_the_replay_finds_each_mistake_by_its_feature_and_none_in_the_right_way(run):
    found = {name: row["first_difference"] for name, row in run.xcom("compare").items()}
    assert found == MISTAKES
    assert (
        run.xcom("right.replay")
        == f"{len(run.frame('right.serve'))} requests, every feature the same"
    )


def test_serving_a_changed_feature_makes_the_replay_fail_and_name_it(run_dag, monkeypatch):
    plain = features.Accounts.features

    def drifted(self, account, at, amount):
        return plain(self, account, at, amount) | {"at_night": 0.5}

    real = features.as_of
    monkeypatch.setattr(features.Accounts, "features", drifted)

    def undrifted(payments, disputes):
        with monkeypatch.context() as inner:
            inner.setattr(features.Accounts, "features", plain)
            return real(payments, disputes)

    monkeypatch.setattr(features, "as_of", undrifted)
    failed = run_dag(DAG, expect="failed")
    assert failed.error("right.replay").startswith("at_night is served with other values")
    assert failed.tries("right.replay") == 1


def test_compare_fails_when_a_mistake_is_repaired(run_dag, monkeypatch):
    import numpy as np

    euros = np.log1p
    monkeypatch.setattr(np, "log1p", lambda cents: euros(cents / 100))
    failed = run_dag(DAG, expect="failed")
    assert failed.states["right.replay"] == "success"
    assert "the lesson is gone: copied_transformation" in failed.error("compare")
    assert failed.tries("compare") == 1


def test_the_same_date_again_writes_the_same_bytes(run, run_dag):
    again = run_dag(DAG, logical_date=run.logical_date)
    assert again.xcom("compare") == run.xcom("compare")
    assert again.digest("right.train") == run.digest("right.train")


def test_a_file_that_was_changed_is_refused_by_name(run_dag, monkeypatch):
    write = storage.write_frame

    def damaging(frame, name):
        reference = write(frame, name)
        if name == "training.parquet":
            path = storage.local_path(reference)
            path.write_bytes(path.read_bytes()[:-1] + b"\0")
        return reference

    monkeypatch.setattr(storage, "write_frame", damaging)
    failed = run_dag(DAG, expect="failed")
    assert "training.parquet was changed after it was written" in failed.error("right.train")
    assert failed.tries("right.train") == 1
