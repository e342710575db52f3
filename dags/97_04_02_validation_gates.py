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
model. Every other date after it gains nothing on the champion and is rejected: a release is a risk,
and a gain of 0.000 does not pay for it. Sixty customers give an AUC of 0.66, under the 0.70 that
every model must reach, and `rejection.json` says so.

**Copy it when** more than one person trains models for the same place, or when nobody can say why
the model in production is there.

**For production**: `assigned_users` on *Ask*, and a notifier that tells them; put the thresholds
under review like code; promote by a canary (97.5.3) when the holdout is not the whole truth.
"""

from datetime import datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.hitl import HITLBranchOperator
from airflow.sdk import Param, dag, get_current_context, task, task_group

from include import retries, storage, tracking

DAG_ID = Path(__file__).stem
LABEL = "churned"
SLICE = "plan"
HOLDOUT_SHARE = 0.25
SEED = 97
# What a model must reach, whatever the champion does: overall, and as AUC within each plan.
THRESHOLDS = {"roc_auc": 0.70, "recall": 0.50, "average_precision": 0.55}
SLICE_THRESHOLDS = {"monthly": 0.65, "yearly": 0.65, "family": 0.65}
QUESTION = """
{%- set m = ti.xcom_pull(task_ids="measure.measure") -%}
It gains **{{ "%+.3f" | format(m.gain) }} AUC** on \
{{ "version " ~ m.replaces if m.replaces else "having no model" }}.

| Measure | Candidate | Champion | At least |
|---|---|---|---|
{% for row in ti.xcom_pull(task_ids="gate.check_thresholds") -%}
| {{ row.metric }} | {{ "%.3f" | format(row.value) }} | \
{{ "%.3f" | format(m.champion[row.metric]) }} | {{ row.least }} |
{% endfor %}
{% if m.picture %}![AUC within each plan]({{ m.picture }}){% endif %}

