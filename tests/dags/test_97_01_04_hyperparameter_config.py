"""97.1.4 Hyperparameter Configuration: one value each, in its range, and it is known who set it."""

import csv
import json
import re
from pathlib import Path

import pytest
import yaml
from airflow.models import TaskInstance
from airflow.sdk.exceptions import ParamValidationError
from airflow.utils.session import create_session
from jsonschema import Draft202012Validator
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sqlalchemy import select
from threadpoolctl import threadpool_limits

from include import storage
from include.features.churn import preprocessor

DAG = "97_01_04_hyperparameter_config"
FILE = "config/hyperparameters.yaml"
VARIABLE = f"AIRFLOW_VAR_{DAG.upper()}"


@pytest.fixture(scope="module")
def run(run_dag):
    return run_dag(DAG)


@pytest.fixture(scope="module")
def of_dag(dags):
    """What the DAG file defines at its top."""
    return dags[DAG].get_task("configure.check").python_callable.__globals__


@pytest.fixture
def file(of_dag, tmp_path, monkeypatch):
    """A configuration file of this test's own, in the place of the committed one."""
    own = tmp_path / FILE
    own.parent.mkdir()
    monkeypatch.setitem(of_dag, "PROJECT", tmp_path)
    return own


def trained(run):
    """The arguments of each training, by the candidate's name."""
    ways = [f"search.{way}" for way in ("as_configured", "grid", "at_random", "by_optuna")]
    return {each["name"]: each for way in ways for each in run.xcom(way)}


def aucs(run):
    return {
        name: run.xcom("train.train", map_index=index) for index, name in enumerate(trained(run))
    }


@pytest.mark.shows("97.1.4", "Params for hyperparameters")
@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("learning_rate", 5, "5 is greater than the maximum of 1"),
        ("learning_rate", "0.1", "'0.1' is not of type 'null', 'number'"),
        ("max_leaf_nodes", 1, "1 is less than the minimum of 2"),
        ("trees", 2.5, "2.5 is not of type 'null', 'integer'"),
        ("interactions", "some", "'some' is not one of [None, 'any', 'none']"),
        ("draws", None, "None is not of type 'integer'"),
    ],
)
def test_a_wrong_value_is_refused_before_any_task_starts_with_name_value_and_range(
    run_dag, name, value, reason
):
    def instances():
        with create_session() as session:
            return set(session.scalars(select(TaskInstance.id).where(TaskInstance.dag_id == DAG)))

    before = instances()
    with pytest.raises(ParamValidationError) as refused:
        run_dag(DAG, conf={name: value})
    assert f"Invalid input for param {name}: {reason}" in str(refused.value)
    assert instances() == before


@pytest.mark.shows("97.1.4", "Params for hyperparameters")
def test_an_unknown_name_which_airflow_lets_through_is_refused_by_the_first_task(run_dag):
    failed = run_dag(DAG, conf={"learnign_rate": 0.1}, expect="failed")
    told = failed.error("configure.check")
    assert "run conf: there is no 'learnign_rate'; there are learning_rate, max_leaf" in told
    assert failed.tries("configure.check") == 1
    assert failed.states["train.train"] == failed.states["compare"] == "upstream_failed"


@pytest.mark.shows("97.1.4", "Configuration files")
def test_the_last_to_name_a_value_wins_and_the_report_says_over_whom(
    run_dag, file, monkeypatch, registry
):
    file.write_text("learning_rate: 0.3\nmax_leaf_nodes: 15.0\ninteractions: none\ntrees: null\n")
    monkeypatch.setenv(VARIABLE, json.dumps({"learning_rate": 0.25, "max_leaf_nodes": 12}))
    run = run_dag(DAG, conf={"learning_rate": 0.2, "max_leaf_nodes": None, "draws": 1})
    variable = f"Variable {DAG}"
    report = {
        "learning_rate": f"0.2 from run conf, over 0.25 from {variable}, over 0.3 from {FILE}, "
        "over 0.1 from default",
        "max_leaf_nodes": f"12 from {variable}, over 15.0 from {FILE}, over 31 from default",
        "trees": "30 from default",
        "interactions": f"none from {FILE}, over any from default",
    }
    assert run.xcom("configure.resolve", "report") == report
    settings = {"learning_rate": 0.2, "max_leaf_nodes": 12, "trees": 30, "interactions": "none"}
    assert run.xcom("configure.resolve", "settings") == settings
    assert trained(run)["configured"] == {"name": "configured", **settings}
    assert report.items() <= registry.runs(DAG, run.key)[0].data.tags.items()
    assert all(len(json.dumps(value)) < 1024 for value in run.xcoms().values())


