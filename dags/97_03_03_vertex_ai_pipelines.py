"""
> **A script of your own and Google's AutoML on one table: the better model gets the callers, the
> other a share of them.**

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | Vertex AI at `google_cloud_default`; `make up` and `make run` start one on loopback |
| **Runs in** | about 90 seconds; at Google as long as AutoML takes, an hour or more |
| **Look at** | the return values of *Compare* and *Check*; the links on *Custom training* |

```text
① Data      ② Train                ③ Choose     ④ Serve            ⑤ Predict
bucket   ─┬→ custom ───────────┬→ compare  ─┬→ endpoint      ──→ online ─┬→ check → remove
upload    └→ dataset → automl ─┘  register  │  deploy_custom             │
                                  promote   │  deploy_automl             │
                                            └──────────────────→ batch ──┘
```

| Box | Shown by |
|---|---|
| Vertex AI training | `train.custom` |
| AutoML integration | `train.dataset`, `train.automl`, `choose.compare` |
| Model deployment | `choose.register`, `choose.promote`, `serve.deploy_custom` |
| Prediction endpoints | `serve.endpoint`, `predict.online`, `predict.batch`, `predict.check` |

**Run it**: `make run DAG=97_03_03_vertex_ai_pipelines`. A worker that is killed while *Custom
training* waits goes on with the same job when it is back.

**What you should see**: an AUC of 0.755 for the script's boosted trees and of 0.765 for what AutoML
chose, a straight line: some 48 of 60 questions go to it. *Check* gets 0.765 again, from a batch of
all 1,600 test rows. At the end nothing is left that costs money.

**Copy it when** you train at Google, and want to know what the work on an own model is worth.

**For production**: the connection with your account (`docs/real-clouds.md`), and as IMAGE an image
with this project in it: behind one endpoint both models must be asked in one way, so the script's
answers in AutoML's form. Keep models, endpoint and bucket, and leave *Remove* out.
"""

import json
from datetime import datetime, timedelta
from pathlib import Path

from airflow.providers.google.cloud.hooks.gcs import GCSHook
from airflow.providers.google.cloud.operators.vertex_ai import model_service
from airflow.sdk import Param, dag, task, task_group

from include import runs, storage, tracking
from include.clouds import vertex_ai
from include.features import churn
from include.training import vertex_churn, vertex_serving

