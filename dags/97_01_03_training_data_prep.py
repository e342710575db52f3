"""
> **Training data that can be trusted and had again:** split so that nothing leaks, balanced where
> that is allowed, and under a version that gives the same bytes back.

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | nothing: the SQLite warehouse, scikit-learn, imbalanced-learn |
| **Runs in** | about 30 seconds |
| **Look at** | XCom of *Check leakage*; `manifest.json` beside the files that *Check out* names |

```text
① Source                       ② Split                 ③ Balance           ④ Version
choose ─┬→ ingest → validate → split → check_leakage → sample → validate → commit ─┬→ check_out
        └── an earlier version is asked for ───────────────────────────────────────┘
```

| Box | Shown by |
|---|---|
| Data splitting | `split.split`, `split.check_leakage` |
| Sampling strategies | `balance.sample` |
| Data versioning | `source.choose`, `version.commit`, `version.check_out` |
| Quality validation | `source.validate`, `balance.validate` |

**Run it**: `make run DAG=97_01_03_training_data_prep`. Then with `CONF='{"split": "random"}'` and
`CONF='{"split": "group", "sampling": "smote"}'`: each makes a version, with the one before as its
parent. Give one of them as *Version* to get it back.

**What you should see**: split at random, all but 76 of 6,750 training payments are of an account
that is in validation too: fine if known accounts will be scored, a leak if new ones will. By group
there is none, and by time none that was not known yet. Fraud, 9% of training, comes to count for
half of it; validation keeps its 9%, since that is what a model will meet.

**Copy it when** several trainings must compare themselves on the same rows, or somebody will ask
in a year what a model was trained on.

**For production**: `artifact_store` on an object store, with a rule that nobody deletes below
`versions/`; schedule trainings on the asset, which names the version; `WAIT` is as long as your
labels take to arrive.
"""

from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import Asset, Param, dag, get_current_context, task, task_group

from include import retries, storage

DAG_ID = Path(__file__).stem
TRAINING_DATA = Asset(f"{DAG_ID}/training_data")
ROWS = "SELECT * FROM payments ORDER BY payment_id"
ROW_ID, TIME, GROUP, LABEL = "payment_id", "at", "account", "fraud"
NUMERIC, CATEGORICAL = ["amount", "hour"], ["shop"]
WAIT = timedelta(days=10)  # fraud becomes known by a dispute, as late as this after the payment
SETTINGS = ("split", "sampling", "validation_share", "seed")  # what makes another version
FEWEST_FRAUDS = 50  # with fewer in validation, a measure says more of chance than of the model
# Which of the crossings each split promises not to have; the others are counted all the same.
FORBIDDEN = {
    "random": ("id", "duplicate"),
    "stratified": ("id", "duplicate"),
    "time": ("id", "duplicate", "future"),
    "group": ("id", "duplicate", "group"),
}


def sane(expect) -> list:
    """What holds for every payment, whether it was read or made."""
    from include.data.payments import SHOPS

    return [
        expect.ExpectColumnValuesToBeBetween(column="amount", min_value=0, strict_min=True),
        expect.ExpectColumnValuesToBeBetween(column="hour", min_value=0, max_value=24),
        expect.ExpectColumnValuesToBeInSet(column="shop", value_set=list(SHOPS)),
        expect.ExpectColumnValuesToBeInSet(column=LABEL, value_set=[0, 1]),
    ]