@pytest.mark.shows("97.1.4", "Configuration files")
def test_every_fault_of_file_and_variable_is_named_at_once_and_nothing_is_trained(
    run_dag, file, monkeypatch
):
    file.write_text("learning_rate: 1e-3\nmax_leaf_nodes: .nan\ntres: 5\ntrees: 0")
    monkeypatch.setenv(VARIABLE, '{"draws": 2, "interactions": "all", "trees": true}')
    failed = run_dag(DAG, expect="failed")
    assert failed.error("configure.check").splitlines() == [
        "Nothing is trained.",
        f"- {FILE}: learning_rate is '1e-3'; wanted is type ['null', 'number'], minimum 0.001, "
        "maximum 1",
        f"- {FILE}: max_leaf_nodes is nan; wanted is type ['null', 'integer'], minimum 2, "
        "maximum 256",
        f"- {FILE}: there is no 'tres'; there are learning_rate, max_leaf_nodes, trees, "
        "interactions",
        f"- {FILE}: trees is 0; wanted is type ['null', 'integer'], minimum 1, maximum 1000",
        f"- Variable {DAG}: there is no 'draws'; there are learning_rate, max_leaf_nodes, trees, "
        "interactions",
        f"- Variable {DAG}: interactions is 'all'; wanted is type ['null', 'string'], "
        "enum [None, 'any', 'none']",
        f"- Variable {DAG}: trees is True; wanted is type ['null', 'integer'], minimum 1, "
        "maximum 1000",
    ]
    assert failed.tries("configure.check") == 1
    assert failed.states["train.train"] == "upstream_failed"


@pytest.mark.parametrize(
    ("text", "variable", "reason"),
    [
        ("trees: [", "", f"{FILE} can't be read: "),
        ("- trees", "", f"{FILE} must give values to names, but holds '- trees'"),
        ("", "trees=5", f"Variable {DAG} can't be read: "),
        (None, "", f"No such file or directory: '.*/{FILE}'"),
    ],
)
def test_what_cannot_be_read_is_named_and_not_tried_again(
    run_dag, file, monkeypatch, text, variable, reason
):
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv(VARIABLE, variable)
    failed = run_dag(DAG, expect="failed")
    assert re.search(reason, failed.error("configure.check"))
    assert failed.tries("configure.check") == 1


@pytest.mark.shows("97.1.4", "Dynamic parameter passing")
def test_each_training_has_got_exactly_the_hyperparameters_of_its_candidate(run):
    rows = run.frame("train.prepare", "train")
    unseen = run.frame("train.prepare", "validation")
    for name in ("grid 6", "Optuna 2"):
        given = trained(run)[name]
        boosting = HistGradientBoostingClassifier(
            learning_rate=given["learning_rate"],
            max_leaf_nodes=given["max_leaf_nodes"],
            max_iter=given["trees"],
            interaction_cst="no_interactions" if given["interactions"] == "none" else None,
            random_state=97,
        )
        with threadpool_limits(1):
            model = make_pipeline(preprocessor(), boosting).fit(rows, rows["churned"])
            scores = model.predict_proba(unseen)[:, 1]
        assert aucs(run)[name] == pytest.approx(roc_auc_score(unseen["churned"], scores))


@pytest.mark.shows("97.1.4", "Dynamic parameter passing")
def test_each_training_bears_its_candidates_name(run):
    with create_session() as session:
        named = session.execute(
            select(TaskInstance.map_index, TaskInstance.rendered_map_index).where(
                TaskInstance.dag_id == DAG,
                TaskInstance.task_id == "train.train",
                TaskInstance.run_id.contains(run.logical_date.date().isoformat()),
            )
        ).all()
    assert sorted(named) == list(enumerate(trained(run)))


