"""Trials of a search that many tasks run side by side, each counted exactly once.

The trials of a study stand in an Optuna journal, a file that all tasks append to. A trial is
written there when it is over, in one piece, under the number that its task was given. A task that
is killed halfway has written nothing, and its next try begins anew; one that is killed later finds
its trial.

What a trial may learn from goes by number too: from the trials before its round, never from one
that happens to be finished. So the same seeds give the same trials on one worker or on twenty.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    from include.training.search_space import Point, Space

# What a point can be to blame for. A lost connection is no such thing: that task is tried again.
CRASHES = (ArithmeticError, MemoryError, ValueError)
OUTCOMES = {"COMPLETE": "complete", "PRUNED": "stopped", "FAIL": "crashed"}
NAMED = 5
REASON = 200  # letters
LOCK_SECONDS = 5  # writing takes milliseconds: whoever holds the lock for longer is dead


class TooManyCrashes(ValueError):
    """So many trials are missing that what remains decides nothing; trying again won't mend it."""


def study(journal: Path, name: str) -> "Study":
    """Open a study of the journal, or begin it. Its losses are to become small."""
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    lock = JournalFileSymlinkLock(str(journal), grace_period=LOCK_SECONDS)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal), lock))
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return optuna.create_study(study_name=name, storage=storage, load_if_exists=True)


def finished(study: "Study") -> "dict[int, FrozenTrial]":
    """The trials by number and in its order; of one that was written twice, the first."""
    written = study.get_trials(deepcopy=False)
    first = {trial.user_attrs["number"]: trial for trial in reversed(written)}
    return dict(sorted(first.items()))


def conduct(
    study: "Study",
    number: int,
    space: "Space",
    losses: "Callable[[Point], Iterable[float]]",
    point: "Point | None" = None,
    sampler: "BaseSampler | None" = None,
    pruner: "BasePruner | None" = None,
    after: int = 0,
) -> "FrozenTrial":
    """Run a trial unless it is written already, and write it.

    Its point is the one that is given, or the sampler's choice. After each of the losses the pruner
    may give it up. Both know the trials with numbers below `after`, and no other; those from there
    on are siblings, for which the same sampler is asked first, so that each has a point of its own.
    """
    import optuna
    from optuna.trial import TrialState

    known = finished(study)
    if number in known:
        return known[number]
    own = optuna.create_study(sampler=sampler, pruner=pruner or optuna.pruners.NopPruner())
    own.add_trials([trial for earlier, trial in known.items() if earlier < after])
    if point is not None:
        own.enqueue_trial(point)
    else:
        for _sibling in range(after, number):
            own.ask(space.distributions())
    trial = own.ask(space.distributions())
    trial.set_user_attr("number", number)

    began = time.thread_time()
    state, loss = TrialState.COMPLETE, None
    try:
        for epoch, loss in enumerate(losses(trial.params), start=1):
            trial.report(loss, epoch)
            if trial.should_prune():
                state = TrialState.PRUNED
                break
    except CRASHES as crash:
        state = TrialState.FAIL
        trial.set_user_attr("crash", f"{type(crash).__name__}: {crash}"[:REASON])
    trial.set_user_attr("seconds", time.thread_time() - began)
    over = own.tell(trial, loss if state == TrialState.COMPLETE else None, state)
    study.add_trial(over)
    return over


def sentence(trial: "FrozenTrial") -> str:
    """What became of a trial, in a few words."""
    if trial.state.name == "FAIL":
        return f"crashed: {trial.user_attrs['crash']}"
    if trial.state.name == "PRUNED":
        return f"stopped after epoch {trial.last_step}, at {trial.value:.4f}"
    return f"{trial.value:.4f}"


def table(searches: "Mapping[str, Study]", budget: int) -> "pd.DataFrame":
    """A row for every trial that there should be; one that nobody wrote has crashed as well.

    `spent` and `best` say what its search had trained and found until then, in epochs and loss.
    """
    import pandas as pd

    rows = []
    for name, study in searches.items():
        known = finished(study)
        rows += [{"search": name, **_row(n, known.get(n))} for n in range(budget)]
    frame = pd.DataFrame(rows).astype({"loss": float, "seconds": float})
    frame["spent"] = frame.groupby("search")["epochs"].cumsum()
    frame["best"] = frame.groupby("search")["loss"].cummin()
    return frame.assign(best=frame.groupby("search")["best"].ffill())


def summary(trials: "pd.DataFrame", epochs: int) -> dict[str, dict[str, float]]:
    """For each search: the best loss, how its trials ended, and the epochs that it did without."""
    return {
        str(search): {
            "best": float(rows["loss"].min()),
            **{outcome: int((rows["outcome"] == outcome).sum()) for outcome in OUTCOMES.values()},
            "saved": round(1 - float(rows["epochs"].sum()) / (epochs * len(rows)), 4),
            "seconds": round(float(rows["seconds"].sum()), 2),
        }
        for search, rows in trials.groupby("search", sort=False)
    }


def _row(number: int, trial: "FrozenTrial | None") -> dict[str, Any]:
    if trial is None:
        return {"number": number, "outcome": "crashed", "crash": "its task died", "epochs": 0} | {
            "loss": float("nan"),
            "seconds": 0.0,
        }
    return {
        "number": number,
        "outcome": OUTCOMES[trial.state.name],
        "crash": trial.user_attrs.get("crash"),
        "epochs": len(trial.intermediate_values),
        "loss": trial.value if trial.state.name == "COMPLETE" else float("nan"),
        "seconds": trial.user_attrs["seconds"],
        **trial.params,
    }


def refuse(trials: "pd.DataFrame", most: float) -> None:
    """Raise if more than this share of any search crashed, and say which trials, and why."""
    faults = []
    for search, rows in trials.groupby("search", sort=False):
        crashed = rows[rows.outcome == "crashed"]
        if len(crashed) > most * len(rows):
            reasons = [f"\n- trial {row.number}: {row.crash}" for row in crashed.itertuples()]
            more = [f"\n- and {len(reasons) - NAMED} more"] if len(reasons) > NAMED else []
            faults.append(
                f"{len(crashed)} of {len(rows)} trials of the search {search!r} crashed, and no "
                f"more than {most:.0%} may:" + "".join(reasons[:NAMED] + more)
            )
    if faults:
        raise TooManyCrashes("\n".join(faults))
