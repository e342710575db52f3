"""
> **A model stays as it was; the world doesn't.** Tests that tell a change from luck, and a change
> that makes the model wrong from one that only moves its answers.

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | nothing: the SQLite warehouse, scikit-learn, SciPy, MLflow |
| **Runs in** | about 30 seconds |
| **Look at** | `report.html` in the MLflow run linked from *Report* (XCom `mlflow_run`) |

```text
① Reference             ③ Drift               ④ Retraining
find_model ─┐
② Window    ├→ score ─┬→ data_drift       ─┬→ decide ─┬→ trigger
collect    ─┘         ├→ prediction_drift ─┤          └→ keep
                      └→ concept_drift    ─┴→ ⑤ report
```

| Box | Shown by |
|---|---|
| Data drift monitoring | `drift.data_drift`, `report` |
| Prediction drift detection | `window.score`, `drift.prediction_drift` |
| Statistical tests | `drift.data_drift`, `drift.concept_drift` |
| Retraining triggers | `retraining.decide`, `retraining.trigger`, `retraining.keep` |

**Run it**: `make run DAG=97_04_05_drift_detection`. Then with `CONF='{"planted": "nothing"}'`,
which ends at `keep`, and with `"meaning"`: no column has moved, and yet the model is wrong.

**What you should see**: everybody uses the service half a standard deviation more, and of four
numbers and two categories `usage_hours` alone is found, with a PSI of 0.9 where 0.05 counts. The
answers move with it. Concept drift stays quiet, and rightly: more use means what it always meant,
so the model is asked about other customers, and is not wrong about them.

**Copy it when** a model is live and labels come late, or never.

**For production**: `schedule="@daily"`; let *Collect* read yesterday's prediction log (97.5.5) and
the labels that came in. A DAG with `schedule=[Asset("97_04_05_drift_detection/retraining")]`
trains anew (97.9.4 does); give it a cool-down, since each drifted window asks again.
"""

from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import Asset, Metadata, Param, dag, get_current_context, task, task_group

from include import retries, storage, tracking

