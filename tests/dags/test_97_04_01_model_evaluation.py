"""97.4.1 Model Evaluation Pipeline: every number on the page is the one that others compute."""

import json

import pandas as pd
import pytest
from airflow.sdk.exceptions import ParamValidationError
from scipy.special import logit
from sklearn import metrics
from sklearn.metrics import roc_auc_score

from include import storage, tracking

DAG = "97_04_01_model_evaluation"


@pytest.fixture(scope="module")
def run(run_dag):
    return run_dag(DAG)


@pytest.fixture(scope="module")
def threshold(run):
    return run.xcom("folds.choose_threshold")


@pytest.mark.shows("97.4.1", "Metric calculation")
def test_each_measure_is_scikit_learns_and_lies_in_its_interval(run, threshold, registry):
    rows = run.frame("holdout.score")
    decided = rows.candidate >= threshold
    expected = {
        "roc_auc": roc_auc_score(rows.churned, rows.candidate),
        "average_precision": metrics.average_precision_score(rows.churned, rows.candidate),
        "f1": metrics.f1_score(rows.churned, decided),
        "precision": metrics.precision_score(rows.churned, decided),
        "recall": metrics.recall_score(rows.churned, decided),
        "brier": metrics.brier_score_loss(rows.churned, rows.candidate),
    }
    measured = run.xcom("metrics.measure")
    assert {name: value for name, (value, _, _) in measured.items()} == pytest.approx(expected)
    assert all(low < value < high for value, low, high in measured.values())
    (logged,) = registry.runs(DAG, run.key)
    assert logged.data.metrics["roc_auc"] == pytest.approx(expected["roc_auc"])
    assert logged.data.metrics["threshold"] == threshold


@pytest.mark.shows("97.4.1", "Metric calculation")
def test_each_part_of_the_customers_has_its_own_auc(run):
    rows, table = run.frame("holdout.score"), run.frame("metrics.slice")
    by_part = table.set_index(["column", "part"])
    assert len(by_part) == 3 + 4
    assert by_part.groupby("column").rows.sum().tolist() == [len(rows)] * 2
    yearly = rows[rows.plan == "yearly"]
    expected = roc_auc_score(yearly.churned, yearly.candidate)
    assert by_part.auc["plan", "yearly"] == pytest.approx(expected)


@pytest.mark.shows("97.4.1", "Metric calculation")
def test_the_regions_are_chosen_alike_since_they_are_alike(run, threshold):
    rows, rates = run.frame("holdout.score"), run.xcom("metrics.fairness")
    chosen = (rows.candidate >= threshold).groupby(rows.region).mean()
    assert {each: rates[each]["of all"] for each in chosen.index} == pytest.approx(chosen.to_dict())
    assert rates["widest gap"]["of all"] == pytest.approx(chosen.max() - chosen.min())
    assert rates["widest gap"]["of all"] < 0.05


@pytest.mark.shows("97.4.1", "Metric calculation")
def test_the_explanation_finds_the_column_that_says_nothing_and_adds_up(run):
    columns = run.frame("metrics.explain", "columns")
    assert columns.index[-1] == "region"
    assert abs(columns.auc_lost["region"]) < 0.005 < 0.05 < columns.auc_lost["tenure_months"]
    assert columns.moves_log_odds.idxmin() == "region"
    moved = run.frame("metrics.explain", "rows").sum(axis=1)
    answered = logit(run.frame("holdout.score").candidate)
    assert moved.tolist() == pytest.approx(answered.tolist())


@pytest.mark.shows("97.4.1", "Holdout evaluation")
def test_no_customer_of_the_holdout_is_in_training_also_when_others_join(run, warehouse):
    train, holdout = run.frame("prepare.split", "train"), run.frame("prepare.split", "holdout")
    arrived = [*train.customer_id, *holdout.customer_id]
    assert sorted(arrived) == sorted(warehouse.column("customers", "customer_id"))
    assert len(holdout) / len(arrived) == pytest.approx(1 / 4, abs=0.02)
    # Which side a customer is on depends on nobody else's being there.
    some = holdout.customer_id.head(50).to_numpy()
    assert (pd.util.hash_array(some) % 4 == 0).all()


@pytest.mark.shows("97.4.1", "Holdout evaluation")
def test_the_holdout_is_scored_by_the_stored_models(run):
    rows, holdout = run.frame("holdout.score"), run.frame("prepare.split", "holdout")
    candidate = run.model("prepare.train").predict_proba(holdout)[:, 1]
    champion = tracking.load(DAG, run.xcom("prepare.find_champion")).predict_proba(holdout)[:, 1]
    assert rows.candidate.tolist() == candidate.tolist()
    assert rows.champion.tolist() == champion.tolist()
    assert rows.dummy.nunique() == 1
    assert rows.dummy[rows.index[0]] == run.frame("prepare.split", "train").churned.mean()


