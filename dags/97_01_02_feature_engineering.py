"""
> **Three sources become one table of features, in which no row knows its own future.** The same
> code and the same data give the same version, and nothing is written twice.

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | nothing: the SQLite warehouse, a folder of delivered files, scikit-learn |
| **Runs in** | about 30 seconds |
| **Look at** | XCom of *Join*, `told_too_early`; the Asset's event, which names the version |

```text
① Extract                ② Features         ③ Transform    ④ Store
extract [payments]  ─┐
extract [disputes]  ─┼→  join → validate →  fit → apply →  publish
extract [ratings]   ─┘
```

| Box | Shown by |
|---|---|
| Feature extraction tasks | `extract` |
| Feature transformation | `transform.fit`, `transform.apply` |
| Feature store integration | `features.join`, `publish` |
| Feature validation | `features.validate` |

**Run it**: `make run DAG=97_01_02_feature_engineering`. Then once more with `DATE=2026-02-01`: the
same version. Then with `CONF='{"train_until": "2026-02-15"}'`: another one beside it.

**What you should see**: 9,000 payments, and `told_too_early` at 0.37: for more than a third of them
a join by the day that a fact is about would have brought in what nobody knew yet, such as a rating
restated weeks later because of this very fraud. A model trained on that promises an AUC of 0.90 and
delivers 0.81; the test of this file trains both.

**Copy it when** features come from more than one place and are joined by time, or when two people
who "use the same features" get different numbers.

**For production**: point the connection `warehouse` and the Variable `landing_zone`
(`s3://aws_default@bucket/landing`) at the real ones. Let the Asset schedule the training, which
reads what the event's `manifest` names. For features that serving looks up, 97.9.2 has Feast.
"""

import json
from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import (
    Asset,
    Metadata,
    ObjectStoragePath,
    Param,
    Variable,
    dag,
    get_current_context,
    task,
    task_group,
)

from include import retries, storage

DAG_ID = Path(__file__).stem
FEATURE_SET = Asset(f"{DAG_ID}/feature_set")
SOURCES = ["payments", "disputes", "ratings"]
# What travels beside the features: which payment, whose, when, and how it ended.
CARRIED = ["payment_id", "account", "at", "fraud"]


def from_warehouse():
    """A table of our own, in SQL."""
    from airflow.providers.sqlite.hooks.sqlite import SqliteHook

    rows = "SELECT * FROM payments ORDER BY at, payment_id"
    return SqliteHook(sqlite_conn_id="warehouse").get_df(rows, parse_dates=["at"])


