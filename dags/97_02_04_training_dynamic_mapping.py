"""
> **A file says what to try. Airflow makes one trial for each architecture and each fold of it, and
> a trial that fails costs its own architecture, not the comparison.**

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | nothing: a SQLite warehouse, scikit-learn, MLflow |
| **Runs in** | about 40 seconds |
| **Look at** | *Fit* in the Graph: its instances by name; then `leaderboard.png` in MLflow |

```text
① Plan                                ② Trials (20)   ③ Leaderboard
read_experiments ┬→ list_architectures ┬→ fit → score → rank → compare → publish
                 ├→ list_folds ────────┤
                 └→ assign_folds ──────┘
```

| Box | Shown by |
|---|---|
| expand() for experiments | `plan.read_experiments`, `plan.list_architectures` |
| Multiple model architectures | `trial.fit` |
| Cross-validation folds | `plan.assign_folds`, `plan.list_folds`, `trial.score` |
| Result aggregation | `leaderboard.rank`, `leaderboard.compare`, `leaderboard.publish` |

**Run it**: `make run DAG=97_02_04_training_dynamic_mapping`. Then with a study of which one
architecture can't be fitted, `CONF='{"study": "one_impossible"}'`: its trials turn red, the
leaderboard says so, and the run is green. Add an architecture to `config/experiments.yaml`: the
next run has its trials, and no line of this file has changed.

**What you should see**: `linear` first with a mean AUC of 0.741, 0.0084 ahead of `boosting`. A
plain paired t-test gives p = 0.002 for that. Folds share what they learn from, and a test that
knows it gives 0.007: still more than luck. Of the three folds of the other study it makes p = 0.14
for a lead of 0.0214: too few to tell, so the simpler `bayes` is taken. The trials run one after
the other here, and three at once under a scheduler.

**Copy it when** the number of trainings is only known when the run starts.

**For production**: set `MOST_AT_ONCE` to what your workers can bear, or a pool where other DAGs
train too (97.2.1). Then train the winner on all customers and let a gate decide (97.4.2): the best
of many looks a little better than it is.
"""

from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path

import yaml
from airflow.sdk import Param, dag, get_current_context, task, task_group

from include import retries, storage, tracking

DAG_ID = Path(__file__).stem
PROJECT = Path(__file__).parents[1]
FILE = "config/experiments.yaml"
LABEL = "churned"
SEED = 97
SIGNIFICANT = 0.05
MOST_AT_ONCE = 3
TRIAL_NAME = "{{ task.op_kwargs.architecture }}, fold {{ task.op_kwargs.fold }}"
# A file of settings can't be let choose what is imported, so it chooses from these.
KINDS = {
    "GaussianNB": "sklearn.naive_bayes",
    "HistGradientBoostingClassifier": "sklearn.ensemble",
    "LogisticRegression": "sklearn.linear_model",
    "QuadraticDiscriminantAnalysis": "sklearn.discriminant_analysis",
    "RandomForestClassifier": "sklearn.ensemble",
}
ARCHITECTURE = {
    "type": "object",
    "required": ["name", "kind"],
    "properties": {
        "name": {"type": "string", "pattern": r"^[a-z][a-z0-9_]{0,30}$(?!\n)"},
        "kind": {"enum": list(KINDS)},
        "settings": {"type": "object"},
    },
    "additionalProperties": False,
}
STUDY = {
    "type": "object",
    "required": ["folds", "architectures"],
    "properties": {
        "folds": {"type": "integer", "minimum": 2, "maximum": 30},
        "architectures": {"type": "array", "items": ARCHITECTURE, "minItems": 1, "maxItems": 30},
    },
    "additionalProperties": False,
}


def check(place: str, study: dict) -> None:
    """Refuse what can't be trained before anything is, and say where it stands."""
    from jsonschema import Draft202012Validator

    for fault in Draft202012Validator(STUDY).iter_errors(study):
        raise ValueError(f"{place}{fault.json_path[1:]}: {fault.message}")
    names = [architecture["name"] for architecture in study["architectures"]]
    for architecture in study["architectures"]:
        name = architecture["name"]
        if names.count(name) > 1:
            raise ValueError(f"{place}: more than one architecture is called {name}")
        try:
            untrained(architecture)
        except ValueError as error:
            raise ValueError(f"{place}, {name}: {error}") from None


