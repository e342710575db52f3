"""97.2.3 Hyperparameter Tuning: four searches, each trial counted once, and what each found."""

import copy
import json
from pathlib import Path

import optuna
import pandas as pd
import pytest
from airflow.sdk.exceptions import ParamValidationError
from sklearn.neural_network import MLPClassifier

from include import storage, tracking
from include.training import trials

DAG = "97_02_03_hyperparameter_tuning"
SEARCHES = ["grid", "random", "bayesian", "early stopping"]
EPOCHS = 15
KNOBS = ["learning_rate", "penalty", "neurons"]
SMALL = {"points": 1}
BUDGET, ROUND = 27, 9  # by default: three values for each of three knobs, in three rounds


@pytest.fixture(scope="module")
def run(run_dag):
    return run_dag(DAG)


@pytest.fixture(scope="module")
def small(run_dag):
    return run_dag(DAG, conf=SMALL)


def journal(run):
    return storage.local_path(run.reference("prepare.split", "train")).with_name("trials.journal")


def studies(run):
    """The four searches, as the journal has them."""
    backend = optuna.storages.journal.JournalFileBackend(str(journal(run)))
    kept = optuna.storages.JournalStorage(backend)
    named = {name.partition("/")[0]: name for name in optuna.study.get_all_study_names(kept)}
    assert sorted(named) == sorted(SEARCHES)
    return [trials.study(journal(run), named[search]) for search in SEARCHES]


def told(run):
    """What the journal says, but for the seconds, which are others each time."""
    budget = len(run.xcom("prepare.plan")) * 3
    found = dict(zip(SEARCHES, studies(run), strict=True))
    assert [len(study.trials) for study in found.values()] == [budget] * 4
    return trials.table(found, budget).drop(columns="seconds")


def of(search, run):
    rows = told(run)
    return rows[rows.search == search].set_index("number")


def in_mlflow(registry, run):
    """The pipeline run's MLflow run, and those within it."""
    (whole,) = registry.runs(DAG, run.key)
    inside = registry.client.search_runs(
        [whole.info.experiment_id], f"tags.`mlflow.parentRunId` = '{whole.info.run_id}'"
    )
    return whole, list(inside)


def winner(run):
    return storage.read_json(run.reference("results.confirm"))


@pytest.mark.shows("97.2.3", "Grid search DAG")
def test_the_grid_has_a_task_for_every_combination_once(run):
    grid = of("grid", run)
    rates, penalties = sorted(grid.learning_rate.unique()), sorted(grid.penalty.unique())
    assert rates == pytest.approx([0.001, 0.001**0.5, 1.0])
    assert penalties == pytest.approx([0.001, 0.1, 10.0])
    assert sorted(grid.neurons.unique()) == [4, 16, 64]
    assert len(grid) == len(grid[KNOBS].drop_duplicates()) == BUDGET
    tasks = [run.states[f"blind.by_grid[{index}]"] for index in range(BUDGET)]
    assert tasks == ["success"] * BUDGET
    assert run.xcom("results.compare")["grid"]["best"] == grid.loss.min()


@pytest.mark.shows("97.2.3", "Random search pattern")
def test_chance_tries_as_often_and_never_the_same_value_twice(run, small):
    drawn = of("random", run)
    assert len(drawn) == BUDGET
    assert drawn.learning_rate.is_unique
    assert drawn.penalty.is_unique
    assert drawn.loss.min() < of("grid", run).loss.min()
    pd.testing.assert_frame_equal(drawn[KNOBS].head(3), of("random", small)[KNOBS])


@pytest.mark.shows("97.2.3", "Bayesian optimization")
def test_each_round_asks_by_what_the_tasks_before_it_have_found(run):
    learned = of("bayesian", run)
    pd.testing.assert_frame_equal(
        learned[:ROUND], of("random", run)[:ROUND].assign(search="bayesian")
    )
    assert learned.loss.min() < of("grid", run).loss.min()
    assert len(learned[KNOBS].drop_duplicates()) == BUDGET

    (found,) = [each for each in studies(run) if each.study_name.startswith("bayesian/")]
    first = list(trials.finished(found).values())[:ROUND]
    points = asked(first)
    assert points == learned[KNOBS][ROUND : 2 * ROUND].to_dict("records")
    worse = [copy.deepcopy(each) for each in first]
    for trial, value in zip(worse, sorted(each.value for each in first), strict=True):
        trial.value = value
    assert asked(worse) != points


