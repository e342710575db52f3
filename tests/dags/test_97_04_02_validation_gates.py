"""97.4.2 Model Validation Gates: every way through, and production untouched by all but two."""

from datetime import UTC, datetime

import pytest
from airflow.providers.standard.operators.hitl import HITLOperator
from sklearn.metrics import roc_auc_score

from include import storage, tracking

DAG = "97_04_02_validation_gates"
ASKED = {"grey_zone": 1.0}


@pytest.fixture(scope="module")
def first(run_dag):
    return run_dag(DAG)


@pytest.fixture
def answer(monkeypatch):
    """Let somebody, or the clock, answer; returns what they were shown."""
    shown = []

    def give(option, by):
        def execute(self, context):
            shown.append((self.subject, self.body))
            event = {
                "chosen_options": [option],
                "params_input": {},
                "responded_at": datetime.now(UTC),
                "responded_by_user": by,
            }
            return self.execute_complete(context, event)

        monkeypatch.setattr(HITLOperator, "execute", execute)
        return shown

    return give


def outcome(run):
    return {
        name: run.states[f"release.{name}"]
        for name in ("ask", "promote", "reject")
        if run.states[f"release.{name}"] != "skipped"
    }


@pytest.mark.shows("97.4.2", "Branching on metrics")
def test_a_clear_gain_is_promoted_without_asking_anybody(first):
    assert outcome(first) == {"promote": "success"}
    assert first.xcom("measure.measure")["gain"] > 0.2
    assert tracking.champion(DAG).number == first.xcom("release.promote")


@pytest.mark.shows("97.4.2", "Performance thresholds")
def test_every_threshold_is_listed_with_the_value_that_scikit_learn_gives(first):
    holdout = first.frame("candidate.split", "holdout")
    scores = first.model("candidate.train").predict_proba(holdout)[:, 1]
    rows = {row["metric"]: row for row in first.xcom("gate.check_thresholds")}
    assert rows["roc_auc"]["value"] == pytest.approx(
        roc_auc_score(holdout.churned, scores), abs=5e-4
    )
    for plan in ("monthly", "yearly", "family"):
        part = (holdout.plan == plan).to_numpy()
        expected = roc_auc_score(holdout.churned[part], scores[part])
        assert rows[f"AUC {plan}"]["value"] == pytest.approx(expected, abs=5e-4)
    assert all(row["kept"] == (row["value"] >= row["least"]) for row in rows.values())


@pytest.mark.shows("97.4.2", "Automated rejection")
def test_a_bad_candidate_is_rejected_with_the_broken_thresholds_named(first, run_dag, registry):
    before = tracking.champion(DAG)
    bad = run_dag(DAG, conf={"training_rows": 20, **ASKED})
    assert outcome(bad) == {"reject": "success"}
    record = storage.read_json(bad.reference("release.reject"))
    broken = [row for row in bad.xcom("gate.check_thresholds") if not row["kept"]]
    assert broken
    for row in broken:
        assert f"{row['metric']} is {row['value']}, at least {row['least']} is wanted" in str(
            record
        )
    assert record["champion"] == before.number
    assert tracking.champion(DAG) == before
    (tagged,) = registry.runs(DAG, bad.key)
    assert tagged.data.tags["rejected"] == "; ".join(record["reasons"])


@pytest.mark.shows("97.4.2", "Automated rejection")
def test_a_candidate_that_gains_nothing_is_rejected_and_gets_no_version(first, run_dag):
    versions = tracking.versions(DAG)
    same = run_dag(DAG)
    assert outcome(same) == {"reject": "success"}
    record = storage.read_json(same.reference("release.reject"))
    assert record["reasons"] == ["the gain is 0.000, not 0.01"]
    assert tracking.versions(DAG) == versions


@pytest.mark.shows("97.4.2", "Approval workflows")
def test_a_person_who_approves_lets_the_candidate_go_live(first, run_dag, answer):
    before = tracking.champion(DAG)
    shown = answer("Approve", by={"id": "7", "name": "ada"})
    approved = run_dag(DAG, conf=ASKED)
    assert outcome(approved) == {"ask": "success", "promote": "success"}
    champion = tracking.champion(DAG)
    assert champion.key == approved.key
    assert champion.replaces == before.number
    ((subject, body),) = shown
    assert "Release the candidate" in subject
    assert f"version {before.number}" in body
    assert "| roc_auc | 0.75" in body
    assert "| AUC family |" in body


@pytest.mark.shows("97.4.2", "Approval workflows")
@pytest.mark.parametrize("by", [{"id": "7", "name": "ada"}, None], ids=["a no", "the timeout"])
def test_a_no_and_no_answer_leave_production_as_it_was(first, run_dag, answer, by):
    before = tracking.champion(DAG)
    answer("Reject", by=by)
    refused = run_dag(DAG, conf={"min_gain": 0.0, **ASKED})
    assert outcome(refused) == {"ask": "success", "reject": "success"}
    record = storage.read_json(refused.reference("release.reject"))
    assert record["reasons"] == ["a person said no, or nobody answered"]
    assert tracking.champion(DAG) == before


def test_who_does_not_answer_has_said_no(dagbag):
    ask = dagbag.dags[DAG].get_task("release.ask")
    assert ask.defaults == ["Reject"]
    assert ask.response_timeout.days == 1


def test_the_same_date_again_decides_the_same_and_makes_no_second_version(run_dag):
    fresh = run_dag(DAG, conf={"min_gain": 0.0})
    versions = tracking.versions(DAG)
    again = run_dag(DAG, conf={"min_gain": 0.0}, logical_date=fresh.logical_date)
    assert outcome(again) == outcome(fresh) == {"promote": "success"}
    assert again.xcom("measure.measure") == fresh.xcom("measure.measure")
    assert again.xcom("release.promote") == fresh.xcom("release.promote")
    assert tracking.versions(DAG) == versions


def test_a_label_that_is_no_label_stops_the_run_and_is_named(run_dag, warehouse):
    warehouse.execute("UPDATE customers SET churned = 3 WHERE customer_id IN (11, 12)")
    failed = run_dag(DAG, expect="failed")
    assert "fails for customer_id 11, 12" in failed.error("candidate.ingest")
    assert failed.tries("candidate.ingest") == 1
    assert failed.states["candidate.train"] == "upstream_failed"
