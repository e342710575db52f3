"""
> **Clearly better goes live, clearly worse doesn't, and a person is asked only in between.**

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | nothing: the SQLite warehouse, scikit-learn, MLflow |
| **Runs in** | about 30 seconds; as long as a person takes, in the grey zone |
| **Look at** | Graph: which way *Decide* went; *Required Actions* when it asks |

```text
① Candidate             ② Measure   ③ Gate                       ④ Release
ingest → split → train  → measure → check_thresholds → decide ─┬→ promote ←─┐
                                                               ├→ ask ──────┤
                                                               └→ reject ←──┘
```

| Box | Shown by |
|---|---|
| Performance thresholds | `gate.check_thresholds` |
| Branching on metrics | `gate.decide` |
| Approval workflows | `release.ask` |
| Automated rejection | `release.reject` |

**Run it**: `make run DAG=97_04_02_validation_gates`. Then make the candidate bad, honestly: train
it on few customers with `CONF='{"training_rows": 60}'`. In the UI set *Grey zone* to 0.6, and look
under *Required Actions*.

**What you should see**: the first run is promoted with an AUC of 0.76, against 0.50 for having no
model. Every run after it gains nothing on the champion and is rejected: a release is a risk, and a
gain of 0.000 does not pay for it.

**Copy it when** more than one person trains models for the same place, or when nobody can say why
the model in production is there.

**For production**: `assigned_users` on *Ask*, and a notifier that tells them; put the thresholds
under review like code; promote by a canary (97.5.3) when the holdout is not the whole truth.
"""

from datetime import datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.hitl import HITLBranchOperator
from airflow.sdk import Param, dag, get_current_context, task, task_group

from include import retries, runs, storage, tracking

