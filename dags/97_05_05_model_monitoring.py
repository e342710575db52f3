"""
> **A served model is watched day by day: what it answered, how fast, and, once labels arrive, how
> rightly; who must know is told, and once.**

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | nothing: a model gateway is started for the run where none answers |
| **Runs in** | about 45 seconds, 4 of them under traffic |
| **Look at** | `windows.png` in the MLflow run; the notice in the folder `notices` |

```text
① Practice        ② Log               ④ Alerts                  ⑤ Retraining
release_first →   append → read →     read_rules → judge ─┬→    decide ─┬→ trigger
call → deliver    join_labels ──┬───────────────────╯     ├→ tell       ╰→ keep
                  ③ Measure     ├→ publish                │
                                ╰→ by_day ────────────────┴→ ⑥ draw
```

| Box | Shown by |
|---|---|
| Prediction logging | `log.append`, `log.read` |
| Performance metrics | `log.join_labels`, `measure.by_day`, `measure.publish`, `draw` |
| Alert configuration | `alerts.read_rules`, `alerts.judge`, `alerts.tell` |
| Retraining trigger | `retraining.decide`, `retraining.trigger`, `retraining.keep` |

**Run it**: `make run DAG=97_05_05_model_monitoring DATE=2026-02-01`, a week in which calls for help
come to mean the opposite. Then `DATE=2026-02-02 CONF='{"planted": "a slow version"}'`.

**What you should see**: 638 lines are delivered, 48 of them the second time, 20 late, and a day is
lost; the log has 590 rows, each request once. Labels take up to three days: each AUC stands beside
the share that is labelled. It falls from 0.74 to 0.64; one notice says so, and a new model is
asked for. The same date again tells nobody anything; the next day finds the lost one, while
`ranks_badly` cools down. Of 250 such weeks that rule finds 241; of 250 good ones it blames 3.

**Copy it when** a model is live, and nobody looks at it every day.

**For production**: `schedule="@daily"`, no group ①; put the gateway's log into `delivered/`; let
*Join labels* ask who knows. Prometheus reads `metrics/` by node_exporter's textfile collector; the
trainer has `schedule=[Asset("97_05_05_model_monitoring/retraining")]`. `deadline=DeadlineAlert(
DeadlineReference.DAGRUN_QUEUED_AT, timedelta(hours=1), AsyncCallback(…))` tells of a late monitor;
add it last, since in 3.3.2 it breaks `airflow dags test`.
"""

from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import Asset, Metadata, Param, dag, get_current_context, task, task_group

from include import ledger, notices, retries, storage, tracking
from include.serving import client, release

