"""
> **Airflow decides, SageMaker works: jobs that no worker waits for, a model that gets its callers
> step by step, and nothing that goes on costing.**

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | AWS at the connection `aws_default`; without it, `make run` starts a local SageMaker |
| **Runs in** | about 90 seconds |
| **Look at** | *Tune* while it is deferred; the return values of *10 %*, *50 %* and *100 %* |

```text
① Data                      ② Training     ③ Models                 ④ Pipeline
begin → upload → process →  train ─┬────→  trained ─┬→ register  →  define → judge → approve
                            tune  ─┘       tuned   ─┘                                  ↓
            clean_up  ←───  ⑥ Batch            ←──  ⑤ Endpoint
            (always)        transform → keep        deploy → at_10 → at_50 → at_100
```

| Box | Shown by |
|---|---|
| SageMakerTrainingOperator | `training.train`, `training.tune` |
| SageMaker Processing | `data.process`, `pipeline.judge` |
| Model deployment | `models.tuned`, `models.register`, `endpoint.deploy`, `batch.transform` |
| Endpoint management | `endpoint.at_10`, `endpoint.at_50`, `endpoint.at_100`, `clean_up` |

**Run it**: `make run DAG=97_03_02_sagemaker_pipelines`. With AWS, or with `make up`, kill it while
*Tune* waits and run it for the same `DATE` again: it finds its jobs, and starts none twice.

**What you should see**: an AUC of 0.695 with guessed settings and of 0.726 with tuned ones, on
customers that neither model met. At 10 % about 10 of 100 callers get the tuned one; every answer is
digit for digit the model's own. *Clean up* counts what it took away: the account is empty.

**Copy it when** your data is in AWS, or a training wants a machine that you don't have.

**For production**: give `aws_default` your keys and region, and in its extra `sagemaker_role` and
`sagemaker_image` (`docs/real-clouds.md`); look every 30 seconds. What is to stay, *Clean up* must
leave alone. The scripts stay as they are: they follow the contract of AWS's own images.
"""

import json
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.sdk import Connection, Param, chain, dag, get_current_context, task, task_group

from include import retries, storage, tracking
from include.clouds.sagemaker import account, operators
from include.clouds.sagemaker.requests import Requests

