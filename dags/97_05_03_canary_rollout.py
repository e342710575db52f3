"""
> **A new version gets a few callers, then more, as long as it is no worse than the one beside it.**
> A bad one meets one caller in twenty, and only until the first check.

| | |
|---|---|
| **Level** | advanced |
| **Needs** | nothing: a model gateway is started for the run where none answers |
| **Runs in** | about 40 seconds |
| **Look at** | the return value of each *Monitor*: what callers got, and how likely by chance |

```text
① Versions        ② Canary beside stable       ③ Steps: 5 %, 25 %, 50 %, 100 %      ④ Outcome
plan → ingest →   serve_stable → start_canary  shift → monitor → decide ─┬→ shift … → promote
stable → canary                                                          └──────────→ abort
```

| Box | Shown by |
|---|---|
| Initial small traffic | `steps.first.shift` |
| Metric monitoring | `steps.first.monitor`, `steps.first.decide`, `outcome.abort` |
| Gradual increase | `steps.second.shift`, `steps.third.shift` |
| Full promotion | `steps.fourth.shift`, `outcome.promote` |

**Run it**: `make run DAG=97_05_03_canary_rollout`. Then have the canary misbehave, on another date:
`DATE=2026-02-01 CONF='{"practise": "errors"}'`, or `"slow answers"`, or `"wrong units"`.

**What you should see**: at 5 % about 15 of 300 callers meet the canary; who met it at 5 % keeps it
at 25 %. Nothing is found, so it ends as the champion. With *errors* it fails every second of those
15, against none of 285: by chance that is met less than once in 10,000 times. After this one check
all callers are back. Blue-green (97.5.2) would have shown the fault to everybody.

**Why tests and no thresholds**: 1 error in 15 is 7 %, and may be luck; 7 in 15 can't be. In doubt,
or with few callers, a check holds and looks longer; a doubt that stays after three is a no.

**Copy it when** a fault would cost more than an hour of two versions side by side.

**For production**: leave out `ask`, since real callers come by themselves, and let a check last as
long as a fault takes to show. *Shift* is one call elsewhere too: `canaryTrafficPercent` in KServe
(`config/serving/kserve.yaml`), `UpdateEndpointWeightsAndCapacities` in SageMaker, the traffic split
in Vertex AI (`config/serving/vertex.json`).
"""

from contextlib import ExitStack
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

from airflow.sdk import Param, dag, get_current_context, task, task_group

from include import retries, runs, storage, tracking
from include.serving import client, release

