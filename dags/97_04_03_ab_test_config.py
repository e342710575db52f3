"""
> **Decide before the first request how many customers it takes and when you may look; then either
> version can win, and so can neither.**

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | nothing: a model gateway is started for the run where none answers |
| **Runs in** | about 40 seconds, up to 4 of them under traffic |
| **Look at** | the return value of *Select*; `looks.png` of the MLflow run |

```text
① Versions            ② Set up          ③ Collect   ④ Winner
ingest → stable →     plan →            collect →   check_split → select → settle
         candidate    split_traffic
```

| Box | Shown by |
|---|---|
| Traffic split configuration | `set_up.split_traffic` |
| Experiment setup | `set_up.plan` |
| Metric collection | `collect` |
| Winner selection | `winner.check_split`, `winner.select` |

**Run it**: `make run DAG=97_04_03_ab_test_config`. Then have the candidate lose answers, on another
date: `DATE=2026-02-01 CONF='{"practise": "the candidate loses answers"}'`. `{"looks": 1}` is the
plain two-proportion test, which waits for the last customer.

**What you should see**: the first version has learned from 30 customers, the candidate from 6,000.
To find a lift of 0.1 takes 750 customers; it wins at the second look, after 375, with +0.17. On
every other date the candidate is as good as what has won before, and after all 617 nobody has won:
the difference is between -0.09 and +0.06. A candidate that loses every third answer can't win
either, since whose answers are missing is not chance.

**Copy it when** a better score on a holdout is not yet a better business, and what callers do next
can be counted.

**For production**: let *Collect* wait for outcomes (bought, stayed, clicked) and join them by the
caller's id, as it does here with what is known of each customer. The shares are `weights` of this
route; on SageMaker they are the weights of production variants, on Vertex AI the endpoint's traffic
split, on KServe `canaryTrafficPercent`. Those three draw each request by itself: a caller who is to
stay on one side must be assigned before them.
"""

from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import Param, dag, get_current_context, task, task_group

from include import retries, storage, tracking
from include.serving import client, release

