"""
> **A model is bytes under their own digest, a version that says where they come from, and a name
> that callers use.** What nobody needs any more goes, and nothing else.

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | nothing: the SQLite warehouse, scikit-learn, MLflow; S3 by one setting |
| **Runs in** | about 20 seconds |
| **Look at** | `models/` in the artifact store; the sidecar `version.json` in the MLflow run |

```text
① Store              ② Version          ③ Name     ④ Clean
prepare → train  →   load_back →        promote →  plan → clean_up
                     describe → track
```

| Box | Shown by |
|---|---|
| Model storage patterns | `store.train`, `version.load_back` |
| Artifact versioning | `version.describe`, `name.promote` |
| Metadata tracking | `version.describe`, `version.track` |
| Artifact cleanup | `clean.plan`, `clean.clean_up` |

**Run it**: `make run DAG=97_01_05_model_artifacts DATE=2026-01-04`, then the same with February to
May. With `CONF='{"dry_run": true}'` the plan says what would go, and *Clean up* is skipped. With
`CONF='{"trees": 5}'` the model is another one.

**What you should see**: an AUC of 0.746, from the stored bytes, not from the object in memory. Five
times the same training is five versions and one blob: equal bytes have equal digests. In May
version 2 goes; version 1 is older, but the champion.

**Why skops**: opening a pickle runs whatever its author wrote into it. skops builds numbers and
reviewed types only, and the digest says that they are the bytes that were trained. ONNX is as safe,
and what to take where scikit-learn is not installed.

**Copy it when** models outlive the run that made them, or the disk with old ones is full.

**For production**: set the Airflow Variable `artifact_store` to `s3://aws_default@bucket/prefix`;
the tests run this file against such a server. Let the bucket end unfinished uploads, and nobody but
this DAG delete from it. Without an answer from MLflow nothing is deleted: aliases live there.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk import Param, dag, get_current_context, task, task_group

from include import model_store, retries, runs, storage, tracking

DAG_ID = Path(__file__).stem
LABEL = "churned"
HOLDOUT_SHARE = 0.25
DEPTH = 6
SEED = 97


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.01.05 · Model Artifact Management",
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
        "trees": Param(
            20,
            type="integer",
            minimum=1,
            maximum=500,
            title="Trees",
            description="The size of the forest; another size is another model.",
        ),
        "keep_newest": Param(
            3,
            type="integer",
            minimum=1,
            maximum=1000,
            title="Keep the newest",
            description="As many versions stay, however old they are.",
        ),
        "keep_days": Param(
            30,
            type="integer",
            minimum=1,
            maximum=3650,
            title="Keep for days",
            description="Every younger version stays, however many there are.",
        ),
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description="Say what would go, and let it stay.",
        ),
    },
)
def model_artifacts():
    def today() -> datetime:
        """The run's date, not the clock's: the same run again must come to the same plan."""
        run = get_current_context()["dag_run"]
        return (run.logical_date or run.run_after).astimezone(UTC)

    @task_group(group_id="store", group_display_name="① Store")
    def store():
        @task(task_display_name="Prepare", multiple_outputs=True)
        def prepare() -> dict[str, str]:
            """The digest of the training rows is the data version that the sidecar will name."""
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook
            from sklearn.model_selection import train_test_split

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            train, holdout = train_test_split(
                customers, test_size=HOLDOUT_SHARE, stratify=customers[LABEL], random_state=SEED
            )
            return {
                "train": storage.write_frame(train, "train.parquet"),
                "holdout": storage.write_frame(holdout, "holdout.parquet"),
            }

        @task(task_display_name="Train")
        def train(train: str) -> str:
            """The bytes decide where they lie: train the same again, and nothing is added."""
            from sklearn.ensemble import RandomForestClassifier
            from sklearn.pipeline import make_pipeline

            from include.features.churn import preprocessor
            from include.training import model_format

            rows = storage.read_frame(train)
            trees = get_current_context()["params"]["trees"]
            forest = RandomForestClassifier(trees, max_depth=DEPTH, random_state=SEED)
            model = make_pipeline(preprocessor(), forest).fit(rows, rows[LABEL])
            return model_store.put(model_format.dumps(model))

        rows = prepare()
        return train(rows["train"]), rows["train"], rows["holdout"]

    @task_group(group_id="version", group_display_name="② Version")
    def version(model: str, train: str, holdout: str):
        @task(task_display_name="Load back", multiple_outputs=False)
        def load_back(model: str, holdout: str) -> dict[str, float]:
            """Read as a stranger would, digest first and no pickle, and measure what was stored."""
            from include.evaluation import binary

            rows = storage.read_frame(holdout)
            return binary.report(rows[LABEL], storage.read_model(model).predict_proba(rows)[:, 1])

        @task(task_display_name="Describe")
        def describe(model: str, train: str, metrics: dict[str, float]) -> str:
            """The sidecar lies beside the bytes: it is still there when MLflow is not."""
            from importlib.metadata import version as installed

            from include.features import churn

            inputs = storage.read_frame(train)[churn.NUMERIC + churn.CATEGORICAL].dtypes
            code = b"".join(Path(file).read_bytes() for file in (__file__, churn.__file__))
            return model_store.add(
                model,
                created=today().isoformat(),
                facts={
                    "metrics": metrics,
                    "params": {"trees": get_current_context()["params"]["trees"], "depth": DEPTH},
                    "data_version": storage.digest(train),
                    "code_version": runs.digest(code),
                    "libraries": {name: installed(name) for name in ("scikit-learn", "skops")},
                    "signature": {
                        "inputs": {column: str(kind) for column, kind in inputs.items()},
                        "output": f"the probability of {LABEL}",
                    },
                },
            )

        @task(task_display_name="Track")
        def track(version: str) -> str:
            """MLflow compares versions and has the aliases; the bytes stay where they are."""
            import mlflow

            known = model_store.read(version)
            with tracking.run():
                mlflow.log_params(known["params"])
                mlflow.log_metrics(known["metrics"])
                mlflow.set_tags({name: known[name] for name in ("data_version", "code_version")})
                mlflow.log_dict(known, "version.json")
                return tracking.register_reference(known["reference"])

        metrics = load_back(model, holdout)
        return track(describe(model, train, metrics)), metrics

    @task_group(group_id="name", group_display_name="③ Name")
    def name(number: str, metrics: dict[str, float], holdout: str):
        @task(task_display_name="Promote")
        def promote(number: str, metrics: dict[str, float], holdout: str) -> str:
            """Callers ask for the champion; it changes only for a model that ranks better."""
            from sklearn.metrics import roc_auc_score

            champion = tracking.champion(DAG_ID)
            if champion is not None:
                rows = storage.read_frame(holdout)
                scores = storage.read_model(champion.reference).predict_proba(rows)[:, 1]
                if metrics["roc_auc"] <= roc_auc_score(rows[LABEL], scores):
                    return champion.number
            tracking.promote(number)
            return number

        return promote(number, metrics, holdout)

    @task_group(group_id="clean", group_display_name="④ Clean")
    def clean():
        @task(task_display_name="Plan", multiple_outputs=False)
        def plan() -> dict:
            """One row for each version with every reason to keep it; without one, it goes."""
            params, names = get_current_context()["params"], aliased()
            known = model_store.versions()
            ages = {
                each["version"]: (today() - datetime.fromisoformat(each["created"])).days
                for each in known
            }
            newest = [version for version, age in ages.items() if age >= 0][: params["keep_newest"]]
            rows = []
            for version, age in ages.items():
                reasons = [f"alias {alias}" for alias in names.get(version, [])]
                reasons += [f"newest {params['keep_newest']}"] if version in newest else []
                reasons += (
                    [f"under {params['keep_days']} days"] if age < params["keep_days"] else []
                )
                rows.append({"version": version, "days": age, "kept_for": reasons})
            goes = [row["version"] for row in rows if not row["kept_for"]]
            table = {"versions": rows, "goes": goes, "blobs": model_store.unwanted(without=goes)}
            reference = storage.write_json(table, "plan.json")
            return {"plan": reference, "goes": len(goes), "oldest_of_them": goes[-5:]}

        @task.skip_if(lambda context: context["params"]["dry_run"], "Dry run: see the plan.")
        @task(task_display_name="Clean up", multiple_outputs=False)
        def clean_up(planned: dict) -> dict[str, int]:
            """Registry, sidecar, bytes, in this order: stopped halfway, no name is left empty."""
            for version in storage.read_json(planned["plan"])["goes"]:
                if version not in aliased():  # an alias may have been set since the plan
                    for known in tracking.versions(DAG_ID):
                        if model_store.name(known.key, known.sha256) == version:
                            tracking.retire(known.number)
                    model_store.retire(version)
            model_store.sweep()
            return {"versions": len(model_store.versions()), "blobs": len(model_store.blobs())}

        def aliased() -> dict[str, list[str]]:
            """The versions that an alias points to, whoever set it."""
            pointed = tracking.aliases()
            return {
                model_store.name(known.key, known.sha256): [
                    alias for alias, number in pointed.items() if number == known.number
                ]
                for known in tracking.versions(DAG_ID)
                if known.number in pointed.values()
            }

        planned = plan()
        clean_up(planned)
        return planned

    model, train, holdout = store()
    number, metrics = version(model, train, holdout)
    name(number, metrics, holdout) >> clean()


model_artifacts()
