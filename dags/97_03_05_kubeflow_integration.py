"""
> **Airflow prepares and decides, Kubeflow trains, Kubernetes scores and trains on many nodes; and
> from whatever one of them knows of a run, the others are found.**

| | |
|---|---|
| **Level** | advanced |
| **Needs** | a cluster with Kubeflow; an interpreter with kfp; PyTorch; a triggerer |
| **Runs in** | about 60 seconds |
| **Look at** | *Pipeline* while it is deferred; MLflow: the tags of the run, and their links |

```text
① Prepare         ② Kubeflow    ③ Kubernetes                  ④ Metadata
track ─→ order ─┬→ pipeline ──┬→ score ────────────────────┬→ decide → to_mlflow → both_ways
rows ──↗        │  (deferred) └→ manifest → train_job → wait ┘                        ↓
compile ────────┘                                              put_away, whatever happened
```

| Box | Shown by |
|---|---|
| Kubeflow pipeline trigger | `prepare.compile`, `kubeflow.pipeline` |
| Hybrid orchestration | `kubernetes.score`, `kubernetes.train_job`, `kubernetes.decide` |
| Experiment tracking | `prepare.track`, `metadata.to_mlflow` |
| Metadata sync | `metadata.to_mlflow`, `metadata.both_ways` |

**Run it**: `make run DAG=97_03_05_kubeflow_integration`. In the scheduler clear *Pipeline* while it
waits: Kubeflow's run ends with it. Kill a worker instead: the next try finds the same run.

**What you should see**: on one holdout, Kubeflow's trees reach an AUC of 0.74, and the network that
two nodes trained reaches 0.75. So the network is chosen. MLflow's run has a link to Kubeflow's run.
Kubeflow's run has MLflow's link as its description, and MLflow's id among its parameters.

**Copy it when** training lives in a cluster with Kubeflow, and what comes before and after doesn't.

**For production**: the two connections; an image with this repository for pods and one for steps
(`IMAGE` here and in `include/training/churn_pipeline.py`); `artifact_store` in a bucket, which the
claim mounts for pods. A client can tell a Kubeflow run something only when it starts it, so
MLflow's run is opened first; KFP 2.17 can also be set up to open one by itself.
"""

from datetime import datetime, timedelta
from pathlib import Path

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import Connection, Param, dag, get_current_context, task, task_group

from include import retries, runs, storage, tracking
from include.clouds.kubeflow.api import Pipelines, compiled, mounted, seconds, uri
from include.clouds.kubeflow.run import PipelineRun, put_away
from include.clouds.kubeflow.train_job import TrainJob, TrainJobSensor, take_away

DAG_ID = Path(__file__).stem
KUBEFLOW = "kubeflow_default"
CLUSTER = "kubernetes_default"
MLFLOW = "mlflow_default"
PIPELINE = "include.training.churn_pipeline"
LABEL = "churned"
HOLDOUT_SHARE = 0.25
SEED = 97
NODES, EPOCHS = 2, 5
TOLERANCE = 1e-6
IMAGE = "registry.example.com/ml-catalogue:latest"
CLAIM = "artifact-store"  # the volume that the artifact store is on, as pods ask for it


