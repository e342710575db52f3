"""
> **One training on many processes comes to the same model as on one**, and whoever starts it takes
> room for all of them at once, or waits.

| | |
|---|---|
| **Level** | advanced |
| **Needs** | pool `training_cluster`; PyTorch, Ray |
| **Runs in** | about a minute on two cores |
| **Look at** | XCom of *Compare*; Gantt, with two runs at once in the scheduler |

```text
① Data     ② Train, in training_cluster                      ③ Outputs
prepare ─┬→ single_process    1 process            1 slot  ─┬→ compare → keep
         ├→ all_reduce        1 node, 2 ranks      2 slots ─┤
         ├→ multi_node        2 nodes, 4 ranks     4 slots ─┤
         ├→ parameter_server  1 server, 2 workers  3 slots ─┘  ④ Scale out
         └───────────────────────────────────────────────────→ manifest
```

| Box | Shown by |
|---|---|
| Multi-node training | `train.multi_node`, `scale_out.manifest` |
| Parameter server pattern | `train.parameter_server` |
| All-reduce training | `train.all_reduce` |
| Resource coordination | `train.all_reduce`, `train.multi_node`, `train.parameter_server` |

**Run it**: `make run DAG=97_02_02_distributed_training`. In the UI trigger it twice at once: both
runs end, since no launcher ever holds half of what it needs. Or raise *Epochs* and kill a rank of
*Multi-node*: its number is in `rank-3.json`, in the task's folder of the artifact store. All ranks
go on from the last checkpoint, to the same weights.

**What you should see**: four losses that agree to seven digits, where 1e-5 is demanded, and an AUC
of 0.75. Sums of parts differ from the sum of all in their last bits, so the digests differ between
the ways, and not from run to run. One process is the fastest by far: a network this small takes a
second, and starting ranks takes ten.

**Copy it when** one card is too slow or too small for a model. Take all-reduce when all ranks are
equally fast, a parameter server when workers may come and go.

**For production**: `RAY_ADDRESS` in the worker's environment sends the actors to a cluster; start
its head with `GRPC_ENABLE_FORK_SUPPORT=0`, or [now and then a client finds no
server](https://github.com/ray-project/ray/issues/63202). The nodes of *Multi-node* are processes of
this machine; on a real cluster apply the `TrainJob` that *Manifest* writes, which starts the same
entry point (97.3.5 applies one). With enough cards the ranks use NCCL by themselves. Give the pool
as many slots as processes fit at once.
"""

import time
from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import Param, dag, get_current_context, task, task_group

from include import retries, runs, storage, tracking

DAG_ID = Path(__file__).stem
LABEL = "churned"
HOLDOUT_SHARE = 0.25
SEED = 97
NODES = 2
RANKS = 2  # on each node
WORKERS = 2
POOL = "training_cluster"
TOLERANCE = 1e-5
KNOBS = ("hidden", "epochs")
# Where a cluster finds this code, and the volume that the artifact store is on.
IMAGE = "registry.example.com/ml-catalogue:latest"
CLAIM = "artifact-store"


def job_for(train: str):
    """What the processes of this task are told; a later try meets the checkpoint of this one."""
    from include.training import launch, neural

    context = get_current_context()
    settings = neural.Settings(**{knob: context["params"][knob] for knob in KNOBS}, seed=SEED)
    rows = storage.local_path(train)
    return launch.Job(rows, rows.parents[1] / runs.here().task_id / "job", settings)


