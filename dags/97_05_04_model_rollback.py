"""
> **A bad release goes back as it came: model, traffic, features and settings together, or not at
> all.** Also when the worker is killed halfway.

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | nothing: a model gateway is started for the run where none answers |
| **Runs in** | about 40 seconds |
| **Look at** | `rollback.json` in the MLflow run; the notice in the folder `notices` |

```text
① Practice           ② Trigger              ③ Restore                     ④ Tell
ingest → good → bad  trigger → settle →     apply → verify → conclude ─┬→ notify
                     list → choose                                     └→ audit
```

| Box | Shown by |
|---|---|
| Version management | `trigger.list_versions`, `trigger.choose` |
| Rollback trigger | `trigger.trigger` |
| State restoration | `restore.apply`, `restore.verify`, `restore.conclude` |
| Notification | `tell.notify`, `tell.audit` |

**Run it**: `make run DAG=97_05_04_model_rollback`. It first releases a bad model, to have something
to take back. Then with a target that fails too, on another date:
`DATE=2026-02-01 CONF='{"practise": "a bad target"}'`.

**What you should see**: the bad release learnt from 60 customers, wants fees in cents, and makes an
offer from a score of 0.4. With its model alone taken back, the good one would be asked in cents and
answer wrongly, without any error. So 20 golden requests go the way of a caller, through feature
table, route and setting, and 20 of 20 must be answered as at the release. Where the target fails
them, all four parts are again as they were, the notice says so, and the run is red.

**Why a record**: MLflow, gateway and store can't change in one step. So `apply` first writes down
from where to where. Killed at any point, its next try goes on from there to the new state; without
a next try, the next run's *Settle* goes back to the old.

**Copy it when** a release is more than a file: without group ①, which only makes the practice.

**For production**: let your alarms emit the asset `97_05_04_model_rollback/alarm` with `reason` and
`version`; an alarm about a version that is live no longer is passed over. The route goes back by
one call elsewhere too: `canaryTrafficPercent: 0` in KServe (`config/serving/kserve.yaml`), the
earlier endpoint config in SageMaker (`config/serving/sagemaker.json`), the traffic split in Vertex
AI (`config/serving/vertex.json`). Mail instead of files: the connection `notices`.
"""

import json
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import Asset, Param, dag, get_current_context, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from include import notices, retries, storage, tracking
from include.serving import client, live, onnx_export, release