DAG_ID = Path(__file__).stem
LABEL = "churned"
SLICE = "plan"
HOLDOUT_SHARE = 0.25
SEED = 97
# What a model must reach, whatever the champion does: overall, and for every single plan.
THRESHOLDS = {"roc_auc": 0.70, "recall": 0.50, "average_precision": 0.55}
SLICE_AUC = 0.65


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.04.02 · Model Validation Gates",
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
        "training_rows": Param(
            6000,
            type="integer",
            minimum=20,
            maximum=6000,
            title="Training rows",
            description="How many customers the candidate learns from; few make it really bad.",
        ),
        "min_gain": Param(
            0.01,
            type="number",
            minimum=0,
            maximum=0.5,
            title="Minimum gain",
            description="By how much AUC a candidate must beat the champion to replace it.",
        ),
        "grey_zone": Param(
            0.0,
            type="number",
            minimum=0,
            maximum=1,
            title="Grey zone",
            description="Width of the band around the minimum gain in which a person decides; "
            "at 0 nobody is asked.",
        ),
    },
)
def validation_gates():
    @task_group(group_id="candidate", group_display_name="① Candidate")
    def candidate():
        @task(task_display_name="Ingest")
        def ingest() -> str:
            """Read the customers once, and refuse labels that nobody could learn from."""
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook

            from include.data import quality

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            agreed = [
                quality.expectations().ExpectColumnValuesToBeInSet(column=LABEL, value_set=[0, 1])
            ]
            quality.check(customers, agreed, "customer_id", source="customers")
            return storage.write_frame(customers, "customers.parquet")

        @task(task_display_name="Split", multiple_outputs=True)
        def split(customers: str) -> dict[str, str]:
            """The same holdout for candidate and champion, or the comparison means nothing."""
            from sklearn.model_selection import train_test_split

            frame = storage.read_frame(customers)
            train, holdout = train_test_split(
                frame, test_size=HOLDOUT_SHARE, stratify=frame[LABEL], random_state=SEED
            )
            rows = get_current_context()["params"]["training_rows"]
            return {
                "train": storage.write_frame(train.head(rows), "train.parquet"),
                "holdout": storage.write_frame(holdout, "holdout.parquet"),
            }

        @task(task_display_name="Train")
        def train(train: str) -> str:
            """Any model will do here; the gate does not look inside."""
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline

            from include.features.churn import preprocessor

            frame = storage.read_frame(train)
            classifier = LogisticRegression(class_weight="balanced", C=100.0, max_iter=1000)
            model = make_pipeline(preprocessor(), classifier).fit(frame, frame[LABEL])
            return storage.write_model(model, "model.skops")

        parts = split(ingest())
        return train(parts["train"]), parts["holdout"]

    @task_group(group_id="measure", group_display_name="② Measure")
    def measure(model: str, holdout: str):
        @task(task_display_name="Measure", multiple_outputs=False)
        def measure(model: str, holdout: str) -> dict:
            """Candidate and champion on the same customers, overall and plan by plan."""
            import mlflow

            from include.evaluation import binary, plots, slices

            frame = storage.read_frame(holdout)
            scores = storage.read_model(model).predict_proba(frame)[:, 1]
            champion = before_this_run()
            standing = (
                tracking.load(DAG_ID, champion).predict_proba(frame)[:, 1]
                if champion
                else [float(frame[LABEL].mean())] * len(frame)  # no model: everybody alike
            )
            overall = binary.report(frame[LABEL], scores)
            by_plan = slices.auc_by(frame[SLICE], frame[LABEL], scores)
            gain = overall["roc_auc"] - binary.report(frame[LABEL], standing)["roc_auc"]
            with tracking.run():
                mlflow.log_metrics({**overall, "gain": gain})
                curves = {"candidate": scores, f"champion {champion or '(none)'}": standing}
                tracking.log_figure(plots.roc(frame[LABEL], curves, "Who will leave?"), "roc.png")
            return {"champion": champion, "gain": gain, "overall": overall, "by_plan": by_plan}

        def before_this_run() -> str | None:
            """The version that this run would replace, also when it has already replaced it."""
            champion = tracking.champion(DAG_ID)
            if champion is not None and champion.key == runs.here().key:
                return champion.replaces
            return champion.number if champion else None

        return measure(model, holdout)

    @task_group(group_id="gate", group_display_name="③ Gate")
    def gate(measured: dict):
        @task(task_display_name="Check thresholds", multiple_outputs=False)
        def check_thresholds(measured: dict) -> list[dict]:
            """One row for each threshold, the kept ones too: who decides wants to see them all."""
            wanted = [(name, measured["overall"][name], THRESHOLDS[name]) for name in THRESHOLDS]
            wanted += [(f"AUC {plan}", auc, SLICE_AUC) for plan, auc in measured["by_plan"].items()]
            return [
                {"metric": name, "value": round(value, 3), "least": least, "kept": value >= least}
                for name, value, least in wanted
            ]

        @task.branch(task_display_name="Decide")
        def decide(measured: dict, checked: list[dict]) -> str:
            """Policy decides the clear cases; a broken threshold is clear."""
            params = get_current_context()["params"]
            over = measured["gain"] - params["min_gain"]
            if not all(row["kept"] for row in checked) or over < -params["grey_zone"] / 2:
                return "release.reject"
            return "release.promote" if over >= params["grey_zone"] / 2 else "release.ask"

        checked = check_thresholds(measured)
        return checked, decide(measured, checked)

    @task_group(group_id="release", group_display_name="④ Release")
    def release(decided, model: str, holdout: str, measured: dict, checked: list[dict]):
        ask = HITLBranchOperator(
            task_id="ask",
            task_display_name="Ask",
            doc_md="A person decides the grey zone; who does not answer within a day has said no.",
            subject="Release the candidate of {{ ds | default(run_id) }}?",
            body=(
                "{% set m = ti.xcom_pull(task_ids='measure.measure') %}"
                "It gains **{{ '%+.3f' | format(m.gain) }} AUC** on "
                "{{ 'version ' ~ m.champion if m.champion else 'having no model' }}.\n\n"
                "| Threshold | Value | At least | |\n|---|---|---|---|\n"
                "{% for row in ti.xcom_pull(task_ids='gate.check_thresholds') %}"
                "| {{ row.metric }} | {{ row.value }} | {{ row.least }} | "
                "{{ '✓' if row.kept else '✗' }} |\n{% endfor %}\n"
                "Curves: {{ ti.xcom_pull(task_ids='measure.measure', key='mlflow_run') }}"
            ),
            options=["Approve", "Reject"],
            options_mapping={"Approve": "release.promote", "Reject": "release.reject"},
            defaults="Reject",
            response_timeout=timedelta(days=1),
            execution_timeout=None,
        )

        @task(task_display_name="Promote", trigger_rule="none_failed_min_one_success")
        def promote(model: str, holdout: str, measured: dict) -> str:
            """Register the candidate and let callers have it."""
            example = storage.read_frame(holdout).drop(columns=LABEL)
            number = tracking.register(storage.read_model(model), example, measured["overall"])
            tracking.promote(number)
            return number

        @task(task_display_name="Reject", trigger_rule="none_failed_min_one_success")
        def reject(measured: dict, checked: list[dict]) -> str:
            """Leave production as it is, and write down why where the next person will look."""
            import mlflow

            params = get_current_context()["params"]
            reasons = [
                f"{row['metric']} is {row['value']}, at least {row['least']} is wanted"
                for row in checked
                if not row["kept"]
            ]
            if measured["gain"] < params["min_gain"]:
                reasons.append(f"the gain is {measured['gain']:.3f}, not {params['min_gain']}")
            reasons = reasons or ["a person said no, or nobody answered"]
            with tracking.run():
                mlflow.set_tag("rejected", "; ".join(reasons))
            record = {"champion": measured["champion"], "reasons": reasons, "thresholds": checked}
            return storage.write_json(record, "rejection.json")

        outcomes = [promote(model, holdout, measured), reject(measured, checked)]
        decided >> [ask, *outcomes]
        ask >> outcomes

    model, holdout = candidate()
    measured = measure(model, holdout)
    checked, decided = gate(measured)
    release(decided, model, holdout, measured, checked)


validation_gates()
