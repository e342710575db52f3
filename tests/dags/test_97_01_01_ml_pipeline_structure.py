"""97.1.1 ML Pipeline DAG Structure: what its reader is promised, shown on outcomes."""

import pytest
from sklearn.metrics import f1_score

from include import tracking

DAG = "97_01_01_ml_pipeline_structure"


@pytest.fixture(scope="module")
def run(run_dag):
    return run_dag(DAG)


@pytest.mark.shows("97.1.1", "Data ingestion task")
def test_every_customer_of_the_warehouse_arrives_exactly_once(run, warehouse):
    arrived = run.frame("data.ingest")
    assert sorted(arrived.customer_id) == sorted(warehouse.column("customers", "customer_id"))


@pytest.mark.shows("97.1.1", "Feature engineering")
def test_features_are_fitted_on_training_customers_only(run):
    train, holdout = run.frame("model.split", "train"), run.frame("model.split", "holdout")
    assert not set(train.customer_id) & set(holdout.customer_id)
    scaler = run.model("model.engineer_features").named_transformers_["scaled"]
    assert scaler.mean_[0] == pytest.approx(train.tenure_months.mean())


@pytest.mark.shows("97.1.1", "Model training")
def test_the_model_beats_always_guessing_that_a_customer_leaves(run):
    holdout = run.frame("model.split", "holdout")
    guess = f1_score(holdout.churned, [1] * len(holdout))
    decided = run.model("model.train").predict(holdout)
    assert f1_score(holdout.churned, decided) > guess + 0.05


@pytest.mark.shows("97.1.1", "Evaluation and deployment")
def test_the_released_model_is_the_one_that_was_scored_and_it_answers(run, registry):
    champion = tracking.champion(DAG)
    holdout = run.frame("model.split", "holdout")
    assert champion.key == run.key
    assert registry.metrics(champion)["f1"] == pytest.approx(run.xcom("model.score")["f1"])
    (event,) = run.events("model")
    assert event["version"] == champion.number
    assert event["answer"] == run.model("model.train").predict(holdout.head(1))[0]


def test_the_mlflow_run_holds_the_curve(run, registry):
    assert registry.artifacts(tracking.champion(DAG)) == ["roc.png"]


def test_a_model_under_the_minimum_changes_nothing(run, run_dag):
    before = tracking.champion(DAG)
    rejected = run_dag(DAG, conf={"min_f1": 0.99})
    assert rejected.states["release.register"] == "skipped"
    assert rejected.states["release.deploy"] == "skipped"
    assert "under 0.99" in rejected.xcom("release.keep_current")
    assert rejected.events("model") == []
    assert tracking.champion(DAG) == before


def test_the_same_date_again_gives_the_same_model_and_no_second_version(run, run_dag):
    versions = tracking.versions(DAG)
    again = run_dag(DAG, logical_date=run.logical_date)
    assert again.digest("model.train") == run.digest("model.train")
    assert tracking.versions(DAG) == versions


def test_a_broken_row_stops_the_run_before_training_and_is_named(run_dag, warehouse):
    warehouse.execute("UPDATE customers SET tenure_months = -1 WHERE customer_id = 7")
    failed = run_dag(DAG, expect="failed")
    assert "tenure_months" in failed.error("data.validate")
    assert "fails for customer_id 7" in failed.error("data.validate")
    assert failed.states["model.train"] == "upstream_failed"
    assert failed.tries("data.validate") == 1
