"""
> **From a trained model to an endpoint that was asked and gave the right answers; otherwise callers
> have what they had before.**

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | nothing: a model gateway is started for the run where none answers |
| **Runs in** | about a minute; with a container engine, as long as its build takes |
| **Look at** | `image.tar`, which *Write layout* names, and the return value of *Verify* |

```text
① Model           ② Export               ③ Image                      ④ Endpoint        ⑤ Settle
prepare → train → register → compare →   choose ─┬→ build ────────┬→  serve_current →  ─┬→ promote
                  write_context                  └→ write_layout ─┤   deploy → verify   └→ roll_back
                                                      run_image ←─╯   decide
```

| Box | Shown by |
|---|---|
| Model export | `export.register`, `export.compare` |
| Container build | `image.build`, `image.write_layout`, `image.run_image` |
| Endpoint deployment | `endpoint.deploy` |
| Health verification | `endpoint.verify`, `endpoint.decide`, `settle.roll_back` |

**Run it**: `make run DAG=97_05_01_model_deployment`. Then deploy a version that fails:
`DATE=2026-02-01 CONF='{"practise": "errors"}'`, or `"slow"`.

**What you should see**: the MLflow model and its ONNX export agree on 2,000 customers to about
1e-7, the precision of a 32-bit number. The image says by its digest what is in it: the same version
and code give the same digest. Twenty golden requests, whose answers are known from training, come
back right in milliseconds; a version that fails one in three is gone again before the run is over.

**Copy it when** a model is to answer over HTTP and nobody should have to try it out by hand.

**For production**: where docker, podman or buildah answers, it builds the whole image on a base
that is pinned by digest (the first time from the network). Without one the layout holds what the
image adds to that base. Push the image, and let the engine that you have serve it: a KServe
`InferenceService`, a SageMaker endpoint with an alarm that rolls back, or a Vertex AI deployment at
0 % (`config/serving/` has an example of each). To replace a version under traffic see 97.5.2.
"""

from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import Param, dag, get_current_context, task, task_group

from include import retries, storage, tracking
from include.serving import client, release

