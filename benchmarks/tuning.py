"""How much training each search of 97.2.3 needs until it has found what the grid finds in the end.

The searches, the space and the budget are the pipeline's own; the customers are drawn anew for each
seed. Seconds are those of the processor, so that what else the machine does counts for nobody.
"""

import importlib.machinery
import importlib.util
import statistics
from types import ModuleType
from typing import Any

import optuna
from threadpoolctl import threadpool_limits

from include.data import churn
from include.tools import environment
from include.training import trials

SEEDS = range(97, 102)
POINTS = 3
VALIDATION_ROWS = 4_000
BAR = 0.5


def pipeline() -> ModuleType:
    """The DAG file as a module."""
    file = environment.DAGS / "97_02_03_hyperparameter_tuning.py"
    loader = importlib.machinery.SourceFileLoader("tuning", str(file))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def conducted(tuning: ModuleType, seed: int) -> dict[str, list[Any]]:
    """All trials of each search, in their order, on customers of this seed."""
    customers = churn.customers(tuning.TRAINING_ROWS + VALIDATION_ROWS, seed)
    train, validation = customers[: tuning.TRAINING_ROWS], customers[tuning.TRAINING_ROWS :]
    grid = tuning.SPACE.grid(POINTS)
    drawn = tuning.SPACE.random(len(grid), seed)
    ways = {
        "grid": lambda number, _: {"point": grid[number]},
        "random": lambda number, _: {"point": drawn[number]},
        "bayesian": lambda number, begins: tuning.learned(number, begins, seed),
        "early stopping": lambda number, begins: tuning.impatient(number, begins, seed),
    }
    of_a_round = len(grid) // len(tuning.ROUNDS)
    found = {}
    for search, way in ways.items():
        study = optuna.create_study()
        found[search] = [
            trials.conduct(
                study,
                number,
                tuning.SPACE,
                lambda point: tuning.losses(point, train, validation, seed),
                **way(number, number // of_a_round * of_a_round),
            )
            for number in range(len(grid))
        ]
    return found


def needed(search: list[Any], goal: float) -> float:
    """The seconds trained until a trial came to its end with a loss as small; else, infinity."""
    seconds = 0.0
    for trial in search:
        seconds += trial.user_attrs["seconds"]
        if trial.state.name == "COMPLETE" and trial.value <= goal:
            return seconds
    return float("inf")


def main() -> None:
    """Print a line for each seed, and the median against the bar."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tuning = pipeline()
    ratios: dict[str, list[float]] = {}
    print("training seconds until the grid's best loss is reached, over all of the grid's seconds")
    print("(all seconds of the search over all of the grid's, best loss less the grid's best)")
    for seed in SEEDS:
        with threadpool_limits(1):
            found = conducted(tuning, seed)
        whole = sum(trial.user_attrs["seconds"] for trial in found["grid"])
        best = {
            search: min(each.value for each in tried if each.state.name == "COMPLETE")
            for search, tried in found.items()
        }
        line = [f"  seed {seed}"]
        for search, tried in found.items():
            ratio = needed(tried, best["grid"]) / whole
            all_of_it = sum(trial.user_attrs["seconds"] for trial in tried) / whole
            ratios.setdefault(search, []).append(ratio)
            line.append(
                f"{search} {ratio:.2f} ({all_of_it:.2f}, {best[search] - best['grid']:+.4f})"
            )
        print(" · ".join(line), flush=True)
    medians = {search: statistics.median(each) for search, each in ratios.items()}
    print("  median  · " + " · ".join(f"{name} {median:.2f}" for name, median in medians.items()))
    verdict = "reached" if medians["early stopping"] <= BAR else "missed"
    print(f"  the bar, {BAR} for Bayesian search with early stopping: {verdict}")


if __name__ == "__main__":
    main()