def from_log(log: ObjectStoragePath):
    """The payment network's log, one JSON object a line; a broken line is named by its number."""
    import pandas as pd

    disputes = []
    for number, line in enumerate(log.read_text().splitlines(), start=1):
        try:
            event = json.loads(line)
            disputes.append((event["account"], event["paid_at"], event["received_at"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{log}, line {number} is no dispute: {error!r}") from None
    frame = pd.DataFrame(disputes, columns=["account", "event_at", "known_at"])
    return frame.astype({"event_at": "datetime64[us]", "known_at": "datetime64[us]"})


def from_spreadsheet(table: ObjectStoragePath):
    """The credit bureau's table: semicolons, decimal commas, days before months."""
    import pandas as pd

    with table.open() as file:
        rows = pd.read_csv(file, sep=";", decimal=",", dtype={"Month": str})
    return pd.DataFrame({
        "account": rows["Account"],
        "event_at": pd.to_datetime(rows["Month"], format="%m.%Y"),
        "known_at": pd.to_datetime(rows["Published"], format="%d.%m.%Y %H:%M"),
        "rating": rows["Score"],
    })


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.01.02 · Feature Engineering Tasks",
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
        "train_until": Param(
            "2026-03-01",
            type="string",
            format="date",
            title="Train until",
            description="Only payments before this day teach the transformer its scales.",
        ),
    },
)
def feature_engineering():
    @task(task_display_name="① Extract", map_index_template="{{ source }}")
    def extract(source: str) -> str:
        """One task instance for each source: one that fails is retried alone, under its name."""
        get_current_context()["source"] = source
        landing_zone = ObjectStoragePath(Variable.get("landing_zone"))
        match source:
            case "payments":
                rows = from_warehouse()
            case "disputes":
                rows = from_log(landing_zone / "disputes.jsonl")
            case "ratings":
                rows = from_spreadsheet(landing_zone / "ratings.csv")
        return storage.write_frame(rows, f"{source}.parquet")

    @task_group(group_id="features", group_display_name="② Features")
    def features(extracted):
        @task(task_display_name="Join", multiple_outputs=False)
        def join(extracted: list[str]) -> dict:
            """Tell each payment what was known at its moment, and count what that spares us."""
            from include.features import payment_risk, point_in_time

            # One slice: a loop ends by asking for one too many, and Airflow logs an error for it.
            references = extracted[:]
            paid, disputed, rated = (storage.read_frame(each) for each in references)
            rows = payment_risk.joined(paid, disputed, rated)

            at_once = point_in_time.told_at_once
            naive = payment_risk.joined(paid, at_once(disputed), at_once(rated))
            told = ["disputes_known", "rating"]
            differ = (rows[told].fillna(-1) != naive[told].fillna(-1)).any(axis=1)
            return {
                "rows": storage.write_frame(rows, "joined.parquet"),
                "told_too_early": round(float(differ.mean()), 4),
                "joined_from": {
                    source: storage.digest(reference)
                    for source, reference in zip(SOURCES, references, strict=True)
                },
            }

        @task(task_display_name="Validate")
        def validate(joined: dict) -> str:
            """Before anything is fitted, while values are still in units that people talk in."""
            from include.data import quality

            frame = storage.read_frame(joined["rows"])
            expect = quality.expectations()
            agreed = [
                expect.ExpectColumnValuesToBeUnique(column="payment_id"),
                expect.ExpectColumnValuesToNotBeNull(column="amount"),
                expect.ExpectColumnValuesToBeBetween(column="amount", min_value=0, strict_min=True),
                expect.ExpectColumnValuesToBeInSet(
                    column="shop", value_set=["groceries", "electronics"]
                ),
                expect.ExpectColumnValuesToBeBetween(column="rating", min_value=300, max_value=850),
                expect.ExpectColumnValuesToBeInSet(column="fraud", value_set=[0, 1]),
            ]
            agreed += [
                expect.ExpectColumnPairValuesAToBeGreaterThanB(
                    column_A="at",
                    column_B=known_at,
                    or_equal=True,
                    ignore_row_if="either_value_is_missing",
                )
                for known_at in ("dispute_known_at", "rating_known_at")
            ]
            quality.check(frame, agreed, "payment_id", source="the joined features")
            return joined["rows"]

        joined = join(extracted)
        return joined, validate(joined)

    @task_group(group_id="transform", group_display_name="③ Transform")
    def transform(rows: str):
        @task(task_display_name="Fit")
        def fit(rows: str) -> str:
            """Learn scales, fillings and categories from the training window and nothing after."""
            import pandas as pd

            from include.features import payment_risk

            frame = storage.read_frame(rows)
            train_until = get_current_context()["params"]["train_until"]
            window = frame[frame["at"] < pd.Timestamp(train_until)]
            if not 0 < len(window) < len(frame):
                raise ValueError(
                    f"train_until={train_until} must lie within the payments, which run from "
                    f"{frame['at'].min():%Y-%m-%d} to {frame['at'].max():%Y-%m-%d}: before it is "
                    "what is learned from, after it what is tested on."
                )
            return storage.write_model(payment_risk.transformer().fit(window), "transformer.skops")

        @task(task_display_name="Apply")
        def apply(rows: str, transformer: str) -> str:
            """Turn all rows into numbers by what was learned from some of them."""
            import pandas as pd

            frame = storage.read_frame(rows)
            fitted = storage.read_model(transformer)
            numbers = pd.DataFrame(
                fitted.transform(frame), frame.index, fitted.get_feature_names_out()
            )
            return storage.write_frame(frame[CARRIED].join(numbers), "features.parquet")

        transformer = fit(rows)
        return transformer, apply(rows, transformer)

    @task(task_display_name="④ Publish", outlets=[FEATURE_SET])
    def publish(joined: dict, transformer: str, features: str):
        """Store under the version, the manifest last: a version that can be found is whole."""
        from include.features import payment_risk, point_in_time, recipe
        from include.training import model_format

        made_from = recipe.recipe(
            code=[__file__, *(m.__file__ for m in (payment_risk, point_in_time, model_format))],
            data=joined["joined_from"],
            settings=get_current_context()["params"],
        )
        version = recipe.version(made_from)
        shelf = f"feature_sets/{version}"
        manifest = {
            "version": version,
            "made_from": made_from,
            "rows": len(storage.read_frame(features)),
            "told_too_early": joined["told_too_early"],
            "transformer": storage.keep(
                storage.read_bytes(transformer), shelf, "transformer.skops"
            ),
            "features": storage.keep(storage.read_bytes(features), shelf, "features.parquet"),
        }
        kept = storage.keep(
            json.dumps(manifest, indent=2, sort_keys=True).encode(), shelf, "manifest.json"
        )
        yield Metadata(FEATURE_SET, extra={"version": version, "manifest": kept})
        return version

    joined, valid = features(extract.expand(source=SOURCES))
    publish(joined, *transform(valid))


feature_engineering()
