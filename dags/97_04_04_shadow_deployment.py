"""
> **The candidate answers a copy of what callers ask, where nobody sees its answers; they are laid
> beside the live ones, and criteria that were written down before decide.**

| | |
|---|---|
| **Level** | advanced |
| **Needs** | nothing: a model gateway is started for the run where none answers |
| **Runs in** | about 40 seconds, 2 of them under traffic |
| **Look at** | the return value of *Check criteria*; `scores.png` of the MLflow run |

```text
① Versions                ② Shadow                       ③ Compare   ④ Settle
ingest → stable →         serve_stable → start_shadow →  join →      check_criteria →
         candidate        mirror → end_shadow            measure     decide ─┬→ promote
                                                                             └→ keep_stable
```

| Box | Shown by |
|---|---|
| Parallel prediction | `shadow.start_shadow`, `shadow.mirror` |
| Comparison logging | `compare.join` |
| Performance validation | `compare.measure` |
| Promotion criteria | `settle.check_criteria`, `settle.decide` |

**Run it**: `make run DAG=97_04_04_shadow_deployment`. Then give the shadow a bad day, on another
date: `DATE=2026-02-01 CONF='{"practise": "the shadow takes 2 seconds"}'`, or `"the shadow fails"`,
or `"the shadow learned little"`.

**What you should see**: all of 150 requests are copied. The two models agree on 94 % of them, and
their scores lie 0.04 apart on average. The candidate is as fast as the live model, and is promoted.
Callers are asked for 150 answers and get 150, whatever the shadow does. With a shadow that takes
two seconds, about a fifth of the copies are sent and the others dropped. *Mirror* then shows the
same latency as without a shadow.

**Copy it when** a wrong answer is expensive, and a candidate must prove on today's requests that it
would have given the right ones in time.

**For production**: let *Mirror* wait for real callers instead of playing them, for a day or a week.
SageMaker copies requests to `ShadowProductionVariants`; in front of KServe, Istio's `mirror` does
it; Vertex AI has no such thing, and a gateway as here stands before its endpoint. A shadow must not
act: it may read what the live model reads, and write nothing but its log.
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
RATE = 100  # requests a second
ALONE, MIRRORED = 50, 150  # how many are asked without the shadow, and with it
# What a candidate must reach to be given to callers; the names are those that Measure returns.
CRITERIA = {
    "copies": {"least": 0.9},
    "errors": {"most": 0.01},
    "agreement": {"least": 0.9},
    "mean_difference": {"most": 0.05},
    "p99_ms": {"most": 1000},
}
FAULTS = {
    "nothing": {},
    "the shadow takes 2 seconds": {"delay_seconds": 2.0},
    "the shadow fails": {"error_every": 10},
    "the shadow learned little": {},
}
LITTLE = 40  # customers


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.04.04 · Shadow Deployment",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 4),
    catchup=False,
    max_active_runs=1,
    tags=["reference", "patterns", "advanced", "success"],
    default_args={
        "owner": "ml-catalogue",
        "retries": 2,
        "retry_delay": timedelta(seconds=5),
        "retry_policy": retries.POLICY,
        "execution_timeout": timedelta(minutes=5),
    },
    params={
        "criteria": Param(
            CRITERIA,
            type="object",
            minProperties=1,
            propertyNames={"enum": list(CRITERIA)},
            additionalProperties={"type": "object", "propertyNames": {"enum": ["least", "most"]}},
            title="Promotion criteria",
            description="For each measure the least or the most that a candidate may have.",
        ),
        "practise": Param(
            "nothing",
            enum=list(FAULTS),
            type="string",
            title="Practise",
            description="What is wrong with the candidate, so that a refusal can be seen.",
        ),
    },
)
def shadow_deployment():
    @task(task_display_name="Open gateway")
    def open_gateway() -> str:
        """Serving needs a server: the connection's where it answers, else one for this run."""
        return client.open_own()

    @task(task_display_name="Close gateway")
    def close_gateway() -> bool:
        """Whatever happened in between, leave no process behind; others' gateways stay."""
        return client.close_own()

    @task_group(group_id="versions", group_display_name="① Versions")
    def versions():
        @task(task_display_name="Ingest", multiple_outputs=True)
        def ingest() -> dict[str, str]:
            """The holdout measures the models and then plays the callers."""
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            return release.parted(customers, LABEL, HOLDOUT_SHARE, SEED)

        @task(task_display_name="Stable")
        def stable(train: str, holdout: str) -> str:
            """The version that callers have; at the very first release, one of fewer customers."""
            older, judged = storage.read_frame(train).head(1000), storage.read_frame(holdout)
            return release.current(lambda: release.trained("stable", older, judged, LABEL))

        @task(task_display_name="Candidate")
        def candidate(train: str, holdout: str) -> str:
            """The version that is to show what it can."""
            learned = storage.read_frame(train)
            if get_current_context()["params"]["practise"] == "the shadow learned little":
                learned = learned.head(LITTLE)
            return release.trained("candidate", learned, storage.read_frame(holdout), LABEL)

        parts = ingest()
        old = stable(parts["train"], parts["holdout"])
        new = candidate(parts["train"], parts["holdout"])
        old >> new
        return parts["holdout"], old, new

    @task_group(group_id="shadow", group_display_name="② Shadow")
    def shadow(holdout: str, stable: str, candidate: str):
        @task(task_display_name="Serve stable")
        def serve_stable(stable: str) -> None:
            """Begin from stable alone, whatever an earlier or an interrupted run has left."""
            release.alone(client.gateway(), DAG_ID, stable)

        @task(task_display_name="Start shadow")
        def start_shadow(candidate: str) -> list[str]:
            """Have it loaded and answering before the first copy is sent."""
            gateway = client.gateway()
            fault = FAULTS[get_current_context()["params"]["practise"]]
            source = release.source(DAG_ID, candidate)
            gateway.start_version(DAG_ID, candidate, source, **fault)
            return sorted(gateway.versions(DAG_ID))

        @task(task_display_name="Mirror", multiple_outputs=False)
        def mirror(holdout: str, stable: str, candidate: str) -> dict:
            """Callers without the shadow, then with it: the difference is what it costs them."""
            from include.serving import load

            gateway = client.gateway()
            address, token = load.route_address(gateway, DAG_ID), load.token(gateway)
            rows = storage.read_frame(holdout).drop(columns=LABEL).to_dict("records")
            gateway.set_route(DAG_ID, DAG_ID, {stable: 1.0})
            alone = load.drive(address, rows, RATE, ALONE, [token])
            _, begins = gateway.requests(DAG_ID)
            gateway.set_route(DAG_ID, DAG_ID, {stable: 1.0}, shadow=candidate)
            mirrored = load.drive(address, rows, RATE, MIRRORED, [token])
            return {"begins": begins, "alone": alone.report(), "mirrored": mirrored.report()}

        @task(task_display_name="End shadow")
        def end_shadow(stable: str, candidate: str) -> list[str]:
            """No more copies; what was sent is still answered, so that the log is whole."""
            gateway = client.gateway()
            gateway.set_route(DAG_ID, DAG_ID, {stable: 1.0})
            gateway.stop_version(DAG_ID, candidate)
            return sorted(gateway.versions(DAG_ID))

        first = serve_stable(stable)
        mirrored, ended = mirror(holdout, stable, candidate), end_shadow(stable, candidate)
        first >> start_shadow(candidate) >> mirrored >> ended
        return first, mirrored, ended

    @task_group(group_id="compare", group_display_name="③ Compare")
    def compare(mirrored: dict):
        @task(task_display_name="Join")
        def join(mirrored: dict) -> str:
            """Both answers to one request side by side, by its id; a copy not sent is a gap."""
            from include.evaluation import shadow

            lines, _ = client.gateway().requests(DAG_ID, after=mirrored["begins"])
            return storage.write_frame(shadow.joined(lines), "joined.parquet")

        @task(task_display_name="Measure", multiple_outputs=False)
        def measure(joined: str) -> dict[str, float]:
            """Does it answer, in time, and the same? Who is right, only labels could say."""
            import mlflow

            from include.evaluation import plots, shadow

            log = storage.read_frame(joined)
            measured, both = shadow.measured(log), shadow.answered_by_both(log)
            picture, axes = plots.figure()
            axes.axline((0, 0), slope=1, color="grey", lw=1, ls="--")
            axes.scatter(both.live_scores, both.shadow_scores, color=plots.COLOURS[0], s=12)
            axes.set(title="The same requests", xlabel="live score", ylabel="shadow's score")
            with tracking.run():
                mlflow.log_metrics(measured)
                tracking.log_figure(picture, "scores.png")
            return measured

        joined = join(mirrored)
        return joined, measure(joined)

    @task_group(group_id="settle", group_display_name="④ Settle")
    def settle(stable: str, candidate: str, measured: dict):
        @task(task_display_name="Check criteria", multiple_outputs=False)
        def check_criteria(measured: dict) -> list[dict]:
            """One row for each criterion; what could not be measured is not met."""
            rows = []
            for name, bound in get_current_context()["params"]["criteria"].items():
                value = measured.get(name, float("nan"))
                met = bound.get("least", value) <= value <= bound.get("most", value)
                rows.append({"measure": name, "value": measured.get(name), **bound, "met": met})
            return rows

        @task.branch(task_display_name="Decide")
        def decide(checked: list[dict]) -> str:
            """All of them or none: criteria that can be traded are no criteria."""
            return "settle.promote" if all(row["met"] for row in checked) else "settle.keep_stable"

        @task(task_display_name="Promote")
        def promote(stable: str, candidate: str) -> str:
            """Callers change over between two requests; a canary (97.5.3) would be gentler."""
            gateway = client.gateway()
            gateway.start_version(DAG_ID, candidate, release.source(DAG_ID, candidate))
            gateway.set_route(DAG_ID, DAG_ID, {candidate: 1.0})
            tracking.promote(candidate)
            gateway.stop_version(DAG_ID, stable)
            return release.note(f"version {candidate} has replaced version {stable}")

        @task(task_display_name="Keep stable")
        def keep_stable(stable: str, checked: list[dict]) -> str:
            """Callers have noticed nothing; say to whoever made the candidate what it lacks."""
            lacks = [f"{row['measure']} is {row['value']}" for row in checked if not row["met"]]
            return release.note(f"callers stay on version {stable}: {', '.join(lacks)}")

        checked = check_criteria(measured)
        outcomes = [promote(stable, candidate), keep_stable(stable, checked)]
        decide(checked) >> outcomes
        return outcomes

    opened, closed = open_gateway(), close_gateway()
    holdout, stable, candidate = versions()
    first, mirrored, ended = shadow(holdout, stable, candidate)
    joined, measured = compare(mirrored)
    outcomes = settle(stable, candidate, measured)
    opened >> first
    ended >> joined
    outcomes >> closed.as_teardown(setups=opened)


shadow_deployment()
