"""
> **A tracking server at work: every try logged step by step, the best one found by a query and
> released by name.**

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | a server at the connection `mlflow_default`; `make up` and `make run` start one |
| **Runs in** | about 60 seconds |
| **Look at** | MLflow: the experiment of this name, *Compare* on the three child runs |

```text
① Server   ② Experiments, one per configuration   ③ Compare              ④ Registry
check   →  prepare → 3 train → 3 log            → query → evaluate     → register → verify
                            ↘ offline (Weights & Biases, if it is installed)
```

| Box | Shown by |
|---|---|
| MLflow tracking server | `server.check` |
| Experiment logging | `experiments.train`, `experiments.log` |
| Model registry | `registry.register`, `registry.verify` |
| Run comparison | `compare.query`, `compare.evaluate` |

**Run it**: `make run DAG=97_03_01_mlflow_integration`. With `make up`, stop the server while
*Train* runs: *Log* fails, names the address, and sends the very same numbers when it is tried
again.

**What you should see**: three child runs with an AUC after each tree: 0.744 for the careful one,
0.739, and 0.699 for the eager one, whose curve falls while it learns by heart; and version 1 of the
model with the alias `champion`. The best of several on one holdout looks better than it is: 97.4.1
measures it on data that chose nothing.

**Copy it when** you compare trainings by reading logs.

**For production**: point `mlflow_default` at your server, `https` and a password with it. For
Weights & Biases fetch the files that *Offline* kept and `wandb sync --no-skip-online` them: sent
twice they are the same three runs. Comet or Neptune take the place of *Log* alone.
"""

from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from airflow.sdk import Connection, Param, dag, get_current_context, task, task_group

from include import retries, runs, storage, tracking

DAG_ID = Path(__file__).stem
CONNECTION = "mlflow_default"
LABEL = "churned"
HOLDOUT_SHARE = 0.25
SEED = 97
CONFIGURATIONS = [
    {"name": "careful", "learning_rate": 0.05, "max_leaf_nodes": 8},
    {"name": "usual", "learning_rate": 0.10, "max_leaf_nodes": 16},
    {"name": "eager", "learning_rate": 0.30, "max_leaf_nodes": 31},
]


def wandb_file(trained: dict[str, str]) -> str:
    """A name that tells what is in it."""
    return f"{trained['name']}-{storage.digest(trained['curve'])[:12]}.wandb"


