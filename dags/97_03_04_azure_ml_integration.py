"""
> **Azure ML has no operator for Airflow: its SDK works in an environment of its own, and a small
> trigger waits for its jobs.**

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | connection `azure_ml_default`; a second interpreter with `azure-ai-ml`; a triggerer |
| **Runs in** | about a minute here; at Azure 30, most of them waiting for machines |
| **Look at** | *Train green*, which waits without a worker; *Switch*: who answered at each share |

```text
① Workspace          ② Training (deferred)   ③ Models            ④ Endpoint
prepare ─→ compute ─┬→ blue ──┬→ track ─→ register ─→ serve_blue → add_green → switch
             ╎      └→ green ─┘                                                  ╎
             ╰╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌ clean_up, however it ends ╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╯
```

| Box | Shown by |
|---|---|
| Azure ML compute | `workspace.compute`, `training.blue`, `training.green`, `clean_up` |
| Experiment tracking | `training.blue`, `training.green`, `models.track` |
| Model registration | `models.register` |
| Deployment | `endpoint.serve_blue`, `endpoint.add_green`, `endpoint.switch` |

**Run it**: `make run DAG=97_03_04_azure_ml_integration`. Again for the same date it finds both
trainings, and makes anew only what was taken away.

**What you should see**: blue gains from more rows and reaches an AUC of 0.744. Green reaches 0.758
with a tenth of the rows. Each deployment reaches the AUC that its job logged. *Switch* counts how
many of 20 answers came from green at 10, 50 and 100 % of the traffic.

**Copy it when** a vendor has an SDK but no operator: `include/clouds/azure_tasks.py` is all it
takes. The secret goes from the connection into one process, and into no XCom, log or file.

**For production**: the service principal's roles are in `docs/real-clouds.md`. Leave endpoint and
models out of *Clean up*, and give green hours between its shares (97.5.3 shows what to watch).
"""

from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import Param, dag, task, task_group

from include import retries, runs, storage
from include.clouds import azure_tasks

DAG_ID = Path(__file__).stem
CONNECTION = "azure_ml_default"
IN_SDK = azure_tasks.settings(azure_conn_id=CONNECTION)
LABEL = "churned"
HOLDOUT_SHARE = 0.25
SEED = 97
MACHINE = "Standard_DS3_v2"
IMAGE = "azureml://registries/azureml/environments/sklearn-1.5/labels/latest"
CANDIDATES = {"blue": "boosting", "green": "logistic"}
SHARES = [10, 50, 100]
CALLS = 20


