"""97.4.2 Model Validation Gates: every way through, and production untouched by all but two."""

import json
from datetime import UTC, datetime
from urllib.request import urlopen

import pytest
from airflow.models.hitl import HITLDetail
from airflow.providers.standard.operators.hitl import HITLOperator
from sklearn.metrics import average_precision_score, recall_score, roc_auc_score

from include import storage, tracking

DAG = "97_04_02_validation_gates"
ASKED = {"grey_zone": 1.0}
ADA = {"id": "7", "name": "ada"}


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
            answered = HITLDetail(
                # On a timeout the scheduler puts the defaults in the place of an answer.
                chosen_options=[option] if by else self.defaults,
                params_input={},
                responded_at=datetime.now(UTC),
                responded_by=by,
            )
            event = answered.as_resume_event_payload(timedout=by is None)
            return self.execute_complete(context, event)

        monkeypatch.setattr(HITLOperator, "execute", execute)
        return shown

    return give


@pytest.fixture
def no_champion(registry, first):
    """As if nothing had ever been promoted; the alias is put back after the test."""
    before = tracking.champion(DAG).number
    registry.client.delete_registered_model_alias(DAG, tracking.CHAMPION)
    yield
    registry.client.set_registered_model_alias(DAG, tracking.CHAMPION, before)


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
    expected = {
        "roc_auc": roc_auc_score(holdout.churned, scores),
        "recall": recall_score(holdout.churned, scores >= 0.5),
        "average_precision": average_precision_score(holdout.churned, scores),
    }
    for plan in ("monthly", "yearly", "family"):
        part = (holdout.plan == plan).to_numpy()
        expected[f"AUC {plan}"] = roc_auc_score(holdout.churned[part], scores[part])
    rows = {row["metric"]: row for row in first.xcom("gate.check_thresholds")}
    assert {name: row["value"] for name, row in rows.items()} == pytest.approx(expected)
    assert all(row["kept"] == (row["value"] >= row["least"]) for row in rows.values())


@pytest.mark.shows("97.4.2", "Performance thresholds")
def test_one_plan_that_the_model_misjudges_is_enough_although_the_whole_is_good(
    run_dag, warehouse, no_champion
):
    # Families who call stay, unlike everybody else who calls.
    warehouse.execute(
        "UPDATE customers SET churned = 0 WHERE plan = 'family' AND support_calls > 1"
    )
    failed = run_dag(DAG)
    assert outcome(failed) == {"reject": "success"}
    assert failed.xcom("measure.measure")["gain"] > 0.1
    rows = {row["metric"]: row for row in failed.xcom("gate.check_thresholds")}
    assert [name for name, row in rows.items() if not row["kept"]] == ["AUC family"]
    (reason,) = storage.read_json(failed.reference("release.reject"))["reasons"]
    assert reason == f"AUC family is {rows['AUC family']['value']:.4f}, at least 0.65 is wanted"


@pytest.mark.shows("97.4.2", "Automated rejection")
def test_a_bad_candidate_is_rejected_with_the_broken_thresholds_named(first, run_dag, registry):
    before = tracking.champion(DAG)
    bad = run_dag(DAG, conf={"training_rows": 20, **ASKED})
    assert outcome(bad) == {"reject": "success"}
    record = storage.read_json(bad.reference("release.reject"))
    broken = [row for row in bad.xcom("gate.check_thresholds") if not row["kept"]]
    assert broken
    for row in broken:
        named = f"{row['metric']} is {row['value']:.4f}, at least {row['least']} is wanted"
        assert named in record["reasons"]
    assert record["champion"] == before.number
    assert tracking.champion(DAG) == before
    (tagged,) = registry.runs(DAG, bad.key)
    assert tagged.data.tags["decision"] == f"rejected: {'; '.join(record['reasons'])}"


@pytest.mark.shows("97.4.2", "Automated rejection")
def test_a_candidate_that_gains_nothing_is_rejected_and_gets_no_version(first, run_dag):
    versions = tracking.versions(DAG)
    same = run_dag(DAG)
    assert outcome(same) == {"reject": "success"}
    record = storage.read_json(same.reference("release.reject"))
    assert record["reasons"] == ["gain is 0.0000, at least 0.01 is wanted"]
    assert tracking.versions(DAG) == versions


@pytest.mark.shows("97.4.2", "Branching on metrics")
@pytest.mark.parametrize(
    ("min_gain", "grey_zone", "taken"),
    [(0.2, 0.1, "promote"), (0.3, 0.05, "reject"), (0.25, 0.1, "ask")],
)
def test_a_person_is_asked_inside_the_band_and_only_there(
    run_dag, answer, no_champion, min_gain, grey_zone, taken
):
    answer("Reject", by=ADA)
    run = run_dag(DAG, conf={"min_gain": min_gain, "grey_zone": grey_zone})
    assert run.xcom("measure.measure")["gain"] == pytest.approx(0.258, abs=1e-3)
    assert next(iter(outcome(run))) == taken


