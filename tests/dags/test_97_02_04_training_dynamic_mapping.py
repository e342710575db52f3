"""97.2.4 Training with Dynamic Task Mapping: a file says what is tried; what fails, fails alone."""

import csv
import io
import json
import re
from pathlib import Path
from textwrap import dedent

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from airflow.models import DagModel, DagRun, TaskInstance
from airflow.sdk.exceptions import ParamValidationError
from airflow.utils.session import create_session
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.naive_bayes import GaussianNB
from sqlalchemy import select, update
from threadpoolctl import threadpool_limits

from include import storage
from include.evaluation import plots
from include.training import model_format

DAG = "97_02_04_training_dynamic_mapping"
FILE = "config/experiments.yaml"
TRIALS = ("trial.fit", "trial.score")
USUAL = ["bayes", "linear", "forest", "boosting"]
FOLDS = [1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def run(run_dag):
    return run_dag(DAG)


@pytest.fixture(scope="module")
def impossible(run_dag):
    return run_dag(DAG, conf={"study": "one_impossible"}, may_fail=TRIALS)


@pytest.fixture(scope="module")
def of_dag(dags):
    """What the DAG file defines at its top."""
    return dags[DAG].get_task("plan.read_experiments").python_callable.__globals__


@pytest.fixture
def file(of_dag, tmp_path, monkeypatch):
    """A file of experiments of this test's own, in the place of the committed one."""
    own = tmp_path / FILE
    own.parent.mkdir()
    own.write_text(
        dedent("""
            usual:
              folds: 2.0
              architectures:
                - {name: bayes, kind: GaussianNB}
                - {name: stump, kind: HistGradientBoostingClassifier, settings: {max_iter: 1}}
        """)
    )
    monkeypatch.setitem(of_dag, "PROJECT", tmp_path)
    return own


def combinations(run):
    """The architecture and fold of each trial, in Airflow's order."""
    names = run.xcom("plan.list_architectures")
    return [(name, fold) for name in names for fold in run.xcom("plan.list_folds")]


def board(run):
    return run.frame("leaderboard.rank")


def folds_of(board):
    return board.filter(regex="^fold_")


def kept(run, name):
    """A file that the run's MLflow run keeps, and that run's tags."""
    run_id = run.xcom("leaderboard.publish", "mlflow_run").rpartition("/")[2]
    found = mlflow.MlflowClient().get_run(run_id)
    return found, mlflow.artifacts.load_text(f"{found.info.artifact_uri}/{name}")


@pytest.mark.shows("97.2.4", "expand() for experiments")
def test_the_file_decides_which_trials_there_are(run_dag, file):
    run = run_dag(DAG)
    assert combinations(run) == [("bayes", 1), ("bayes", 2), ("stump", 1), ("stump", 2)]
    assert sum(name.startswith("trial.fit[") for name in run.states) == 4
    stump = run.model("trial.fit", map_index=2)[-1]
    assert stump.n_iter_ == 1
    assert stump.random_state == 97, "one that draws lots draws the same each time"


@pytest.mark.shows("97.2.4", "expand() for experiments")
def test_each_trial_bears_its_name_also_one_that_failed(run, impossible):
    with create_session() as session:
        named = session.execute(
            select(TaskInstance.map_index, TaskInstance.rendered_map_index, DagRun.logical_date)
            .join(DagRun, DagRun.run_id == TaskInstance.run_id)
            .where(TaskInstance.dag_id == DagRun.dag_id, TaskInstance.dag_id == DAG)
            .where(TaskInstance.task_id == "trial.fit")
        ).all()
    for each in (run, impossible):
        found = {index: name for index, name, when in named if when == each.logical_date}
        wanted = [f"{architecture}, fold {fold}" for architecture, fold in combinations(each)]
        assert [found[index] for index in range(len(wanted))] == wanted


@pytest.mark.shows("97.2.4", "Multiple model architectures")
def test_every_architecture_of_the_file_is_fitted_on_every_fold(run):
    assert combinations(run) == [(name, fold) for name in USUAL for fold in FOLDS]
    kinds = [
        type(run.model("trial.fit", map_index=index)[-1]).__name__ for index in range(0, 20, 5)
    ]
    study = yaml.safe_load(Path(FILE).read_text())["usual"]
    assert kinds == [each["kind"] for each in study["architectures"]]


@pytest.mark.shows("97.2.4", "Multiple model architectures")
def test_the_scheduler_starts_no_more_than_three_trials_at_once(run):
    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.utils.state import DagRunState, TaskInstanceState

    with create_session() as session:
        of_run = session.scalar(
            select(DagRun.run_id).where(
                DagRun.dag_id == DAG, DagRun.logical_date == run.logical_date
            )
        )
        here = {"dag_id": DAG, "run_id": of_run}
        session.execute(
            update(DagModel).where(DagModel.dag_id == DAG).values(is_paused=False, is_stale=False)
        )
        session.execute(update(DagRun).filter_by(**here).values(state=DagRunState.RUNNING))
        session.execute(
            update(TaskInstance)
            .filter_by(**here, task_id="trial.fit")
            .values(state=TaskInstanceState.SCHEDULED)
        )
        scheduler = SchedulerJobRunner(Job())
        started = scheduler._executable_task_instances_to_queued(max_tis=32, session=session)
        assert [each.task_id for each in started] == ["trial.fit"] * 3
        session.rollback()


@pytest.mark.shows("97.2.4", "Cross-validation folds")
def test_each_customer_is_held_out_once_and_every_fold_has_its_share_of_leavers(run, warehouse):
    customers = run.frame("plan.assign_folds")
    assert sorted(customers.customer_id) == sorted(warehouse.column("customers", "customer_id"))
    assert customers.fold.value_counts().to_dict() == dict.fromkeys(FOLDS, 1600)
    left = customers.groupby("fold").churned.mean()
    assert left.max() - left.min() < 0.002


@pytest.mark.shows("97.2.4", "Cross-validation folds")
def test_a_trial_learns_from_the_other_folds_and_is_scored_on_its_own(run, of_dag):
    customers = run.frame("plan.assign_folds")
    study = storage.read_json(run.reference("plan.read_experiments"))
    for index in (3, 19):
        name, fold = combinations(run)[index]
        (entry,) = [each for each in study["architectures"] if each["name"] == name]
        others, held_out = customers[customers.fold != fold], customers[customers.fold == fold]
        with threadpool_limits(1):  # more of them would add up in another order
            again = of_dag["untrained"](entry).fit(others, others.churned)
        model = storage.read_bytes(run.reference("trial.fit", map_index=index))
        assert model_format.dumps(again) == model
        auc = roc_auc_score(held_out.churned, again.predict_proba(held_out)[:, 1])
        scored = run.xcom("trial.score", map_index=index)
        assert scored == {"architecture": name, "fold": fold, "auc": pytest.approx(auc)}


@pytest.mark.shows("97.2.4", "Result aggregation")
def test_the_leaderboard_ranks_by_the_mean_of_the_folds(run):
    scores = pd.DataFrame([run.xcom("trial.score", map_index=index) for index in range(20)])
    by_hand = scores.groupby("architecture").auc.agg(["mean", "std"])
    found = board(run)
    assert sorted(found.index) == sorted(USUAL)
    pd.testing.assert_frame_equal(found[["mean", "std"]], by_hand.loc[found.index])
    assert found["mean"].is_monotonic_decreasing
    assert set(found.failed_folds) == {""}


@pytest.mark.shows("97.2.4", "Result aggregation")
def test_the_best_two_are_compared_fold_by_fold(run):
    best, second = folds_of(board(run)).iloc[:2].to_numpy()
    decided = run.xcom("leaderboard.compare")
    assert decided["p_plain"] == pytest.approx(stats.ttest_rel(best, second).pvalue)
    ahead = best - second
    # Nadeau and Bengio's variance, written out: one fold is tested on, four are learned from.
    t = ahead.mean() / np.sqrt((1 / 5 + 1 / 4) * ahead.var(ddof=1))
    assert decided["p_value"] == pytest.approx(2 * stats.t.sf(t, df=4))
    assert decided["p_value"] > decided["p_plain"]


def test_the_header_tells_what_comes_out(run, impossible, of_dag):
    text = " ".join(of_dag["__doc__"].split())
    mean, second = board(run)["mean"].iloc[:2]
    usual, other = (each.xcom("leaderboard.compare") for each in (run, impossible))
    assert f"a mean AUC of {mean:.3f}, {mean - second:.4f} ahead of `boosting`" in text
    assert f"gives p = {usual['p_plain']:.3f} for that" in text
    assert f"gives {usual['p_value']:.3f}: still more than luck" in text
    lead = -board(impossible)["mean"].diff().iloc[1]
    assert f"it makes p = {other['p_value']:.2f} for a lead of {lead:.4f}" in text
    assert (usual["winner"], other["winner"]) == ("linear", "bayes")


@pytest.mark.shows("97.2.4", "Result aggregation")
def test_table_picture_and_verdict_are_kept_in_mlflow(run, registry):
    found, table = kept(run, "leaderboard.csv")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["architecture"] for row in rows] == list(board(run).index)
    assert [float(row["mean"]) for row in rows] == pytest.approx(list(board(run)["mean"]), abs=1e-4)
    files = {each.path for each in registry.client.list_artifacts(found.info.run_id)}
    assert files == {"leaderboard.csv", "leaderboard.png"}
    assert found.data.tags["verdict"] == run.xcom("leaderboard.publish")
    assert found.data.tags["winner"] == run.xcom("leaderboard.compare")["winner"]