def trained(weights: bytes, began: float, processes: list[dict]) -> dict:
    """A reference to the weights, what they took, and what each process has to say."""
    return {
        "weights": storage.write_bytes(weights, "weights.npz"),
        "seconds": round(time.monotonic() - began, 1),
        "processes": processes,
    }


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.02.02 · Distributed Training",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 4),
    catchup=False,
    max_active_runs=2,  # the pool keeps them apart
    tags=["reference", "patterns", "advanced", "success"],
    default_args={
        "owner": "ml-catalogue",
        "retries": 2,
        "retry_delay": timedelta(seconds=5),
        "retry_policy": retries.POLICY,
        "execution_timeout": timedelta(minutes=10),
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
            10,
            type="integer",
            minimum=1,
            maximum=500,
            title="Epochs",
            description="How often the training sees every customer; a checkpoint after each.",
        ),
    },
)
def distributed_training():
    @task_group(group_id="data", group_display_name="① Data")
    def data():
        @task(task_display_name="Prepare", multiple_outputs=True)
        def prepare() -> dict[str, str]:
            """Plain arrays in files: ranks and actors need neither Airflow nor pandas."""
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook
            from sklearn.model_selection import train_test_split

            from include.data import quality
            from include.features.churn import NUMERIC, preprocessor
            from include.training import neural

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            known = quality.expectations().ExpectColumnValuesToNotBeNull
            agreed = [known(column=column) for column in (*NUMERIC, LABEL)]
            quality.check(customers, agreed, "customer_id", source="customers")

            train, holdout = train_test_split(
                customers, test_size=HOLDOUT_SHARE, stratify=customers[LABEL], random_state=SEED
            )
            features = preprocessor().fit(train)
            return {
                name: storage.write_bytes(
                    neural.dumps({
                        "features": features.transform(part),
                        "labels": part[LABEL].to_numpy(),
                    }),
                    f"{name}.npz",
                )
                for name, part in (("train", train), ("holdout", holdout))
            }

        return prepare()

    @task_group(group_id="train", group_display_name="② Train")
    def train(train: str):
        @task(task_display_name="Single process", multiple_outputs=False, pool=POOL)
        def single_process(train: str) -> dict:
            """What the others are measured by: nobody to wait for, nobody to lose."""
            from include.training import neural

            began, job = time.monotonic(), job_for(train)
            data = neural.loads(job.train.read_bytes())
            weights, _ = neural.train(data["features"], data["labels"], job.settings)
            return trained(neural.dumps(weights), began, [])

        @task(
            task_display_name="All-reduce",
            multiple_outputs=False,
            pool=POOL,
            pool_slots=RANKS,
        )
        def all_reduce(train: str) -> dict:
            """Each rank takes a share of every batch; the gradients are added up over all."""
            from include.training import launch

            began, done = time.monotonic(), launch.torchrun(job_for(train), 1, RANKS)
            return trained(done.weights, began, done.processes)

        @task(
            task_display_name="Multi-node",
            multiple_outputs=False,
            pool=POOL,
            pool_slots=NODES * RANKS,
        )
        def multi_node(train: str) -> dict:
            """Nodes that meet first, and meet again when one of them has lost a rank."""
            from include.training import launch

            began, done = time.monotonic(), launch.torchrun(job_for(train), NODES, RANKS)
            return trained(done.weights, began, done.processes)

        @task(
            task_display_name="Parameter server",
            multiple_outputs=False,
            pool=POOL,
            pool_slots=1 + WORKERS,
        )
        def parameter_server(train: str) -> dict:
            """One holds the weights, the others pull them, push gradients, and may be replaced."""
            from include.training import launch

            began, done = time.monotonic(), launch.ray(job_for(train), WORKERS)
            return trained(done.weights, began, done.processes)

        return {
            "single_process": single_process(train),
            "all_reduce": all_reduce(train),
            "multi_node": multi_node(train),
            "parameter_server": parameter_server(train),
        }

    @task_group(group_id="outputs", group_display_name="③ Outputs")
    def outputs(models: dict[str, dict], train: str, holdout: str):
        @task(task_display_name="Compare", multiple_outputs=False)
        def compare(models: dict[str, dict], train: str, holdout: str) -> dict[str, dict]:
            """How many processes share the work must not change what comes of it."""
            from sklearn.metrics import log_loss, roc_auc_score

            from include.training import neural

            seen, unseen = (neural.loads(storage.read_bytes(part)) for part in (train, holdout))
            table = {}
            for way, model in models.items():
                weights = neural.loads(storage.read_bytes(model["weights"]))
                loss = log_loss(seen["labels"], neural.scores(weights, seen["features"]))
                auc = roc_auc_score(unseen["labels"], neural.scores(weights, unseen["features"]))
                digest = storage.digest(model["weights"])[:12]
                seconds = model["seconds"]
                table[way] = {"digest": digest, "loss": loss, "auc": auc, "seconds": seconds}
            wanted = table["single_process"]["loss"]
            if apart := [w for w, r in table.items() if not abs(r["loss"] - wanted) <= TOLERANCE]:
                raise AssertionError(
                    f"{', '.join(apart)} should come to the loss of a single process within "
                    f"{TOLERANCE}: {table}"
                )
            return table

        @task(task_display_name="Keep")
        def keep(models: dict[str, dict], table: dict[str, dict]) -> str:
            """Put one of the equal models, its settings and the costs where they can be found."""
            import mlflow

            from include.evaluation import plots

            with tracking.run() as run:
                mlflow.log_params(dict(get_current_context()["params"]))
                for way, row in table.items():
                    mlflow.log_metrics({f"{way}.{m}": row[m] for m in ("loss", "auc", "seconds")})
                seconds = {"from start to weights": [row["seconds"] for row in table.values()]}
                picture = plots.bars(list(table), seconds, "What each way took", "seconds")
                tracking.log_figure(picture, "seconds.png")
                mlflow.log_artifact(str(storage.local_path(models["multi_node"]["weights"])))
                return run.info.run_id

        keep(models, compare(models, train, holdout))

    @task_group(group_id="scale_out", group_display_name="④ Scale out")
    def scale_out(train: str):
        @task(task_display_name="Manifest")
        def manifest(train: str) -> str:
            """What a cluster is to run in place of *Multi-node*, on the very same data."""
            from include.training import kubeflow

            here = runs.here()
            run = runs.digest(f"{here.dag_id}/{here.key}".encode())
            name = f"train-{here.dag_id.replace('_', '-').lower()[:40]}-{run}"
            store = Path(storage.store().path)
            job = kubeflow.train_job(job_for(train), NODES, RANKS, name, IMAGE, CLAIM, store)
            return storage.write_json(job, "trainjob.json")

        manifest(train)

    prepared = data()
    models = train(prepared["train"])
    outputs(models, prepared["train"], prepared["holdout"])
    scale_out(prepared["train"])


distributed_training()
