"""
> **Four searches over one space, with one budget:** by grid, by chance, by what was learned, and
> without finishing what looks hopeless.

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | nothing: the SQLite warehouse, scikit-learn, Optuna, MLflow |
| **Runs in** | about 90 seconds |
| **Look at** | `best_so_far.png` in the MLflow run; the names of the mapped tasks |

```text
① Prepare         ② Without learning       ⑤ Results
               ┌→ by_grid ──────────────┐
               ├→ at_random ────────────┤
split → plan ──┤  ③ Bayesian            ├→ check → compare → confirm
               ├→ round_1 → … → round_3 ┤
               │  ④ Early stopping      │
               └→ round_1 → … → round_3 ┘
```

| Box | Shown by |
|---|---|
| Grid search DAG | `blind.by_grid` |
| Random search pattern | `blind.at_random` |
| Bayesian optimization | `bayesian.round_1`, `bayesian.round_2`, `bayesian.round_3` |
| Early stopping | `early_stopping.round_1`, `early_stopping.round_2`, `early_stopping.round_3` |

**Run it**: `make run DAG=97_02_03_hyperparameter_tuning`; in half the time, with a grid that is
coarser still, with `CONF='{"points": 2}'`.

**What you should see**: 27 trainings of a small network each. They end at a loss of 0.5855 by grid,
0.5817 at random, 0.5802 with learning and, for 38 % fewer epochs, 0.5810 with early stopping. The
third random trial already beats the grid, which knows three values of each knob and no more. On
customers by whom nothing was chosen, the winner's 0.5802 is 0.5825.

**Copy it when** a training takes minutes or more, and you would rather wait for ten than for fifty.

**For production**: the journal is a file beside the data, for workers that share a disk; without
one, take Optuna's `JournalRedisBackend` in `include/training/trials.py`. Give the trials a pool
(97.2.1). The best of many looks better than it is, which *Confirm* measures, and 97.4.1 avoids.
"""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import Param, chain, dag, get_current_context, task, task_group

from include import retries, runs, storage, tracking
from include.training import trials
from include.training.search_space import Choice, Float, Space

DAG_ID = Path(__file__).stem
SPACE = Space(
    learning_rate=Float(0.001, 1.0, log=True),
    penalty=Float(0.001, 10.0, log=True),
    neurons=Choice(4, 16, 64),
)
EPOCHS = 15
ROUNDS = [1, 2, 3]  # each learns from those before it: more of them learn more, and wait more
SEARCHES = ("grid", "random", "bayesian", "early stopping")
TRAINING_ROWS = 500  # few, so that it matters how they are learned from
LABEL = "churned"
SEED = 97


def losses(point: dict, train, unseen, seed: int) -> Iterator[float]:
    """Train a network, and after each epoch say how wrong it is on rows that it has not seen."""
    from sklearn.metrics import log_loss
    from sklearn.neural_network import MLPClassifier

    from include.features.churn import preprocessor

    fitted = preprocessor().fit(train)
    known, asked = fitted.transform(train), fitted.transform(unseen)
    left, leaves = train[LABEL].to_numpy(), unseen[LABEL].to_numpy()
    network = MLPClassifier(
        hidden_layer_sizes=[point["neurons"]],
        solver="sgd",
        batch_size=50,
        learning_rate_init=point["learning_rate"],
        alpha=point["penalty"],
        random_state=seed,
    )
    for _ in range(EPOCHS):
        network.partial_fit(known, left, classes=[0, 1])
        yield float(log_loss(leaves, network.predict_proba(asked)[:, 1]))


def learned(number: int, begins: int, seed: int = SEED) -> dict:
    """Begin with the random search's points; in later rounds, look where losses were small."""
    from optuna.samplers import TPESampler

    if begins == 0:
        return {"point": SPACE.random(number + 1, seed)[number]}
    sampler = TPESampler(seed=seed + begins, n_startup_trials=1, constant_liar=True)
    return {"sampler": sampler, "after": begins}


