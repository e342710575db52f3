"""
> **The new version runs beside the old one and is tested where nobody sees it; then all callers
> change over between two requests, and can change back.**

| | |
|---|---|
| **Level** | advanced |
| **Needs** | nothing: a model gateway is started for the run where none answers |
| **Runs in** | about a minute |
| **Look at** | the return value of *Switch*: who was failed, and who met the wrong version |

```text
① Versions       ② Green beside blue         ③ Switch          ④ Settle
ingest → blue →  serve_blue → start_green →  switch → watch →  ─┬→ promote → remove_blue
         green   smoke_test → gate           decide             ├→ roll_back
                                 ╰──────────────────────────────┴→ discard_green
```

| Box | Shown by |
|---|---|
| New version deployment | `green.start_green`, `green.smoke_test` |
| Traffic switch | `switch.switch` |
| Rollback capability | `switch.watch`, `switch.decide`, `settle.roll_back` |
| Cleanup old version | `settle.remove_blue` |

**Run it**: `make run DAG=97_05_02_blue_green_deployment`. Then have green fail, on another date:
`DATE=2026-02-01 CONF='{"practise": "green fails under traffic"}'`, or `"green fails its smoke
test"`.

**What you should see**: some 300 requests at 200 a second run through the switch: 0 failed, and 0
went to the wrong version, which means that nobody who asked after the switch met blue, and nobody
before it met green. A green that fails one request in 25 passes a smoke test of 20, and is found by
the watch: about 4 % of real callers met an error before all were back on blue. That share is the
price of blue-green, and why 97.5.3 begins with 5 % of the callers.

**Copy it when** there is room for two versions at once, and callers must never see a mixture.

**For production**: let *Watch* look for as long as a fault takes to show. SageMaker does the whole
of this for you with the update policy in `config/serving/sagemaker.json`; on KServe set
`canaryTrafficPercent` to 0, then to 100 (`config/serving/kserve.yaml`); on Vertex AI the traffic
split goes from the one deployed model to the other (`config/serving/vertex.json`).
"""

from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import Param, dag, get_current_context, task, task_group

from include import retries, storage, tracking
from include.serving import client, release