DAG_ID = Path(__file__).stem
LABEL = "churned"
CALLER = "X-Customer"  # a caller stays with the version that the step before gave them
HOLDOUT_SHARE = 0.25
SEED = 97
RATE = 200  # requests a second
CHECK = 300  # requests
AFTERWARDS = 100  # requests that show who answers after an abort
MOST_CHECKS = 3
LEAST = 8  # answers of the canary, before anything good is said about it
CHOSEN = "none_failed_min_one_success"
STEPS = ("first", "second", "third", "fourth")
FAULTS = {
    "nothing": {},
    "errors": {"error_every": 2},
    "slow answers": {"delay_seconds": 0.3},
    "wrong units": {},  # this one is in the model: it learns tenure in years and is asked in months
}


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.05.03 · Canary Model Rollout",
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
        "steps": Param(
            [5, 25, 50, 100],
            type="array",
            items={"type": "integer", "minimum": 1, "maximum": 100},
            minItems=2,
            maxItems=len(STEPS),
            title="Steps",
            description="The canary's share of the callers in percent, step by step up to 100.",
        ),
        "practise": Param(
            "nothing",
            type="string",
            enum=list(FAULTS),
            title="Practise",
            description="What is wrong with the canary, so that an abort can be seen.",
        ),
    },
)
def canary_rollout():
    def give(stable: str, canary: str, percent: int) -> None:
        """Switch the canary's share, between two requests."""
        shares = {stable: 100 - percent, canary: percent}
        weights = {version: share for version, share in shares.items() if share}
        client.gateway().set_route(DAG_ID, DAG_ID, weights, sticky=CALLER)

    def ask(holdout: str, share: int, check: int, count: int = CHECK):
        """Send one request for each of so many customers; return the answers."""
        from include.serving import load

        gateway, name = client.gateway(), f"{runs.here().key}-{share}-{check}"
        customers = storage.read_frame(holdout).sample(count, random_state=check)
        headers = [
            load.token(gateway) | {CALLER: str(each), "X-Request-Id": f"{name}-{each}"}
            for each in customers["customer_id"]
        ]
        rows = customers.drop(columns=LABEL).to_dict("records")
        return load.drive(load.route_address(gateway, DAG_ID), rows, RATE, count, headers)

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
        @task(task_display_name="Plan")
        def plan() -> None:
            """Refuse steps that don't lead to all callers before anything is trained for them."""
            steps = get_current_context()["params"]["steps"]
            if steps != sorted(set(steps)) or steps[-1] != 100:
                raise ValueError(f"steps is {steps}: the shares must rise, and end with 100.")

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

        @task(task_display_name="Canary")
        def canary(train: str, holdout: str) -> str:
            """The version that callers may come to have."""
            learnt = storage.read_frame(train)
            if get_current_context()["params"]["practise"] == "wrong units":
                learnt["tenure_months"] = learnt["tenure_months"] / 12
            return release.trained("canary", learnt, storage.read_frame(holdout), LABEL)

        parts = ingest()
        plan() >> parts
        train, holdout = parts["train"], parts["holdout"]
        old, new = stable(train, holdout), canary(train, holdout)
        old >> new
        return holdout, old, new

    @task_group(group_id="beside", group_display_name="② Canary beside stable")
    def beside(stable: str, canary: str):
        @task(task_display_name="Serve stable", multiple_outputs=False)
        def serve_stable(stable: str) -> dict:
            """Begin from stable alone, whatever an interrupted rollout has left behind."""
            gateway = client.gateway()
            release.alone(gateway, DAG_ID, stable, sticky=CALLER)
            return {"since": gateway.requests(DAG_ID)[1]}

        @task(task_display_name="Start canary")
        def start_canary(canary: str) -> list[str]:
            """Have it loaded and answering before anybody depends on it."""
            gateway = client.gateway()
            fault = FAULTS[get_current_context()["params"]["practise"]]
            gateway.start_version(DAG_ID, canary, release.source(DAG_ID, canary), **fault)
            return sorted(gateway.versions(DAG_ID))

        served, started = serve_stable(stable), start_canary(canary)
        served >> started
        return served, started

    @task_group
    def step(place: int, holdout: str, stable: str, canary: str, earlier: dict):
        @task(task_display_name="Shift", multiple_outputs=False)
        def shift(place: int, stable: str, canary: str, earlier: dict) -> dict:
            """Give the canary its share, and remember where in the gateway's log that was."""
            _, since = client.gateway().requests(DAG_ID, after=earlier["since"])
            share = get_current_context()["params"]["steps"][place]
            give(stable, canary, share)
            return {"share": share, "since": since, "before": earlier["since"]}

        @task(task_display_name="Monitor", multiple_outputs=False)
        def monitor(shift: dict, holdout: str, stable: str, canary: str) -> dict:
            """Compare what callers get from both; only a clear yes leaves them with the canary."""
            from include.evaluation.canary import Seen, evidence, verdict

            share = shift["share"]
            with ExitStack() as otherwise:
                # The way back waits for no other task, and is taken also when this one fails.
                otherwise.callback(give, stable, canary, 0)
                give(stable, canary, share)  # a try before this one may have gone that way
                for check in range(1, MOST_CHECKS + 1):
                    ask(holdout, share, check)
                    # At 100 % nobody is left beside it: stable's last answers are the measure.
                    start = shift["since"] if share < 100 else shift["before"]
                    noted, _ = client.gateway().requests(DAG_ID, after=start)
                    old, new = Seen.of(stable, noted), Seen.of(canary, noted)
                    found = evidence(old, new, side_by_side=share < 100)
                    answer = verdict(found, new.requests, LEAST)
                    if answer != "hold":
                        break
                if answer == "promote":
                    otherwise.pop_all()
            counts = {"stable": [old.failed, old.requests], "canary": [new.failed, new.requests]}
            likely = {name: float(f"{value:.2g}") for name, value in found.items()}
            result = {"share": share, "checks": check, "verdict": answer}
            return result | {"failed_of": counts, "by_chance": likely}

        @task.branch(task_display_name="Decide")
        def decide(place: int, monitored: dict) -> str:
            """On to the next share, to the end, or back."""
            if monitored["verdict"] != "promote":
                return "outcome.abort"
            last = monitored["share"] == 100
            return "outcome.promote" if last else f"steps.{STEPS[place + 1]}.shift"

        shifted = shift(place, stable, canary, earlier)
        monitored = monitor(shifted, holdout, stable, canary)
        return shifted, monitored, decide(place, monitored)

    @task_group(group_id="steps", group_display_name="③ Steps")
    def steps(holdout: str, stable: str, canary: str, served: dict):
        taken = []
        for place, name in enumerate(STEPS):
            one = step.override(group_id=name, group_display_name=f"{name.title()} share")
            earlier = taken[-1][0] if taken else served
            taken.append(one(place, holdout, stable, canary, earlier))
        for (*_, decided), (shifted, *_) in pairwise(taken):
            decided >> shifted
        return zip(*taken, strict=True)

    @task_group(group_id="outcome", group_display_name="④ Outcome")
    def outcome(holdout: str, stable: str, canary: str, monitored: list[dict]):
        @task(task_display_name="Promote", trigger_rule=CHOSEN)
        def promote(stable: str, canary: str) -> str:
            """All callers have it already: tell the registry, and let the old version go."""
            tracking.promote(canary)
            client.gateway().stop_version(DAG_ID, stable)
            return release.note(f"version {canary} has replaced version {stable}")

        @task(task_display_name="Abort", trigger_rule=CHOSEN, multiple_outputs=False)
        def abort(holdout: str, stable: str, canary: str, monitored: list[dict]) -> dict:
            """See that all callers are back, stop the canary, and write down why."""
            last = [each for each in monitored if each][-1]
            tracking.client().set_registered_model_alias(DAG_ID, tracking.CHAMPION, stable)
            client.gateway().stop_version(DAG_ID, canary)
            after = ask(holdout, 0, check=1, count=AFTERWARDS).report()
            reason = f"{last['verdict']} at {last['share']} %, by chance {last['by_chance']}"
            told = release.note(f"{reason}: callers are back on version {stable}")
            return {"outcome": told, "by_version": after["by_version"], "failed": after["failed"]}

        return promote(stable, canary), abort(holdout, stable, canary, monitored)

    opened, closed = open_gateway(), close_gateway()
    holdout, stable, canary = versions()
    served, started = beside(stable, canary)
    shifts, monitored, decisions = steps(holdout, stable, canary, served)
    promoted, aborted = outcome(holdout, stable, canary, monitored)
    opened >> served
    started >> shifts[0]
    [*decisions] >> promoted
    [*decisions] >> aborted
    [promoted, aborted] >> closed.as_teardown(setups=opened)


canary_rollout()
