"""97.4.5 Model Drift Detection: what was planted is found, by the right test, and nothing else."""

import json
from functools import partial

import pytest
from airflow.sdk.exceptions import ParamValidationError
from scipy import stats

from include import storage, tracking
from include.data import live

DAG = "97_04_05_drift_detection"


@pytest.fixture(scope="module")
def run(run_dag):
    return run_dag(DAG)


@pytest.fixture(scope="module")
def quiet(run, run_dag):
    return run_dag(DAG, conf={"planted": "nothing"})


@pytest.fixture(scope="module")
def meaning(run, run_dag):
    return run_dag(DAG, conf={"planted": "meaning"})


def drifted(run):
    return {
        kind: run.xcom(f"drift.{kind}_drift")["drifted"]
        for kind in ("data", "prediction", "concept")
    }


@pytest.mark.shows("97.4.5", "Data drift monitoring")
def test_the_column_that_moved_is_found_and_no_other(run):
    table = run.frame("drift.data_drift", "table")
    assert drifted(run)["data"] == ["usage_hours"]
    assert table.wasserstein["usage_hours"] == pytest.approx(0.5, abs=0.06)
    assert table.psi.drop("usage_hours").max() < 0.05 < table.psi["usage_hours"]
    assert set(table.index) == {
        *("tenure_months", "monthly_fee", "usage_hours", "support_calls", "plan", "region")
    }


@pytest.mark.shows("97.4.5", "Data drift monitoring")
def test_the_reference_is_what_the_registered_model_was_trained_on(run, registry):
    champion = tracking.champion(DAG)
    tags = registry.client.get_run(champion.run_id).data.tags
    assert run.xcom("reference.find_model")["version"] == champion.number
    assert run.xcom("reference.find_model")["train"] == tags["training_data"]
    train, came = (
        run.frame("reference.find_model", "train"),
        run.frame("window.collect", "customers"),
    )
    scaler = tracking.load(DAG, champion.number)[0].named_transformers_["scaled"]
    assert scaler.mean_[2] == pytest.approx(train.usage_hours.mean())
    expected = stats.ks_2samp(train.usage_hours, came.usage_hours, method="asymp").pvalue
    assert run.frame("drift.data_drift", "table").p["usage_hours"] == expected


@pytest.mark.shows("97.4.5", "Prediction drift detection")
def test_the_answers_move_with_the_inputs_and_stay_without(run, quiet):
    assert drifted(run)["prediction"] == ["score"]
    before, now = run.frame("window.score", "before"), run.frame("window.score", "now")
    assert now.score.mean() < before.score.mean() - 0.03
    model = tracking.load(DAG, run.xcom("reference.find_model")["version"])
    assert now.score.tolist() == model.predict_proba(now)[:, 1].tolist()
    assert drifted(quiet)["prediction"] == []


@pytest.mark.shows("97.4.5", "Statistical tests")
def test_a_changed_meaning_is_found_by_the_errors_alone(run, meaning):
    assert drifted(meaning) == {
        "data": [],
        "prediction": [],
        "concept": ["scaled__support_calls"],
    }
    assert drifted(run)["concept"] == []  # other customers, and the model is right about them


@pytest.mark.shows("97.4.5", "Statistical tests")
def test_every_window_is_judged_by_adjusted_p_values(quiet):
    for kind in ("data", "concept"):
        table = quiet.frame(f"drift.{kind}_drift", "table")
        expected = stats.false_discovery_control(table.p)
        assert table.adjusted_p.tolist() == pytest.approx(expected.tolist())
        assert table.adjusted_p.min() > 0.01 / 3


@pytest.mark.shows("97.4.5", "Retraining triggers")
def test_drift_asks_for_retraining_and_says_why(run, meaning):
    (event,) = run.events("retraining")
    assert event == {
        "version": tracking.champion(DAG).number,
        "because": {"data": ["usage_hours"], "predictions": ["score"]},
        "window": run.xcom("window.score")["now"],
    }
    (other,) = meaning.events("retraining")
    assert other["because"] == {"concept": ["scaled__support_calls"]}
    assert run.states["retraining.keep"] == "skipped"