@pytest.mark.shows("97.4.1", "Cross-validation")
def test_five_folds_three_times_promise_what_the_holdout_keeps(run):
    folds, scores = (
        run.frame("folds.cross_validate", "folds"),
        run.frame("folds.cross_validate", "scores"),
    )
    assert folds.groupby("repeat").size().tolist() == [5, 5, 5]
    assert len(scores) == len(run.frame("prepare.split", "train"))
    assert 0.005 < folds.roc_auc.std() < 0.03
    _, low, high = run.xcom("metrics.measure")["roc_auc"]
    assert low < folds.roc_auc.mean() < high


@pytest.mark.shows("97.4.1", "Cross-validation")
def test_the_threshold_follows_from_the_costs_and_never_saw_the_holdout(run, threshold):
    assert threshold == pytest.approx(1 / (1 + 4), abs=0.05)  # of calibrated scores
    unseen = run.frame("folds.cross_validate", "scores")
    costs = {
        cut: 4 * ((unseen.repeat_0 < cut) & (unseen.churned == 1)).sum()
        + ((unseen.repeat_0 >= cut) & (unseen.churned == 0)).sum()
        for cut in (threshold, threshold - 0.05, threshold + 0.05, 0.5)
    }
    assert min(costs, key=costs.get) == threshold


@pytest.mark.shows("97.4.1", "Benchmark comparison")
def test_the_candidate_beats_both_rivals_beyond_luck(run):
    rows, compared = run.frame("holdout.score"), run.xcom("holdout.compare")
    for rival in ("champion", "dummy"):
        found = compared[rival]
        gain = roc_auc_score(rows.churned, rows.candidate) - roc_auc_score(
            rows.churned, rows[rival]
        )
        assert found["gain"] == pytest.approx(gain)
        assert 0 < found["low"] < gain < found["high"]
        assert max(found["p"], found["decisions_p"]) < 1e-6
        assert found["cost"] < found["its_cost"]
    assert roc_auc_score(rows.churned, rows.dummy) == 0.5


def test_the_page_and_its_pictures_are_kept_with_the_run(run, registry):
    (logged,) = registry.runs(DAG, run.key)
    kept = {each.path for each in registry.client.list_artifacts(logged.info.run_id)}
    pictures = {"roc.png", "precision_recall.png", "calibration.png", "confusion.png"}
    assert kept == {"report.html", *pictures}
    page = storage.read_bytes(run.reference("report")).decode()
    auc, low, high = run.xcom("metrics.measure")["roc_auc"]
    assert f"AUC {auc:.3f} ({low:.3f} to {high:.3f}) on 1,925 held-out customers" in page
    assert page.count("data:image/png;base64,") == len(pictures)


def test_cheaper_misses_raise_the_threshold_and_leave_the_ranking(run, run_dag, threshold):
    cheap = run_dag(DAG, conf={"miss_costs": 1})
    assert cheap.xcom("folds.choose_threshold") > threshold + 0.1
    before, after = (each.xcom("metrics.measure") for each in (run, cheap))
    assert after["recall"][0] < before["recall"][0] - 0.1
    assert after["roc_auc"] == before["roc_auc"]
    assert cheap.xcom("prepare.find_champion") == run.xcom("prepare.find_champion")


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
    assert again.tries("prepare.find_champion") == 2
    assert tracking.versions(DAG) == versions
    assert tracking.champion(DAG).number == run.xcom("prepare.find_champion")
    assert again.digest("report") == run.digest("report")
    assert again.xcom("holdout.compare") == run.xcom("holdout.compare")
    assert len(registry.runs(DAG, run.key)) == 1


def test_what_is_passed_on_is_small(run):
    sizes = {where: len(json.dumps(what)) for where, what in run.xcoms().items()}
    assert max(sizes.values()) < 1024


def test_a_customer_without_a_region_stops_the_run_and_is_named(run_dag, warehouse):
    warehouse.execute("UPDATE customers SET region = NULL WHERE customer_id = 13")
    failed = run_dag(DAG, expect="failed")
    assert "region: expect" in failed.error("prepare.ingest")
    assert "fails for customer_id 13" in failed.error("prepare.ingest")
    assert failed.tries("prepare.ingest") == 1
    assert failed.states["prepare.train"] == "upstream_failed"


@pytest.mark.parametrize("costs", [0, -1, "dear", None])
def test_what_is_no_cost_is_refused_before_anything_starts(dags, costs):
    with pytest.raises(ParamValidationError):
        dags[DAG].params.get_param("miss_costs").resolve(costs)
