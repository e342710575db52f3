"""A trial is counted once, whoever is killed, and many workers find what one would find."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from include.training import trials
from include.training.search_space import Float, Space

PROJECT = Path(__file__).parents[2]
SPACE = Space(rate=Float(0.001, 1.0, log=True), share=Float(0.0, 1.0))
ROUND, BUDGET, EPOCHS = 4, 12, 6


def curve(point):
    """A training that gets better with each epoch, and ends the lower the better its point."""
    end = abs(point["rate"] - 0.1) + abs(point["share"] - 0.5)
    return (end + 1 / epoch for epoch in range(1, EPOCHS + 1))


def killed_after(epochs):
    def losses(point):
        for epoch, loss in enumerate(curve(point), start=1):
            if epoch > epochs:
                signal.raise_signal(signal.SIGKILL)
            yield loss

    return losses


def search(journal, numbers, losses=curve):
    """Conduct these trials of a Bayesian search in which what is hopeless is given up."""
    from optuna.pruners import PercentilePruner
    from optuna.samplers import TPESampler

    study = trials.study(Path(journal), "search")
    for number in numbers:
        trials.conduct(
            study,
            number,
            SPACE,
            losses,
            point=SPACE.random(number + 1, seed=7)[number] if number < ROUND else None,
            sampler=TPESampler(seed=number // ROUND, n_startup_trials=1, constant_liar=True),
            pruner=PercentilePruner(33, n_startup_trials=1, n_warmup_steps=2),
            after=number // ROUND * ROUND,
        )
    return study


def work(journal, numbers):
    """Do some trials of every round, once the rounds before it are over."""
    for number in numbers:
        study = search(journal, [])
        while len(trials.finished(study)) < number // ROUND * ROUND:
            time.sleep(0.01)
        search(journal, [number])


def in_another_process(call):
    code = f"from tests.include.test_trials import *; {call}"
    return subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT)


def told(study):
    """Everything about the trials but the seconds that they took."""
    return trials.table({"search": study}, BUDGET).drop(columns="seconds")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The search as one process finds it, one trial after the other."""
    return search(tmp_path_factory.mktemp("alone") / "journal", range(BUDGET))


def test_tasks_side_by_side_find_what_one_worker_finds(alone, tmp_path):
    journal = tmp_path / "journal"
    workers = [
        in_another_process(f"work({str(journal)!r}, range({first}, {BUDGET}, 2))")
        for first in (0, 1)
    ]
    assert [worker.wait() for worker in workers] == [0, 0]
    pd.testing.assert_frame_equal(told(search(journal, [])), told(alone))


def test_a_killed_trial_leaves_nothing_and_its_next_try_is_the_only_one(alone, tmp_path):
    journal = tmp_path / "journal"
    search(journal, range(7))
    before = journal.read_bytes()
    call = f"search({str(journal)!r}, [7], killed_after(1))"
    assert in_another_process(call).wait() == -signal.SIGKILL
    assert journal.read_bytes() == before
    study = search(journal, range(7, BUDGET))
    assert len(study.trials) == BUDGET
    pd.testing.assert_frame_equal(told(study), told(alone))


def test_a_trial_that_is_there_is_not_run_again(alone):
    def never(point):
        raise AssertionError("this trial was over")

    again = trials.conduct(alone, 3, SPACE, never)
    assert again.value == trials.finished(alone)[3].value
    assert len(alone.trials) == BUDGET


def test_a_trial_learns_from_the_rounds_before_it_and_from_no_other(tmp_path):
    early, late = tmp_path / "early", tmp_path / "late"
    search(early, [0, 1, 2, 3, 4])
    search(late, [0, 1, 2, 3, 7, 6, 5, 4])
    tried = [trials.finished(search(journal, []))[4] for journal in (early, late)]
    assert tried[0].params == tried[1].params
    ignorant = search(tmp_path / "nothing", [4])
    assert trials.finished(ignorant)[4].params != tried[0].params


def test_a_trial_that_is_stopped_has_the_beginning_of_the_whole_one(alone):
    stopped = [each for each in trials.finished(alone).values() if each.state.name == "PRUNED"]
    assert stopped
    for trial in stopped:
        whole = list(curve(trial.params))
        assert list(trial.intermediate_values.values()) == whole[: trial.last_step]
        assert trials.sentence(trial) == (
            f"stopped after epoch {trial.last_step}, at {whole[trial.last_step - 1]:.4f}"
        )


def test_what_was_saved_is_what_was_not_trained(alone):
    rows = trials.table({"search": alone}, BUDGET)
    told = trials.summary(rows, EPOCHS)["search"]
    trained = sum(len(trial.intermediate_values) for trial in alone.trials)
    assert told["saved"] == pytest.approx(1 - trained / (BUDGET * EPOCHS), abs=1e-4)
    assert told["complete"] + told["stopped"] == BUDGET
    assert told["best"] == min(trial.value for trial in alone.trials)
    assert rows.spent.iloc[-1] == trained
    assert rows.best.is_monotonic_decreasing


def test_a_crash_is_recorded_with_its_reason_and_teaches_nothing(tmp_path):
    def diverges(point):
        yield 1.0
        raise FloatingPointError("overflow in a matrix product")

    study = search(tmp_path / "journal", range(3), diverges)
    rows = trials.table({"search": study}, budget=4)
    assert rows.outcome.tolist() == ["crashed"] * 4
    assert rows.crash.tolist() == [
        *["FloatingPointError: overflow in a matrix product"] * 3,
        "its task died",
    ]
    assert rows.epochs.tolist() == [1, 1, 1, 0]
    assert rows.best.isna().all()
    learned = search(tmp_path / "journal", [4])
    assert trials.finished(learned)[4].value == min(curve(learned.best_params))


def test_what_is_not_the_points_fault_is_not_the_trials(tmp_path):
    def cut_off(point):
        yield 1.0
        raise ConnectionError("the network went away")

    with pytest.raises(ConnectionError):
        search(tmp_path / "journal", [0], cut_off)
    assert trials.finished(search(tmp_path / "journal", [])) == {}


def test_too_many_crashes_are_refused_with_the_first_reasons():
    rows = pd.DataFrame({
        "search": ["grid"] * 10 + ["random"] * 10,
        "number": [*range(10)] * 2,
        "outcome": ["crashed"] * 6 + ["complete"] * 4 + ["crashed"] * 2 + ["complete"] * 8,
        "crash": ["OverflowError: too large"] * 20,
    })
    trials.refuse(rows, most=0.6)
    with pytest.raises(trials.TooManyCrashes) as refused:
        trials.refuse(rows, most=0.5)
    lines = str(refused.value).splitlines()
    assert lines[0] == "6 of 10 trials of the search 'grid' crashed, and no more than 50% may:"
    assert lines[1] == "- trial 0: OverflowError: too large"
    assert lines[-1] == "- and 1 more"
    assert "random" not in str(refused.value)


@pytest.mark.slow
def test_a_lock_whose_owner_was_killed_is_taken_over(tmp_path, caplog):
    journal = tmp_path / "journal"
    search(journal, [0])
    Path(f"{journal}.lock").symlink_to(journal)
    assert len(search(journal, [1]).trials) == 2
    assert "Forcibly releasing the lock" in caplog.text
