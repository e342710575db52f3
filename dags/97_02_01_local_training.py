"""
> **One training, three ways to run it, and one pool that shares the GPUs between them.**

| | |
|---|---|
| **Level** | beginner |
| **Needs** | pool `gpu_pool`; PyTorch; a second interpreter without Airflow (`make up` makes it) |
| **Runs in** | about 30 seconds on a processor |
| **Look at** | Gantt: in the scheduler the third training waits until both slots are free |

```text
① Data     ② Train, in gpu_pool                         ③ Outputs
prepare ─┬→ python_operator              1 slot  ─┬→ compare → keep
         ├→ taskflow                     1 slot  ─┤
         └→ find_interpreter → isolated  2 slots ─┘
```

| Box | Shown by |
|---|---|
| PythonOperator training | `train.python_operator` |
| TaskFlow training task | `train.taskflow`, `train.isolated` |
| Resource allocation | `train.python_operator`, `train.taskflow`, `train.isolated` |
| Output handling | `outputs.compare`, `outputs.keep` |

**Run it**: `make run DAG=97_02_01_local_training`. In the UI give `gpu_pool` one slot under
*Admin → Pools* and trigger it again: the first two trainings now follow one another, and the third
waits for the slot that it lacks until you give it back.

**What you should see**: three times the same digest, so where a training runs changes nothing about
the model; an AUC of about 0.75; and what each took. The XComs are a few hundred bytes, whatever the
size of the model.

**Copy it when** trainings share a machine. Take the PythonOperator for a function that you import,
TaskFlow for one that you write here, the isolated interpreter for packages that can't live beside
Airflow.

**For production**: as many slots in `gpu_pool` as there are cards; a worker queue on the GPU
machines; for jobs of hours see 97.2.5, for many machines 97.2.2.
"""

from datetime import datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import (
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    dag,
    get_current_context,
    task,
    task_group,
)

from include import interpreters, retries, storage, tracking

DAG_ID = Path(__file__).stem
LABEL = "churned"
HOLDOUT_SHARE = 0.25
SEED = 97
POOL = "gpu_pool"
LONGEST = timedelta(minutes=10)
KNOBS = ("hidden", "epochs", "learning_rate", "threads")
# Whatever is raised in another interpreter arrives as a plain AirflowException, and this one only
# reads files and computes. A process that was killed arrives as something else, and is retried.
RAISED_ELSEWHERE = RetryRule(
    "airflow.sdk.exceptions.AirflowException",
    RetryAction.FAIL,
    reason="raised in the isolated interpreter, and would be again",
    match_subclasses=False,
)