DAG_ID = Path(__file__).stem
PROJECT = Path(__file__).parents[1]
RULES = "config/alerts.yaml"
RETRAINING = Asset(f"{DAG_ID}/retraining")
DAYS = 7  # that are looked at, the run's own the last of them
LOST = 5  # days ago: the day that the practice loses on its way here
# What is wrong, and since how many days. Days that were played before stay as they were.
PLANTED = {
    "nothing": {"since": 0},
    "calls mean the opposite": {"since": 5, "truth": "meaning"},
    "a slow version": {"since": 1, "delay_seconds": 2.5},
    "few callers": {"since": 1, "callers": 20},
}


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.05.05 · Model Monitoring Pipeline",
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
        "planted": Param(
            "calls mean the opposite",
            enum=list(PLANTED),
            type="string",
            title="Planted",
            description="What goes wrong on the last days, as far as they are not played yet.",
        ),
    },
)
def model_monitoring():
    def days(length: int = DAYS) -> list:
        """The run's day and those before it, the oldest first."""
        run = get_current_context()["dag_run"]
        today = (run.logical_date or run.run_after).date()
        return [today - timedelta(days=ago) for ago in reversed(range(length))]

    def new(verdicts: str, book: str) -> list:
        """Broken rules that this book has no entry for, of today or of their cool-down."""
        from include.evaluation import alerts

        return alerts.new(storage.read_json(verdicts), ledger.said(book), days()[-1])

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
        @task(task_display_name="Release")
        def release_first() -> str:
            """The version that callers have; at the very first run there is none: make it."""
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook

            from include.serving import practice

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            return release.current(lambda: practice.first(customers))

        @task(task_display_name="Call")
        def call(version: str) -> int:
            """Real requests to the real model: a hundred customers for each day not played yet."""
            from include.serving import practice

            trouble = dict(PLANTED[get_current_context()["params"]["planted"]])
            troubled = days(trouble.pop("since"))
            plans = [(day, trouble if day in troubled else {}) for day in days()]
            asked = sum(practice.play(version, day, **plan) for day, plan in plans)
            practice.answering(version)
            return asked

        @task(task_display_name="Deliver")
        def deliver() -> None:
            """Ship the gateway's log as badly as it happens: lines twice or late, a day not yet."""
            from include.serving import practice

            practice.deliver(days(), lost=days()[-1] - timedelta(days=LOST))

        version = release_first()
        called = call(version)
        return version, called, called >> deliver()

    @task_group(group_id="log", group_display_name="② Log")
    def log():
        @task(task_display_name="Append", multiple_outputs=False)
        def append() -> dict:
            """Every request once, under the day of its answer, whatever brought it when."""
            from include.serving import prediction_log

            return prediction_log.append(prediction_log.delivered(days()))

        @task(task_display_name="Read")
        def read() -> str:
            """The window as it is known now; who looks at it later sees what was judged."""
            from include.serving import prediction_log

            return storage.write_frame(prediction_log.read(days()), "window.parquet")

        @task(task_display_name="Join labels")
        def join_labels(window: str) -> str:
            """Who left, as far as it was known on the run's day; the others have no label yet."""
            from include.serving import practice

            known = practice.outcomes(days(), by=days()[-1])
            rows = storage.read_frame(window).merge(known, how="left", validate="many_to_one")
            return storage.write_frame(rows, "labelled.parquet")

        appended, window = append(), read()
        appended >> window
        return appended, join_labels(window)

    @task_group(group_id="measure", group_display_name="③ Measure")
    def measure(version: str, labelled: str):
        @task(task_display_name="By day")
        def by_day(labelled: str) -> str:
            """Volume, latency, and who was right; a day that is missing is a row of its own."""
            from include.evaluation import monitoring

            rows = storage.read_frame(labelled)
            return storage.write_frame(monitoring.by_day(rows, days()), "by_day.parquet")

        @task(task_display_name="Publish")
        def publish(version: str, labelled: str) -> str:
            """For Prometheus, in one file that is whole at any time; old days don't replace new."""
            from include.evaluation import monitoring
            from include.serving import prediction_log

            rows, today = storage.read_frame(labelled), days()[-1]
            windows = {length: monitoring.measured(rows, days(length)) for length in (1, DAYS)}
            text = monitoring.exposition(windows, {"model": DAG_ID, "version": version}, today)
            if prediction_log.newest() <= today:
                storage.write_to(storage.store() / DAG_ID / "metrics" / f"{DAG_ID}.prom", text)
            return storage.write_bytes(text, "metrics.prom")

        publish(version, labelled)
        return by_day(labelled)

    @task_group(group_id="alerts", group_display_name="④ Alerts")
    def alerts(labelled: str):
        @task(task_display_name="Read rules")
        def read_rules() -> str:
            """Refuse a wrong rule before it keeps quiet; a copy, since the file may be edited."""
            import yaml

            from include.evaluation import alerts, monitoring

            try:
                table = yaml.safe_load((PROJECT / RULES).read_text(encoding="utf-8"))
                alerts.rules(table, monitoring.METRICS, DAYS)
            except (yaml.YAMLError, ValueError) as error:
                raise ValueError(f"{RULES}: {error}") from None
            return storage.write_json(table, "rules.json")

        @task(task_display_name="Judge")
        def judge(rules: str, labelled: str) -> str:
            """Each rule over its own window; what can't be measured is unknown, not good."""
            from include.evaluation import alerts, monitoring

            rows = storage.read_frame(labelled)
            verdicts = [
                alerts.judged(rule, monitoring.measured(rows, days(rule.days)).get(rule.metric))
                for rule in alerts.rules(storage.read_json(rules), monitoring.METRICS, DAYS)
            ]
            return storage.write_json(verdicts, "verdicts.json")

        @task(task_display_name="Tell")
        def tell(verdicts: str) -> list[str]:
            """One message of all that is new. A try that dies before its note tells it again."""
            from include.evaluation import alerts

            fresh, today = new(verdicts, "told"), days()[-1]
            names = [verdict["name"] for verdict in fresh]
            if fresh:
                text = "\n".join(alerts.sentence(verdict) for verdict in fresh)
                notices.Notice(f"{DAG_ID} on {today}: {', '.join(names)}", text)(
                    get_current_context()
                )
                ledger.note("told", names, today)
            return names

        verdicts = judge(read_rules(), labelled)
        tell(verdicts)
        return verdicts

    @task_group(group_id="retraining", group_display_name="⑤ Retraining")
    def retraining(version: str, labelled: str, verdicts: str):
        @task.branch(task_display_name="Decide")
        def decide(verdicts: str) -> str:
            """A model is asked for where a rule says so, and not again while the rule cools."""
            asks = any(verdict["then"] == "retrain" for verdict in new(verdicts, "retraining"))
            return "retraining.trigger" if asks else "retraining.keep"

        @task(task_display_name="Trigger", outlets=[RETRAINING])
        def trigger(version: str, labelled: str, verdicts: str):
            """Say what broke which rule, and where the window with its labels is."""
            because = {
                verdict["name"]: verdict["value"]
                for verdict in storage.read_json(verdicts)
                if verdict["broken"] and verdict["then"] == "retrain"
            }
            ledger.note("retraining", because, days()[-1])
            yield Metadata(RETRAINING, {"version": version, "because": because, "window": labelled})

        @task(task_display_name="Keep")
        def keep(version: str) -> str:
            """Nothing to do, and say so: silence could also mean that nobody looked."""
            return f"No rule asks for a new model, or one was asked for; version {version} stays."

        decide(verdicts) >> [trigger(version, labelled, verdicts), keep(version)]

    @task(task_display_name="⑥ Draw")
    def draw(by_day: str, verdicts: str) -> None:
        """One look at the week; the dashed lines are those of the rules."""
        from include.evaluation import monitoring

        judged = {each["metric"]: each["threshold"] for each in storage.read_json(verdicts)}
        picture = monitoring.picture(storage.read_frame(by_day), judged, f"The last {DAYS} days")
        with tracking.run():
            tracking.log_figure(picture, "windows.png")

    opened, closed = open_gateway(), close_gateway()
    version, called, delivered = practice()
    appended, labelled = log()
    opened >> called >> closed.as_teardown(setups=opened)
    delivered >> appended
    verdicts = alerts(labelled)
    retraining(version, labelled, verdicts)
    draw(measure(version, labelled), verdicts)


model_monitoring()