DAG_ID = Path(__file__).stem
CONNECTION = "google_cloud_default"
REGION = "europe-west1"
TRAINER = "europe-docker.pkg.dev/vertex-ai/training/sklearn-cpu.1-6:latest"
IMAGE = f"{REGION}-docker.pkg.dev/my-project/ml/catalogue:latest"
MACHINE = "n1-standard-4"
MACHINES = {"machine_spec": {"machine_type": MACHINE}, "min_replica_count": 1}
SCHEMA = "gs://google-cloud-aiplatform/schema/dataset/metadata/tabular_1.0.0.yaml"
TABLE, ROWS = "customers.csv", "test.jsonl"
COLUMNS = dict.fromkeys(churn.NUMERIC, "numeric") | dict.fromkeys(churn.CATEGORICAL, "categorical")
LABEL, SPLIT = vertex_churn.LABEL, vertex_churn.SPLIT
TEST_SHARE, SEED = 0.2, 97
CHALLENGER_SHARE = 20  # percent of the callers
QUESTIONS, AT_ONCE = 60, 5
DEPLOYED = {"custom": "1", "automl": "2"}
NAME = "{{ ti.xcom_pull(task_ids='data.bucket', key='name') }}"
PROJECT = "{{ ti.xcom_pull(task_ids='data.bucket', key='project') }}"
ROOT = "gs://{{ ti.xcom_pull(task_ids='data.bucket', key='bucket') }}"
CHAMPION = (
    "{{ ti.xcom_pull(task_ids={'custom': 'choose.register', 'automl': 'train.automl'}"
    "[ti.xcom_pull(task_ids='choose.compare', key='champion')], key='model_id') }}"
)


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.03.03 · GCP Vertex AI Pipelines",
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
        "retry_policy": vertex_ai.POLICY,
        "execution_timeout": timedelta(hours=3),  # AutoML takes its time
        "gcp_conn_id": CONNECTION,
        "project_id": PROJECT,
        "region": REGION,
        "deferrable": True,
        "poll_interval": 1,
    },
    params={
        "trees": Param(
            60,
            type="integer",
            minimum=1,
            maximum=500,
            title="Trees",
            description="How many trees the script's model grows.",
        ),
    },
)
def vertex_ai_pipelines():
    def names() -> dict[str, str]:
        """All that this run makes, by names of its own; a bucket's is known to the whole world."""
        place, project = runs.here(), GCSHook(gcp_conn_id=CONNECTION).project_id
        name = f"97-03-03-{runs.digest(f'{place.dag_id}/{place.key}'.encode())}"
        return {"project": project, "name": name, "bucket": f"{project}-{name}"}

    def leaving(answers: list[dict]) -> list[float]:
        """How likely each customer leaves, in the form that AutoML gives answers."""
        return [answer["scores"][answer["classes"].index("1")] for answer in answers]

    @task_group(group_id="data", group_display_name="① Data")
    def data():
        @task(task_display_name="Bucket", multiple_outputs=True)
        def bucket() -> dict[str, str]:
            """A place for data and models of this run alone, so that it can go as a whole."""
            client, named = GCSHook(gcp_conn_id=CONNECTION).get_conn(), names()
            if client.lookup_bucket(named["bucket"]) is None:
                client.create_bucket(named["bucket"], location=REGION)
            return named

        @task(task_display_name="Upload")
        def upload(bucket: str) -> str:
            """One table with the split in it, so that both models are judged on the same rows."""
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook

            from include.data import splits

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            learnt, test = splits.stratified(customers, LABEL, TEST_SHARE, SEED)
            _, judged = splits.stratified(learnt, LABEL, TEST_SHARE, SEED)
            customers[SPLIT] = "TRAIN"
            customers.loc[judged.index, SPLIT] = "VALIDATE"
            customers.loc[test.index, SPLIT] = "TEST"
            asked = test[list(COLUMNS)].astype(str).to_dict("records")
            table, cloud = customers[[*COLUMNS, LABEL, SPLIT]], GCSHook(gcp_conn_id=CONNECTION)
            cloud.upload(bucket, TABLE, data=table.to_csv(index=False))
            cloud.upload(bucket, ROWS, data="\n".join(map(json.dumps, asked)))
            return storage.write_frame(test[[LABEL]], "truth.parquet")

        named = bucket()
        return named["bucket"], upload(named["bucket"])

    @task_group(group_id="train", group_display_name="② Train")
    def train(uploaded: str):
        custom = vertex_ai.CustomTraining(
            task_id="custom",
            task_display_name="Custom training",
            doc_md="Google packs the script, runs it on a machine of its own, and keeps its model.",
            display_name=f"{NAME}-custom",
            script_path=vertex_churn.__file__,
            container_uri=TRAINER,
            requirements=["pandas", "skl2onnx", "google-cloud-storage"],
            machine_type=MACHINE,
            staging_bucket=ROOT,
            base_output_dir=ROOT,
            args=["--data", f"{ROOT}/{TABLE}", "--trees", "{{ params.trees }}"],
        )
        dataset = vertex_ai.Dataset(
            task_id="dataset",
            task_display_name="Dataset",
            doc_md="AutoML learns from a managed data set: the same file, with its schema.",
            dataset={
                "display_name": NAME,
                "metadata_schema_uri": SCHEMA,
                "metadata": {"input_config": {"gcs_source": {"uri": [f"{ROOT}/{TABLE}"]}}},
            },
        )
        automl = vertex_ai.AutoMLTraining(
            task_id="automl",
            task_display_name="AutoML",
            doc_md="What does Google find by itself? The measure for work on an own model.",
            display_name=f"{NAME}-automl",
            model_display_name=f"{NAME}-automl",
            dataset_id=dataset.output["dataset_id"],
            target_column=LABEL,
            predefined_split_column_name=SPLIT,
            column_specs=COLUMNS,
            optimization_prediction_type="classification",
        )
        uploaded >> [custom, dataset]
        return custom, automl

    @task_group(group_id="choose", group_display_name="③ Choose")
    def choose(bucket: str, automl: str):
        @task(task_display_name="Compare", multiple_outputs=True)
        def compare(bucket: str, automl: str) -> dict:
            """Both were measured on the test rows: one by the script, one by Google."""
            import mlflow

            (ours,) = vertex_ai.lines(f"gs://{bucket}/model/metrics.json", CONNECTION)
            theirs = vertex_ai.measured(automl, CONNECTION)
            auc = {"custom": ours["auRoc"], "automl": theirs["auRoc"]}
            champion = max(auc, key=auc.get)
            with tracking.run():
                mlflow.log_metrics({f"{name}_auc": value for name, value in auc.items()})
            share = CHALLENGER_SHARE if champion == "custom" else 100 - CHALLENGER_SHARE
            # The one that is just being deployed is "0" for Vertex AI.
            split = {DEPLOYED["custom"]: 100 - share, "0": share}
            return {"champion": champion, "auc": auc, "split": split}

        register = vertex_ai.Model(
            task_id="register",
            task_display_name="Register",
            doc_md="The script's model becomes a version, with the container that answers from it.",
            model={
                "display_name": f"{NAME}-custom",
                "artifact_uri": f"{ROOT}/model",
                "container_spec": {"image_uri": IMAGE, **vertex_serving.CONTAINER},
            },
        )
        promote = model_service.AddVersionAliasesOnModelOperator(
            task_id="promote",
            task_display_name="Promote",
            doc_md="Callers ask for an alias, and never need to know whose model is behind it.",
            model_id=f"{CHAMPION}@default",
            version_aliases=["champion"],
        )
        compared = compare(bucket, automl)
        compared >> register >> promote
        return compared, register, promote

    @task_group(group_id="serve", group_display_name="④ Serve")
    def serve(compared: dict, custom: str, automl: str):
        endpoint = vertex_ai.Endpoint(
            task_id="endpoint",
            task_display_name="Endpoint",
            doc_md="An address that stays while the models behind it change.",
            endpoint={"display_name": NAME},
        )
        last, splits = endpoint, {"custom": {"0": 100}, "automl": compared["split"]}
        for name, model in {"custom": custom, "automl": automl}.items():
            named = {"id": DEPLOYED[name], "display_name": name, "model": model}
            deploy = vertex_ai.Deployment(
                task_id=f"deploy_{name}",
                task_display_name=f"Deploy {name}",
                doc_md="The first one gets all callers, and the second one comes with the split.",
                endpoint_id=endpoint.output["endpoint_id"],
                deployed_model=named | {"dedicated_resources": MACHINES},
                traffic_split=splits[name],
            )
            last >> deploy
            last = deploy
        return endpoint, last

    @task_group(group_id="predict", group_display_name="⑤ Predict")
    def predict(bucket: str, truth: str, champion: str, endpoint: str):
        @task(task_display_name="Online", multiple_outputs=False)
        def online(bucket: str, endpoint: str) -> dict:
            """Ask as callers do, a few rows each, and note which model answered."""
            rows = vertex_ai.lines(f"gs://{bucket}/{ROWS}", CONNECTION)
            told = {name: {} for name in DEPLOYED}
            for first in range(0, QUESTIONS * AT_ONCE, AT_ONCE):
                some = rows[first : first + AT_ONCE]
                id_, answers = vertex_ai.ask(endpoint, some, REGION, CONNECTION)
                (name,) = (name for name in DEPLOYED if DEPLOYED[name] == id_)
                told[name] |= {str(first + row): at for row, at in enumerate(leaving(answers))}
            kept = storage.write_json(told, "answers.json")
            return {name: len(told[name]) // AT_ONCE for name in DEPLOYED} | {"answers": kept}

        batch = vertex_ai.BatchPrediction(
            task_id="batch",
            task_display_name="Batch",
            doc_md="All test rows at once, by the champion's alias; no endpoint is needed for it.",
            job_display_name=NAME,
            model_name=f"{CHAMPION}@champion",
            gcs_source=f"{ROOT}/{ROWS}",
            gcs_destination_prefix=ROOT,
            machine_type=MACHINE,
            max_replica_count=1,
        )

        @task(task_display_name="Check", multiple_outputs=False)
        def check(bucket: str, truth: str, champion: str, asked: dict, folder: str) -> dict:
            """The champion must say the same on both ways, and be as good as it was measured."""
            from sklearn.metrics import roc_auc_score

            answers = vertex_ai.lines(f"{folder}/prediction.results", CONNECTION)
            found = {json.dumps(each["instance"]): each["prediction"] for each in answers}
            rows = vertex_ai.lines(f"gs://{bucket}/{ROWS}", CONNECTION)
            scores = leaving([found[json.dumps(row)] for row in rows])  # in any order, from Google
            told = storage.read_json(asked["answers"])[champion]
            apart = max(abs(scores[int(row)] - score) for row, score in told.items())
            if apart > 1e-6:
                raise AssertionError(f"online and batch differ by {apart:.2g}")
            auc = float(roc_auc_score(storage.read_frame(truth)[LABEL], scores))
            return {"rows": len(rows), "auc": auc, "apart": apart}

        asked = online(bucket, endpoint)
        return asked, batch, check(bucket, truth, champion, asked, batch.output)

    @task(task_display_name="Remove")
    def remove() -> int:
        """Whatever happened in between: an endpoint that is forgotten costs money every hour."""
        named = names()
        GCSHook(gcp_conn_id=CONNECTION).delete_bucket(named["bucket"], force=True)
        ours = [named["name"], *(f"{named['name']}-{model}" for model in DEPLOYED)]
        return vertex_ai.remove(ours, named["project"], REGION, CONNECTION)

    bucket, truth = data()
    custom, automl = train(truth)
    compared, register, promote = choose(bucket, automl.output)
    endpoint, deployed = serve(compared, register.output, automl.output)
    asked, batch, checked = predict(bucket, truth, compared["champion"], endpoint.output)
    custom >> compared
    promote >> [endpoint, batch]
    deployed >> asked
    checked >> remove().as_teardown(setups=bucket.operator)


vertex_ai_pipelines()