All curves: {{ ti.xcom_pull(task_ids="measure.measure", key="mlflow_run") }}
"""


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
    def band(params) -> tuple[float, float]:
        """The gains between which a person decides: a no below the first, a yes from the second."""
        half = params["grey_zone"] / 2
        return params["min_gain"] - half, params["min_gain"] + half

    @task_group(group_id="candidate", group_display_name="① Candidate")
    def candidate():
        @task(task_display_name="Ingest")
        def ingest() -> str:
            """Read the customers once, and refuse a plan that no threshold would watch over."""
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook

            from include.data import quality

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            known = quality.expectations().ExpectColumnValuesToBeInSet
            agreed = [
                known(column=LABEL, value_set=[0, 1]),
                known(column=SLICE, value_set=list(SLICE_THRESHOLDS)),
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
            labels = frame[LABEL]

            def report(scores) -> dict[str, float]:
                by_plan = slices.auc_by(frame[SLICE], labels, scores)
                of_plans = {f"AUC {plan}": auc for plan, auc in by_plan.items()}
                return binary.report(labels, scores) | of_plans

            with tracking.run() as this_run:
                champion = replaced_by(this_run)
                scores = {
                    "candidate": storage.read_model(model).predict_proba(frame)[:, 1],
                    "champion": tracking.load(DAG_ID, champion).predict_proba(frame)[:, 1]
                    if champion
                    else [float(labels.mean())] * len(frame),  # no model: everybody alike
                }
                reports = {who: report(given) for who, given in scores.items()}
                gain = reports["candidate"]["roc_auc"] - reports["champion"]["roc_auc"]
                mlflow.log_metrics({**reports["candidate"], "gain": gain})
                bars = {
                    who: [of_who[f"AUC {plan}"] for plan in SLICE_THRESHOLDS]
                    for who, of_who in reports.items()
                }
                by_plan = plots.bars(list(SLICE_THRESHOLDS), bars, "Within each plan", "AUC")
                tracking.log_figure(by_plan, "by_plan.png")
                tracking.log_figure(plots.roc(labels, scores, "Who will leave?"), "roc.png")
                picture = tracking.picture(this_run, "by_plan.png")
            return {"replaces": champion, "gain": gain, "picture": picture, **reports}

        def replaced_by(this_run) -> str | None:
            """The version that this run would replace, also when it has already replaced it."""
            champion = tracking.champion(DAG_ID)
            if champion is not None and champion.run_id == this_run.info.run_id:
                return champion.replaces
            return champion.number if champion else None

        return measure(model, holdout)

    @task_group(group_id="gate", group_display_name="③ Gate")
    def gate(measured: dict):
        @task(task_display_name="Check thresholds", multiple_outputs=False)
        def check_thresholds(measured: dict) -> list[dict]:
            """One row for each threshold, the kept ones too: who decides wants to see them all."""
            of_plans = {f"AUC {plan}": least for plan, least in SLICE_THRESHOLDS.items()}
            return [
                {
                    "metric": metric,
                    "value": measured["candidate"][metric],
                    "least": least,
                    "kept": measured["candidate"][metric] >= least,
                }
                for metric, least in (THRESHOLDS | of_plans).items()
            ]

        @task.branch(task_display_name="Decide")
        def decide(measured: dict, checked: list[dict]) -> str:
            """Policy decides the clear cases; a broken threshold is clear."""
            no_below, yes_from = band(get_current_context()["params"])
            if not all(row["kept"] for row in checked) or measured["gain"] < no_below:
                return "release.reject"
            return "release.promote" if measured["gain"] >= yes_from else "release.ask"

        checked = check_thresholds(measured)
        return checked, decide(measured, checked)

    @task_group(group_id="release", group_display_name="④ Release")
    def release(decided, model: str, holdout: str, measured: dict, checked: list[dict]):
        ask = HITLBranchOperator(
            task_id="ask",
            task_display_name="Ask",
            doc_md="A person decides the grey zone; who does not answer within a day has said no.",
            subject="Release the candidate of {{ ds | default(run_id) }}?",
            body=QUESTION,
            options=["Approve", "Reject"],
            options_mapping={"Approve": "release.promote", "Reject": "release.reject"},
            defaults="Reject",
            response_timeout=timedelta(days=1),
            execution_timeout=None,
        )

        @task(task_display_name="Promote", trigger_rule="none_failed_min_one_success")
        def promote(model: str, holdout: str, measured: dict) -> str:
            """Register the candidate and let callers have it."""
            import mlflow

            example = storage.read_frame(holdout).drop(columns=LABEL)
            metrics = measured["candidate"]
            number = tracking.register(storage.read_model(model), example, metrics)
            tracking.promote(number)
            with tracking.run():
                mlflow.set_tag("decision", f"promoted as version {number}")
            return number

        @task(task_display_name="Reject", trigger_rule="none_failed_min_one_success")
        def reject(measured: dict, checked: list[dict]) -> str:
            """Leave production as it is, and write down why where the next person will look."""
            import mlflow

            gain = measured["gain"]
            no_below, _ = band(get_current_context()["params"])
            reasons = [
                f"{row['metric']} is {row['value']:.4f}, at least {row['least']} is wanted"
                for row in checked
                if not row["kept"]
            ]
            if gain < no_below:
                reasons.append(f"gain is {gain:.4f}, at least {no_below:g} is wanted")
            if not reasons:
                reasons.append(f"asked about a gain of {gain:.4f}: a no, or no answer in time")
            with tracking.run():
                mlflow.set_tag("decision", f"rejected: {'; '.join(reasons)}")
            record = {"champion": measured["replaces"], "reasons": reasons, "thresholds": checked}
            return storage.write_json(record, "rejection.json")

        outcomes = [promote(model, holdout, measured), reject(measured, checked)]
        decided >> [ask, *outcomes]
        ask >> outcomes

    model, holdout = candidate()
    measured = measure(model, holdout)
    checked, decided = gate(measured)
    release(decided, model, holdout, measured, checked)


validation_gates()