def train_on_azure(names, parts, compute, label, estimator, color, image):
    """A command job: code and data are uploaded, a node is started for it, and its log kept."""
    from azure.ai.ml import Input, command

    from include.clouds import azure_ml
    from include.training import azure_ml_train

    inputs = {part: Input(type="uri_file", path=azure_ml.verified(parts[part])) for part in parts}
    arguments = {**inputs, "label": label, "estimator": estimator}
    options = " ".join(f"--{name} ${{{{inputs.{name}}}}}" for name in arguments)
    job = command(
        code=azure_ml_train.__file__,
        command=f"python azure_ml_train.py {options}",
        inputs=arguments,
        environment=image,
        compute=compute["name"],
        experiment_name=names["experiment"],
        display_name=color,
    )
    with azure_ml.workspace() as ml:
        return azure_ml.submit(ml, f"{names['run']}-{color}", job)


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.03.04 · Azure ML Integration",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 4),
    catchup=False,
    max_active_runs=1,
    tags=["reference", "providers", "intermediate", "success"],
    default_args={
        "owner": "ml-catalogue",
        "retries": 2,
        "retry_delay": timedelta(seconds=30),  # a service may be starting again
        "retry_policy": retries.POLICY,
        "execution_timeout": timedelta(minutes=30),  # machines come slowly
    },
    params={
        "idle_seconds": Param(
            120,
            type="integer",
            minimum=30,
            maximum=3600,
            title="Idle seconds",
            description="After so long without a job a node is shut down, and costs nothing.",
        ),
    },
)
def azure_ml_integration():
    @task_group(group_id="workspace", group_display_name="① Workspace")
    def workspace():
        @task(task_display_name="Prepare", multiple_outputs=True)
        def prepare() -> dict[str, dict[str, str]]:
            """Two tables as files to upload, and the names of all that this run will make."""
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook
            from sklearn.model_selection import train_test_split

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            train, holdout = train_test_split(
                customers.drop(columns="customer_id"),
                test_size=HOLDOUT_SHARE,
                stratify=customers[LABEL],
                random_state=SEED,
            )
            parts = {
                "train": storage.write_frame(train, "train.parquet"),
                "holdout": storage.write_frame(holdout, "holdout.parquet"),
            }
            place = runs.here()
            run = f"{place.dag_id}-{place.key}".lower()  # as the SDK writes the names of jobs
            short = f"ml-{runs.digest(run.encode())}"  # a compute's name has 24 characters at most
            names = {"experiment": place.dag_id, "run": run, "short": short}
            return {"parts": parts, "names": names}

        @task.external_python(**IN_SDK, multiple_outputs=False, task_display_name="Compute")
        def compute(names, machine, idle_seconds):
            """No node until there is a job, two at most, and none again after a while."""
            from azure.ai.ml.entities import AmlCompute

            from include.clouds import azure_ml

            wanted = AmlCompute(
                name=names["short"],
                size=machine,
                min_instances=0,
                max_instances=2,
                idle_time_before_scale_down=int(idle_seconds),
            )
            with azure_ml.workspace() as ml:
                made = ml.compute.begin_create_or_update(wanted).result()
                nodes = len(list(ml.compute.list_nodes(made.name)))
            return {"name": made.name, "nodes": nodes, "idle": made.idle_time_before_scale_down}

        prepared = prepare()
        made = compute(prepared["names"], MACHINE, "{{ params.idle_seconds }}")
        return prepared["names"], prepared["parts"], made

    @task_group(group_id="training", group_display_name="② Training")
    def training(names, parts, compute):
        return {
            color: azure_tasks.AzureMLJob(
                task_id=color,
                task_display_name=f"Train {color}",
                doc_md="Have a candidate trained, beside the other where there are two nodes.",
                python_callable=train_on_azure,
                op_args=[names, parts, compute, LABEL, estimator, color, IMAGE],
                azure_conn_id=CONNECTION,
                poll_seconds=1.0,
                **IN_SDK,
            ).output
            for color, estimator in CANDIDATES.items()
        }

    @task_group(group_id="models", group_display_name="③ Models")
    def models(names, jobs):
        @task.external_python(**IN_SDK, multiple_outputs=False, task_display_name="Track")
        def track(names, jobs):
            """What the jobs logged, by MLflow's own client, and a word there of who ordered it."""
            import mlflow

            from include.clouds import azure_ml

            table = {}
            with azure_ml.workspace() as ml:
                where = ml.workspaces.get(ml.workspace_name).mlflow_tracking_uri
                client = mlflow.MlflowClient(where)
                for color, job in jobs.items():
                    client.set_tag(job, "airflow.run", names["run"])
                    curve = client.get_metric_history(job, "auc")
                    table[color] = {
                        "job": job,
                        "estimator": client.get_run(job).data.params["estimator"],
                        "auc": curve[-1].value,
                        "curve": {point.step: round(point.value, 4) for point in curve},
                    }
            return table

        @task.external_python(**IN_SDK, multiple_outputs=False, task_display_name="Register")
        def register(names, tracked):
            """A version is named after the job that made it: the same job, the same version."""
            from azure.ai.ml.entities import Model
            from azure.core.exceptions import ResourceNotFoundError

            from include.clouds import azure_ml

            versions, name = {}, names["experiment"]
            with azure_ml.workspace() as ml:
                for color, row in tracked.items():
                    version = row["job"].removeprefix(f"{name}-")
                    try:
                        ml.models.restore(name, version)
                    except ResourceNotFoundError:
                        model = Model(
                            name=name,
                            version=version,
                            path=f"azureml://jobs/{row['job']}/outputs/artifacts/paths/outputs/model/",
                            type="mlflow_model",
                            tags={"auc": f"{row['auc']:.4f}", "estimator": row["estimator"]},
                        )
                        ml.models.create_or_update(model)
                    versions[color] = f"azureml:{name}:{version}"
            return versions

        tracked = track(names, jobs)
        return tracked, register(names, tracked)

    @task_group(group_id="endpoint", group_display_name="④ Endpoint")
    def endpoint(names, parts, tracked, models):
        @task.external_python(**IN_SDK, multiple_outputs=False)
        def deploy(color, names, parts, tracked, models, label, machine, calls):
            """Whoever comes first gets all the traffic, the next one none; then ask it directly."""
            import pandas as pd
            from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint
            from sklearn.metrics import roc_auc_score

            from include.clouds import azure_ml

            rows, name = pd.read_parquet(azure_ml.verified(parts["holdout"])), names["short"]
            deployment = ManagedOnlineDeployment(
                name=color,
                endpoint_name=name,
                model=models[color],
                instance_type=machine,
                instance_count=1,
            )
            with azure_ml.workspace() as ml:
                if name not in [each.name for each in ml.online_endpoints.list()]:
                    new = ManagedOnlineEndpoint(name=name, auth_mode="key")
                    ml.online_endpoints.begin_create_or_update(new).result()
                ml.online_deployments.begin_create_or_update(deployment).result()
                if not ml.online_endpoints.get(name).traffic:
                    azure_ml.share(ml, name, {color: 100})
                scores = azure_ml.ask(ml, name, rows.drop(columns=label), color)
            reached, logged = roc_auc_score(rows[label], scores), tracked[color]["auc"]
            if abs(reached - logged) > 0.0001:
                raise ValueError(f"{color} reaches an AUC of {reached}; its job logged {logged}")
            return {"auc": reached, "first": [round(score, 5) for score in scores[:calls]]}

        @task.external_python(**IN_SDK, multiple_outputs=False, task_display_name="Switch")
        def switch(names, parts, label, blue, green, shares):
            """Give green more and more of the traffic, and see from the answers who gave them."""
            import pandas as pd

            from include.clouds import azure_ml

            known = list(zip(blue["first"], green["first"], strict=True))
            asked = pd.read_parquet(azure_ml.verified(parts["holdout"])).drop(columns=label)
            by_green = {}
            with azure_ml.workspace() as ml:
                for share in shares:
                    azure_ml.share(ml, names["short"], {"blue": 100 - share, "green": share})
                    by_green[str(share)] = 0
                    for row, (old, new) in enumerate(known):
                        (answer,) = azure_ml.ask(ml, names["short"], asked[row : row + 1])
                        by_green[str(share)] += abs(answer - new) < abs(answer - old)
            if by_green["100"] != len(known):
                raise ValueError(f"green has all the traffic, but others answer: {by_green}")
            return by_green

        given = [names, parts, tracked, models, LABEL, MACHINE, CALLS]
        serve_blue = deploy.override(task_id="serve_blue", task_display_name="Serve blue")
        add_green = deploy.override(task_id="add_green", task_display_name="Add green")
        blue, green = serve_blue("blue", *given), add_green("green", *given)
        blue >> green
        return [blue, green], switch(names, parts, LABEL, blue, green, SHARES)

    @task.external_python(**IN_SDK, multiple_outputs=False, task_display_name="Clean up")
    def clean_up(names, colors):
        """What is left running costs money: end jobs, take the endpoint, models and nodes away."""
        from contextlib import suppress

        from azure.core.exceptions import ResourceNotFoundError

        from include.clouds import azure_ml

        with azure_ml.workspace() as ml:
            for color in colors:
                _, job = azure_ml.latest(ml, f"{names['run']}-{color}")
                if job is None:
                    continue
                if job.status not in azure_ml.ENDED:
                    ml.jobs.begin_cancel(job.name).result()
                with suppress(ResourceNotFoundError):
                    version = job.name.removeprefix(f"{names['experiment']}-")
                    ml.models.archive(names["experiment"], version)
            for kind in (ml.online_endpoints, ml.compute):
                with suppress(ResourceNotFoundError):
                    kind.begin_delete(names["short"]).result()

    names, parts, compute = workspace()
    jobs = training(names, parts, compute)
    tracked, versions = models(names, jobs)
    served, switched = endpoint(names, parts, tracked, versions)
    # Clearing a task also clears its setups: the endpoint is there again.
    switched >> clean_up(names, list(CANDIDATES)).as_teardown(setups=[compute, *served])


azure_ml_integration()
