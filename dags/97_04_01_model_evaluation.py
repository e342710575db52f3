"""
> **A number without an interval, a baseline and a rival says nothing about a model.** One page
> that says it with all three, on customers that decided nothing before.

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | nothing: the SQLite warehouse, scikit-learn, fairlearn, SHAP, MLflow |
| **Runs in** | about 40 seconds |
| **Look at** | `report.html` in the MLflow run linked from *Report* (XCom `mlflow_run`) |

```text
① Prepare                         ② Folds
ingest → split ─┬→ train ───────┬→ cross_validate → choose_threshold ─┐
                │               │ ③ Holdout                           ├→ ④ Metrics → ⑤ report
                └→ find_champion┴→ score → compare ───────────────────┘
④ Metrics: measure, slice, fairness, explain
```

| Box | Shown by |
|---|---|
| Metric calculation | `metrics.measure`, `metrics.slice`, `metrics.fairness`, `metrics.explain` |
| Holdout evaluation | `prepare.split`, `holdout.score` |
| Cross-validation | `folds.cross_validate`, `folds.choose_threshold` |
| Benchmark comparison | `prepare.find_champion`, `holdout.compare` |

**Run it**: `make run DAG=97_04_01_model_evaluation`. Then let a missed customer cost less, with
`CONF='{"miss_costs": 1}'`: the threshold rises, recall falls, and the AUC stays where it was.

**What you should see**: an AUC of 0.729 on the holdout, give or take 0.022, where cross-validation
expects 0.729 to 0.761: the same, as far as 1,925 customers can tell. The gain of 0.091 on the
champion, which knows the tenure only, is beyond luck. The region is worth nothing and moves
nothing: this data was made so.

**Copy it when** somebody asks how good the model is, and the answer will be acted upon.

**For production**: *Find champion* is the version that your callers have; leave the first one out.
Choose the columns of `SLICES` and `PROTECTED` with those whom the model is about. Decide on the
numbers in 97.4.2; here nothing is promoted.
"""

from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import Param, dag, get_current_context, task, task_group

from include import retries, storage, tracking

