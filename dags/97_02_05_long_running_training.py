"""
> **A long-running training: the task that waits for it is deferred and takes no worker.** A
> training that is killed goes on from its last checkpoint.

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | PyTorch; a triggerer, on the machine of the workers |
| **Runs in** | about 45 seconds on a processor |
| **Look at** | *Train*: its log while it is deferred, its task state when it was tried again |

```text
① Data     ② Training (deferred)   ③ Review          ④ Outcome
prepare ─→ train ───────────────┬→ progress ─────┬→ keep_model
            ↑ again, from the   ├→ checkpoints ──┘
            ╰ last checkpoint   └→ keep_checkpoint   only where training failed
```

| Box | Shown by |
|---|---|
| Deferrable training tasks | `training.train` |
| Checkpoint monitoring | `review.checkpoints` |
| Progress tracking | `review.progress` |
| Timeout handling | `training.train`, `outcome.keep_checkpoint` |

**Run it**: `make run DAG=97_02_05_long_running_training`. Then add
`DATE=2026-02-01 CONF='{"seconds_per_try": 15}'`. A try that runs out of time stops its job, and the
next one trains the rest. Where three tries are too few the run is red, and the same command goes
on. Or kill the job's process halfway: its number is in `process.json`, in the folder that *Train*
names (XCom `job`).

**What you should see**: a line in the log for every checkpoint, with epoch, loss and the time to
go; an AUC of about 0.75. However often the job was stopped or killed, the digest of the weights is
the same: a checkpoint holds the weights, the optimiser's memory and the state of the shuffle.

**Copy it when** a training takes hours, or may outlive its machine. For minutes, a plain task with
a checkpoint is enough.

**For production**: the job is a process on the worker's machine, so it suits Celery and
LocalExecutor. Where each task runs in its own pod, have `include/training/job.py` start a cloud job
instead. Set *Longest try* to what a lost try may cost.
"""

import time
from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import BaseOperator, Param, dag, get_current_context, task, task_group
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferralError, TaskDeferralTimeout

from include import retries, storage, tracking
from include.training.job import Job
from include.triggers import JobTrigger

DAG_ID = Path(__file__).stem
LABEL = "churned"
HOLDOUT_SHARE = 0.25
SEED = 97
NETWORK = {"hidden": 16, "learning_rate": 0.0003, "threads": 1, "seed": SEED}
SILENCE = timedelta(minutes=2)  # longer than an epoch takes: a job without news for that long hangs
TRIGGERER_LATE = timedelta(minutes=1)  # when Airflow itself ends the wait
WEIGHTS, LOSSES = RESULTS = ("weights.npz", "losses.json")