@pytest.mark.shows("97.1.4", "Search space definition")
def test_one_space_gives_the_grid_random_points_and_what_optuna_asks(run, of_dag):
    import optuna

    space, configured = of_dag["SPACE"], run.xcom("configure.resolve", "settings")
    ways = ("grid", "at_random", "by_optuna")
    assert [len(run.xcom(f"search.{way}")) for way in ways] == [8, 4, 4]
    for name, given in trained(run).items():
        if name != "configured":
            point = {dimension: given[dimension] for dimension in space}
            optuna.trial.create_trial(params=point, distributions=space.distributions(), value=0)
            assert given == configured | point | {"name": name}


@pytest.mark.shows("97.1.4", "Search space definition")
def test_no_point_of_the_space_is_one_that_the_form_would_refuse(of_dag):
    corners = of_dag["SPACE"].grid(2)
    assert len(corners) == 8
    for name, value in [pair for corner in corners for pair in corner.items()]:
        Draft202012Validator(of_dag["PARAMS"][name].schema).validate(value)


def test_the_winner_is_a_file_that_the_next_run_starts_from(run, run_dag, file):
    best = run.xcom("compare")["best"]
    assert best["auc"] == aucs(run)[best["name"]] == max(aucs(run).values())
    file.write_bytes(storage.read_bytes(run.reference("compare", "file")))
    following = run_dag(DAG, conf={"draws": 1})
    assert following.xcom("compare")["configured"] == best["auc"]
    assert f"from {FILE}" in following.xcom("configure.resolve", "report")["trees"]


def test_the_header_tells_what_the_run_finds(run):
    text = (Path(__file__).parents[2] / "dags" / f"{DAG}.py").read_text()
    found = run.xcom("compare")
    best = trained(run)[found["best"]["name"]]
    assert (
        f"an AUC\nof {found['configured']:.3f}, and the best of the sixteen points of the search "
        f"{found['best']['auc']:.3f}, with three leaves" in text
    )
    assert (best["max_leaf_nodes"], best["interactions"], len(trained(run))) == (3, "none", 17)
    assert run.xcom("configure.resolve", "report")["learning_rate"] == (
        f"0.3 from {FILE}, over 0.1 from default"
    )


def test_an_empty_form_and_a_crash_change_nothing(run, run_dag, monkeypatch, registry):
    write, crashed = storage.write_bytes, []

    def lost(content, name):
        if name == "hyperparameters.yaml" and not crashed:
            crashed.append(name)
            raise ConnectionError("the store went away")
        return write(content, name)

    monkeypatch.setattr(storage, "write_bytes", lost)
    form = dict.fromkeys(run.xcom("configure.resolve", "settings")) | {"draws": 4}
    again = run_dag(DAG, conf=form, logical_date=run.logical_date)
    assert again.tries("compare") == 2
    same = ("configure.resolve", -1, "report"), ("compare", -1, "return_value")
    assert [again.xcoms()[each] for each in same] == [run.xcoms()[each] for each in same]
    (tracked,) = registry.runs(DAG, run.key)
    assert tracked.info.status == "FINISHED"
    folder = Path(tracked.info.artifact_uri.removeprefix("file://"))
    kept = sorted(path.name for path in folder.iterdir())
    assert kept == ["hyperparameters.yaml", "search.png", "trainings.csv"]
    table = list(csv.DictReader((folder / "trainings.csv").read_text().splitlines()))
    assert {row["name"]: float(row["auc"]) for row in table} == pytest.approx(aucs(run))
    winner = yaml.safe_load((folder / "hyperparameters.yaml").read_text())
    assert winner == yaml.safe_load(storage.read_bytes(run.reference("compare", "file")))


def test_xcom_carries_references_and_less_than_a_kilobyte(run):
    for (task, _, key), value in run.xcoms().items():
        assert len(json.dumps(value)) < 1024, (task, key)