DAG_ID = Path(__file__).stem
LABEL = "churned"
SLICES = ["plan", "region"]
PROTECTED = "region"
FIRST_KNEW = ["tenure_months"]
FOLDS, REPEATS = 5, 3
IN_HOLDOUT = 4  # one customer in so many
SHUFFLES = 5
RESAMPLES = 1000
SEED = 97


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.04.01 · Model Evaluation Pipeline",
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
        "miss_costs": Param(
            4,
            type="number",
            minimum=0.1,
            maximum=100,
            title="A miss costs",
            description="What a leaver who got no offer costs, in offers sent for nothing.",
        ),
    },
)
def model_evaluation():
    @task_group(group_id="prepare", group_display_name="① Prepare")
    def prepare():
        @task(task_display_name="Ingest")
        def ingest() -> str:
            """Read the customers once, and refuse what would make every measure below a lie."""
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook

            from include.data import quality

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            expect = quality.expectations()
            agreed = [
                expect.ExpectColumnValuesToBeUnique(column="customer_id"),
                expect.ExpectColumnValuesToBeInSet(column=LABEL, value_set=[0, 1]),
                *(expect.ExpectColumnValuesToNotBeNull(column=each) for each in [LABEL, *SLICES]),
            ]
            quality.check(customers, agreed, "customer_id", source="customers")
            return storage.write_frame(customers, "customers.parquet")

        @task(task_display_name="Split", multiple_outputs=True)
        def split(customers: str) -> dict[str, str]:
            """By a hash of the id: whoever is in the holdout was never in any model's training."""
            import pandas as pd

            frame = storage.read_frame(customers)
            held = pd.util.hash_array(frame["customer_id"].to_numpy()) % IN_HOLDOUT == 0
            return {
                "train": storage.write_frame(frame[~held], "train.parquet"),
                "holdout": storage.write_frame(frame[held], "holdout.parquet"),
            }

        @task(task_display_name="Train")
        def train(train: str) -> str:
            """The candidate; no class weights, since its scores are to mean what they say."""
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline

            from include.features.churn import preprocessor

            rows = storage.read_frame(train)
            model = make_pipeline(preprocessor(), LogisticRegression(max_iter=1000))
            return storage.write_model(model.fit(rows, rows[LABEL]), "candidate.skops")

        @task(task_display_name="Find champion")
        def find_champion(train: str) -> str:
            """The version to beat; where nothing is live yet, a first and simple one goes live."""
            from sklearn.compose import make_column_transformer
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline

            champion = tracking.champion(DAG_ID)
            if champion is not None:
                return champion.number
            rows = storage.read_frame(train)
            knows = make_column_transformer(("passthrough", FIRST_KNEW))
            first = make_pipeline(knows, LogisticRegression()).fit(rows, rows[LABEL])
            number = tracking.register(first, rows[FIRST_KNEW], {})
            tracking.promote(number)
            return number

        parts = split(ingest())
        return (
            parts["train"],
            parts["holdout"],
            train(parts["train"]),
            find_champion(parts["train"]),
        )

    @task_group(group_id="folds", group_display_name="② Folds")
    def folds(model: str, train: str):
        @task(task_display_name="Cross-validate", multiple_outputs=True)
        def cross_validate(model: str, train: str) -> dict[str, str]:
            """The recipe, not the model: fitted anew in every fold, features and all."""
            from include.evaluation.folds import cross_validated

            recipe, rows = storage.read_model(model), storage.read_frame(train)
            scores, measured = cross_validated(recipe, rows, LABEL, FOLDS, REPEATS, SEED)
            return {
                "scores": storage.write_frame(scores, "scores.parquet"),
                "folds": storage.write_frame(measured, "folds.parquet"),
            }

        @task(task_display_name="Choose threshold")
        def choose_threshold(scores: str) -> float:
            """On rows that the scoring model had not met; on the holdout it would flatter."""
            from include.evaluation import binary

            unseen = storage.read_frame(scores)
            miss_costs = get_current_context()["params"]["miss_costs"]
            return binary.cheapest(unseen[LABEL], unseen["repeat_0"], miss_costs)

        made = cross_validate(model, train)
        return made["folds"], choose_threshold(made["scores"])

    @task_group(group_id="holdout", group_display_name="③ Holdout")
    def held_out(model: str, champion: str, train: str, holdout: str, threshold: float):
        @task(task_display_name="Score")
        def score(model: str, champion: str, train: str, holdout: str) -> str:
            """Candidate, champion and a model that knows nothing, once, on the same customers."""
            from sklearn.dummy import DummyClassifier

            rows, known = storage.read_frame(holdout), storage.read_frame(train)
            models = {
                "candidate": storage.read_model(model),
                "champion": tracking.load(DAG_ID, champion),
                "dummy": DummyClassifier(strategy="prior").fit(known, known[LABEL]),
            }
            given = {name: each.predict_proba(rows)[:, 1] for name, each in models.items()}
            columns = rows[["customer_id", *SLICES, LABEL]]
            return storage.write_frame(columns.assign(**given), "scores.parquet")

        @task(task_display_name="Compare", multiple_outputs=False)
        def compare(scores: str, threshold: float) -> dict[str, dict]:
            """Row by row against each rival: the gain, its interval, and what luck could do."""
            from include.evaluation import comparison

            rows, costs = storage.read_frame(scores), get_current_context()["params"]["miss_costs"]
            labels, ours = rows[LABEL], rows["candidate"]
            return {
                rival: comparison.against(labels, ours, rows[rival], threshold, costs)
                for rival in ("champion", "dummy")
            }

        scores = score(model, champion, train, holdout)
        return scores, compare(scores, threshold)

    @task_group(group_id="metrics", group_display_name="④ Metrics")
    def metrics(model: str, train: str, holdout: str, scores: str, threshold: float):
        @task(task_display_name="Measure", multiple_outputs=False)
        def measure(scores: str, threshold: float) -> dict[str, list[float]]:
            """Each measure with the interval in which it would lie had other customers come."""
            from include.evaluation import binary, bootstrap

            rows = storage.read_frame(scores)
            labels, given = rows[LABEL], rows["candidate"]
            report = binary.report(labels, given, threshold)
            spread = bootstrap.intervals(labels, given, threshold, RESAMPLES, SEED)
            return {name: [value, *spread[name]] for name, value in report.items()}

        @task(task_id="slice", task_display_name="Slice")
        def slice_(scores: str) -> str:
            """An average can hide whom it fails: the AUC within each part of the customers."""
            from include.evaluation import slices

            table = slices.table(storage.read_frame(scores), SLICES, LABEL, "candidate")
            return storage.write_frame(table, "slices.parquet")

        @task(task_display_name="Fairness", multiple_outputs=False)
        def fairness(scores: str, threshold: float) -> dict[str, dict]:
            """Who gets the offer: of all, of those who leave, and of those who stay."""
            from include.evaluation import slices

            rows = storage.read_frame(scores)
            return slices.rates_by(rows[PROTECTED], rows[LABEL], rows["candidate"] >= threshold)

        @task(task_display_name="Explain", multiple_outputs=True)
        def explain(model: str, train: str, holdout: str) -> dict[str, str]:
            """What each column is worth to the AUC, and how it moved each customer's answer."""
            from include.evaluation import explanation
            from include.features.churn import CATEGORICAL, NUMERIC

            fitted, rows = storage.read_model(model), storage.read_frame(holdout)
            inputs = rows[NUMERIC + CATEGORICAL]
            moved = explanation.moved(fitted, storage.read_frame(train), rows)
            worth = explanation.worth(fitted, inputs, rows[LABEL], SHUFFLES, SEED)
            worth["moves_log_odds"] = moved[worth.index].abs().mean()
            ranked = worth.sort_values("auc_lost", ascending=False)
            return {
                "columns": storage.write_frame(ranked, "columns.parquet"),
                "rows": storage.write_frame(moved, "shap.parquet"),
            }

        explained = explain(model, train, holdout)
        fair = fairness(scores, threshold)
        return measure(scores, threshold), slice_(scores), fair, explained["columns"]

    @task(task_display_name="⑤ Report")
    def report(folds, threshold, scores, compared, measured, slices, fairness, columns) -> str:
        """One page that can be sent to somebody who has no login here."""
        import mlflow
        import pandas as pd

        from include.evaluation import comparison, page, plots

        rows, of_folds = storage.read_frame(scores), storage.read_frame(folds)
        rivals = {name: rows[name] for name in ("candidate", "champion")}
        pictures = plots.judged(rows[LABEL], rivals, threshold)
        (auc, low, high), rival = measured["roc_auc"], compared["champion"]
        expected = comparison.mean_of_folds(of_folds["roc_auc"], 1 / (FOLDS - 1))
        lead = (
            f"AUC {auc:.3f} ({low:.3f} to {high:.3f}) on {len(rows):,} held-out customers, where "
            f"cross-validation expects {expected[0]:.3f} to {expected[1]:.3f}. Against the "
            f"champion {rival['gain']:+.3f} ({rival['low']:+.3f} to {rival['high']:+.3f})."
        )
        tables = {
            "Measures, with their 95 % intervals": pd.DataFrame(measured, ["value", "low", "high"]),
            "Against each rival": pd.DataFrame(compared),
            "Fold spread of the AUC, by repeat": of_folds.groupby("repeat")["roc_auc"].describe(),
            "AUC within each part": storage.read_frame(slices).set_index(["column", "part"]),
            f"Share chosen, by {PROTECTED}": pd.DataFrame(fairness),
            "What the model looks at": storage.read_frame(columns),
        }
        whole = page.html("Model evaluation", lead, tables | pictures)
        with tracking.run():
            mlflow.log_metrics({name: value for name, (value, _, _) in measured.items()})
            mlflow.log_metrics({"threshold": threshold, "gain": rival["gain"]})
            for name, picture in pictures.items():
                tracking.log_figure(picture, f"{name}.png")
            mlflow.log_text(whole, "report.html")
        return storage.write_bytes(whole.encode(), "report.html")

    train, holdout, model, champion = prepare()
    of_folds, threshold = folds(model, train)
    scores, compared = held_out(model, champion, train, holdout, threshold)
    report(
        of_folds, threshold, scores, compared, *metrics(model, train, holdout, scores, threshold)
    )


model_evaluation()