@pytest.mark.shows("97.2.4", "Result aggregation")
def test_an_architecture_that_fails_is_shown_as_failed_and_the_rest_decide(impossible):
    assert [impossible.states[f"trial.fit[{index}]"] for index in range(6)] == ["success"] * 6
    for index in range(6, 9):
        assert impossible.states[f"trial.fit[{index}]"] == "failed"
        assert impossible.states[f"trial.score[{index}]"] == "upstream_failed"
        assert impossible.tries(f"trial.fit[{index}]") == 1
        assert "Increase the value of `reg_param`" in impossible.error(f"trial.fit[{index}]")
    last = board(impossible).iloc[-1]
    assert (last.name, last.failed_folds) == ("quadratic", "1, 2, 3")
    assert last.drop("failed_folds").isna().all()
    assert impossible.xcom("leaderboard.compare")["verdict"].startswith("linear is 0.02")
    _, table = kept(impossible, "leaderboard.csv")
    assert 'quadratic,,,"1, 2, 3",,,' in table


@pytest.mark.shows("97.2.4", "Result aggregation")
def test_one_failed_combination_costs_its_architecture_the_rank_and_keeps_its_other_scores(
    run_dag, file, monkeypatch
):
    fits, fit = [], GaussianNB.fit

    def fails_once(self, *data):
        fits.append(1)
        if len(fits) == 2:
            raise MemoryError("no room for one more")
        return fit(self, *data)

    monkeypatch.setattr(GaussianNB, "fit", fails_once)
    run = run_dag(DAG, may_fail=TRIALS)
    (failed,) = [index for index in range(4) if run.states[f"trial.fit[{index}]"] == "failed"]
    found = board(run)
    assert list(found.index) == ["stump", "bayes"]
    assert found.failed_folds["bayes"] == str(failed + 1)
    assert folds_of(found).loc["bayes"].notna().sum() == 1
    assert run.xcom("leaderboard.compare") == {
        "winner": "stump",
        "verdict": "stump alone has a score of every fold",
    }