DAG_ID = Path(__file__).stem
LABEL = "churned"
CALLER = "X-Customer"  # a caller who comes again meets the same version
HOLDOUT_SHARE = 0.25
SEED = 97
FEW = 30  # customers that the very first version has learned from
RATE = 200  # requests a second
ALPHA = 0.05  # how often a winner may be named where there is no difference
POWER = 0.8  # how often the lift must be found where it is there
FAULTS = {"nothing": {}, "the candidate loses answers": {"error_every": 3}}


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.04.03 · A/B Test Configuration",
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
        "execution_timeout": timedelta(minutes=5),
    },
    params={
        "lift": Param(
            0.1,
            type="number",
            minimum=0.01,
            maximum=0.5,
            title="Lift",
            description="The gain that would matter: how much larger the share of right answers.",
        ),
        "looks": Param(
            4,
            type="integer",
            minimum=1,
            maximum=5,
            title="Looks",
            description="How often one looks, and may end early; 1 is the two-proportion test.",
        ),
        "candidate_share": Param(
            0.5,
            type="number",
            minimum=0.05,
            maximum=0.95,
            title="Candidate's share",
            description="The share of callers that meet the candidate; a small one takes longer.",
        ),
        "practise": Param(
            "nothing",
            enum=list(FAULTS),
            type="string",
            title="Practise",
            description="What is wrong with the candidate, so that the check of the split sees it.",
        ),
    },
)
def ab_test_config():
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
            """The holdout plays the callers: of these customers it is known what they did."""
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            return release.parted(customers, LABEL, HOLDOUT_SHARE, SEED)

        @task(task_display_name="Stable")
        def stable(train: str, holdout: str) -> str:
            """The version that callers have; at the very first test, one of few customers."""
            older, judged = storage.read_frame(train).head(FEW), storage.read_frame(holdout)
            return release.current(lambda: release.trained("stable", older, judged, LABEL))

        @task(task_display_name="Candidate")
        def candidate(train: str, holdout: str) -> str:
            """The version that is said to be better."""
            learned, judged = storage.read_frame(train), storage.read_frame(holdout)
            return release.trained("candidate", learned, judged, LABEL)

        parts = ingest()
        old = stable(parts["train"], parts["holdout"])
        new = candidate(parts["train"], parts["holdout"])
        old >> new
        return parts["train"], parts["holdout"], old, new

    @task_group(group_id="set_up", group_display_name="② Set up")
    def set_up(train: str, holdout: str, stable: str, candidate: str):
        @task(task_display_name="Plan")
        def plan(train: str, holdout: str, stable: str, candidate: str) -> str:
            """Written down before anybody is asked: what was agreed later is no test."""
            from include.evaluation import experiments

            params = get_current_context()["params"]
            known, callers = storage.read_frame(train), len(storage.read_frame(holdout))
            baseline = (tracking.load(DAG_ID, stable).predict(known) == known[LABEL]).mean()
            lift, share = params["lift"], params["candidate_share"]
            planned = experiments.plan(baseline, lift, ALPHA, POWER, params["looks"], share)
            if planned.total > callers:
                raise ValueError(
                    f"a lift of {lift:g} on {baseline:.3f} takes {planned.total} customers, and "
                    f"there are {callers}: plan for a larger lift or less power, or wait for more."
                )
            agreed = {"alpha": ALPHA, "power": POWER, "baseline": baseline, **asdict(planned)}
            split = {"weights": {stable: 1 - share, candidate: share}, "sticky": CALLER}
            return storage.write_json(dict(params) | agreed | split, "experiment.json")

        @task(task_display_name="Split traffic", multiple_outputs=False)
        def split_traffic(plan: str, stable: str, candidate: str) -> dict:
            """Begin from stable alone, whatever was left; then give each caller a side for good."""
            agreed, gateway = storage.read_json(plan), client.gateway()
            release.alone(gateway, DAG_ID, stable)
            source, fault = release.source(DAG_ID, candidate), FAULTS[agreed["practise"]]
            gateway.start_version(DAG_ID, candidate, source, **fault)
            gateway.set_route(DAG_ID, DAG_ID, agreed["weights"], sticky=agreed["sticky"])
            return gateway.route(DAG_ID)

        planned = plan(train, holdout, stable, candidate)
        return planned, split_traffic(planned, stable, candidate)

    @task(task_display_name="③ Collect", multiple_outputs=False)
    def collect(plan: str, holdout: str, stable: str, candidate: str) -> list[dict]:
        """Ask up to each look, count whom each side got right, and end where that decides."""
        from include.evaluation import experiments
        from include.serving import load

        agreed, callers = storage.read_json(plan), storage.read_frame(holdout)
        planned = experiments.Plan(agreed["total"], agreed["bounds"])
        truth = dict(zip(callers["customer_id"].astype(str), callers[LABEL], strict=True))
        gateway = client.gateway()
        address, token = load.route_address(gateway, DAG_ID), load.token(gateway)
        _, begins = gateway.requests(DAG_ID)
        asked, looks = 0, []
        for look, bound in enumerate(planned.bounds, start=1):
            now = callers.iloc[asked : planned.asked_by(look)]
            headers = [token | {CALLER: str(each)} for each in now["customer_id"]]
            rows = now.drop(columns=LABEL).to_dict("records")
            load.drive(address, rows, RATE, len(now), headers)
            asked += len(now)
            lines, _ = gateway.requests(DAG_ID, after=begins)
            hits, answered = experiments.counted(lines, truth)
            counts = [hits[stable], answered[stable], hits[candidate], answered[candidate]]
            compared = experiments.compare(*counts, bound)
            looks.append({"asked": asked, "counts": counts, **asdict(compared)})
            if abs(compared.score) >= bound:
                break
        return looks

    @task_group(group_id="winner", group_display_name="④ Winner")
    def winner(plan: str, looks: list[dict], stable: str, candidate: str):
        @task(task_display_name="Check split")
        def check_split(plan: str, looks: list[dict], stable: str, candidate: str) -> float:
            """Who lost more answers lost them for a reason: what is left can't be compared."""
            from include.evaluation import experiments

            _, of_stable, _, of_candidate = looks[-1]["counts"]
            counts = {stable: of_stable, candidate: of_candidate}
            return experiments.split_as_planned(counts, storage.read_json(plan)["weights"])

        @task(task_display_name="Select", multiple_outputs=False)
        def select(plan: str, looks: list[dict], split: float) -> dict:
            """By the rule of the plan and by nothing else; nobody may have won."""
            import mlflow

            from include.evaluation import experiments, plots

            agreed, last = storage.read_json(plan), looks[-1]
            bounds, total = agreed["bounds"], agreed["total"]
            at, scores = [each["asked"] for each in looks], [each["score"] for each in looks]
            with tracking.run():
                found = {name: last[name] for name in ("asked", "difference", "low", "high")}
                mlflow.log_metrics(found | {"split_p_value": split})
                tracking.log_figure(plots.looks(at, scores, bounds), "looks.png")
            winner, why = None, "too little to tell the two apart"
            if split < experiments.SUSPICIOUS:
                why = f"answers are missing on one side, p = {split:.1e}"
            elif abs(last["score"]) >= bounds[len(looks) - 1]:
                winner = "candidate" if last["score"] > 0 else "stable"
                why = f"{last['difference']:+.3f} after {last['asked']} of {total} customers"
            return found | {"winner": winner, "why": why}

        @task(task_display_name="Settle")
        def settle(stable: str, candidate: str, selected: dict) -> str:
            """The winner answers everybody; without one it is stable again, as before."""
            won = selected["winner"] == "candidate"
            stays, goes = (candidate, stable) if won else (stable, candidate)
            if won:
                tracking.promote(candidate)
            gateway = client.gateway()
            gateway.set_route(DAG_ID, DAG_ID, {stays: 1.0})
            gateway.stop_version(DAG_ID, goes)
            said = f"{selected['winner'] or 'nobody'} has won: {selected['why']}"
            return release.note(f"version {stays} answers everybody; {said}")

        split = check_split(plan, looks, stable, candidate)
        return settle(stable, candidate, select(plan, looks, split))

    opened, closed = open_gateway(), close_gateway()
    train, holdout, stable, candidate = versions()
    plan, split_up = set_up(train, holdout, stable, candidate)
    looks = collect(plan, holdout, stable, candidate)
    settled = winner(plan, looks, stable, candidate)
    opened >> split_up >> looks
    settled >> closed.as_teardown(setups=opened)


ab_test_config()