def train_here(train: str) -> dict[str, str | float]:
    """Train in the worker's own process; the weights go to the store, a reference to XCom."""
    from include.training import neural

    rows = storage.read_frame(train)
    params = get_current_context()["params"]
    settings = neural.Settings(**{knob: params[knob] for knob in KNOBS}, seed=SEED)
    weights, cost = neural.train(
        rows.drop(columns=LABEL).to_numpy(), rows[LABEL].to_numpy(), settings
    )
    return {"weights": storage.write_bytes(neural.dumps(weights), "weights.npz"), **cost.as_dict()}


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.02.01 · Local Training Tasks",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 4),
    catchup=False,
    max_active_runs=1,
    tags=["reference", "patterns", "beginner", "success"],
    default_args={
        "owner": "ml-catalogue",
        "retries": 2,
        "retry_delay": timedelta(seconds=5),
        "retry_policy": retries.POLICY,
        "execution_timeout": timedelta(minutes=5),
    },
    params={
        "hidden": Param(
            16,
            type="integer",
            minimum=1,
            maximum=1024,
            title="Hidden units",
            description="The width of the network.",
        ),
        "epochs": Param(
            20,
            type="integer",
            minimum=1,
            maximum=500,
            title="Epochs",
            description="How often the training sees every customer.",
        ),
        "learning_rate": Param(
            0.01,
            type="number",
            minimum=0.00001,
            maximum=1,
            title="Learning rate",
            description="How far each step goes.",
        ),
        "threads": Param(
            1,
            type="integer",
            minimum=1,
            maximum=64,
            title="Threads",
            description="Processor threads of one training: slots times threads should fit the "
            "machine.",
        ),
    },
)
def local_training():
    @task_group(group_id="data", group_display_name="① Data")
    def data():
        @task(task_display_name="Prepare", multiple_outputs=True)
        def prepare() -> dict[str, str]:
            """Numbers for the network, and plain paths for the interpreter that has no Airflow."""
            import pandas as pd
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook
            from sklearn.model_selection import train_test_split

            from include.features.churn import preprocessor

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            train, holdout = train_test_split(
                customers, test_size=HOLDOUT_SHARE, stratify=customers[LABEL], random_state=SEED
            )
            features = preprocessor().fit(train)
            names = features.get_feature_names_out()
            parts = {
                name: storage.write_frame(
                    pd.DataFrame(features.transform(part), columns=names).assign(**{
                        LABEL: part[LABEL].to_numpy()
                    }),
                    f"{name}.parquet",
                )
                for name, part in (("train", train), ("holdout", holdout))
            }
            return parts | {"train_path": str(storage.local_path(parts["train"]))}

        return prepare()

    @task_group(group_id="train", group_display_name="② Train")
    def train(train: str, train_path: str):
        python_operator = PythonOperator(
            task_id="python_operator",
            task_display_name="PythonOperator",
            doc_md="For a function that exists already: it knows nothing of Airflow's decorators.",
            python_callable=train_here,
            op_kwargs={"train": train},
            pool=POOL,
            pool_slots=1,
            execution_timeout=LONGEST,
        )

        @task(
            task_display_name="TaskFlow",
            multiple_outputs=False,
            pool=POOL,
            pool_slots=1,
            execution_timeout=LONGEST,
        )
        def taskflow(train: str) -> dict[str, str | float]:
            """For a function that is written here: what it returns is what the next one gets."""
            return train_here(train)

        @task(task_display_name="Find interpreter")
        def find_interpreter() -> str:
            """Say what is missing, and how to get it, before two slots are taken."""
            return interpreters.interpreter("training")

        @task.external_python(
            task_display_name="Isolated interpreter",
            python=find_interpreter(),
            expect_airflow=False,
            multiple_outputs=False,
            retry_policy=ExceptionRetryPolicy(rules=[*retries.POLICY.rules, RAISED_ELSEWHERE]),
            pool=POOL,
            pool_slots=2,
            execution_timeout=LONGEST,
        )
        def isolated(train: str, train_path: str, knobs: dict[str, str], label: str, seed: int):
            """For packages that can't live beside Airflow: paths in, a reference out."""
            import hashlib
            from io import BytesIO
            from pathlib import Path

            import pandas as pd

            from include.training import neural

            content = Path(train_path).read_bytes()
            if hashlib.sha256(content).hexdigest() != train.partition("#sha256=")[2]:
                raise ValueError(
                    f"{train_path} was changed after it was written. Clear the task that wrote it "
                    "to make it again."
                )
            rows = pd.read_parquet(BytesIO(content))
            kinds = neural.Settings.__annotations__
            given = {knob: kinds[knob](value) for knob, value in knobs.items()}
            weights, cost = neural.train(
                rows.drop(columns=label).to_numpy(),
                rows[label].to_numpy(),
                neural.Settings(**given, seed=seed),
            )
            made = neural.dumps(weights)
            target = Path(train_path).parents[1] / "train.isolated" / "weights.npz"
            target.parent.mkdir(exist_ok=True)
            part = target.with_suffix(".part")
            part.write_bytes(made)
            part.replace(target)  # whole or not at all
            reference = f"file://{target}#sha256={hashlib.sha256(made).hexdigest()}"
            return {"weights": reference, **cost.as_dict()}

        knobs = {knob: f"{{{{ params.{knob} }}}}" for knob in KNOBS}
        return {
            "python_operator": python_operator.output,
            "taskflow": taskflow(train),
            "isolated": isolated(train, train_path, knobs, LABEL, SEED),
        }

    @task_group(group_id="outputs", group_display_name="③ Outputs")
    def outputs(trained: dict[str, dict], holdout: str):
        @task(task_display_name="Compare", multiple_outputs=False)
        def compare(trained: dict[str, dict], holdout: str) -> dict[str, dict]:
            """Where a training runs must not change the model, only what it costs."""
            from include.training import neural

            rows = storage.read_frame(holdout)
            table = {}
            for way, result in trained.items():
                content = storage.read_bytes(result["weights"])
                scored = neural.scores(neural.loads(content), rows.drop(columns=LABEL).to_numpy())
                table[way] = {
                    "digest": storage.digest(result["weights"])[:12],
                    "auc": auc(rows[LABEL], scored),
                    **{name: result[name] for name in ("device", "seconds", "peak_memory_mb")},
                }
            digests = {row["digest"] for row in table.values()}
            if len({row["device"] for row in table.values()}) == 1 and len(digests) > 1:
                raise AssertionError(f"the same training gave different weights: {table}")
            return table

        @task(task_display_name="Keep")
        def keep(trained: dict[str, dict], table: dict[str, dict]) -> str:
            """Put one of the equal models, its settings and the costs where they can be found."""
            import mlflow

            from include.evaluation import plots

            params = get_current_context()["params"]
            with tracking.run() as run:
                mlflow.log_params({knob: params[knob] for knob in KNOBS})
                mlflow.log_metric("auc", table["taskflow"]["auc"])
                for way, row in table.items():
                    mlflow.log_metrics({
                        f"{way}.{m}": row[m] for m in ("seconds", "peak_memory_mb")
                    })
                seconds = {"training": [row["seconds"] for row in table.values()]}
                picture = plots.bars(list(table), seconds, "What each way took", "seconds")
                tracking.log_figure(picture, "seconds.png")
                mlflow.log_artifact(str(storage.local_path(trained["taskflow"]["weights"])))
                return run.info.run_id

        def auc(labels, scored) -> float:
            from sklearn.metrics import roc_auc_score

            return round(float(roc_auc_score(labels, scored)), 4)

        keep(trained, compare(trained, holdout))

    prepared = data()
    outputs(train(prepared["train"], prepared["train_path"]), prepared["holdout"])


local_training()