class TrainingJob(BaseOperator):
    """Start a training, leave the worker, and come back when there is something to do.

    The folder of the job follows from DAG, run and task. So every try comes back to the same one,
    and finds there the process that still runs, or the checkpoint to go on from.
    """

    template_fields = ("rows",)

    def __init__(self, *, rows: str, **kwargs):
        """Train on the rows behind this reference."""
        super().__init__(**kwargs)
        self.rows = rows
        self.job: Job | None = None

    def execute(self, context):
        """Take up the job, which may be running or finished already, and wait without a worker."""
        from include.training import checkpointed, neural

        params = context["params"]
        job = self.find()
        settings = neural.Settings(epochs=params["epochs"], **NETWORK)
        sha256 = storage.digest(self.rows)
        path = storage.local_path(self.rows)
        job.prepare(checkpointed.order(path, sha256, LABEL, settings, params["checkpoint_every"]))
        context["ti"].xcom_push("job", str(job.folder))
        # XComs are cleared when a try begins; this is what one try can leave to the next.
        began = context["task_state_store"].get("began", default={})
        began[str(context["ti"].try_number)] = job.reached()
        context["task_state_store"].set("began", began)
        if job.state() == "finished":
            return self.resume(context, {"why": "finished"})
        if not job.alive():
            job.start(checkpointed.command(job))
            self.log.info("The job goes on from epoch %d, in %s", job.reached(), job.folder)
        limit = timedelta(seconds=params["seconds_per_try"])
        deadline = time.time() + limit.total_seconds()
        self.defer(
            trigger=JobTrigger(str(job.folder), deadline, SILENCE.total_seconds()),
            method_name="resume",
            timeout=limit + TRIGGERER_LATE,
        )

    def resume(self, context, event):
        """Take the result, or stop the job at a checkpoint and say whether another try helps."""
        job, why = self.find(), event["why"]
        began = context["task_state_store"].get("began")
        limit = context["params"]["seconds_per_try"]
        if job.state() != "finished":
            job.stop()
        match job.state(), why:
            case "finished", _:
                made = {name: (job.folder / name).read_bytes() for name in RESULTS}
                kept = {name: storage.write_bytes(made[name], name) for name in RESULTS}
                return {"weights": kept[WEIGHTS], "losses": kept[LOSSES], "began": began}
            case "failed", _:
                raise ValueError(f"the job can't do this training: {job.progress().message}")
            case _, "out of time" if job.reached() == began[str(context["ti"].try_number)]:
                raise ValueError(
                    f"{limit} s are not enough to get from epoch {job.reached()} to a checkpoint, "
                    "and would not be next time: raise seconds_per_try."
                )
            case _, "out of time":
                raise TimeoutError(f"{limit} s are over; epoch {job.reached()} is kept.")
            case _:
                raise RuntimeError(f"the job {why} after epoch {job.reached()}: {job.last_words()}")

    def resume_execution(self, next_method, next_kwargs, context):
        """Where no triggerer woke this task, Airflow ended its wait: the job must end as well."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralTimeout, TaskDeferralError):
            self.find().stop()
            raise

    def on_kill(self):
        """Somebody ends this task while it is on a worker; while it waits, its trigger hears it."""
        if self.job is not None:
            self.job.stop()

    def find(self) -> Job:
        """The job of this task, in this try and every other."""
        self.job = Job(storage.local_path(self.rows).parents[1] / self.task_id / "job")
        return self.job


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.02.05 · Long-Running Training Jobs",
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
        "execution_timeout": timedelta(minutes=5),  # on a worker: time deferred does not count
    },
    params={
        "epochs": Param(
            600,
            type="integer",
            minimum=1,
            maximum=100_000,
            title="Epochs",
            description="How often the training sees every customer.",
        ),
        "checkpoint_every": Param(
            30,
            type="integer",
            minimum=1,
            maximum=10_000,
            title="Checkpoint every",
            description="Epochs from one checkpoint to the next: the most that a crash can cost.",
        ),
        "seconds_per_try": Param(
            300,
            type="integer",
            minimum=1,
            maximum=604_800,
            title="Longest try",
            description="After so many seconds the job is stopped at a checkpoint, and the next "
            "try goes on from there.",
        ),
    },
)
def long_running_training():
    @task_group(group_id="data", group_display_name="① Data")
    def data():
        @task(task_display_name="Prepare", multiple_outputs=True)
        def prepare() -> dict[str, str]:
            """Numbers in a file: the job reads nothing else, and knows nothing of Airflow."""
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
            parts = {}
            for name, part in (("train", train), ("holdout", holdout)):
                numbers = pd.DataFrame(features.transform(part), columns=names)
                numbers[LABEL] = part[LABEL].to_numpy()
                parts[name] = storage.write_frame(numbers, f"{name}.parquet")
            return parts

        return prepare()

    @task_group(group_id="training", group_display_name="② Training")
    def training(rows: str):
        return TrainingJob(
            task_id="train",
            task_display_name="Train",
            doc_md="Start the job, or find it, and wait for it without holding a worker.",
            rows=rows,
        )

    @task_group(group_id="review", group_display_name="③ Review")
    def review(trained: dict, job: str, holdout: str):
        @task(task_display_name="Progress", multiple_outputs=False)
        def progress(trained: dict) -> dict[str, float]:
            """One curve, however many tries it took: each went on where the last had stopped."""
            import mlflow

            from include.evaluation import plots

            losses = storage.read_json(trained["losses"])
            with tracking.run():
                mlflow.log_params(dict(get_current_context()["params"]) | NETWORK)
                tracking.log_history({"loss": losses})
                curve = plots.steps(losses, "Was it still learning?", "loss", "epoch")
                tracking.log_figure(curve, "loss.png")
            return {"epochs": len(losses), "first": losses[0], "last": losses[-1]}

        @task(task_display_name="Checkpoints", multiple_outputs=False)
        def checkpoints(trained: dict, job: str, holdout: str) -> list[dict]:
            """A checkpoint that can't be read is none: open each, and see what it is worth."""
            from include.training import checkpointed, neural

            table = []
            for checkpoint in Job(Path(job)).checkpoints():
                found = checkpointed.loads(checkpoint)
                weights = {n: part.numpy() for n, part in found["training"]["weights"].items()}
                table.append({
                    "epoch": checkpoint.epoch,
                    "loss": round(found["losses"][-1], 6),
                    "auc": auc(weights, holdout),
                })
            if neural.dumps(weights) != storage.read_bytes(trained["weights"]):
                raise ValueError(f"the last checkpoint in {job} does not hold the final weights")
            return table

        return [progress(trained), checkpoints(trained, job, holdout)]

    @task_group(group_id="outcome", group_display_name="④ Outcome")
    def outcome(trained: dict, holdout: str):
        @task(task_display_name="Keep model", multiple_outputs=False)
        def keep_model(trained: dict, holdout: str) -> dict[str, float | str]:
            """Score on customers that it never met, and put the weights where they are found."""
            import mlflow

            from include.training import neural

            weights = neural.loads(storage.read_bytes(trained["weights"]))
            with tracking.run() as run:
                mlflow.log_metric("auc", auc(weights, holdout))
                mlflow.log_artifact(str(storage.local_path(trained["weights"])))
                return {"auc": auc(weights, holdout), "run": run.info.run_id}

        @task(
            task_display_name="Keep last checkpoint",
            multiple_outputs=False,
            trigger_rule="all_failed",
        )
        def keep_checkpoint() -> dict[str, int | str]:
            """The run is red, and its work isn't lost: run it again for its date to go on."""
            folder = get_current_context()["ti"].xcom_pull(task_ids="training.train", key="job")
            kept = Job(Path(folder)).checkpoints() if folder else []
            if not kept:
                raise AirflowSkipException("the training had not come to a checkpoint")
            last = storage.write_bytes(kept[-1].read(), "checkpoint.pt")
            epochs = get_current_context()["params"]["epochs"]
            return {"epoch": kept[-1].epoch, "of": epochs, "checkpoint": last}

        return keep_model(trained, holdout), keep_checkpoint()

    def auc(weights, holdout: str) -> float:
        """How well these weights tell apart customers that they never met."""
        from sklearn.metrics import roc_auc_score

        from include.training import neural

        rows = storage.read_frame(holdout)
        scored = neural.scores(weights, rows.drop(columns=LABEL).to_numpy())
        return round(float(roc_auc_score(rows[LABEL], scored)), 4)

    prepared = data()
    train = training(prepared["train"])
    reviewed = review(train.output, train.output["job"], prepared["holdout"])
    model, checkpoint = outcome(train.output, prepared["holdout"])
    reviewed >> model
    train >> checkpoint


long_running_training()