DAG_ID = Path(__file__).stem
LABEL = "churned"
HOLDOUT_SHARE = 0.25
SEED = 97
GOLDEN = 20
MOST_P95_MS = 2000.0
FAULTS = {"nothing": {}, "errors": {"error_every": 3}, "slow": {"delay_seconds": 3.0}}


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.05.01 · Model Deployment Pipeline",
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
        "execution_timeout": timedelta(minutes=15),
    },
    params={
        "engine": Param(
            "auto",
            enum=["auto", "docker", "podman", "buildah", "none"],
            type="string",
            title="Container engine",
            description="What builds the image; auto takes the first that answers, if any does.",
        ),
        "practise": Param(
            "nothing",
            enum=list(FAULTS),
            type="string",
            title="Practise",
            description="What is wrong with the new version, so that the way back can be seen.",
        ),
    },
)
def model_deployment():
    @task(task_display_name="Open gateway")
    def open_gateway() -> str:
        """Serving needs a server: the connection's where it answers, else one for this run."""
        return client.open_own()

    @task(task_display_name="Close gateway")
    def close_gateway() -> bool:
        """Whatever happened in between, leave no process behind; others' gateways stay."""
        return client.close_own()

    @task_group(group_id="model", group_display_name="① Model")
    def model():
        @task(task_display_name="Prepare", multiple_outputs=True)
        def prepare() -> dict[str, str]:
            """Customers to learn from, and others to measure with and to ask about."""
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            return release.parted(customers, LABEL, HOLDOUT_SHARE, SEED)

        @task(task_display_name="Train", multiple_outputs=True)
        def train(train: str, holdout: str) -> dict[str, str]:
            """Keep some answers with the model: whatever serves it later must give these."""
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline

            from include.features.churn import preprocessor

            frame = storage.read_frame(train)
            fitted = make_pipeline(preprocessor(), LogisticRegression(max_iter=1000))
            fitted.fit(frame, frame[LABEL])
            asked = storage.read_frame(holdout).drop(columns=LABEL).head(GOLDEN)
            answers = fitted.predict_proba(asked)[:, 1].tolist()
            golden = {"rows": asked.to_dict("records"), "scores": answers}
            return {
                "model": storage.write_model(fitted, "model.skops"),
                "golden": storage.write_json(golden, "golden.json"),
            }

        parts = prepare()
        trained = train(parts["train"], parts["holdout"])
        return trained["model"], trained["golden"], parts["holdout"]

    @task_group(group_id="export", group_display_name="② Export")
    def export(model: str, holdout: str):
        @task(task_display_name="Register")
        def register(model: str, holdout: str) -> str:
            """One version in both forms: MLflow's for people, ONNX for a server without Python."""
            from include.evaluation import binary

            fitted, frame = storage.read_model(model), storage.read_frame(holdout)
            report = binary.report(frame[LABEL], fitted.predict_proba(frame)[:, 1])
            return release.registered(fitted, frame.drop(columns=LABEL), report)

        @task(task_display_name="Compare", multiple_outputs=False)
        def compare(version: str, holdout: str) -> dict:
            """Ask both forms, as the registry has them, the same: a conversion can be wrong."""
            from include.serving import onnx_export

            frame = storage.read_frame(holdout).drop(columns=LABEL)
            with tracking.files(DAG_ID, version) as folder:
                content = (folder / "model.onnx").read_bytes()
            fitted = tracking.load(DAG_ID, version)
            difference = onnx_export.largest_difference(fitted, content, frame)
            if not difference <= onnx_export.TOLERANCE:
                raise onnx_export.DifferentAnswers(f"version {version}: up to {difference:.2g}")
            return {"rows": len(frame), "largest_difference": difference}

        @task(task_display_name="Write context")
        def write_context(version: str) -> str:
            """All that a build needs, pinned: whoever builds from it gets the same."""
            from include.serving import image

            with tracking.files(DAG_ID, version) as folder:  # MLflow's model, and the export
                return storage.write_bytes(image.context(folder), "context.tar")

        version = register(model, holdout)
        context = write_context(version)
        compare(version, holdout) >> context
        return version, context

    @task_group(group_id="image", group_display_name="③ Image")
    def image(version: str, context: str, golden: str):
        @task.branch(task_display_name="Choose")
        def choose() -> str:
            """Whichever engine answers builds; a client without its daemon can't."""
            from include.serving import image

            found = image.engine(get_current_context()["params"]["engine"])
            return "image.build" if found else "image.write_layout"

        @task(task_display_name="Build", multiple_outputs=False)
        def build(version: str, context: str) -> dict[str, str]:
            """The whole image, in the engine's own store."""
            from include.serving import image

            found = image.engine(get_current_context()["params"]["engine"])
            content = storage.read_bytes(context)
            root = image.root(DAG_ID, content)
            image_id = image.build(found, content, f"{DAG_ID}:{version}", root)
            return {"image": image_id, "root": str(root), "by": found}

        @task(task_display_name="Write layout", multiple_outputs=False)
        def write_layout(version: str, context: str) -> dict[str, str]:
            """The image without an engine, checked by its digests as whoever loads it will."""
            from include.serving import image

            content = storage.read_bytes(context)
            root = image.root(DAG_ID, content)
            layout = storage.write_bytes(image.layout(content, f"{DAG_ID}:{version}"), "image.tar")
            digest = image.unpack(storage.read_bytes(layout), root)
            return {"image": digest, "root": str(root), "layout": layout}

        @task(task_display_name="Run image", trigger_rule="none_failed_min_one_success")
        def run_image(context: str, golden: str) -> str:
            """Its own program on its own model, before anything is deployed from it."""
            from include.serving import image
            from include.serving.golden import expect

            root = image.root(DAG_ID, storage.read_bytes(context))
            with image.running(root) as address:
                expect(address, **storage.read_json(golden))
            return str(root / "srv" / "model")

        ran = run_image(context, golden)
        context >> choose() >> [build(version, context), write_layout(version, context)] >> ran
        return ran

    @task_group(group_id="endpoint", group_display_name="④ Endpoint")
    def endpoint(version: str, served: str, golden: str):
        @task(task_display_name="Serve current")
        def serve_current(version: str) -> str:
            """What callers have now has to be there, or there would be nothing to go back to."""
            current = release.before()
            current = None if current == version else current
            release.begin(client.gateway(), DAG_ID, current, version)
            return current or ""

        @task(task_display_name="Deploy")
        def deploy(version: str, served: str) -> list[str]:
            """Start it from the image's files, and give it the callers once it answers."""
            gateway = client.gateway()
            fault = FAULTS[get_current_context()["params"]["practise"]]
            gateway.start_version(DAG_ID, version, served, **fault)
            gateway.set_route(DAG_ID, DAG_ID, {version: 1.0})
            return sorted(gateway.versions(DAG_ID))

        @task(task_display_name="Verify", multiple_outputs=False)
        def verify(version: str, golden: str) -> dict:
            """Is it up, does it know what it must, and soon enough? Asked as callers ask."""
            from include.serving.golden import ask

            gateway = client.gateway()
            answered = ask(gateway, DAG_ID, **storage.read_json(golden))
            return answered | {"up": gateway.versions(DAG_ID)[version]["healthy"]}

        @task.branch(task_display_name="Decide")
        def decide(version: str, verified: dict) -> str:
            """One check that fails is enough."""
            right = verified["by_version"] == {version: verified["asked"]} and not verified["wrong"]
            good = verified["up"] and right and verified["p95_ms"] <= MOST_P95_MS
            return "settle.promote" if good else "settle.roll_back"

        current, deployed = serve_current(version), deploy(version, served)
        verified = verify(version, golden)
        served >> current >> deployed >> verified
        return current, verified, decide(version, verified)

    @task_group(group_id="settle", group_display_name="⑤ Settle")
    def settle(version: str, current: str, verified: dict):
        @task(task_display_name="Promote")
        def promote(version: str, current: str) -> str:
            """Tell the registry what the endpoint says already, and let the old version go."""
            tracking.promote(version)
            if current:
                client.gateway().stop_version(DAG_ID, current)
            return release.note(f"version {version} is deployed")

        @task(task_display_name="Roll back")
        def roll_back(version: str, current: str, verified: dict) -> str:
            """Give callers back what they had, without waiting for anybody, and say why."""
            gateway = client.gateway()
            if current:
                gateway.set_route(DAG_ID, DAG_ID, {current: 1.0})
            else:
                gateway.remove_route(DAG_ID)
            gateway.stop_version(DAG_ID, version)
            found = f"{verified['failed']} of {verified['asked']} failed, {verified['wrong']} wrong"
            now = f"version {current} answers again" if current else "nothing was deployed before"
            return release.note(f"{found}, p95 {verified['p95_ms']:.0f} ms: {now}")

        return promote(version, current), roll_back(version, current, verified)

    opened, closed = open_gateway(), close_gateway()
    trained, golden, holdout = model()
    version, context = export(trained, holdout)
    ran = image(version, context, golden)
    current, verified, decided = endpoint(version, ran, golden)
    outcomes = settle(version, current, verified)
    opened >> current
    decided >> outcomes >> closed.as_teardown(setups=opened)


model_deployment()
