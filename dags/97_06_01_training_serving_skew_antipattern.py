"""
> **The model is the same, the numbers that it is fed are not.** Three ways to get there, what each
> costs, and the one that can't go wrong.

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | nothing: seeded card payments, scikit-learn, MLflow |
| **Runs in** | about 30 seconds |
| **Look at** | XCom of *Compare*: a row for each mistake; the bars in its MLflow run |

```text
① Data      ② The wrong way            ④ Compare
payments ─┬→ copied_transformation ─┬→ compare
          ├→ batch_statistics      ─┤
          ├→ value_of_now          ─┤
          │ ③ The right way         │
          └→ build → train → serve ─┴→ replay
```

| Box | Shown by |
|---|---|
| Show skew examples | `wrong.copied_transformation`, `wrong.batch_statistics` |
| | `wrong.value_of_now` |
| Demonstrate prediction errors | `compare` |
| Provide feature store patterns | `right.build_training_set`, `right.serve` |
| Include consistency testing | `right.replay`, `compare` |

**Run it**: `make run DAG=97_06_01_training_serving_skew_antipattern`.

**What you should see**: the forgotten unit leaves the AUC where it was and decides four in five
requests differently; statistics of the batch lose 0.07 of AUC; the value of now promises 0.90 and
delivers 0.81. A good AUC on a holdout that took the training path therefore says nothing about
serving, and only replaying what was really served finds all three.

**Copy it when** a model that was good offline disappoints online, or before it can. `make copy`
leaves the group `wrong` and the comparison out.

**For production**: `Accounts` is the place of a feature store (97.9.2 uses Feast); keep `replay`
as a nightly job on yesterday's request log, and let it alarm.
"""

from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import Param, dag, get_current_context, task, task_group

from include import retries, storage, tracking

DAG_ID = Path(__file__).stem
LABEL = "fraud"
LIVE_FROM = "2026-03-01"
# What each mistake must cost at the least: if it doesn't, the lesson is gone and `compare` fails.
LEAST_HARM = {
    "copied_transformation": ("decided_differently", 0.20),
    "batch_statistics": ("auc_lost", 0.03),
    "value_of_now": ("auc_lost", 0.03),
}