def impatient(number: int, begins: int, seed: int = SEED) -> dict:
    """The same, and from the second epoch on only the best third of that age may train on."""
    from optuna.pruners import PercentilePruner

    pruner = PercentilePruner(33, n_startup_trials=1, n_warmup_steps=2)
    return learned(number, begins, seed) | {"pruner": pruner}


def grid() -> list[dict]:
    """The points of the grid, which are also the budget: every search has as many trials."""
    return SPACE.grid(get_current_context()["params"]["points"])


def study(search: str, data: dict[str, str]):
    """The study of a search, named after all that its trials depend on: no others mix in."""
    journal = storage.local_path(data["train"]).with_name("trials.journal")
    content = runs.digest("".join(data.values()).encode())
    return trials.study(journal, f"{search}/{len(grid())}/{content}")


def try_out(search: str, nth: int, place: int, data: dict[str, str], way: Callable) -> str:
    """Run one trial of a search, and tell MLflow what the journal says of it."""
    import mlflow
    from threadpoolctl import threadpool_limits

    train, validation = (storage.read_frame(data[part]) for part in ("train", "validation"))

    def curve(point: dict) -> Iterator[float]:
        return losses(point, train, validation, SEED)

    begins = (nth - 1) * len(grid()) // len(ROUNDS)
    number, shared = begins + place, study(search, data)
    with threadpool_limits(1):  # its siblings run at the same time
        trial = trials.conduct(shared, number, SPACE, curve, **way(number, begins))
    ended = trials.sentence(trial)
    with tracking.part(f"{shared.study_name}/{number}"):
        mlflow.set_tags({"search": search, "ended": ended})
        mlflow.log_params(trial.params)
        tracking.log_history({
            "validation_loss": list(trial.intermediate_values.values()),
            "seconds": [trial.user_attrs["seconds"]],
        })
    get_current_context()["trial"] = f"{number}: {ended}"
    return ended


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.02.03 · Hyperparameter Tuning",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 4),
    catchup=False,
    max_active_runs=1,
    tags=["reference", "patterns", "intermediate", "success"],
    default_args={
        "owner": "ml-catalogue",
        "retries": 2,
        "retry_delay": timedelta(seconds=5),
        "retry_policy": retries.POLICY,
        "execution_timeout": timedelta(minutes=5),
    },
    params={
        "points": Param(
            3,
            type="integer",
            minimum=1,
            maximum=4,
            title="Points",
            description="So many values of each hyperparameter make the grid, and the grid makes "
            "the budget: each search gets as many trials.",
        ),
        "most_crashed": Param(
            0.25,
            type="number",
            minimum=0,
            maximum=0.9,
            title="Most crashed",
            description="The share of a search's trials that may crash before the run fails.",
        ),
    },
)
def hyperparameter_tuning():
    @task_group(group_id="prepare", group_display_name="① Prepare")
    def prepare():
        @task(task_display_name="Split", multiple_outputs=False)
        def split() -> dict[str, str]:
            """Three parts: to learn from, to choose by, and one that no trial ever sees."""
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook
            from sklearn.model_selection import train_test_split

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            labels = customers[LABEL]
            train, rest = train_test_split(
                customers, train_size=TRAINING_ROWS, stratify=labels, random_state=SEED
            )
            validation, holdout = train_test_split(
                rest, train_size=0.5, stratify=labels[rest.index], random_state=SEED
            )
            return {
                "train": storage.write_frame(train, "train.parquet"),
                "validation": storage.write_frame(validation, "validation.parquet"),
                "holdout": storage.write_frame(holdout, "holdout.parquet"),
            }

        @task(task_display_name="Plan", multiple_outputs=False)
        def plan(data: dict[str, str]) -> list[int]:
            """Share the budget out to the rounds, and open the MLflow run for all to report to."""
            budget = len(grid())
            if budget % len(ROUNDS):
                raise ValueError(
                    f"{budget} trials can't be shared out to {len(ROUNDS)} rounds of equal size: "
                    "change ROUNDS, or the options of a choice in SPACE"
                )
            with tracking.run():
                return list(range(budget // len(ROUNDS)))

        data = split()
        return data, plan(data)

    mapped = {"map_index_template": "{{ trial }}", "trigger_rule": "all_done_min_one_success"}

    @task_group(group_id="blind", group_display_name="② Without learning")
    def blind(data, places):
        @task(task_display_name="Grid", **mapped)
        def by_grid(data, nth: int, place: int) -> str:
            """Every combination of a few values: even, and a bad value is paid for many times."""
            return try_out("grid", nth, place, data, lambda n, _: {"point": grid()[n]})

        @task(task_display_name="At random", **mapped)
        def at_random(data, nth: int, place: int) -> str:
            """A new value of everything in each trial: nothing is paid for twice."""
            draws = SPACE.random(len(grid()), SEED)
            return try_out("random", nth, place, data, lambda n, _: {"point": draws[n]})

        for trial in (by_grid, at_random):
            trial.partial(data=data).expand(nth=ROUNDS, place=places)

    def in_rounds(trial, data, places):
        """One round after the other, each of trials side by side."""
        chain(*[
            trial
            .override(task_id=f"round_{nth}", task_display_name=f"Round {nth}")
            .partial(data=data, nth=nth)
            .expand(place=places)
            for nth in ROUNDS
        ])

    @task_group(group_id="bayesian", group_display_name="③ Bayesian")
    def bayesian(data, places):
        @task(**mapped)
        def trial(data, nth: int, place: int) -> str:
            """Ask for a point where losses were small, by what all tasks wrote into the journal."""
            return try_out("bayesian", nth, place, data, learned)

        in_rounds(trial, data, places)

    @task_group(group_id="early_stopping", group_display_name="④ Early stopping")
    def early_stopping(data, places):
        @task(**mapped)
        def trial(data, nth: int, place: int) -> str:
            """Ask in the same way, and give up what falls behind: a third of a training tells."""
            return try_out("early stopping", nth, place, data, impatient)

        in_rounds(trial, data, places)

    @task_group(group_id="results", group_display_name="⑤ Results")
    def results(data):
        def trial_by_trial(data):
            """What the journal says, search after search."""
            searches = {search: study(search, data) for search in SEARCHES}
            return trials.table(searches, budget=len(grid()))

        @task(
            task_display_name="Check",
            trigger_rule="all_done_min_one_success",
            multiple_outputs=False,
        )
        def check(data) -> dict[str, int]:
            """A few crashes are a result; too many are a fault of the space, or of the training."""
            rows = trial_by_trial(data)
            trials.refuse(rows, most=get_current_context()["params"]["most_crashed"])
            return rows.loc[rows["outcome"] == "crashed", "search"].value_counts().to_dict()

        @task(task_display_name="Compare", multiple_outputs=False)
        def compare(data) -> dict[str, dict]:
            """What each search found with the same budget, and what it left of it."""
            import mlflow

            from include.evaluation import plots

            rows = trial_by_trial(data)
            summary = trials.summary(rows, EPOCHS)
            with tracking.run():
                curves = plots.best_so_far(rows, "validation loss", "epochs trained")
                tracking.log_figure(curves, "best_so_far.png")
                mlflow.log_dict(summary, "summary.json")
                mlflow.log_text(rows.to_csv(index=False), "trials.csv")
            return summary

        @task(task_display_name="Confirm")
        def confirm(data) -> str:
            """Train the winner again and judge it where nothing was chosen: the honest number."""
            rows = trial_by_trial(data)
            best = rows.loc[rows["loss"].idxmin(), ["search", "number", "loss"]].to_dict()
            point = trials.finished(study(best["search"], data))[best["number"]].params
            train, holdout = (storage.read_frame(data[part]) for part in ("train", "holdout"))
            *_, honest = losses(point, train, holdout, SEED)
            return storage.write_json(best | point | {"holdout_loss": honest}, "winner.json")

        check(data) >> compare(data) >> confirm(data)

    data, places = prepare()
    searches = [search(data, places) for search in (blind, bayesian, early_stopping)]
    searches >> results(data)


hyperparameter_tuning()