@pytest.mark.shows("97.4.5", "Retraining triggers")
def test_a_quiet_window_asks_for_nothing_and_says_so(quiet):
    assert drifted(quiet) == {"data": [], "prediction": [], "concept": []}
    assert quiet.states["retraining.trigger"] == "skipped"
    assert quiet.events("retraining") == []
    assert "No drift" in quiet.xcom("retraining.keep")


def test_the_report_shows_what_drifted(run, quiet, registry):
    shown = {}
    for each in (run, quiet):
        (logged,) = registry.runs(DAG, each.key)
        shown[each.key] = {file.path for file in registry.client.list_artifacts(logged.info.run_id)}
    assert shown[run.key] == {"report.html", "score.png", "usage_hours.png"}
    assert shown[quiet.key] == {"report.html", "score.png"}
    page = storage.read_bytes(run.reference("report")).decode()
    assert "data: usage_hours; predictions: score; concept: none." in page
    assert page.count("data:image/png;base64,") == 2


def test_without_labels_enough_the_other_two_tests_still_speak(run, run_dag, monkeypatch):
    monkeypatch.setattr(live, "window", partial(live.window, labelled=0.05))
    early = run_dag(DAG, conf={"planted": "plans"})
    assert drifted(early)["data"] == ["plan"]
    assert drifted(early)["concept"] == []
    page = storage.read_bytes(early.reference("report")).decode()
    assert "Too few labels are known to tell." in page
    assert len(early.events("retraining")) == 1


def test_the_same_date_again_after_a_crash_in_between_ends_in_the_same_state(
    run, run_dag, registry, monkeypatch
):
    versions = tracking.versions(DAG)
    registry.client.delete_registered_model_alias(DAG, tracking.CHAMPION)
    promote, lost = tracking.promote, [ConnectionError("the registry went away")]

    def once_lost(number):
        if lost:
            raise lost.pop()
        return promote(number)

    monkeypatch.setattr(tracking, "promote", once_lost)
    again = run_dag(DAG, logical_date=run.logical_date)
    assert again.tries("reference.find_model") == 2
    assert tracking.versions(DAG) == versions
    assert again.xcom("reference.find_model") == run.xcom("reference.find_model")
    assert again.digest("report") == run.digest("report")
    assert again.events("retraining")[-1:] == run.events("retraining")
    assert len(registry.runs(DAG, run.key)) == 1


def test_another_day_brings_other_customers(run, quiet):
    one, other = (each.frame("window.collect", "customers") for each in (run, quiet))
    assert not one.tenure_months.equals(other.tenure_months)


def test_what_is_passed_on_is_small(run):
    sizes = {where: len(json.dumps(what)) for where, what in run.xcoms().items()}
    assert max(sizes.values()) < 1024


def test_a_version_that_does_not_say_what_it_was_made_from_stops_the_run(run, run_dag, registry):
    champion = tracking.champion(DAG)
    reference = registry.client.get_run(champion.run_id).data.tags["training_data"]
    registry.client.delete_tag(champion.run_id, "training_data")
    failed = run_dag(DAG, expect="failed")
    registry.client.set_tag(champion.run_id, "training_data", reference)
    assert f"version {champion.number} of {DAG} can't be compared with" in failed.error(
        "reference.find_model"
    )
    assert "has no tag training_data." in failed.error("reference.find_model")
    assert failed.tries("reference.find_model") == 1


def test_a_customer_without_hours_stops_the_run_and_is_named(run, run_dag, monkeypatch):
    window = live.window

    def torn(*args, **kwargs):
        came, labels = window(*args, **kwargs)
        return came.assign(usage_hours=came.usage_hours.mask(came.customer_id == 7)), labels

    monkeypatch.setattr(live, "window", torn)
    failed = run_dag(DAG, expect="failed")
    assert "usage_hours: expect" in failed.error("window.score")
    assert "fails for customer_id 7" in failed.error("window.score")
    assert failed.tries("window.score") == 1
    assert failed.events("retraining") == []


@pytest.mark.parametrize(
    ("name", "value"), [("planted", "everything"), ("false_alarms", 0), ("least_psi", -0.1)]
)
def test_what_is_no_setting_is_refused_before_anything_starts(dags, name, value):
    with pytest.raises(ParamValidationError):
        dags[DAG].params.get_param(name).resolve(value)