def test_the_picture_shows_who_failed():
    scores = pd.DataFrame({"fold_1": [0.7, 0.6], "fold_2": [0.8, None]}, ["whole", "broken"])
    (axes,) = plots.folds(scores, "Folds", "AUC").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["whole", "broken\n(failed)"]
    assert len(axes.containers) == 1, "a mean is drawn where it can be compared"


def test_where_nobody_finishes_the_run_is_red_and_says_what_to_do(run_dag, file):
    file.write_text(
        "usual: {folds: 2, architectures: [{name: a, kind: QuadraticDiscriminantAnalysis}]}"
    )
    failed = run_dag(DAG, expect="failed")
    assert "no architecture has a score of every fold" in failed.error("leaderboard.compare")
    assert "mend what the logs of the red trials say" in failed.error("leaderboard.compare")
    assert failed.tries("leaderboard.compare") == 1
    assert failed.states["leaderboard.rank"] == "success"
    assert failed.states["leaderboard.publish"] == "upstream_failed"


def test_scores_that_differ_by_luck_make_the_simpler_one_win_and_others_don_t(of_dag, run_dag):
    test = of_dag["paired_test"]
    level = np.array([0.70, 0.72, 0.71, 0.69, 0.73])
    noise = np.array([0.01, -0.01, 0.02, -0.01, 0.0])
    assert test(level, level) == {"p_plain": 1.0, "p_value": 1.0}
    assert test(level + noise, level)["p_value"] > 0.5
    assert test(level + 0.05 + noise, level)["p_value"] < 0.05


