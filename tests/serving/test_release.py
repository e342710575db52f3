"""From customers to a version that answers: what is learned from, registered, started, stopped."""

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from sklearn.metrics import roc_auc_score

from include import runs, storage, tracking
from include.data import churn, quality
from include.serving import onnx_export, release
from tests.serving.played import PlayedGateway

NAME = "a_release"
PLACE = runs.Place(NAME, "20260105T000000", "release", -1, 1, "")
SOURCES = {number: f"file:///models/{number}" for number in "123"}


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.setenv("AIRFLOW_VAR_ARTIFACT_STORE", tmp_path.as_uri())
    monkeypatch.setattr(runs, "here", lambda: PLACE)


@pytest.fixture
def done():
    """What was done, in its order."""
    return []


@pytest.fixture
def registry(done, monkeypatch):
    """MLflow's client, with a run that is open while something is noted in it."""
    opened = []

    @contextmanager
    def run():
        opened.append("this run")
        yield SimpleNamespace(info=SimpleNamespace(run_id="this run"))
        opened.clear()

    def set_tag(*given):
        assert opened == ["this run"]
        done.append(("tag", *given))

    def log_metric(*given):
        assert opened == ["this run"]
        done.append(("metric", *given))

    def log_model_artifact(model_id, file):
        done.append(("artifact", model_id, Path(file).name, Path(file).read_bytes()))

    def register_logged(logged):
        done.append(("registered", logged.model_id))
        return "7"

    def logged(model, example):
        done.append(("model", model, example))
        return SimpleNamespace(model_id="m-1")

    client = SimpleNamespace(
        set_tag=set_tag,
        log_metric=log_metric,
        log_model_artifact=log_model_artifact,
        get_model_version_download_uri=lambda name, number: SOURCES[number],
    )
    monkeypatch.setattr(tracking, "client", lambda: client)
    monkeypatch.setattr(tracking, "run", run)
    monkeypatch.setattr(tracking, "log_model", logged)
    monkeypatch.setattr(tracking, "register_logged", register_logged)
    return client


@pytest.fixture
def gateway(registry, done):
    """Version 1 answers everybody, and version 2 was left behind."""
    played = PlayedGateway(done)
    for number in "12":
        played.start_version(NAME, number, SOURCES[number])
    played.set_route(NAME, NAME, {"1": 1.0})
    done.clear()
    return played


def to(number, sticky=None):
    changed = {"model": NAME, "weights": {number: 1.0}, "sticky": sticky, "shadow": None}
    return ("route", NAME, changed)


def start(number):
    return ("start", NAME, number, SOURCES[number])


@pytest.fixture(scope="module")
def customers():
    return churn.customers(rows=400)