def wandb_run(trained: dict[str, str], folder: str) -> None:
    """Write what `wandb sync` sends; it is whole once the process that writes it has ended."""
    import wandb

    record = storage.read_json(trained["curve"])
    with wandb.init(
        project=DAG_ID,
        id=f"{runs.here().key}-{Path(wandb_file(trained)).stem}",  # sent twice it is one run
        name=trained["name"],
        config=record["settings"],
        settings=wandb.Settings(mode="offline", root_dir=folder, silent=True),
    ) as run:
        for step, auc in enumerate(record["auc"], start=1):
            run.log({"auc": auc}, step=step)


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.03.01 · MLflow Integration",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 4),
    catchup=False,
    max_active_runs=1,
    tags=["reference", "providers", "intermediate", "success"],
    default_args={
        "owner": "ml-catalogue",
        "retries": 2,
        "retry_delay": timedelta(seconds=5),
        "retry_policy": retries.POLICY,
        "execution_timeout": timedelta(minutes=5),
    },
    params={
        "trees": Param(
            40,
            type="integer",
            minimum=2,
            maximum=500,
            title="Trees",
            description="How many trees each configuration grows, one step of the curve each.",
        ),
    },
)
def mlflow_integration():
    @task_group(group_id="server", group_display_name="① Server")
    def server():
        @task(task_display_name="Check")
        def check() -> str:
            """Open this run's MLflow run, before anything is trained that could not be logged."""
            kind = Connection.get(CONNECTION).conn_type
            if kind not in ("http", "https"):
                raise ValueError(
                    f"connection {CONNECTION} is of type {kind}: this pipeline is about a "
                    "server, with a page to open and an address for others; give it type http or "
                    "https, a host and a port"
                )
            tracking.server()
            with tracking.run() as run:
                return run.info.run_id

        return check()

    @task_group(group_id="experiments", group_display_name="② Experiments")
    def experiments():
        @task(task_display_name="Prepare", multiple_outputs=True)
        def prepare() -> dict[str, str]:
            """The same customers for every configuration."""
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

        @task(
            task_display_name="Train",
            map_index_template="{{ configuration_name }}",
            multiple_outputs=False,
        )
        def train(configuration: dict, train: str, holdout: str) -> dict[str, str]:
            """Train and write the curve down; no server is needed, so none can lose it."""
            from sklearn.ensemble import HistGradientBoostingClassifier
            from sklearn.metrics import roc_auc_score
            from sklearn.pipeline import make_pipeline

            from include.features.churn import preprocessor

            context = get_current_context()
            context["configuration_name"] = configuration["name"]
            settings = {key: value for key, value in configuration.items() if key != "name"}
            settings["max_iter"] = context["params"]["trees"]
            rows, unseen = storage.read_frame(train), storage.read_frame(holdout)
            features = preprocessor().fit(rows)
            trees = HistGradientBoostingClassifier(**settings, random_state=SEED)
            trees.fit(features.transform(rows), rows[LABEL])
            curve = [
                float(roc_auc_score(unseen[LABEL], scores[:, 1]))
                for scores in trees.staged_predict_proba(features.transform(unseen))
            ]
            return {
                "name": configuration["name"],
                "model": storage.write_model(make_pipeline(features, trees), "model.skops"),
                "curve": storage.write_json({"settings": settings, "auc": curve}, "curve.json"),
            }

        @task(task_display_name="Log", map_index_template="{{ configuration_name }}")
        def log(trained: dict[str, str], train: str, holdout: str) -> str:
            """Send what was written down; sent again, it is the same points and the same model."""
            import mlflow

            from include.evaluation import plots

            get_current_context()["configuration_name"] = trained["name"]
            record = storage.read_json(trained["curve"])
            with tracking.part(trained["name"]) as run, tracking.hushed():
                tracking.log_history({"auc": record["auc"]})
                mlflow.log_params(record["settings"])
                rows = storage.read_frame(train)
                mlflow.log_input(mlflow.data.from_pandas(rows, name="customers", targets=LABEL))
                picture = plots.steps(record["auc"], trained["name"], "AUC", "trees")
                tracking.log_figure(picture, "curve.png")
                example = storage.read_frame(holdout).drop(columns=LABEL)
                tracking.log_model(storage.read_model(trained["model"]), example)
                mlflow.set_tag("model", trained["model"])
                return run.info.run_id

        @task.skip_if(
            lambda _context: find_spec("wandb") is None,
            "Weights & Biases is not installed: with `pip install wandb` it gets the curves, too.",
        )
        @task(task_display_name="Offline", multiple_outputs=False)
        def offline(trained: list[dict[str, str]]) -> dict[str, str]:
            """The same curves as files for Weights & Biases, whose server need not be there."""
            import wandb

            key = runs.here().key
            shelf, files = f"{key}/wandb", {wandb_file(each): each for each in trained[:]}
            with TemporaryDirectory() as folder:
                try:
                    for file, each in files.items():
                        if not storage.kept(shelf, file):  # made anew it would tell another time
                            wandb_run(each, folder)
                finally:
                    wandb.teardown()
                for made in Path(folder).rglob("*.wandb"):
                    file = made.name.removeprefix(f"run-{key}-")
                    storage.keep(made.read_bytes(), shelf, file)
            return {each["name"]: storage.kept(shelf, file) for file, each in files.items()}

        data = prepare()
        trained = train.partial(**{part: data[part] for part in ("train", "holdout")}).expand(
            configuration=CONFIGURATIONS
        )
        logged = log.partial(train=data["train"], holdout=data["holdout"]).expand(trained=trained)
        offline(trained)
        return data, logged

    @task_group(group_id="compare", group_display_name="③ Compare")
    def compare(parent: str, holdout: str):
        @task(task_display_name="Query", multiple_outputs=False)
        def query(parent: str) -> dict:
            """Ask the server which of this run's children was best, and draw them all."""
            import mlflow

            from include.evaluation import plots

            with tracking.run() as run:
                found = mlflow.search_runs(
                    [run.info.experiment_id],
                    f"tags.mlflow.parentRunId = '{parent}'",
                    order_by=["metrics.auc DESC"],
                )
                table = found.set_index("tags.mlflow.runName")
                columns = ["params.learning_rate", "params.max_leaf_nodes", "metrics.auc"]
                table = table[columns].astype(float).rename(columns=lambda name: name.split(".")[1])
                picture = plots.parallel(table, "auc", "Settings and what came of them")
                tracking.log_figure(picture, "comparison.png")
            return {"best": found.run_id.iloc[0], "auc": table["auc"].round(4).to_dict()}

        @task(task_display_name="Evaluate", multiple_outputs=False)
        def evaluate(queried: dict, holdout: str) -> dict[str, float]:
            """Let MLflow measure the best one's answers; no model is unpickled for that."""
            import mlflow

            best = tracking.client().get_run(queried["best"])
            rows = storage.read_frame(holdout)
            answers = storage.read_model(best.data.tags["model"]).predict(rows)
            wanted = ("accuracy_score", "precision_score", "recall_score", "f1_score")
            with tracking.run() as run, tracking.hushed():
                if run.data.tags.get("evaluated") == queried["best"]:  # an earlier try got this far
                    return {name: run.data.metrics[name] for name in wanted}
                result = mlflow.models.evaluate(
                    data=rows[[LABEL]].assign(answer=answers),
                    predictions="answer",
                    targets=LABEL,
                    model_type="classifier",
                    evaluators="default",
                    evaluator_config={"log_explainer": False, "pos_label": 1},
                )
                mlflow.set_tag("evaluated", queried["best"])
            return {name: float(result.metrics[name]) for name in wanted}

        queried = query(parent)
        return queried, evaluate(queried, holdout)

    @task_group(group_id="registry", group_display_name="④ Registry")
    def registry(queried: dict, measured: dict[str, float], holdout: str):
        @task(task_display_name="Register")
        def register(queried: dict, measured: dict[str, float]) -> str:
            """Give the best one a version, its measures as tags, and the alias that callers use."""
            client = tracking.client()
            (kept,) = client.get_run(queried["best"]).outputs.model_outputs
            number = tracking.register_logged(client.get_logged_model(kept.model_id))
            for name, value in measured.items():
                client.set_model_version_tag(DAG_ID, number, name, f"{value:.4f}")
            tracking.promote(number)
            return number

        @task(task_display_name="Verify", multiple_outputs=False)
        def verify(queried: dict, number: str, holdout: str) -> dict:
            """Fetch the version, as a caller would: it must answer as it was trained."""
            best = tracking.client().get_run(queried["best"])
            rows = storage.read_frame(holdout)
            fetched = tracking.load(DAG_ID, number).predict_proba(rows)
            trained = storage.read_model(best.data.tags["model"]).predict_proba(rows)
            if (fetched != trained).any():
                raise AssertionError(f"version {number} is not what was trained")
            callers = tracking.champion(DAG_ID)  # a run for another date may have promoted its own
            return {"rows": len(rows), "version": number, "callers_get": callers.number}

        verify(queried, register(queried, measured), holdout)

    parent = server()
    data, logged = experiments()
    queried, measured = compare(parent, data["holdout"])
    parent >> data
    logged >> queried
    registry(queried, measured, data["holdout"])


mlflow_integration()