DAG_ID = Path(__file__).stem
ALARM = Asset(f"{DAG_ID}/alarm")
LABEL = "churned"
HOLDOUT_SHARE = 0.25
SEED = 97
GOLDEN = 20
BAD_TARGET = "a bad target"
AFTER_ALL = "none_skipped"  # also after a failure


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.05.04 · Model Rollback Pipeline",
    doc_md=__doc__,
    schedule=[ALARM],  # part of the lesson: it waits for an alarm, and no clock starts it
    start_date=datetime(2026, 1, 4),
    catchup=False,
    max_active_runs=1,  # what is live is one thing, and one run at a time changes it
    tags=["reference", "patterns", "intermediate", "success"],
    default_args={
        "owner": "ml-catalogue",
        "retries": 2,
        "retry_delay": timedelta(seconds=5),
        "retry_policy": retries.POLICY,
        "execution_timeout": timedelta(minutes=5),
    },
    params={
        "reason": Param(
            "a rollback is practised",
            type="string",
            pattern=r"\S.{7,}",
            maxLength=1000,
            title="Reason",
            description="Why; it stands in the notice and in the record. An alarm brings its own.",
        ),
        "to_version": Param(
            None,
            type=["null", "string"],
            pattern=r"^[1-9][0-9]{0,8}$(?!\n)",
            title="To version",
            description="The version to go back to; without one, the last that was not taken back.",
        ),
        "practise": Param(
            "a bad release",
            type="string",
            enum=["a bad release", BAD_TARGET, "nothing"],
            title="Practise",
            description="Release a bad model first, and perhaps have the target fail as well; "
            "with an alarm nothing is practised.",
        ),
    },
)
def model_rollback():
    def alarms(context) -> list:
        return [event for of in context["triggering_asset_events"].values() for event in of]

    def in_earnest(context) -> bool:
        return context["params"]["practise"] == "nothing" or bool(alarms(context))

    def released(name: str, train, holdout, threshold: float) -> str:
        """Train a version, and keep what it can't do without, and what it is known to answer."""
        number = release.trained(name, train, holdout, LABEL)
        table = holdout.drop(columns=LABEL)
        asked = table.head(GOLDEN)
        scores = tracking.load(DAG_ID, number).predict_proba(asked)[:, 1].tolist()
        golden = [
            {"customer": customer, "score": score, "offer": score >= threshold}
            for customer, score in zip(asked["customer_id"].tolist(), scores, strict=True)
        ]
        settings = json.dumps({"offer_from": threshold}).encode()
        known = json.dumps(golden).encode()
        live.describe(
            number, {"features": table.to_parquet(), "settings": settings, "golden": known}
        )
        return number

    @task(task_display_name="Open gateway")
    def open_gateway() -> str:
        """Serving needs a server: the connection's where it answers, else one for this run."""
        return client.open_own()

    @task(task_display_name="Close gateway")
    def close_gateway() -> bool:
        """Whatever happened in between, leave no process behind; others' gateways stay."""
        return client.close_own()

    @task_group(group_id="practice", group_display_name="① Practice")
    def practice():
        @task.skip_if(in_earnest, "In earnest: what is live is what is taken back.")
        @task(task_display_name="Ingest", multiple_outputs=True)
        def ingest() -> dict[str, str]:
            """The holdout measures the models; its customers are who asks."""
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            return release.parted(customers, LABEL, HOLDOUT_SHARE, SEED)

        @task(task_display_name="Good release")
        def release_good(train: str, holdout: str) -> str:
            """What callers have; at the very first run there is nothing yet, and it is made."""
            champion = tracking.champion(DAG_ID)
            if champion is not None:
                return champion.number
            learnt, judged = storage.read_frame(train), storage.read_frame(holdout)
            number = released("good", learnt, judged, threshold=0.5)
            live.go(number, "the first release")
            return number

        @task(task_display_name="Bad release")
        def release_bad(train: str, holdout: str) -> str:
            """Too few customers, and everything about it differs: fees in cents, another limit."""
            learnt, judged = storage.read_frame(train).head(60), storage.read_frame(holdout)
            for rows in (learnt, judged):
                rows["monthly_fee"] = rows["monthly_fee"] * 100
            number = released("bad", learnt, judged, threshold=0.4)
            live.settle()
            live.go(number, "a bad release is practised")
            return number

        parts = ingest()
        bad = release_bad(parts["train"], parts["holdout"])
        release_good(parts["train"], parts["holdout"]) >> bad
        return parts, bad

    @task_group(group_id="trigger", group_display_name="② Trigger")
    def triggered():
        @task(task_display_name="Trigger", trigger_rule="none_failed", multiple_outputs=False)
        def trigger() -> dict:
            """An alarm with what it says, or a person with a reason: nothing goes back without."""
            context = get_current_context()
            if not (events := alarms(context)):
                return {"by": "a person", "reason": context["params"]["reason"], "version": None}
            said = max(events, key=lambda event: event.timestamp).extra
            if missing := {"reason", "version"} - said.keys():
                raise ValueError(f"the alarm lacks {', '.join(sorted(missing))} in its extra")
            return {"by": "an alarm", "reason": said["reason"], "version": str(said["version"])}

        @task(task_display_name="Settle")
        def settle() -> None:
            """Begin from one whole state, whatever an interrupted rollback has left behind."""
            live.settle()

        @task(task_display_name="List versions")
        def list_versions() -> str:
            """Every version: from which run, whole or not, live, taken back and why."""
            return storage.write_json(live.history(), "versions.json")

        @task(task_display_name="Choose", multiple_outputs=False)
        def choose(why: dict, versions: str) -> dict:
            """The last one before that nobody has taken back; a late alarm changes nothing."""
            rows = storage.read_json(versions)
            current = next(row["version"] for row in rows if row["live"])
            if why["version"] not in (None, current):
                raise AirflowSkipException(f"Version {why['version']} is live no longer.")
            able = [
                row["version"]
                for row in rows
                if row["complete"] and not row["taken_back"] and int(row["version"]) < int(current)
            ]
            wanted = get_current_context()["params"]["to_version"] or next(iter(able), None)
            if wanted not in able:
                raise ValueError(
                    f"version {current} can't go back to {wanted}: released before it, and not "
                    f"taken back, are {', '.join(able) or 'none'}"
                )
            return {"from": current, "to": wanted, "by": why["by"], "reason": why["reason"]}

        why, settled, versions = trigger(), settle(), list_versions()
        why >> settled >> versions
        return why, settled, choose(why, versions)

    @task_group(group_id="restore", group_display_name="③ Restore")
    def restore(choice: dict):
        @task(task_display_name="Apply")
        def apply(choice: dict) -> None:
            """Have the target answering first; then change all four parts, on the record."""
            number, practise = choice["to"], get_current_context()["params"]["practise"]
            errors = 2 if practise == BAD_TARGET else 0
            source = release.source(DAG_ID, number)
            client.gateway().start_version(DAG_ID, number, source, error_every=errors)
            live.carry_out(live.begin(live.target(number), choice["reason"]))

        @task(task_display_name="Verify", multiple_outputs=False)
        def verify(choice: dict) -> dict:
            """Ask as callers do, by what is live now, and compare with what is known."""
            now, golden = live.state(), live.belongings(choice["to"])["golden"]
            rows = storage.read_frame(now["features"])
            offer_from = storage.read_json(now["settings"])["offer_from"]
            right = 0
            for known in storage.read_json(golden):
                row = rows[rows["customer_id"] == known["customer"]].to_dict("records")
                with suppress(ConnectionError):  # a version's error is a wrong answer
                    answer, version = client.gateway().ask(DAG_ID, row)
                    score = answer["scores"][0]
                    alike = abs(score - known["score"]) <= onnx_export.TOLERANCE
                    as_said = version == now["alias"] and (score >= offer_from) == known["offer"]
                    right += alike and as_said
            return {"asked": GOLDEN, "right": right}

        @task(task_display_name="Conclude", trigger_rule=AFTER_ALL, multiple_outputs=False)
        def conclude(choice: dict, verified: dict) -> dict:
            """All new if every golden request was answered right; else all old."""
            good = verified is not None and verified["right"] == verified["asked"]
            record = live.conclude(good, {"choice": choice, "golden": verified})
            return {"outcome": record["outcome"], "golden": verified}

        applied, verified = apply(choice), verify(choice)
        applied >> verified
        concluded = conclude(choice, verified)
        applied >> concluded
        return concluded

    @task_group(group_id="tell", group_display_name="④ Tell")
    def tell(choice: dict, concluded: dict):
        @task(task_display_name="Notify", trigger_rule=AFTER_ALL)
        def notify(choice: dict, concluded: dict) -> None:
            """Tell people, above all when it did not work."""
            way = f"version {choice['from']} to {choice['to']}" if choice else "no version"
            outcome = concluded["outcome"] if concluded else "failed, see its tasks"
            reason = f"Reason, from {choice['by']}: {choice['reason']}" if choice else ""
            golden = f"Golden requests: {concluded['golden']}" if concluded else ""
            subject = f"Rollback of {DAG_ID}, {way}: {outcome}"
            notices.Notice(subject, f"{reason}\n{golden}")(get_current_context())

        @task(task_display_name="Audit")
        def audit(choice: dict, concluded: dict) -> str:
            """Keep the record where versions are looked at; undone is a failure, and says so."""
            import mlflow

            told = f"version {choice['from']} to {choice['to']}: {concluded['outcome']}"
            release.note(told)
            with tracking.run():
                mlflow.log_dict(live.record(), "rollback.json")
            if concluded["outcome"] != live.DONE:
                raise ValueError(f"{told}; golden requests: {concluded['golden']}")
            live.take_back(choice["from"], choice["reason"])
            return told

        return notify(choice, concluded), audit(choice, concluded)

    opened, closed = open_gateway(), close_gateway()
    practised, bad = practice()
    why, settled, choice = triggered()
    concluded = restore(choice)
    told = tell(choice, concluded)
    opened >> [practised, settled]
    bad >> why
    [*told] >> closed.as_teardown(setups=opened)


model_rollback()