DAG_ID = Path(__file__).stem
AWS = "aws_default"
WAIT = {"aws_conn_id": AWS, "deferrable": True, "check_interval": 1}  # seconds
CALLERS = 100  # how many ask the endpoint at each step
RANGES = {"learning_rate": (0.02, 0.2), "max_leaf_nodes": (3, 12)}
METRIC = {"Name": "validation:auc", "Regex": "validation-auc=([0-9.]+);"}
NAME, BUCKET, ROLE, IMAGE = (
    f"{{{{ ti.xcom_pull('data.begin')['{key}'] }}}}" for key in ("name", "bucket", "role", "image")
)
ASK = Requests(bucket=BUCKET, role=ROLE, image=IMAGE, metric=METRIC)
ARTIFACTS = {
    "trained": ASK.artifact("ti.xcom_pull('training.train')['Training']"),
    "tuned": ASK.artifact("ti.xcom_pull('training.tune')['Tuning']['BestTrainingJob']"),
}


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.03.02 · AWS SageMaker Pipelines",
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
        "execution_timeout": timedelta(minutes=15),
    },
    params={
        "trials": Param(
            4,
            type="integer",
            minimum=1,
            maximum=50,
            title="Trials",
            description="How many settings the tuning job tries, two at a time.",
        ),
        "min_auc": Param(
            0.7,
            type="number",
            minimum=0.5,
            maximum=1,
            title="Minimum AUC",
            description="A tuned model below this on the holdout is rejected, and gets no callers.",
        ),
    },
)
def sagemaker_pipelines():
    def aws(service: str):
        """A client, as the connection has it."""
        return AwsBaseHook(aws_conn_id=AWS, client_type=service).conn

    def read(begun: dict, **keys: str) -> dict[str, bytes]:
        """Objects of this run's bucket."""
        s3, bucket = aws("s3"), begun["bucket"]
        found = {name: s3.get_object(Bucket=bucket, Key=key) for name, key in keys.items()}
        return {name: each["Body"].read() for name, each in found.items()}

    @task_group(group_id="data", group_display_name="① Data")
    def data():
        @task(task_display_name="Begin", multiple_outputs=False)
        def begin() -> dict[str, str]:
            """Name everything of this run before any of it exists and has to be taken away."""
            extra = Connection.get(AWS).extra_dejson
            if missing := {"sagemaker_role", "sagemaker_image"} - extra.keys():
                raise ValueError(f"the extra of connection {AWS} lacks {sorted(missing)}")
            number = aws("sts").get_caller_identity()["Account"]
            names = {"name": operators.name(), "bucket": f"{operators.name()}-{number}"}
            return names | {"role": extra["sagemaker_role"], "image": extra["sagemaker_image"]}

        @task(task_display_name="Upload")
        def upload(begun: dict) -> int:
            """Customers and scripts to S3: the jobs there see nothing else."""
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook

            from include.training.sagemaker import package

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            rows = {"raw/customers.csv": customers.to_csv(index=False).encode()}
            account.fill(aws("s3"), begun["bucket"], package.files() | rows)
            return len(customers)

        job = {"ProcessingJobName": f"{NAME}-process"}
        process = operators.Processing(
            task_id="process",
            task_display_name="Process",
            doc_md="Refuse broken customers, make numbers of the others, split them.",
            config=ASK.processing("process.py", {"raw": "raw"}, to="data", **job),
            **WAIT,
        )
        begun = begin()
        upload(begun) >> process
        return begun, process

    @task_group(group_id="training", group_display_name="② Training")
    def training():
        train = operators.Training(
            task_id="train",
            task_display_name="Train",
            doc_md="Train once, with settings that somebody has guessed.",
            config=ASK.training(f"{NAME}-train", learning_rate="0.3", max_leaf_nodes="31"),
            print_log=False,
            **WAIT,
        )
        tune = operators.Tuning(
            task_id="tune",
            task_display_name="Tune",
            doc_md="Let SageMaker search for better settings, each try a training of its own.",
            config=ASK.tuning(f"{NAME}-tune", RANGES, trials="{{ params.trials }}"),
            **WAIT,
        )
        return [train, tune]

    @task_group(group_id="models", group_display_name="③ Models")
    def models():
        made = [
            operators.Model(
                task_id=model,
                task_display_name=model.title(),
                doc_md="Give a training's artifact a name that can be deployed.",
                config=ASK.model(f"{NAME}-{model}", artifact),
                aws_conn_id=AWS,
            )
            for model, artifact in ARTIFACTS.items()
        ]
        register = operators.Register(
            task_id="register",
            task_display_name="Register",
            doc_md="A version of the tuned model for others to find; nobody has approved it yet.",
            image_uri=IMAGE,
            model_url=ARTIFACTS["tuned"],
            package_group_name=NAME,
            aws_conn_id=AWS,
        )
        return made, register

    @task_group(group_id="pipeline", group_display_name="④ Pipeline")
    def pipeline(begun: dict, package: str):
        @task(task_display_name="Define")
        def define(begun: dict, steps: dict) -> str:
            """Keep the steps at SageMaker, where they can be started without Airflow as well."""
            name, role, definition = begun["name"], begun["role"], ASK.pipeline(steps, *ARTIFACTS)
            return account.keep_pipeline(aws("sagemaker"), name, role, definition)

        judge = operators.Pipeline(
            task_id="judge",
            task_display_name="Judge",
            doc_md="Evaluate both models side by side on customers that neither has met.",
            pipeline_name=NAME,
            pipeline_params=ARTIFACTS,
            **WAIT,
        )

        @task(task_display_name="Approve", multiple_outputs=False)
        def approve(begun: dict, package: str) -> dict[str, float]:
            """Only an approved version may get callers, and the registry says why it does."""
            found = read(begun, **{m: f"evaluation/{m}/evaluation.json" for m in ARTIFACTS})
            auc = {model: json.loads(each)["auc"] for model, each in found.items()}
            minimum = get_current_context()["params"]["min_auc"]
            verdict = "Approved" if auc["tuned"] >= minimum else "Rejected"
            told = f"AUC {auc['tuned']:.3f} on the holdout; at least {minimum} was asked for."
            aws("sagemaker").update_model_package(
                ModelPackageArn=package, ModelApprovalStatus=verdict, ApprovalDescription=told
            )
            if verdict == "Rejected":
                raise ValueError(f"The tuned model is rejected: {told}")
            return auc

        steps = {}
        for model in ARTIFACTS:
            inputs = {"model": {"Get": f"Parameters.{model}"}, "holdout": "data/holdout"}
            steps[model] = ASK.processing("evaluate.py", inputs, to=f"evaluation/{model}")
        defined, approved = define(begun, steps), approve(begun, package)
        defined >> judge >> approved
        return defined, approved

    @task_group(group_id="endpoint", group_display_name="⑤ Endpoint")
    def endpoint(begun: dict):
        deploy = operators.Endpoint(
            task_id="deploy",
            task_display_name="Deploy",
            doc_md="Both models behind one address; all callers get the one that was there first.",
            config=ASK.endpoint(NAME, {"trained": 100, "tuned": 0}),
            **WAIT,
        )

        @task(multiple_outputs=False)
        def at(share: int, begun: dict) -> dict[str, int]:
            """Give the tuned model its share, and hold each answer against the model's own."""
            api, name = aws("sagemaker"), begun["name"]
            own = {model: f"evaluation/{model}/scores.csv" for model in ARTIFACTS}
            found = read(begun, customers="data/requests/requests.csv", **own)
            lines = {name: content.splitlines() for name, content in found.items()}
            with ExitStack() as otherwise:
                # The way back waits for no other task, and is taken also when this one fails.
                otherwise.callback(account.shift, api, name, {"trained": 100, "tuned": 0})
                account.shift(api, name, {"trained": 100 - share, "tuned": share})
                answers = account.ask(aws("sagemaker-runtime"), name, lines["customers"][:CALLERS])
                for row, (model, score) in enumerate(answers):
                    if score != (wanted := lines[model][row]):
                        raise ValueError(f"{model} answers {score!r}, where it says {wanted!r}")
                met = {name: [model for model, _ in answers].count(name) for name in ARTIFACTS}
                if not met["tuned"] or (share == 100 and met["trained"]):
                    raise ValueError(f"at {share} % the callers met {met}")
                otherwise.pop_all()
            return met

        first, half, all_of_them = [
            at.override(task_id=f"at_{share}", task_display_name=f"{share} %")(share, begun)
            for share in (10, 50, 100)
        ]
        deploy >> first >> half >> all_of_them
        return deploy, all_of_them

    @task_group(group_id="batch", group_display_name="⑥ Batch")
    def batch(begun: dict, measured: dict):
        transform = operators.Transform(
            task_id="transform",
            task_display_name="Transform",
            doc_md="The same model for a whole file, without an endpoint.",
            config=ASK.transform(
                f"{NAME}-transform", f"{NAME}-tuned", "data/requests", to="scored"
            ),
            **WAIT,
        )

        @task(task_display_name="Keep", multiple_outputs=False)
        def keep(begun: dict, measured: dict, artifact: str) -> dict[str, str]:
            """Fetch what is to outlive the clean-up: the model, its scores, its measures."""
            import mlflow

            key = artifact.removeprefix(f"s3://{begun['bucket']}/")
            made = read(begun, model=key, scores="scored/requests.csv.out")
            with tracking.run() as run:
                mlflow.log_metrics({f"auc_{name}": auc for name, auc in measured.items()})
            return {
                "model": storage.write_bytes(made["model"], "model.tar.gz"),
                "scores": storage.write_bytes(made["scores"], "scores.csv"),
                "run": run.info.run_id,
            }

        kept = keep(begun, measured, ARTIFACTS["tuned"])
        transform >> kept
        return transform, kept

    @task(task_display_name="Clean up", multiple_outputs=False)
    def clean_up(begun: dict) -> dict[str, int]:
        """Whatever happened before: nothing of this run goes on costing."""
        return account.take_away(aws("sagemaker"), aws("s3"), begun["name"], begun["bucket"])

    begun, processed = data()
    trained = training()
    made, registered = models()
    defined, approved = pipeline(begun, registered.output)
    deployed, shifted = endpoint(begun)
    transformed, kept = batch(begun, approved)
    chain(processed, trained, made, registered, defined)
    approved >> deployed
    shifted >> transformed
    kept >> clean_up(begun).as_teardown(setups=begun)


sagemaker_pipelines()