def asked(known):
    """The points of the second round, by Optuna itself, for somebody who knows these trials."""
    sampler = optuna.samplers.TPESampler(seed=97 + ROUND, n_startup_trials=1, constant_liar=True)
    study = optuna.create_study(sampler=sampler)
    study.add_trials(known)
    return [study.ask(known[0].distributions).params for _ in range(ROUND)]


@pytest.mark.shows("97.2.3", "Early stopping")
def test_hopeless_trainings_are_given_up_counted_and_their_epochs_saved(run, registry):
    rows, summary = of("early stopping", run), run.xcom("results.compare")["early stopping"]
    stopped = rows[rows.outcome == "stopped"]
    assert 0 < len(stopped) == summary["stopped"] == BUDGET - summary["complete"]
    assert (stopped.epochs < EPOCHS).all()
    assert (rows.epochs[rows.outcome == "complete"] == EPOCHS).all()
    assert summary["saved"] == pytest.approx(1 - rows.epochs.sum() / (BUDGET * EPOCHS), abs=1e-4)
    assert summary["saved"] > 0.1
    assert summary["best"] < run.xcom("results.compare")["grid"]["best"]
    for search in SEARCHES[:3]:
        assert run.xcom("results.compare")[search]["saved"] == 0
    _, inside = in_mlflow(registry, run)
    ended = [each.data.tags["ended"] for each in inside]
    assert sum(end.startswith("stopped after epoch") for end in ended) == len(stopped)


def test_every_trial_is_a_run_within_the_pipelines_own(run, registry):
    whole, inside = in_mlflow(registry, run)
    rows = told(run).set_index(["search", "number"])
    assert len(inside) == len(rows) == 4 * BUDGET
    for each in inside:
        search, _, _, number = each.info.run_name.split("/")
        row = rows.loc[search, int(number)]
        assert each.data.tags["search"] == search
        assert {knob: float(each.data.params[knob]) for knob in KNOBS} == row[KNOBS].to_dict()
        losses = registry.client.get_metric_history(each.info.run_id, "validation_loss")
        assert [loss.step for loss in losses] == list(range(1, row.epochs + 1))
        if row.outcome == "complete":
            assert losses[-1].value == row.loss
    kept = [each.path for each in registry.client.list_artifacts(whole.info.run_id)]
    assert sorted(kept) == ["best_so_far.png", "summary.json", "trials.csv"]


def test_the_winner_is_the_best_of_all_and_judged_where_nothing_was_chosen(run):
    rows, best = told(run), winner(run)
    assert best["loss"] == rows.loss.min()
    row = rows[(rows.search == best["search"]) & (rows.number == best["number"])].iloc[0]
    assert {knob: best[knob] for knob in KNOBS} == row[KNOBS].to_dict()
    parts = [run.frame("prepare.split", name) for name in ("train", "validation", "holdout")]
    ids = pd.concat([part.customer_id for part in parts])
    assert ids.is_unique
    assert len(ids) == 8000
    assert 0.5 < best["holdout_loss"] < 0.65
    assert best["holdout_loss"] != best["loss"]