DAG_ID = Path(__file__).stem
PREVIEW = f"{DAG_ID}-preview"  # a second name, on which only the smoke test calls
LABEL = "churned"
HOLDOUT_SHARE = 0.25
SEED = 97
RATE = 200  # requests a second
GOLDEN, BEFORE, AFTER, WATCHED = 20, 100, 200, 200  # how many: smoke test, the switch, the watch
MOST_FAILED = 0.01
MOST_P95_MS = 2000.0
FAULTS = {"nothing": 0, "green fails its smoke test": 4, "green fails under traffic": 25}


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.05.02 · Blue-Green Model Deployment",
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
        "practise": Param(
            "nothing",
            enum=list(FAULTS),
            type="string",
            title="Practise",
            description="What goes wrong with the new version, so that the way back can be seen.",
        ),
    },
)
def blue_green_deployment():
    def callers_rows(holdout: str) -> list[dict]:
        return storage.read_frame(holdout).drop(columns=LABEL).to_dict("records")

    def switched(holdout: str, to: str) -> dict:
        """Switch while callers ask, and count who lost by it."""
        from include.serving import load

        rows = callers_rows(holdout)
        return load.switched(client.gateway(), DAG_ID, DAG_ID, to, rows, RATE, BEFORE, AFTER)

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

        @task(task_display_name="Blue")
        def blue(train: str, holdout: str) -> str:
            """The version that callers have; at the very first release, one of fewer customers."""
            older, judged = storage.read_frame(train).head(1000), storage.read_frame(holdout)
            return release.current(lambda: release.trained("blue", older, judged, LABEL))

        @task(task_display_name="Green")
        def green(train: str, holdout: str) -> str:
            """The version that callers are to have."""
            rows, judged = storage.read_frame(train), storage.read_frame(holdout)
            return release.trained("green", rows, judged, LABEL)

        parts = ingest()
        old, new = blue(parts["train"], parts["holdout"]), green(parts["train"], parts["holdout"])
        old >> new
        return parts["holdout"], old, new

    @task_group(group_id="green", group_display_name="② Green beside blue")
    def beside(holdout: str, blue: str, green: str):
        @task(task_display_name="Serve blue")
        def serve_blue(blue: str, green: str) -> list[str]:
            """Begin from blue alone, whatever an interrupted release has left behind."""
            client.gateway().remove_route(PREVIEW)
            return release.begin(client.gateway(), DAG_ID, blue, green)

        @task(task_display_name="Start green")
        def start_green(green: str) -> list[str]:
            """Have it loaded and answering before anybody depends on it."""
            gateway = client.gateway()
            fault = FAULTS[get_current_context()["params"]["practise"]]
            source = release.source(DAG_ID, green)
            gateway.start_version(DAG_ID, green, source, error_every=fault)
            return sorted(gateway.versions(DAG_ID))

        @task(task_display_name="Smoke test", multiple_outputs=False)
        def smoke_test(holdout: str, green: str) -> dict:
            """Ask green what is known, over the wire, under a name that no caller uses."""
            from include.serving import golden

            gateway = client.gateway()
            asked = storage.read_frame(holdout).drop(columns=LABEL).head(GOLDEN)
            scores = tracking.load(DAG_ID, green).predict_proba(asked)[:, 1].tolist()
            gateway.set_route(PREVIEW, DAG_ID, {green: 1.0})
            answered = golden.ask(gateway, PREVIEW, asked.to_dict("records"), scores)
            gateway.remove_route(PREVIEW)
            return answered

        @task.branch(task_display_name="Gate")
        def gate(smoke: dict) -> str:
            """A green that can't answer what is known gets no caller."""
            good = smoke["failed"] == smoke["wrong"] == 0
            return "switch.switch" if good else "settle.discard_green"

        first, smoke = serve_blue(blue, green), smoke_test(holdout, green)
        first >> start_green(green) >> smoke
        return first, smoke, gate(smoke)

    @task_group(group_id="switch", group_display_name="③ Switch")
    def switch(holdout: str, green: str):
        @task(task_display_name="Switch", multiple_outputs=False)
        def switch(holdout: str, green: str) -> dict:
            """All callers at once, between two requests; blue stays warm behind them."""
            return switched(holdout, to=green)

        @task(task_display_name="Watch", multiple_outputs=False)
        def watch(holdout: str) -> dict:
            """A smoke test is small; what callers meet decides."""
            from include.serving import load

            gateway = client.gateway()
            address, token = load.route_address(gateway, DAG_ID), load.token(gateway)
            return load.drive(address, callers_rows(holdout), RATE, WATCHED, [token]).report()

        @task.branch(task_display_name="Decide")
        def decide(watched: dict) -> str:
            """One failing check is enough: going back is cheap as long as blue is there."""
            few_fail = watched["failed"] <= MOST_FAILED * watched["requests"]
            in_time = watched["p95_ms"] <= MOST_P95_MS
            return "settle.promote" if few_fail and in_time else "settle.roll_back"

        done, watched = switch(holdout, green), watch(holdout)
        done >> watched
        return done, watched, decide(watched)

    @task_group(group_id="settle", group_display_name="④ Settle")
    def settle(holdout: str, blue: str, green: str, smoke: dict, watched: dict):
        @task(task_display_name="Promote")
        def promote(blue: str, green: str) -> str:
            """Tell the registry what the route says already."""
            tracking.promote(green)
            return release.note(f"version {green} has replaced version {blue}")

        @task(task_display_name="Remove blue")
        def remove_blue(blue: str) -> list[str]:
            """Let it finish what it was asked, then stop it; its model stays in the registry."""
            client.gateway().stop_version(DAG_ID, blue)
            return sorted(client.gateway().versions(DAG_ID))

        @task(task_display_name="Roll back", multiple_outputs=False)
        def roll_back(holdout: str, blue: str, green: str, watched: dict) -> dict:
            """Blue still runs: the way back is the same switch, under the same eyes."""
            back = switched(holdout, to=blue)
            client.gateway().stop_version(DAG_ID, green)
            met = f"{watched['failed']} of {watched['requests']} requests failed"
            reason = f"{met}, p95 {watched['p95_ms']:.0f} ms: callers are back on version {blue}"
            return back | {"outcome": release.note(reason)}

        @task(task_display_name="Discard green")
        def discard_green(blue: str, green: str, smoke: dict) -> str:
            """It never had a caller, so there is nothing to switch."""
            client.gateway().stop_version(DAG_ID, green)
            met = f"{smoke['failed']} of {smoke['asked']} failed, {smoke['wrong']} were wrong"
            return release.note(f"smoke test: {met}; version {blue} has never lost its callers")

        promoted, removed = promote(blue, green), remove_blue(blue)
        promoted >> removed
        back = roll_back(holdout, blue, green, watched)
        return promoted, removed, back, discard_green(blue, green, smoke)

    opened, closed = open_gateway(), close_gateway()
    holdout, blue, green = versions()
    first, smoke, gated = beside(holdout, blue, green)
    switched_over, watched, decided = switch(holdout, green)
    promoted, removed, back, discarded = settle(holdout, blue, green, smoke, watched)
    opened >> first
    gated >> [switched_over, discarded]
    decided >> [promoted, back]
    [removed, back, discarded] >> closed.as_teardown(setups=opened)


blue_green_deployment()