def architectures(study: str) -> dict[str, dict]:
    """Who takes part, in the file's order: from simple to complex."""
    return {each["name"]: each for each in storage.read_json(study)["architectures"]}


def untrained(architecture: dict):
    """Features and what an entry of the file describes, seeded where its kind draws lots."""
    from sklearn.pipeline import make_pipeline

    from include.features.churn import preprocessor

    kind = architecture["kind"]
    classifier = getattr(import_module(KINDS[kind]), kind)()
    seed = {"random_state": SEED} if "random_state" in classifier.get_params() else {}
    classifier.set_params(**seed | architecture.get("settings", {}))
    return make_pipeline(preprocessor(), classifier)


def paired_test(best, second) -> dict[str, float]:
    """The paired t-test as it is, and corrected for folds that share what they learned from."""
    from scipy import stats

    if (best == second).all():
        return {"p_plain": 1.0, "p_value": 1.0}
    folds = len(best)
    plain = stats.ttest_rel(best, second)
    # Nadeau and Bengio: two folds' models have most rows in common, so their scores vary together.
    corrected = plain.statistic / (1 + folds / (folds - 1)) ** 0.5
    p_value = 2 * stats.t.sf(abs(corrected), df=folds - 1)
    return {"p_plain": float(plain.pvalue), "p_value": float(p_value)}


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.02.04 · Training with Dynamic Task Mapping",
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
        "study": Param(
            "usual",
            type="string",
            pattern=r"^[a-z][a-z0-9_]{0,100}$(?!\n)",
            title="Study",
            description="Which study of config/experiments.yaml to run.",
        ),
    },
)
def training_dynamic_mapping():
    @task_group(group_id="plan", group_display_name="① Plan")
    def plan():
        @task(task_display_name="Read experiments")
        def read_experiments() -> str:
            """Keep a copy, so that a file edited meanwhile can't part the trials of one run."""
            try:
                studies = yaml.safe_load((PROJECT / FILE).read_text(encoding="utf-8")) or {}
            except yaml.YAMLError as error:
                raise ValueError(f"{FILE} can't be read: {error}") from None
            asked = get_current_context()["params"]["study"]
            if asked not in studies:
                raise LookupError(f"{FILE} has no study {asked!r}; it has: {', '.join(studies)}")
            study = studies[asked]
            check(f"{FILE}, {asked}", study)
            # To YAML 5.0 is a whole number; to Python it is none.
            return storage.write_json(study | {"folds": int(study["folds"])}, "study.json")

        @task(task_display_name="List architectures")
        def list_architectures(study: str) -> list[str]:
            """The first list that is mapped over: names alone, since XCom is no place for more."""
            return list(architectures(study))

        @task(task_display_name="List folds")
        def list_folds(study: str) -> list[int]:
            """The second list; Airflow makes every pair of the two."""
            return [fold + 1 for fold in range(storage.read_json(study)["folds"])]

        @task(task_display_name="Assign folds")
        def assign_folds(study: str) -> str:
            """Decide once who is held out when: scores can be paired only on the same customers."""
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook
            from sklearn.model_selection import StratifiedKFold

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            folds = storage.read_json(study)["folds"]
            parts = StratifiedKFold(folds, shuffle=True, random_state=SEED)
            for fold, (_, held_out) in enumerate(parts.split(customers, customers[LABEL]), start=1):
                customers.loc[held_out, "fold"] = fold
            return storage.write_frame(customers.astype({"fold": int}), "customers.parquet")

        study = read_experiments()
        return study, list_architectures(study), list_folds(study), assign_folds(study)

    @task_group(group_id="trial", group_display_name="② Trials")
    def trial(study: str, customers: str, architecture: str, fold: int):
        @task(
            task_display_name="Fit",
            map_index_template=TRIAL_NAME,
            max_active_tis_per_dag=MOST_AT_ONCE,
        )
        def fit(study: str, customers: str, architecture: str, fold: int) -> str:
            """Learn from all folds but one; what scikit-learn refuses fails here, at once."""
            from threadpoolctl import threadpool_limits

            rows = storage.read_frame(customers)
            train = rows[rows["fold"] != fold]
            with threadpool_limits(1):  # trials run side by side: more would wait for each other
                fitted = untrained(architectures(study)[architecture]).fit(train, train[LABEL])
            return storage.write_model(fitted, "model.skops")

        @task(task_display_name="Score", map_index_template=TRIAL_NAME, multiple_outputs=False)
        def score(model: str, customers: str, architecture: str, fold: int) -> dict:
            """Measure on the fold that was left out; say whose score it is, since some may miss."""
            from sklearn.metrics import roc_auc_score

            rows = storage.read_frame(customers)
            held_out = rows[rows["fold"] == fold]
            scores = storage.read_model(model).predict_proba(held_out)[:, 1]
            auc = float(roc_auc_score(held_out[LABEL], scores))
            return {"architecture": architecture, "fold": fold, "auc": auc}

        combination = {"customers": customers, "architecture": architecture, "fold": fold}
        return score(model=fit(study=study, **combination), **combination)

    @task_group(group_id="leaderboard", group_display_name="③ Leaderboard")
    def leaderboard(study: str, results):
        # Not "all_done" alone: where the plan has failed there is nothing to wait for.
        @task(task_display_name="Rank", trigger_rule="all_done_min_one_success")
        def rank(study: str, results) -> str:
            """Rank who has every fold: a mean over fewer folds is one over other customers."""
            import pandas as pd

            scored = (results or [])[:]  # there are none where every trial has failed
            scores = pd.DataFrame(scored, columns=["architecture", "fold", "auc"])
            folds = [fold + 1 for fold in range(storage.read_json(study)["folds"])]
            table = scores.pivot(index="architecture", columns="fold", values="auc")
            table = table.reindex(index=list(architectures(study)), columns=folds).astype(float)
            missing = [", ".join(map(str, row.index[row])) for _, row in table.isna().iterrows()]
            board = pd.DataFrame({
                "mean": table.mean(axis=1, skipna=False),
                "std": table.std(axis=1, skipna=False),
                "failed_folds": missing,
            }).join(table.add_prefix("fold_"))
            ranked = board.sort_values("mean", ascending=False, kind="stable")
            return storage.write_frame(ranked, "leaderboard.parquet")

        @task(task_display_name="Compare", multiple_outputs=False)
        def compare(study: str, board: str) -> dict:
            """Do the best two differ by more than luck? Where not, the simpler one wins."""
            finished = storage.read_frame(board).dropna()
            if finished.empty:
                raise ValueError(
                    "no architecture has a score of every fold, so there is nothing to compare: "
                    "mend what the logs of the red trials say, and clear them"
                )
            best, *others = finished.index
            if not others:
                return {"winner": best, "verdict": f"{best} alone has a score of every fold"}
            scores = finished.filter(regex="^fold_")
            tested = paired_test(scores.loc[best], scores.loc[second := others[0]])
            ahead = finished.loc[best, "mean"] - finished.loc[second, "mean"]
            verdict = f"{best} is {ahead:.4f} AUC ahead of {second}, p = {tested['p_value']:.3f}: "
            if tested["p_value"] < SIGNIFICANT:
                return {"winner": best, "verdict": verdict + "more than luck", **tested}
            simpler = min(best, second, key=list(architectures(study)).index)
            verdict += f"perhaps luck, so {simpler}, which is simpler"
            return {"winner": simpler, "verdict": verdict, **tested}

        @task(task_display_name="Publish")
        def publish(board: str, decision: dict) -> str:
            """The leaderboard as a table and as a picture, and what came of it, for everybody."""
            import mlflow

            from include.evaluation import plots

            table = storage.read_frame(board)
            with tracking.run():
                title = "Each fold, and their mean and standard deviation"
                picture = plots.folds(table.filter(regex="^fold_"), title, "AUC")
                tracking.log_figure(picture, "leaderboard.png")
                mlflow.log_text(table.to_csv(float_format="%.4f"), "leaderboard.csv")
                mlflow.set_tags({"winner": decision["winner"], "verdict": decision["verdict"]})
            return decision["verdict"]

        board = rank(study, results)
        publish(board, compare(study, board))

    study, names, folds, customers = plan()
    results = trial.partial(study=study, customers=customers).expand(architecture=names, fold=folds)
    leaderboard(study, results)


training_dynamic_mapping()