def versions() -> dict[str, dict]:
    """The manifests of all versions that are kept, by version."""
    from include.data import manifest

    documents = (storage.store() / DAG_ID / "versions").glob("*/manifest.json")
    found = [manifest.read(each.read_bytes(), str(each)) for each in documents]
    return {described["version"]: described for described in found}


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.01.03 · Training Data Preparation",
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
        "split": Param(
            "time",
            type="string",
            enum=list(FORBIDDEN),
            title="Split",
            description="How validation rows are chosen: by what the model will meet.",
        ),
        "sampling": Param(
            "class_weights",
            type="string",
            enum=["none", "class_weights", "undersample", "oversample", "smote"],
            title="Sampling",
            description="How the rare label is made to count, in the training rows only.",
        ),
        "validation_share": Param(
            0.25,
            type="number",
            minimum=0.01,
            maximum=0.5,
            title="Validation share",
            description="The share of the payments (of the accounts, by group) to judge by.",
        ),
        "seed": Param(
            97,
            type="integer",
            minimum=0,
            maximum=2**32 - 1,
            title="Seed",
            description="What is drawn, in splitting and in sampling, is drawn from this.",
        ),
        "version": Param(
            None,
            type=["null", "string"],
            pattern=r"^[0-9a-f]{12}$(?!\n)",
            title="Version",
            description="Get this earlier version back, and make no new one.",
        ),
    },
)
def training_data_prep():
    @task_group(group_id="source", group_display_name="① Source")
    def source():
        @task.branch(task_display_name="Choose")
        def choose() -> str:
            """An earlier version needs no warehouse, so it can be had while that is broken."""
            earlier = get_current_context()["params"]["version"]
            return "version.check_out" if earlier else "source.ingest"

        @task(task_display_name="Ingest")
        def ingest() -> str:
            """Read in a fixed order: the same rows in another order would be another split."""
            import pandas as pd
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook

            payments = SqliteHook(sqlite_conn_id="warehouse").get_df(ROWS)
            # What is no time becomes missing here, and is named with its row by the next task.
            payments[TIME] = pd.to_datetime(payments[TIME], format="ISO8601", errors="coerce")
            payments["hour"] = payments[TIME].dt.hour + payments[TIME].dt.minute / 60
            return storage.write_frame(payments, "payments.parquet")

        @task(task_display_name="Validate rows")
        def validate(payments: str) -> str:
            """A row that breaks what was agreed on stops the run before it can reach a version."""
            from include.data import quality

            expect = quality.expectations()
            whole = [ROW_ID, TIME, GROUP, *NUMERIC, *CATEGORICAL, LABEL]
            agreed = [
                expect.ExpectColumnValuesToBeUnique(column=ROW_ID),
                *(expect.ExpectColumnValuesToNotBeNull(column=column) for column in whole),
                *sane(expect),
            ]
            quality.check(storage.read_frame(payments), agreed, ROW_ID, source="payments")
            return payments

        chosen, payments = choose(), ingest()
        chosen >> payments
        return chosen, validate(payments)

    @task_group(group_id="split", group_display_name="② Split")
    def split(payments: str):
        @task(task_display_name="Split", multiple_outputs=True)
        def split(payments: str) -> dict[str, str]:
            """Set validation aside before anything is balanced, fitted or looked at."""
            from include.data import splits

            rows = storage.read_frame(payments)
            params = get_current_context()["params"]
            share, seed = params["validation_share"], params["seed"]
            match params["split"]:
                case "random":
                    train, validation = splits.at_random(rows, share, seed)
                case "stratified":
                    train, validation = splits.stratified(rows, LABEL, share, seed)
                case "time":
                    train, validation = splits.by_time(rows, TIME, share, WAIT)
                case "group":
                    train, validation = splits.by_group(rows, GROUP, share, seed)
            return {
                "train": storage.write_frame(train, "train.parquet"),
                "validation": storage.write_frame(validation, "validation.parquet"),
            }

        @task(task_display_name="Check leakage", multiple_outputs=False)
        def check_leakage(train: str, validation: str) -> dict[str, int]:
            """Trust no split, not even this one: look at what came out of it."""
            from include.data import splits

            columns = splits.Columns(ROW_ID, TIME, GROUP, LABEL)
            known, judged = storage.read_frame(train), storage.read_frame(validation)
            found = splits.crossings(known, judged, columns, WAIT)
            chosen = get_current_context()["params"]["split"]
            splits.refuse(found, FORBIDDEN[chosen], ROW_ID)
            return {kind: len(rows) for kind, rows in found.items()}

        parts = split(payments)
        return parts, check_leakage(parts["train"], parts["validation"])

    @task_group(group_id="balance", group_display_name="③ Balance")
    def balance(train: str, validation: str, checked):
        @task(task_display_name="Sample")
        def sample(train: str) -> str:
            """Only training rows come in here: validation keeps the balance of the world."""
            from include.data import sampling

            rows = storage.read_frame(train)
            params = get_current_context()["params"]
            seed = params["seed"]
            match params["sampling"]:
                case "none":
                    balanced = sampling.untouched(rows)
                case "class_weights":
                    balanced = sampling.class_weights(rows, LABEL)
                case "undersample":
                    balanced = sampling.undersampled(rows, LABEL, seed)
                case "oversample":
                    balanced = sampling.oversampled(rows, LABEL, seed)
                case "smote":
                    balanced = sampling.smote(rows, LABEL, NUMERIC, CATEGORICAL, seed)
            return storage.write_frame(balanced, "train.parquet")

        @task(task_display_name="Validate parts", multiple_outputs=False)
        def validate(train: str, validation: str) -> dict[str, str]:
            """What was drawn and made is held to the same rules as what was read."""
            from include.data import quality

            expect = quality.expectations()
            positive = expect.ExpectColumnMinToBeBetween(column="weight", min_value=0.01)
            enough = expect.ExpectColumnSumToBeBetween(column=LABEL, min_value=FEWEST_FRAUDS)
            rules = sane(expect)
            quality.check(storage.read_frame(train), [*rules, positive], ROW_ID, "train")
            quality.check(storage.read_frame(validation), [*rules, enough], ROW_ID, "validation")
            return {"train.parquet": train, "validation.parquet": validation}

        sampled = sample(train)
        checked >> sampled
        return validate(sampled, validation)

    @task_group(group_id="version", group_display_name="④ Version")
    def version(chosen, payments: str, prepared: dict[str, str]):
        @task(task_display_name="Commit")
        def commit(payments: str, prepared: dict[str, str]) -> str:
            """Files first and the manifest last: with it the version is there, whole."""
            from include.data import manifest

            def described(reference: str) -> dict:
                rows, digest = storage.read_frame(reference), storage.digest(reference)
                return {"sha256": digest, "rows": len(rows), "frauds": int(rows[LABEL].sum())}

            params = get_current_context()["params"]
            content = {
                "source": described(payments),
                "settings": {name: params[name] for name in SETTINGS} | {"wait_days": WAIT.days},
                "files": {name: described(reference) for name, reference in prepared.items()},
            }
            number, known = manifest.version(content), versions()
            shelf = f"versions/{number}"
            for name, reference in prepared.items():
                storage.keep(storage.read_bytes(reference), shelf, name)
            if number not in known:  # else it has its parent, and must not become its own
                document = manifest.write(content, parent=manifest.newest(known.values()))
                storage.keep(document, shelf, "manifest.json")
            return number

        @task(
            task_display_name="Check out",
            trigger_rule="none_failed_min_one_success",
            outlets=[TRAINING_DATA],
            multiple_outputs=False,
        )
        def check_out() -> dict[str, str]:
            """Take a version by its name alone, check every byte, and tell other DAGs."""
            context, known = get_current_context(), versions()
            asked = context["params"]["version"]
            wanted = asked or context["ti"].xcom_pull(task_ids="version.commit")
            if wanted not in known:
                raise LookupError(f"no version {wanted} among: {', '.join(sorted(known))}")
            folder = storage.store() / DAG_ID / "versions" / wanted
            files = {}
            for name, file in known[wanted]["content"]["files"].items():
                files[name] = f"{folder / name}#sha256={file['sha256']}"
                storage.read_bytes(files[name])
            context["outlet_events"][TRAINING_DATA].extra = {"version": wanted}
            return {"version": wanted, **files}

        [chosen, commit(payments, prepared)] >> check_out()

    chosen, payments = source()
    parts, checked = split(payments)
    version(chosen, payments, balance(parts["train"], parts["validation"], checked))


training_data_prep()