def test_the_same_date_again_tries_nothing_again(small, run_dag, registry, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("this trial was over")

    written = journal(small).read_bytes()
    conduct = trials.conduct
    monkeypatch.setattr(
        trials, "conduct", lambda study, n, space, losses, **how: conduct(study, n, space, never)
    )
    again = run_dag(DAG, conf=SMALL, logical_date=small.logical_date)
    assert journal(again).read_bytes() == written
    assert again.digest("results.confirm") == small.digest("results.confirm")
    assert again.xcom("results.compare") == small.xcom("results.compare")
    assert len(in_mlflow(registry, again)[1]) == 12


def test_tasks_that_break_off_and_come_back_change_nothing(small, run_dag, registry, monkeypatch):
    train, part, lost = MLPClassifier.partial_fit, tracking.part, []

    def cut_off(network, *args, **kwargs):
        if getattr(network, "t_", 0) > 0 and "training" not in lost:
            lost.append("training")
            raise ConnectionError("the machine went away, in the middle of a training")
        return train(network, *args, **kwargs)

    def unreachable(name):
        if name.startswith("bayesian/") and name.endswith("/1") and "tracking" not in lost:
            lost.append("tracking")
            raise ConnectionError("MLflow went away, when the trial was in the journal")
        return part(name)

    monkeypatch.setattr(MLPClassifier, "partial_fit", cut_off)
    monkeypatch.setattr(tracking, "part", unreachable)
    rough = run_dag(DAG, conf=SMALL)
    assert sorted(lost) == ["tracking", "training"]
    assert rough.tries("bayesian.round_2[0]") == 2
    assert sum(rough.tries(task) for task in rough.states) == len(rough.states) + 2
    pd.testing.assert_frame_equal(told(rough), told(small))
    assert rough.digest("results.confirm") == small.digest("results.confirm")
    assert len(in_mlflow(registry, rough)[1]) == 12


def test_a_few_crashes_are_recorded_and_too_many_fail_the_run(run_dag, registry, monkeypatch):
    train, conduct = MLPClassifier.partial_fit, trials.conduct

    def diverging(network, *args, **kwargs):
        if network.hidden_layer_sizes == [64]:
            raise FloatingPointError("overflow encountered in matmul")
        return train(network, *args, **kwargs)

    def dying(study, number, *args, **how):
        if study.study_name.startswith("early stopping/") and number == 1:
            raise RuntimeError("the kernel took the memory back")
        return conduct(study, number, *args, **how)

    monkeypatch.setattr(MLPClassifier, "partial_fit", diverging)
    monkeypatch.setattr(trials, "conduct", dying)
    conf = SMALL | {"most_crashed": 0.7}
    borne = run_dag(DAG, conf=conf, may_fail=["early_stopping.round_2"])
    assert borne.states["early_stopping.round_2[0]"] == "failed"
    assert borne.tries("early_stopping.round_2[0]") == 3
    assert borne.states["early_stopping.round_3[0]"] == "success"
    crashed = borne.xcom("results.check")
    assert crashed["grid"] == 1
    assert crashed["early stopping"] >= 1
    assert {search: each["crashed"] for search, each in borne.xcom("results.compare").items()} == {
        search: crashed.get(search, 0) for search in SEARCHES
    }
    assert borne.tries("blind.by_grid[2]") == 1
    reason = "crashed: FloatingPointError: overflow encountered in matmul"
    assert borne.xcom("blind.by_grid", map_index=2) == reason
    ended = [each.data.tags["ended"] for each in in_mlflow(registry, borne)[1]]
    assert reason in ended
    assert len(ended) == 11
    assert winner(borne)["neurons"] != 64

    stricter = run_dag(
        DAG, conf=SMALL | {"most_crashed": 0.2}, logical_date=borne.logical_date, expect="failed"
    )
    message = stricter.error("results.check")
    assert "1 of 3 trials of the search 'grid' crashed, and no more than 20% may:" in message
    assert "- trial 2: FloatingPointError: overflow encountered in matmul" in message
    assert "- trial 1: its task died" in message
    assert stricter.tries("results.check") == 1
    assert stricter.states["results.compare"] == "upstream_failed"


def test_without_customers_nothing_is_tried(run_dag, warehouse):
    warehouse.execute("DELETE FROM customers WHERE customer_id > 400")
    failed = run_dag(DAG, conf=SMALL, expect="failed")
    assert "train_size=500" in failed.error("prepare.split")
    assert failed.tries("prepare.split") == 1
    states = {task: state for task, state in failed.states.items() if task != "prepare.split"}
    assert set(states.values()) == {"upstream_failed"}


def test_what_is_passed_on_is_small(run):
    sizes = {where: len(json.dumps(what)) for where, what in run.xcoms().items()}
    assert max(sizes.values()) < 1024


@pytest.mark.parametrize(("name", "value"), [("points", 0), ("points", 5), ("most_crashed", 1.5)])
def test_a_wrong_param_is_refused_before_any_task_starts(run_dag, name, value):
    with pytest.raises(ParamValidationError, match=str(value)):
        run_dag(DAG, conf={name: value})


@pytest.mark.slow
def test_the_header_says_what_one_sees(run):
    text = (Path(__file__).parents[2] / "dags" / f"{DAG}.py").read_text()
    text = " ".join(text.partition("**What you should see**")[2].partition("**Copy")[0].split())
    summary, best = run.xcom("results.compare"), winner(run)
    grid, drawn, learned, stopped = (f"{summary[search]['best']:.4f}" for search in SEARCHES)
    assert f"{grid} by grid, {drawn} at random, {learned} with learning" in text
    assert f"{summary['early stopping']['saved']:.0%}".replace("%", " %") in text
    assert f"{stopped} with early stopping" in text
    assert f"the winner's {best['loss']:.4f} is {best['holdout_loss']:.4f}" in text
    assert learned < stopped < drawn < grid
    third = of("random", run).best
    assert third[1] > summary["grid"]["best"] >= third[2]