def test_a_version_has_its_measures_and_an_export_beside_it(registry, done, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(onnx_export, "exported", lambda *given: repr(given).encode())
    assert release.registered("a model", "rows", {"auc": 0.8, "loss": 0.3}) == "7"
    assert done == [
        ("model", "a model", "rows"),
        ("metric", "this run", "auc", 0.8),
        ("metric", "this run", "loss", 0.3),
        ("artifact", "m-1", "model.onnx", b"('a model', 'rows')"),
        ("registered", "m-1"),
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_model_whose_export_answers_differently_gets_no_version(registry, done, monkeypatch):
    def differs(model, example):
        raise ValueError("it answers differently")

    monkeypatch.setattr(onnx_export, "exported", differs)
    with pytest.raises(ValueError, match="it answers differently"):
        release.registered("a model", "rows", {})
    assert done == []


def version(number, run_id, replaces):
    return tracking.Version(NAME, number, "", run_id, "", replaces)


@pytest.mark.parametrize(
    ("champion", "before"),
    [
        (None, None),
        (version("5", "an earlier run", None), "5"),
        (version("5", "an earlier run", "4"), "5"),
        (version("5", "this run", "4"), "4"),
        (version("5", "this run", None), "5"),
    ],
)
def test_a_run_that_is_done_again_does_not_take_its_own_release_for_the_one_before(
    registry, monkeypatch, champion, before
):
    monkeypatch.setattr(tracking, "champion", {NAME: champion}.__getitem__)
    assert release.before() == before


def test_only_where_there_is_no_version_callers_get_a_first_one(registry, monkeypatch):
    promoted = []
    monkeypatch.setattr(tracking, "promote", promoted.append)
    monkeypatch.setattr(release, "before", lambda: None)
    assert release.current(lambda: "1") == "1"
    assert promoted == ["1"]
    promoted.clear()
    monkeypatch.setattr(release, "before", lambda: "4")
    assert release.current(lambda: pytest.fail("it was trained")) == "4"
    assert promoted == []


def test_one_version_answers_everybody_and_the_others_stop(gateway, done):
    release.alone(gateway, NAME, "3", sticky="X-Customer")
    assert done[:2] == [start("3"), to("3", "X-Customer")]
    assert sorted(done[2:]) == [("stop", NAME, "1"), ("stop", NAME, "2")]
    done.clear()
    release.alone(gateway, NAME, "3")
    assert done == [to("3")]


def test_the_current_version_answers_until_the_coming_one_does(gateway, done):
    assert release.begin(gateway, NAME, "3", "4") == ["3"]
    assert done[:2] == [start("3"), to("3")]
    assert sorted(done[2:]) == [("stop", NAME, "1"), ("stop", NAME, "2")]


def test_a_current_version_that_runs_is_not_started_and_the_coming_one_not_stopped(gateway, done):
    gateway.start_version(NAME, "3", SOURCES["3"])
    done.clear()
    assert release.begin(gateway, NAME, "1", "2") == ["1", "2"]
    assert done == [to("1"), ("stop", NAME, "3")]


def test_a_task_that_is_tried_again_leaves_the_coming_version_its_callers(gateway, done):
    gateway.set_route(NAME, NAME, {"1": 0.9, "2": 0.1})
    done.clear()
    assert release.begin(gateway, NAME, "1", "2") == ["1", "2"]
    assert release.begin(gateway, NAME, None, "2") == ["2"]
    assert done == [("stop", NAME, "1")]


def test_before_the_first_release_nobody_is_answered(gateway, done):
    assert release.begin(gateway, NAME, None, "3") == []
    assert done[0] == ("no route", NAME)
    assert sorted(done[1:]) == [("stop", NAME, "1"), ("stop", NAME, "2")]


def test_without_a_route_the_current_version_gets_one(gateway, done):
    gateway.remove_route(NAME)
    done.clear()
    assert release.begin(gateway, NAME, "1", "2") == ["1", "2"]
    assert done == [to("1")]


def test_what_became_of_a_version_stands_where_it_comes_from(registry, done):
    assert release.note("released") == "released"
    assert done == [("tag", "this run", "release", "released")]


def test_a_scorer_gets_a_folder_of_this_machine_or_else_a_name(registry, monkeypatch):
    assert release.source(NAME, "1") == "file:///models/1"
    monkeypatch.setitem(SOURCES, "1", "mlflow-artifacts:/models/1/file:")
    assert release.source(NAME, "1") == f"models:/{NAME}/1"


def test_a_fifth_of_the_customers_is_held_out_with_the_same_share_of_labels(customers):
    parts = release.parted(customers, "churned", 0.2, 7)
    train, holdout = (storage.read_frame(parts[part]) for part in ("train", "holdout"))
    for part in ("train", "holdout"):
        assert f"/{part}.parquet#" in parts[part]
    assert (len(train), len(holdout)) == (320, 80)
    assert sorted([*train.customer_id, *holdout.customer_id]) == list(range(1, 401))
    assert holdout.churned.mean() == pytest.approx(customers.churned.mean(), abs=0.01)
    another = storage.read_frame(release.parted(customers, "churned", 0.2, 8)["holdout"])
    assert set(another.customer_id) != set(holdout.customer_id)


def test_customers_without_a_known_label_are_named_and_nothing_is_kept(customers, tmp_path):
    broken = customers.assign(churned=[2, -1, *customers.churned[2:]])
    broken["customer_id"] += 9000
    with pytest.raises(quality.BrokenExpectations) as refused:
        release.parted(broken, "churned", 0.2, 7)
    told = str(refused.value)
    assert told.startswith("1 of 1 expectations on customers are broken:\n- churned: ")
    assert "value_set=[0, 1]" in told
    assert "9001" in told
    assert "9002" in told
    assert list(tmp_path.iterdir()) == []


def test_the_customers_model_learns_from_one_part_and_is_judged_by_the_other(
    customers, monkeypatch
):
    train, holdout = customers.head(300), customers.tail(100)
    given = []

    def registered(*more):
        given.extend(more)
        return "7"

    monkeypatch.setattr(release, "registered", registered)
    assert release.trained("stable", train, holdout, "churned") == "7"
    model, example, metrics = given
    assert model[-1].max_iter == 1000
    assert "churned" not in example
    assert example.equals(holdout.drop(columns="churned"))
    scores = model.predict_proba(example)[:, 1]
    assert metrics == {"stable_auc": roc_auc_score(holdout["churned"], scores)}
    assert type(metrics["stable_auc"]) is float
    assert metrics["stable_auc"] > 0.6