DAG_ID = Path(__file__).stem
RETRAINING = Asset(f"{DAG_ID}/retraining")
LABEL = "churned"
HOLDOUT_SHARE = 0.25
SEED = 97
KINDS = 3  # of drift, which share the rate of false alarms
LEAST_LABELS = 200  # under which a few customers would decide about the model


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.04.05 · Model Drift Detection",
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
        "planted": Param(
            "usage",
            type="string",
            enum=["nothing", "usage", "plans", "meaning"],
            title="Planted",
            description="What has changed in the world since the model was made.",
        ),
        "false_alarms": Param(
            0.01,
            type="number",
            minimum=0.0001,
            maximum=0.2,
            title="False alarms",
            description="The share of windows without any drift that may raise an alarm.",
        ),
        "least_psi": Param(
            0.05,
            type="number",
            minimum=0,
            maximum=1,
            title="Least PSI",
            description="A smaller shift of inputs or answers is left alone, however sure it is; "
            "0.05 is about 0.22 standard deviations.",
        ),
    },
)
def drift_detection():
    def found(table, kind: str) -> dict:
        """Keep a table of tests, and name what is neither luck nor small."""
        from include.evaluation import drift

        params = get_current_context()["params"]
        named = drift.drifted(table, params["false_alarms"] / KINDS, params["least_psi"])
        return {"table": storage.write_frame(table, f"{kind}.parquet"), "drifted": named}

    @task_group(group_id="reference", group_display_name="① Reference")
    def reference():
        @task(task_display_name="Find model", multiple_outputs=True)
        def find_model() -> dict[str, str]:
            """The live version and the rows that it says it was made from; a first one if none."""
            number = current() or first()
            made_by = tracking.client().get_model_version(DAG_ID, number).run_id
            tags = tracking.client().get_run(made_by).data.tags
            missing = {"training_data", "holdout_data"} - tags.keys()
            if missing:
                raise LookupError(
                    f"version {number} of {DAG_ID} can't be compared with: the MLflow run "
                    f"{made_by} that made it has no tag {', '.join(sorted(missing))}. Whatever "
                    "promotes a version must say which rows it was trained and measured on."
                )
            return {
                "version": number,
                "train": tags["training_data"],
                "holdout": tags["holdout_data"],
            }

        def current() -> str | None:
            champion = tracking.champion(DAG_ID)
            return champion.number if champion else None

        def first() -> str:
            import mlflow
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook
            from sklearn.linear_model import LogisticRegression
            from sklearn.model_selection import train_test_split
            from sklearn.pipeline import make_pipeline

            from include.features.churn import preprocessor

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            train, holdout = train_test_split(
                customers, test_size=HOLDOUT_SHARE, stratify=customers[LABEL], random_state=SEED
            )
            model = make_pipeline(preprocessor(), LogisticRegression(max_iter=1000))
            model.fit(train, train[LABEL])
            with tracking.run():
                mlflow.set_tags({
                    "training_data": storage.write_frame(train, "train.parquet"),
                    "holdout_data": storage.write_frame(holdout, "holdout.parquet"),
                })
            number = tracking.register(model, train.drop(columns=LABEL), {})
            tracking.promote(number)
            return number

        return find_model()

    @task_group(group_id="window", group_display_name="② Window")
    def window(version: str, holdout: str):
        @task(task_display_name="Collect", multiple_outputs=True)
        def collect() -> dict[str, str]:
            """The customers of the run's day, and the labels that are known by now."""
            from include.data import live

            context = get_current_context()
            day = (context["dag_run"].logical_date or context["dag_run"].run_after).toordinal()
            came, labels = live.window(context["params"]["planted"], seed=day)
            return {
                "customers": storage.write_frame(came, "customers.parquet"),
                "labels": storage.write_frame(labels, "labels.parquet"),
            }

        @task(task_display_name="Score", multiple_outputs=True)
        def score(version: str, holdout: str, customers: str) -> dict[str, str]:
            """The live model's answers then and now; then on rows that it had not learned from."""
            from include.data import quality
            from include.features.churn import CATEGORICAL, NUMERIC

            model = tracking.load(DAG_ID, version)
            before, now = storage.read_frame(holdout), storage.read_frame(customers)
            given = quality.expectations().ExpectColumnValuesToNotBeNull
            agreed = [given(column=each) for each in NUMERIC + CATEGORICAL]
            quality.check(now, agreed, "customer_id", source="the window")
            return {
                name: storage.write_frame(
                    rows.assign(score=model.predict_proba(rows)[:, 1]), f"{name}.parquet"
                )
                for name, rows in {"before": before, "now": now}.items()
            }

        came = collect()
        scored = score(version, holdout, came["customers"])
        return scored["before"], scored["now"], came["labels"]

    @task_group(group_id="drift", group_display_name="③ Drift")
    def drifts(version: str, train: str, before: str, now: str, labels: str):
        @task(task_display_name="Data drift", multiple_outputs=False)
        def data_drift(train: str, now: str) -> dict:
            """Each input against the rows that the model learned from."""
            from include.evaluation import drift
            from include.features.churn import CATEGORICAL, NUMERIC

            learned, came = storage.read_frame(train), storage.read_frame(now)
            return found(drift.columns(learned, came, NUMERIC, CATEGORICAL), "data")

        @task(task_display_name="Prediction drift", multiple_outputs=False)
        def prediction_drift(before: str, now: str) -> dict:
            """The answers: the one test that needs no label and looks at all inputs together."""
            from include.evaluation import drift

            scored = storage.read_frame(before), storage.read_frame(now)
            return found(drift.columns(*scored, numeric=["score"]), "predictions")

        @task(task_display_name="Concept drift", multiple_outputs=False)
        def concept_drift(version: str, before: str, now: str, labels: str) -> dict:
            """The errors, where labels are known: has an input come to mean something else?"""
            import pandas as pd

            from include.evaluation import drift

            known = storage.read_frame(now).merge(storage.read_frame(labels), on="customer_id")
            if len(known) < LEAST_LABELS:
                return {"table": None, "drifted": []}
            features, then = tracking.load(DAG_ID, version)[:-1], storage.read_frame(before)

            def inputs(rows):
                names = features.get_feature_names_out()
                return pd.DataFrame(features.transform(rows), columns=names)

            def missed(rows):
                return rows[LABEL] - rows["score"]

            table = drift.errors(inputs(then), missed(then), inputs(known), missed(known))
            return found(table, "errors")

        return {
            "data": data_drift(train, now),
            "predictions": prediction_drift(before, now),
            "concept": concept_drift(version, before, now, labels),
        }

    @task_group(group_id="retraining", group_display_name="④ Retraining")
    def retraining(version: str, tested: dict[str, dict], now: str):
        @task.branch(task_display_name="Decide")
        def decide(tested: dict[str, dict]) -> str:
            """Any of the three is enough; each has its share of the false alarms."""
            drifted = any(each["drifted"] for each in tested.values())
            return "retraining.trigger" if drifted else "retraining.keep"

        @task(task_display_name="Trigger", outlets=[RETRAINING])
        def trigger(version: str, tested: dict[str, dict], now: str):
            """Say what drifted and where the window is: whoever trains anew will want both."""
            because = {kind: each["drifted"] for kind, each in tested.items() if each["drifted"]}
            yield Metadata(
                RETRAINING, extra={"version": version, "because": because, "window": now}
            )

        @task(task_display_name="Keep")
        def keep(version: str) -> str:
            """Nothing to do, and say so: silence could also mean that nobody looked."""
            return f"No drift at the set rate of false alarms; version {version} stays."

        decide(tested) >> [trigger(version, tested, now), keep(version)]

    @task(task_display_name="⑤ Report")
    def report(train: str, before: str, now: str, tested: dict[str, dict]) -> str:
        """How the answers and the drifted columns were spread, and how they are now."""
        import mlflow

        from include.evaluation import page, plots

        came, drifted = storage.read_frame(now), tested["data"]["drifted"]
        reference = {"score": storage.read_frame(before)["score"]}
        reference |= {column: storage.read_frame(train)[column] for column in drifted}
        pictures = {
            column: plots.shifted(spread, came[column], column)
            for column, spread in reference.items()
        }
        tables = {
            f"Drift of {kind}": storage.read_frame(each["table"])
            if each["table"]
            else "Too few labels are known to tell."
            for kind, each in tested.items()
        }
        named = [f"{kind}: {', '.join(each['drifted']) or 'none'}" for kind, each in tested.items()]
        lead = f"Drift found in {len(came):,} customers. {'; '.join(named)}."
        whole = page.html("Drift", lead, pictures | tables)
        with tracking.run():
            mlflow.log_metrics({kind: len(each["drifted"]) for kind, each in tested.items()})
            for column, picture in pictures.items():
                tracking.log_figure(picture, f"{column}.png")
            mlflow.log_text(whole, "report.html")
        return storage.write_bytes(whole.encode(), "report.html")

    model = reference()
    before, now, labels = window(model["version"], model["holdout"])
    tested = drifts(model["version"], model["train"], before, now, labels)
    retraining(model["version"], tested, now)
    report(model["train"], before, now, tested)


drift_detection()