def fit(features, labels):
    """Train the model that both ways use: the skew is in what it is fed, not in what it is."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression()).fit(features, labels)


def auc(labels, scores) -> float:
    """How well the scores rank fraud above the rest."""
    from sklearn.metrics import roc_auc_score

    return round(float(roc_auc_score(labels, scores)), 4)


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.06.01 · Training-Serving Skew",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 4),
    catchup=False,
    max_active_runs=1,
    tags=["reference", "patterns", "intermediate", "anti-pattern"],
    default_args={
        "owner": "ml-catalogue",
        "retries": 2,
        "retry_delay": timedelta(seconds=5),
        "retry_policy": retries.POLICY,
        "execution_timeout": timedelta(minutes=5),
    },
    params={
        "flagged": Param(
            0.05,
            type="number",
            minimum=0.001,
            maximum=0.5,
            title="Flagged share",
            description="The share of payments in training that the threshold flags as fraud.",
        ),
    },
)
def training_serving_skew():
    @task_group(group_id="data", group_display_name="① Data")
    def data():
        @task(task_display_name="Payments", multiple_outputs=True)
        def payments() -> dict[str, str]:
            """Ninety days of payments, and the disputes by which fraud became known later."""
            from include.data.payments import stream

            paid, disputed = stream()
            return {
                "payments": storage.write_frame(paid, "payments.parquet"),
                "disputes": storage.write_frame(disputed, "disputes.parquet"),
            }

        return payments()

    @task_group(group_id="wrong", group_display_name="② The wrong way")
    def wrong(payments: str, disputes: str):
        @task(task_display_name="Copied transformation", multiple_outputs=False)
        def copied_transformation(payments: str, disputes: str) -> dict[str, str | float]:
            """The formula was typed again for the service, which is sent cents, not euros."""
            import numpy as np

            from include.features.payments import FEATURES, as_of

            paid, disputed = storage.read_frame(payments), storage.read_frame(disputes)
            trained_on = as_of(paid, disputed)
            live = paid["at"] >= LIVE_FROM
            model = fit(trained_on[~live], paid.loc[~live, LABEL])

            served = trained_on[live].copy()
            cents = (paid.loc[live, "amount"] * 100).round()
            served["log_amount"] = np.log1p(cents)  # WRONG: the unit differs from training's
            served["score"] = model.predict_proba(served[FEATURES])[:, 1]
            promised = auc(paid.loc[live, LABEL], model.predict_proba(trained_on[live])[:, 1])
            return {"served": storage.write_frame(served, "served.parquet"), "promised": promised}

        @task(task_display_name="Statistics of the batch", multiple_outputs=False)
        def batch_statistics(payments: str, disputes: str) -> dict[str, str | float]:
            """The scaler is fitted again on what happens to be served together."""
            import pandas as pd
            from sklearn.preprocessing import StandardScaler

            from include.features.payments import FEATURES, as_of

            paid, disputed = storage.read_frame(payments), storage.read_frame(disputes)
            trained_on = as_of(paid, disputed)
            live = paid["at"] >= LIVE_FROM
            model = fit(trained_on[~live], paid.loc[~live, LABEL])

            trained_scale, classifier = model
            batches = []
            for _, batch in trained_on[live].groupby(paid.loc[live, "shop"]):
                scaled = StandardScaler().fit_transform(batch)  # WRONG: not what training scaled by
                seen = pd.DataFrame(trained_scale.inverse_transform(scaled), batch.index, FEATURES)
                batches.append(seen.assign(score=classifier.predict_proba(scaled)[:, 1]))
            served = pd.concat(batches).sort_index()
            promised = auc(paid.loc[live, LABEL], model.predict_proba(trained_on[live])[:, 1])
            return {"served": storage.write_frame(served, "served.parquet"), "promised": promised}

        @task(task_display_name="Value of now", multiple_outputs=False)
        def value_of_now(payments: str, disputes: str) -> dict[str, str | float]:
            """Training joins the disputes of today to the payments of then."""
            from include.features.payments import FEATURES, as_of

            paid, disputed = storage.read_frame(payments), storage.read_frame(disputes)
            live = paid["at"] >= LIVE_FROM
            trained_on = as_of(paid, disputed)
            today = paid["account"].map(disputed["account"].value_counts()).fillna(0.0)
            trained_on["disputes_known"] = today  # WRONG: this payment's own dispute is among them
            model = fit(trained_on[~live], paid.loc[~live, LABEL])

            served = as_of(paid, disputed)[live]
            served["score"] = model.predict_proba(served[FEATURES])[:, 1]
            promised = auc(paid.loc[live, LABEL], model.predict_proba(trained_on[live])[:, 1])
            # Here training is what is off: what it saw goes along, with the scores of serving.
            trained_on.loc[live, "score"] = served["score"]
            return {
                "served": storage.write_frame(trained_on[live], "served.parquet"),
                "promised": promised,
            }

        return {
            "copied_transformation": copied_transformation(payments, disputes),
            "batch_statistics": batch_statistics(payments, disputes),
            "value_of_now": value_of_now(payments, disputes),
        }

    @task_group(group_id="right", group_display_name="③ The right way")
    def right(payments: str, disputes: str):
        @task(task_display_name="Build training set")
        def build_training_set(payments: str, disputes: str) -> str:
            """Each payment as it looked at its moment: the store is fed in the order of time."""
            from include.features.payments import as_of

            paid, disputed = storage.read_frame(payments), storage.read_frame(disputes)
            known = as_of(paid, disputed).assign(**{LABEL: paid[LABEL]})
            return storage.write_frame(known[paid["at"] < LIVE_FROM], "training.parquet")

        @task(task_display_name="Train")
        def train(training: str) -> str:
            """Nothing to see here: the mistakes are all elsewhere."""
            rows = storage.read_frame(training)
            return storage.write_model(fit(rows.drop(columns=LABEL), rows[LABEL]), "model.skops")

        @task(task_display_name="Serve")
        def serve(model: str, payments: str, disputes: str) -> str:
            """Answer request by request from the store, and log what the model was really shown."""
            import pandas as pd

            from include.features.payments import FEATURES, Accounts

            paid, disputed = storage.read_frame(payments), storage.read_frame(disputes)
            accounts, log = Accounts(), []
            known = iter(disputed.itertuples(index=False))
            coming = next(known, None)
            for payment in paid.itertuples():
                while coming is not None and coming.known_at <= payment.at:
                    accounts.dispute(coming.account)
                    coming = next(known, None)
                shown = accounts.features(payment.account, payment.at, payment.amount)
                if payment.at >= pd.Timestamp(LIVE_FROM):
                    log.append({"row": payment.Index, **shown})
                accounts.pay(payment.account, payment.at)
            served = pd.DataFrame(log).set_index("row")
            served["score"] = storage.read_model(model).predict_proba(served[FEATURES])[:, 1]
            return storage.write_frame(served, "served.parquet")

        @task(task_display_name="Replay")
        def replay(served: str, payments: str, disputes: str) -> str:
            """Send the logged requests through the training path; every byte must be the same."""
            from include.features.payments import as_of, first_difference

            log = storage.read_frame(served)
            replayed = as_of(storage.read_frame(payments), storage.read_frame(disputes))
            differs = first_difference(log, replayed.loc[log.index])
            if differs:
                raise ValueError(f"{differs} is served with other values than training computes")
            return f"{len(log)} requests, every feature the same"

        model = train(build_training_set(payments, disputes))
        served = serve(model, payments, disputes)
        replay(served, payments, disputes)
        return {"model": model, "served": served}

    @task(task_display_name="④ Compare", multiple_outputs=False)
    def compare(
        mistaken: dict[str, dict], proper: dict[str, str], payments: str, disputes: str
    ) -> dict[str, dict]:
        """State what each mistake costs, and fail should one of them no longer cost anything."""
        import mlflow

        from include.evaluation import plots
        from include.features.payments import as_of, first_difference

        paid = storage.read_frame(payments)
        replayed = as_of(paid, storage.read_frame(disputes))
        reference = storage.read_frame(proper["served"])
        labels = paid.loc[reference.index, LABEL]
        trained_rows = replayed[paid["at"] < LIVE_FROM]
        scores = storage.read_model(proper["model"]).predict_proba(trained_rows)[:, 1]
        flagged = get_current_context()["params"]["flagged"]
        threshold = float(sorted(scores)[-max(1, int(len(scores) * flagged))])

        harm = {}
        for name, result in mistaken.items():
            served = storage.read_frame(result["served"])
            other = (served["score"] >= threshold) != (reference["score"] >= threshold)
            harm[name] = {
                "promised": result["promised"],
                "delivered": auc(labels, served["score"]),
                "auc_lost": round(result["promised"] - auc(labels, served["score"]), 4),
                "decided_differently": round(float(other.mean()), 4),
                "first_difference": first_difference(served, replayed.loc[served.index]),
            }
        with tracking.run():
            for name, row in harm.items():
                mlflow.log_metrics({
                    f"{name}.{k}": v for k, v in row.items() if k != "first_difference"
                })
            bars = {
                "promised offline": [row["promised"] for row in harm.values()],
                "delivered": [row["delivered"] for row in harm.values()],
            }
            picture = plots.bars(list(harm), bars, "What was promised, what was delivered", "AUC")
            tracking.log_figure(picture, "skew.png")

        for name, (measure, least) in LEAST_HARM.items():
            if harm[name][measure] < least:
                raise AssertionError(
                    f"the lesson is gone: {name} has {measure} {harm[name][measure]}, "
                    f"and should have {least} at the least"
                )
        return harm

    stream = data()
    served_right = right(stream["payments"], stream["disputes"])
    served_wrong = wrong(stream["payments"], stream["disputes"])
    compare(served_wrong, served_right, stream["payments"], stream["disputes"])


training_serving_skew()