def test_a_trial_that_broke_off_is_tried_again_and_comes_to_the_same(run_dag, file, monkeypatch):
    undisturbed = run_dag(DAG)
    write, broken = storage.write_model, []

    def breaks_off(model, name):
        if not broken:
            broken.append(name)
            raise ConnectionError("the store went away")
        return write(model, name)

    monkeypatch.setattr(storage, "write_model", breaks_off)
    run = run_dag(DAG)
    assert sorted(run.tries(f"trial.fit[{index}]") for index in range(4)) == [1, 1, 1, 2]
    assert run.digest("leaderboard.rank") == undisturbed.digest("leaderboard.rank")


def test_the_same_date_again_comes_to_the_same_and_makes_no_second_mlflow_run(
    impossible, run_dag, registry
):
    again = run_dag(
        DAG,
        conf={"study": "one_impossible"},
        logical_date=impossible.logical_date,
        may_fail=TRIALS,
    )
    assert again.states == impossible.states
    for task in ("plan.read_experiments", "plan.assign_folds", "leaderboard.rank"):
        assert again.digest(task) == impossible.digest(task)
    for index in range(6):
        trial = {"task_id": "trial.fit", "map_index": index}
        assert again.digest(**trial) == impossible.digest(**trial)
    assert len(registry.runs(DAG, impossible.key)) == 1


def test_a_study_that_the_file_does_not_have_is_refused_with_those_that_it_has(run_dag):
    failed = run_dag(DAG, conf={"study": "other"}, expect="failed")
    assert failed.error("plan.read_experiments").strip('"') == (
        f"{FILE} has no study 'other'; it has: usual, one_impossible"
    )
    assert failed.tries("plan.read_experiments") == 1
    assert failed.states["leaderboard.rank"] == "upstream_failed"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("usual: [", f"{FILE} can't be read"),
        ("usual: {folds: 1}", f"{FILE}, usual: 'architectures' is a required property"),
    ],
)
def test_a_broken_file_stops_the_run_before_anything_is_trained(run_dag, file, text, told):
    file.write_text(text)
    failed = run_dag(DAG, expect="failed")
    assert told in failed.error("plan.read_experiments")
    assert failed.tries("plan.read_experiments") == 1
    assert failed.states["trial.fit"] == "upstream_failed"


@pytest.mark.parametrize(
    ("architecture", "told"),
    [
        ({"kind": "GaussianNB"}, "[0]: 'name' is a required property"),
        ({"name": "a", "kind": "os.system"}, "[0].kind: 'os.system' is not one of ['GaussianNB'"),
        ({"name": "a b", "kind": "GaussianNB"}, "[0].name: 'a b' does not match"),
        ({"name": "a", "kind": "GaussianNB", "setting": {}}, "[0]: Additional properties are not"),
        ({"name": "a", "kind": "GaussianNB", "settings": {"depth": 3}}, "a: Invalid parameter"),
    ],
)
def test_an_architecture_that_can_not_be_made_is_named(of_dag, architecture, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        of_dag["check"](f"{FILE}, usual", {"folds": 3, "architectures": [architecture]})


def test_two_architectures_of_one_name_are_refused(of_dag):
    twice = {"folds": 3, "architectures": [{"name": "a", "kind": "GaussianNB"}] * 2}
    with pytest.raises(ValueError, match="more than one architecture is called a"):
        of_dag["check"](FILE, twice)


@pytest.mark.parametrize("study", ["No!", "", 3, None])
def test_a_wrong_param_is_refused_before_any_task_starts(run_dag, study):
    with pytest.raises(ParamValidationError, match="study"):
        run_dag(DAG, conf={"study": study})


def test_xcom_carries_references_and_less_than_a_kilobyte(run):
    for (task, _, key), value in run.xcoms().items():
        assert len(json.dumps(value)) < 1024, (task, key)