def job_for(train: str):
    """What the nodes are told; where an earlier training was cut short, they go on with it."""
    from include.training import launch, neural

    rows = Path(mounted(train))
    settings = neural.Settings(epochs=EPOCHS, seed=SEED)
    return launch.Job(rows, rows.parents[1] / "kubernetes.train_job" / "job", settings)


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.03.05 · Kubeflow Integration",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 4),
    catchup=False,
    max_active_runs=1,
    tags=["reference", "providers", "advanced", "success"],
    user_defined_macros={"mounted": mounted, "store": storage.store},
    default_args={
        "owner": "ml-catalogue",
        "retries": 2,
        "retry_delay": timedelta(seconds=30),  # a service may be starting again
        "retry_policy": retries.POLICY,
        "execution_timeout": timedelta(minutes=10),
    },
    params={
        "trees": Param(
            40,
            type="integer",
            minimum=2,
            maximum=500,
            title="Trees",
            description="How many trees the pipeline of Kubeflow grows.",
        ),
    },
)
def kubeflow_integration():
    @task_group(group_id="prepare", group_display_name="① Prepare")
    def prepare():
        @task(task_display_name="Track", multiple_outputs=True)
        def track() -> dict[str, str]:
            """Open MLflow's run, since Kubeflow's must be told of it when it starts."""
            if Connection.get(MLFLOW).conn_type == "sqlite":
                raise ValueError(f"{MLFLOW} must be a server, to whose pages Kubeflow's can lead")
            here = runs.here()
            name = f"churn-{runs.digest(f'{here.dag_id}/{here.key}'.encode())}"
            with tracking.run() as run:
                return {"run": run.info.run_id, "page": tracking.page(run), "name": name}

        @task(task_display_name="Rows", multiple_outputs=True)
        def rows() -> dict[str, str]:
            """The same customers for all: as tables for trees, as numbers for the network."""
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook

            from include.features.churn import preprocessor
            from include.serving.release import parted
            from include.training import neural

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            parts = parted(customers, LABEL, HOLDOUT_SHARE, SEED)
            tables = {name: storage.read_frame(reference) for name, reference in parts.items()}
            features = preprocessor().fit(tables["train"])
            for name, table in tables.items():
                inputs, labels = features.transform(table), table[LABEL].to_numpy()
                numbers = neural.dumps({"features": inputs, "labels": labels})
                parts[f"{name}_numbers"] = storage.write_bytes(numbers, f"{name}.npz")
            return parts

        @task(task_display_name="Compile")
        def compile() -> str:
            """From Python to plain data; a mistake in the pipeline is found here, not there."""
            return storage.write_bytes(compiled(PIPELINE), "pipeline.yaml")

        @task(task_display_name="Order", multiple_outputs=False)
        def order(train: str, holdout: str, mlflow_run: str) -> dict:
            """What the pipeline is to be run with; addresses go along, not data."""
            return {
                "train_rows": uri(train),
                "holdout_rows": uri(holdout),
                "label": LABEL,
                "trees": get_current_context()["params"]["trees"],
                "mlflow_run": mlflow_run,
            }

        tracked, parts = track(), rows()
        ordered = order(parts["train"], parts["holdout"], tracked["run"])
        return tracked, parts, compile(), ordered

    @task_group(group_id="kubeflow", group_display_name="② Kubeflow")
    def kubeflow(specification: str, ordered: dict, page: str):
        return PipelineRun(
            task_id="pipeline",
            task_display_name="Pipeline",
            doc_md="Start Kubeflow's run, or find it, and wait for it without holding a worker.",
            conn_id=KUBEFLOW,
            specification=specification,
            arguments=ordered,
            description=page,
            outputs={"model.skops": ("train", "model"), "report.json": ("evaluate", "report")},
        ).output

    @task_group(group_id="kubernetes", group_display_name="③ Kubernetes")
    def kubernetes(trained: dict, parts: dict, name: str):
        volume = {"name": "store", "persistentVolumeClaim": {"claimName": CLAIM}}
        mount = {"name": "store", "mountPath": "{{ mounted(store() | string) }}"}
        holdout = "{{ mounted(ti.xcom_pull('prepare.rows', key='holdout')) }}"
        score = KubernetesPodOperator(
            task_id="score",
            task_display_name="Score",
            doc_md="Score where the data is, in a pod that is gone afterwards.",
            kubernetes_conn_id=CLUSTER,
            name="{{ ti.xcom_pull('prepare.track', key='name') }}",
            random_name_suffix=False,
            image=IMAGE,
            cmds=["python", "-m", "include.training.score"],
            arguments=[
                "--model={{ mounted(ti.xcom_pull('kubeflow.pipeline')['model']) }}",
                f"--rows={holdout}",
                f"--to={holdout}.scores",
                "--tell=/airflow/xcom/return.json",
            ],
            pod_template_dict={
                "spec": {
                    "containers": [{"name": "base", "volumeMounts": [mount]}],
                    "volumes": [volume],
                }
            },
            do_xcom_push=True,
            startup_check_interval_seconds=1,
            base_container_status_polling_interval=1,
            log_formatter=lambda container, line: f"{container}: {line.rstrip()}",
        )

        @task(task_display_name="Manifest")
        def manifest(train: str, name: str) -> str:
            """The TrainJob that 97.2.2 writes, with this run's rows."""
            from include.training.kubeflow import train_job

            store = Path(mounted(str(storage.store())))
            job = train_job(job_for(train), NODES, 1, name, IMAGE, CLAIM, store)
            return storage.write_json(job, "trainjob.json")

        train_job = TrainJob(
            task_id="train_job",
            task_display_name="Train job",
            doc_md="Have a network trained by several nodes, now that the simple model is there.",
            kubernetes_conn_id=CLUSTER,
            manifest=manifest(parts["train_numbers"], name),
        )
        wait = TrainJobSensor(
            task_id="wait",
            task_display_name="Wait",
            doc_md="Look from time to time whether the job has ended; no worker is held between.",
            kubernetes_conn_id=CLUSTER,
            job=name,
            poke_interval=10,
            timeout=timedelta(hours=1),
            mode="reschedule",
        )

        @task(task_display_name="Weights")
        def weights() -> str:
            """What the ranks have left, which must be the same from each."""
            here = runs.here()
            folder = storage.store() / here.dag_id / here.key / "kubernetes.train_job" / "job"
            kept = [name for name in storage.names(folder) if name.endswith(".npz")]
            ranks = [(folder / name).read_bytes() for name in kept]
            if len(ranks) != NODES or len({*ranks}) != 1:
                raise AssertionError(f"{NODES} ranks should leave the same weights: {len(ranks)}")
            return storage.write_bytes(ranks[0], "weights.npz")

        @task(task_display_name="Decide", multiple_outputs=False)
        def decide(trained: dict, scored: dict, weights: str, holdout: str, numbers: str) -> dict:
            """Measure both alike; the pod's scores must be as good as the pipeline says."""
            from include.evaluation import binary
            from include.training import neural

            labels, beside = storage.read_frame(holdout)[LABEL], holdout.partition("#")[0]
            written = storage.read_frame(f"{beside}.scores#sha256={scored['sha256']}")
            trees = binary.report(labels, written["score"])
            told = storage.read_json(trained["report"])
            if any(abs(trees[name] - value) > TOLERANCE for name, value in told.items()):
                raise AssertionError(f"the pipeline measured {told}, its model gives {trees}")
            features = neural.loads(storage.read_bytes(numbers))["features"]
            scores = neural.scores(neural.loads(storage.read_bytes(weights)), features)
            network = binary.report(labels, scores)
            auc = {"kubeflow": trees["roc_auc"], "train_job": network["roc_auc"]}
            return {"chosen": max(auc, key=auc.__getitem__), "auc": auc}

        trained >> [score, train_job]
        train_job >> wait >> (network := weights())
        decided = decide(trained, score.output, network, parts["holdout"], parts["holdout_numbers"])
        return train_job, decided

    @task_group(group_id="metadata", group_display_name="④ Metadata")
    def metadata(page: str, specification: str, trained: dict, decided: dict, holdout: str):
        @task(task_display_name="To MLflow")
        def to_mlflow(specification: str, trained: dict, decided: dict, holdout: str) -> str:
            """All that Kubeflow knows of its run; told again, it is the same and no more."""
            import mlflow

            server = Pipelines.at(KUBEFLOW)
            run = server.run(trained["run"])
            config, report = run["runtime_config"], storage.read_json(trained["report"])
            measures = {
                **{f"kubeflow.{name}": value for name, value in report.items()},
                **{f"kubeflow.{step}.seconds": took for step, took in seconds(run).items()},
                **{f"auc.{way}": auc for way, auc in decided["auc"].items()},
            }
            with tracking.run() as tracked:
                mlflow.log_params(config["parameters"])
                tracking.log_history({name: [value] for name, value in measures.items()})
                mlflow.set_tags({
                    "kubeflow.run": run["run_id"],
                    "kubeflow.page": server.page(run["run_id"]),
                    "kubeflow.artifacts": config["pipeline_root"],
                    "chosen": decided["chosen"],
                })
                for kept in (specification, trained["report"]):
                    mlflow.log_artifact(str(storage.local_path(kept)))
                example = storage.read_frame(holdout).drop(columns=LABEL)
                tracking.log_model(storage.read_model(trained["model"]), example)
                return tracked.info.run_id

        @task(task_display_name="Both ways", multiple_outputs=False)
        def both_ways(page: str, trained: dict, tracked: str) -> dict[str, str]:
            """Whoever has one of the two runs must find the other, by its id and by a link."""
            theirs = Pipelines.at(KUBEFLOW).run(trained["run"])
            ours = tracking.client().get_run(tracked).data.tags
            told = theirs["runtime_config"]["parameters"]["mlflow_run"], theirs["description"]
            if (told, ours["kubeflow.run"]) != ((tracked, page), theirs["run_id"]):
                raise AssertionError(
                    f"Kubeflow's run {theirs['run_id']} leads to {told}, and MLflow's run "
                    f"{tracked} to {ours['kubeflow.run']}"
                )
            return {"mlflow": page, "kubeflow": ours["kubeflow.page"]}

        return both_ways(page, trained, to_mlflow(specification, trained, decided, holdout))

    @task(task_display_name="Put away")
    def put_all_away(name: str) -> None:
        """Whatever has happened: nothing goes on, and of what was started only records stay."""
        put_away(KUBEFLOW)
        take_away(name, CLUSTER)

    tracked, parts, specification, ordered = prepare()
    trained = kubeflow(specification, ordered, tracked["page"])
    train_job, decided = kubernetes(trained, parts, tracked["name"])
    synced = metadata(tracked["page"], specification, trained, decided, parts["holdout"])
    # Clearing a task also clears its setups: the job is there again.
    synced >> put_all_away(tracked["name"]).as_teardown(setups=[tracked.operator, train_job])


kubeflow_integration()