@pytest.mark.shows("97.4.2", "Branching on metrics")
def test_a_better_candidate_replaces_a_champion_that_learned_from_less(
    run_dag, registry, no_champion
):
    modest = run_dag(DAG, conf={"training_rows": 150})
    champion = tracking.champion(DAG)
    assert champion.key == modest.key
    better = run_dag(DAG)
    assert outcome(better) == {"promote": "success"}
    measured = better.xcom("measure.measure")
    assert measured["champion"] == modest.xcom("measure.measure")["candidate"]
    assert 0.01 < measured["gain"] < 0.1
    assert tracking.champion(DAG).replaces == champion.number
    (logged,) = registry.runs(DAG, better.key)
    assert logged.data.tags["decision"] == f"promoted as version {tracking.champion(DAG).number}"
    assert registry.artifacts(tracking.champion(DAG)) == ["by_plan.png", "roc.png"]


@pytest.mark.shows("97.4.2", "Approval workflows")
def test_a_person_who_approves_lets_the_candidate_go_live(first, run_dag, answer):
    before = tracking.champion(DAG)
    shown = answer("Approve", by=ADA)
    approved = run_dag(DAG, conf=ASKED)
    assert outcome(approved) == {"ask": "success", "promote": "success"}
    champion = tracking.champion(DAG)
    assert champion.key == approved.key
    assert champion.replaces == before.number
    ((subject, body),) = shown
    assert "Release the candidate of 2026-" in subject
    assert f"**+0.000 AUC** on version {before.number}." in body
    assert "| Measure | Candidate | Champion | At least |\n|---|---|---|---|\n| roc_auc |" in body
    assert "\n| roc_auc | 0.758 | 0.758 | 0.7 |\n" in body
    assert "\n| AUC family | 0.735 | 0.735 | 0.65 |\n" in body
    assert f"All curves: runs:/{champion.run_id}" in body


@pytest.mark.shows("97.4.2", "Approval workflows")
@pytest.mark.parametrize("by", [ADA, None], ids=["a no", "the timeout"])
def test_a_no_and_no_answer_leave_production_as_it_was(first, run_dag, answer, by):
    before, versions = tracking.champion(DAG), tracking.versions(DAG)
    answer("Reject", by=by)
    refused = run_dag(DAG, conf=ASKED)
    assert outcome(refused) == {"ask": "success", "reject": "success"}
    record = storage.read_json(refused.reference("release.reject"))
    assert record["reasons"] == ["asked about a gain of 0.0000: a no, or no answer in time"]
    assert (tracking.champion(DAG), tracking.versions(DAG)) == (before, versions)


@pytest.mark.shows("97.4.2", "Approval workflows")
def test_a_tracking_server_shows_the_person_a_picture(run_dag, answer, mlflow_server, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", mlflow_server.connection)
    shown = answer("Reject", by=ADA)
    run_dag(DAG, conf=ASKED)
    ((_, body),) = shown
    _, _, picture = body.partition("![AUC within each plan](")
    with urlopen(mlflow_server.page(picture.partition(")")[0]), timeout=20) as page:
        assert page.read(8) == b"\x89PNG\r\n\x1a\n"


def test_who_does_not_answer_has_said_no(dags):
    ask = dags[DAG].get_task("release.ask")
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


def test_other_settings_for_the_date_of_the_champion_must_beat_it_too(run_dag, no_champion):
    promoted = run_dag(DAG)
    before = tracking.champion(DAG)
    worse = run_dag(DAG, conf={"training_rows": 150}, logical_date=promoted.logical_date)
    assert outcome(worse) == {"reject": "success"}
    assert worse.xcom("measure.measure")["replaces"] == before.number
    assert tracking.champion(DAG) == before


def test_two_dates_have_runs_and_files_of_their_own(run_dag, registry):
    one, other = (run_dag(DAG, conf={"training_rows": rows}) for rows in (60, 150))
    for run in (one, other):
        (logged,) = registry.runs(DAG, run.key)
        assert logged.data.metrics["roc_auc"] == run.xcom("measure.measure")["candidate"]["roc_auc"]
        assert f"/{run.key}/" in run.reference("release.reject")
    assert one.digest("candidate.train") != other.digest("candidate.train")


def test_what_is_passed_on_is_small(first):
    sizes = {where: len(json.dumps(what)) for where, what in first.xcoms().items()}
    assert max(sizes.values()) < 1024


def test_a_plan_without_a_threshold_stops_the_run_and_is_named(run_dag, warehouse):
    warehouse.execute("UPDATE customers SET plan = 'trial' WHERE customer_id = 9")
    failed = run_dag(DAG, expect="failed")
    assert "plan: expect" in failed.error("candidate.ingest")
    assert "fails for customer_id 9" in failed.error("candidate.ingest")
    assert failed.states["candidate.train"] == "upstream_failed"


def test_a_label_that_is_no_label_stops_the_run_and_is_named(run_dag, warehouse):
    warehouse.execute("UPDATE customers SET churned = 3 WHERE customer_id IN (11, 12)")
    failed = run_dag(DAG, expect="failed")
    assert "fails for customer_id 11, 12" in failed.error("candidate.ingest")
    assert failed.tries("candidate.ingest") == 1
    assert failed.states["candidate.train"] == "upstream_failed"
