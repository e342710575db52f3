"""Chaos kills what it says, and tells a run that ended as it should from one that did not."""

import random
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import psutil
import pytest

from include import processes
from include.tools import environment
from tests.chaos import __main__ as chaos
from tests.chaos import left, outcome, play, run, verdict, victims
from tests.chaos.cases import METRICS
from tests.chaos.verdict import CLEARED, SAME, STUCK, WHOLE, WRONG, Reasons, Verdict
from tests.chaos.victims import JOB, SCORER, TASK, Kill, Task, Victim
from tests.prove.cases import CASES
from tests.scheduler import nothing_left
from tests.waiting import until

ONE = "97_01_01_ml_pipeline_structure"
OTHER = "97_01_02_feature_engineering"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SLEEPS = "import signal; signal.pause()"
IN_A_SESSION = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {SLEEPS!r}], start_new_session=True)
"""
TITLED = f"import setproctitle; setproctitle.setproctitle('airflow worker -- {{}}'); {SLEEPS}"
TABLES = """
CREATE TABLE dag_run (dag_id, run_id, state);
CREATE TABLE task_instance (
    id, dag_id, run_id, task_id, map_index, state, try_number, start_date, end_date
);
"""


def service(name):
    return Victim(name, name, 1)


def killed(victim, seconds=0):
    return Kill(NOW + timedelta(seconds=seconds), victim)


@pytest.fixture
def home(tmp_path):
    """A folder as `make up` has one, with the tables that are looked at."""
    (tmp_path / "airflow").mkdir()
    with closing(sqlite3.connect(tmp_path / "airflow" / "airflow.db")) as database:
        database.executescript(TABLES)
    yield tmp_path
    folder = tmp_path / "services"
    processes.stop(folder, processes.recorded(folder), grace=2)


def write(home, statement, *values):
    with closing(sqlite3.connect(home / "airflow" / "airflow.db")) as database, database:
        database.execute(statement, values)


# Victims


TASKS = [Victim(TASK, f"task {number}", number) for number in range(5)]
OTHERS = [service("scheduler"), *(Victim(JOB, f"job {number}", number) for number in range(9))]


def draws(victims_there, number=2000, seed=1):
    draw = random.Random(seed)  # noqa: S311
    return [victims.choose(draw, victims_there) for _ in range(number)]


def test_half_of_the_kills_hit_tasks_and_each_other_kind_is_as_likely():
    kinds = Counter(victim.kind for victim in draws(TASKS + OTHERS))
    assert kinds[TASK] == pytest.approx(1000, abs=100)
    assert kinds["scheduler"] == pytest.approx(500, abs=80)
    assert len({victim.name for victim in draws(TASKS + OTHERS)}) == len(TASKS + OTHERS)


def test_the_same_seed_gives_the_same_victims_in_whatever_order_they_are_found():
    assert draws(TASKS + OTHERS) == draws(OTHERS[::-1] + TASKS[::-1])
    assert draws(TASKS + OTHERS) != draws(TASKS + OTHERS, seed=2)


def test_where_no_task_runs_something_else_is_killed():
    assert {victim.kind for victim in draws(OTHERS)} == {"scheduler", JOB}
    assert {victim.kind for victim in draws(TASKS)} == {TASK}
    assert draws([], 1) == [None]


def test_a_running_task_is_found_by_the_title_of_its_process_and_killed_with_its_group(home):
    number = "01a2211e-493a-70e1-80ba-b9538d68f333"
    row = (number.replace("-", ""), ONE, "chaos-2026-03-07", "model.train", 3)
    write(home, "INSERT INTO task_instance VALUES (?, ?, ?, ?, ?, 'running', 1, '', '')", *row)
    child = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEPS!r}]); "
    command = [sys.executable, "-c", child + TITLED.format(number)]
    tasks = victims.running(home)
    with subprocess.Popen(command, start_new_session=True) as process:
        (victim,) = until(lambda: victims.found(home, tasks), "the task's process")
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        assert victim.task == Task(ONE, "chaos-2026-03-07", "model.train[3]")
        assert (victim.pid, victim.group, len(family)) == (process.pid, True, 2)
        assert victims.kill(victim)
    processes.wait(family, 10)
    assert not any(map(processes.is_running, family))
    assert victims.found(home, tasks) == []


def test_a_victim_that_has_ended_by_itself_is_no_kill():
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    assert not victims.kill(Victim("mlflow", "mlflow", process.pid))


def test_services_scorers_and_jobs_are_found_and_the_supervisor_is_not(home):
    folder = home / "services"
    for name in ("gateway", "sagemaker", "mlflow"):
        processes.start(folder, name, [sys.executable, "-c", IN_A_SESSION], {})
    processes.start(folder, "supervisor", [sys.executable, "-c", SLEEPS], {})
    found = until(lambda: victims.found(home, {}), "all", lambda those: len(those) == 5)
    assert {(victim.kind, victim.service, victim.group) for victim in found} == {
        ("gateway", "", False),
        ("mlflow", "", False),
        ("sagemaker", "", False),
        (SCORER, "gateway", True),
        (JOB, "sagemaker", True),
    }


def test_a_service_is_killed_alone_and_what_it_started_is_left(home):
    process = processes.start(home / "services", "mlflow", [sys.executable, "-c", IN_A_SESSION], {})
    until(process.family, "a parent and its child", lambda family: len(family) == 2)
    (victim,) = victims.found(home, {})
    victims.kill(victim)
    processes.wait([psutil.Process(process.pid)], 10)
    assert not process.alive()
    assert len(process.family()) == 1


def test_a_kill_is_told_with_the_tasks_that_ran():
    mine, another = Task(ONE, "chaos-2026-03-07", "train"), Task(OTHER, "chaos-2026-03-14", "fit")
    told = str(Kill(NOW, Victim(TASK, f"task {mine}", 1, task=mine), (mine, another)))
    assert told == f"killed task {mine}; at work: {another}"
    assert str(killed(service("mlflow"))) == "killed mlflow; at work: no other task"


# Reasons


def failed(kind, message, filename="/x/site-packages/urllib3/pool.py", lineno=1):
    frames = [{"filename": str(filename), "lineno": lineno, "name": "f"}]
    told = {"exc_type": kind, "exc_value": message, "frames": frames}
    return [{"event": "Task failed with exception", "level": "error", "error_detail": [told]}]


def place(text):
    """A line of the catalogue's own code."""
    file = environment.PROJECT / "include" / "serving" / "client.py"
    lines = file.read_text().splitlines()
    return file, next(number for number, line in enumerate(lines, 1) if text in line)


def test_an_exception_that_we_raise_is_a_reason():
    errors = failed("ConnectionError", "no gateway answers", *place("raise ConnectionError("))
    assert Reasons().of(errors, []) == "ConnectionError: no gateway answers"


def test_an_exception_that_our_code_only_runs_into_is_none():
    errors = failed("KeyError", "'X-Next-Offset'", *place("X-Next-Offset"))
    assert Reasons().of(errors, [killed(service("mlflow"))]) is None


@pytest.mark.parametrize(
    ("victim", "errors", "reason"),
    [
        (service("mlflow"), failed("MlflowException", "API request to MLflow failed"), "mlflow"),
        (service("vertex"), failed("RetryError", "connect to 127.0.0.1:24011"), "vertex"),
        (Victim(JOB, "job of sagemaker", 1, service="sagemaker"), failed("E", "S3"), "job of sage"),
        (
            Victim(SCORER, "scorer", 1, service="gateway"),
            failed("E", "version 3 is away"),
            "scorer",
        ),
        (
            service("api-server"),
            failed("ConnectError", "refused", "/x/site-packages/airflow/sdk/api/client.py"),
            "api-server",
        ),
    ],
)
def test_an_exception_that_names_a_killed_service_is_a_reason(victim, errors, reason):
    reasons = Reasons({"vertex": {":24011"}})
    assert reasons.of(errors, [killed(victim)]).startswith(reason)
    assert reasons.of(errors, []) is None
    assert reasons.of(errors, [killed(service("scheduler"))]) is None


def test_a_task_without_an_exception_has_a_reason_only_where_it_was_killed():
    said = [{"event": "Process exited abnormally", "level": "error"}]
    assert Reasons().of(said, [killed(service("scheduler"))]) == "killed: scheduler"
    assert Reasons().of([], [killed(Victim(TASK, "task", 1))]) == "killed: task"
    assert Reasons().of(said, [killed(service("vertex"))]) is None
    assert Reasons().of([], []) is None


# What a run came to


class Registry:
    """As much of MLflow's client as is asked."""

    def search_model_versions(self, query):
        """Two versions of one run."""
        assert query == f"name = '{ONE}'"
        tags = {"airflow.run_key": "20260307T000000"}
        return [
            SimpleNamespace(version=number, tags=tags | {"sha256": digest})
            for number, digest in (("1", "aaa"), ("2", "bbb"))
        ]

    def get_registered_model(self, name):
        """With one alias."""
        return SimpleNamespace(aliases={"champion": "2"})


def test_versions_are_known_by_the_digests_of_their_models():
    known = outcome.digests(Registry(), ONE)
    assert outcome.aliases(Registry(), ONE, known) == {"champion": "bbb"}
    route = {"model": ONE, "weights": {"1": 5.0, "9": 95.0}, "sticky": None, "shadow": "2"}
    table = {ONE: route, "another": route | {"model": OTHER}}
    assert outcome.routes(table, ONE, known) == {
        ONE: route | {"weights": {"aaa": 5.0, "gone": 95.0}, "shadow": "bbb"}
    }


def test_metrics_that_vary_are_left_out_and_the_others_compared_to_nine_digits():
    measured = {"taskflow.seconds": 3.1, "auc": 0.7123456789012}
    assert outcome.metrics("97_02_01_local_training", measured) == {"auc": "0.712345679"}
    assert outcome.metrics(ONE, measured).keys() == measured.keys()
    assert METRICS.keys() <= CASES.keys()


def test_what_differs_is_told_with_both_values():
    one = {"states": {"a": "success", "b": "skipped"}, "routes": {}}
    other = {"states": {"a": "success", "b": "success", "c": "success"}, "routes": {}}
    assert outcome.differences(one, one) == {}
    assert outcome.differences(one, other) == {
        "states": {"b": ("skipped", "success"), "c": (None, "success")}
    }


# The play


class Clock:
    """Time passes only while somebody sleeps."""

    now = 0.0

    def monotonic(self):
        """The time."""
        return self.now

    def sleep(self, seconds):
        """Let time pass."""
        self.now += seconds


class Airflow:
    """Takes orders; a pipeline's runs and clears end as its script says, and None is never."""

    def __init__(self, home, scripts):
        """Know how each run is to end."""
        self.home, self.scripts = home, scripts
        self.orders, self.away, self.api = [], 0, self

    def call(self, method, path, body):
        """Start a run, or clear it: it ends at once."""
        if self.away:
            self.away -= 1
            raise ConnectionRefusedError("no API server")
        dag_id, order = path.split("/")[2], path.split("/")[3:]
        if not order:
            return
        self.orders.append((order[0], dag_id, body))
        of_run = dag_id, body["dag_run_id"]
        write(self.home, "DELETE FROM dag_run WHERE dag_id = ? AND run_id = ?", *of_run)
        write(self.home, "DELETE FROM task_instance WHERE dag_id = ? AND run_id = ?", *of_run)
        state = next(self.scripts[dag_id])
        write(self.home, "INSERT INTO dag_run VALUES (?, ?, ?)", *of_run, state or "running")
        task = ("INSERT INTO task_instance VALUES (1, ?, ?, 'train', -1, ?, 3, ?, ?)", *of_run)
        write(self.home, *task, state or "running", str(datetime.now(UTC)), None)

    def unwell(self):
        """Nobody."""
        return []

    def addresses(self):
        """None."""
        return {}


@pytest.fixture
def played(home, monkeypatch):
    """Plays with runs that end as it is told, and without kills; returns the play and Airflow."""
    clock, seen = Clock(), {}
    for module in (play, run):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(play.victims, "running", lambda home: {})
    monkeypatch.setattr(play.victims, "found", lambda home, tasks: [])
    monkeypatch.setattr(play.outcome, "of", lambda *asked: seen[asked[2]])

    def disturbed(*ends, comes_to=None, dag_id=ONE):
        """Undisturbed twice, then these ends, each of a run or of a clearing of it."""
        airflow = Airflow(home, {dag_id: iter(["success", "success", *ends])})
        whole = play.Play(airflow, [dag_id], 1, lambda line: None)
        seen.update({f"chaos-{play._date(week):%Y-%m-%d}": {"states": {}} for week in range(9)})
        whole.calm()
        seen["chaos-2026-03-14"] = {"states": comes_to or {}}
        whole.storm(0.5)
        whole.quiet()
        return whole, airflow

    return disturbed


def results(whole):
    return [each.result for each in whole.verdicts]


def test_a_run_that_ends_as_undisturbed_is_the_same(played):
    whole, airflow = played("success")
    assert results(whole) == [SAME]
    dates = [body["logical_date"][:10] for _, _, body in airflow.orders]
    assert dates == ["2026-02-28", "2026-03-07", "2026-03-14"]


def test_a_run_that_ends_otherwise_is_wrong_and_the_difference_is_told(played):
    whole, _ = played("success", comes_to={"train": "skipped"})
    assert results(whole) == [WRONG]
    assert "{'states': {'train': (None, 'skipped')}}" in whole.verdicts[0].why


def with_reason(monkeypatch, reason):
    monkeypatch.setattr(Reasons, "of", lambda *_: reason)


def test_a_run_that_failed_with_a_reason_is_cleared_from_the_failed_tasks_on(played, monkeypatch):
    with_reason(monkeypatch, "mlflow was killed")
    whole, airflow = played("failed", "success")
    assert results(whole) == [CLEARED]
    what, _, body = airflow.orders[-1]
    assert what == "clearTaskInstances"
    assert body["task_ids"] == ["train"]
    assert body["include_downstream"]
    assert not body["dry_run"]


def test_a_run_that_fails_again_is_cleared_as_a_whole(played, monkeypatch):
    with_reason(monkeypatch, "mlflow was killed")
    whole, airflow = played("failed", "failed", "success")
    assert results(whole) == [WHOLE]
    assert "task_ids" not in airflow.orders[-1][2]


def test_a_run_that_is_not_green_when_cleared_is_wrong(played, monkeypatch):
    with_reason(monkeypatch, "mlflow was killed")
    whole, _ = played("failed", "failed", "failed")
    assert results(whole) == [WRONG]
    assert (
        "not green when all of it was cleared: train (try 3): mlflow was killed"
        in whole.verdicts[0].why
    )


def test_a_cleared_run_that_ends_otherwise_is_wrong(played, monkeypatch):
    with_reason(monkeypatch, "mlflow was killed")
    whole, _ = played("failed", "success", comes_to={"train": "skipped"})
    assert results(whole) == [WRONG]


def test_a_run_that_failed_without_a_reason_is_wrong_also_when_it_gets_green(played):
    whole, _ = played("failed", "success")
    assert results(whole) == [WRONG]
    assert "failed without a reason: train (try 3): no reason" in whole.verdicts[0].why


def test_a_run_that_stands_still_is_stuck_and_its_tasks_are_told(played):
    whole, _ = played(None)
    assert results(whole) == [STUCK]
    assert "run running, tasks {'train': 'running'}" in whole.verdicts[0].why
    assert list(whole.turn) == []


def test_a_pipeline_that_fails_undisturbed_is_wrong_and_not_disturbed(home, played):
    airflow = Airflow(home, {ONE: iter(["failed"])})
    whole = play.Play(airflow, [ONE], 1, lambda line: None)
    whole.calm()
    assert results(whole) == [WRONG]
    assert whole.storm(10) < 10


def test_an_order_that_met_no_server_is_given_again(home):
    airflow = Airflow(home, {ONE: iter(["success"])})
    airflow.away = 2
    started = run.Run(ONE, play.FIRST)
    for _ in range(2):
        started.order(airflow)
        assert not started.asked
        assert started.told == "ConnectionRefusedError: no API server"
    started.order(airflow)
    assert started.asked
    assert len(airflow.orders) == 1


def test_a_run_whose_start_was_answered_by_nobody_is_not_started_twice(home):
    started = run.Run(ONE, play.FIRST)
    write(home, "INSERT INTO dag_run VALUES (?, ?, 'queued')", ONE, started.run_id)
    airflow = Airflow(home, {})
    airflow.away = 1
    started.order(airflow)
    assert started.asked
    assert airflow.orders == []


def test_a_run_meets_the_kills_of_services_and_of_its_own_tasks():
    mine, another = Task(ONE, "chaos-2026-02-28", "train"), Task(OTHER, "chaos-2026-02-28", "fit")
    kills = [
        killed(service("mlflow"), -1),
        killed(service("mlflow"), 1),
        killed(Victim(TASK, "task", 1, task=mine), 2),
        killed(Victim(TASK, "task", 1, task=another), 3),
    ]
    started = run.Run(ONE, play.FIRST, began=NOW)
    assert started.met(kills) == kills[1:3]
    assert started.met(kills, ["evaluate"]) == kills[1:2]


# The end


def test_the_summary_counts_for_each_pipeline_and_for_all():
    told = verdict.summary([
        Verdict(ONE, SAME, 2),
        Verdict(ONE, CLEARED, 3),
        Verdict(OTHER, STUCK, 1, "it stands still"),
    ])
    rows = [line.split() for line in told.splitlines()[:4]]
    assert rows == [
        ["pipeline", "runs", "kills", "met", SAME, CLEARED, WHOLE, WRONG, STUCK],
        [ONE, "2", "5", "1", "1", "0", "0", "0"],
        [OTHER, "1", "1", "0", "0", "0", "0", "1"],
        ["all", "3", "6", "1", "1", "0", "0", "1"],
    ]


def test_half_written_files_from_before_the_last_kill_are_found(tmp_path):
    part = tmp_path / "artifacts" / ".model.skops.abc.1.part"
    part.parent.mkdir()
    part.touch()
    after = datetime.now(UTC) + timedelta(seconds=5)
    assert left.parts(tmp_path, after) == [part]
    assert left.parts(tmp_path, after - timedelta(seconds=60)) == []
    assert left.parts(tmp_path, None) == []


def test_leases_and_resources_that_were_not_there_before_are_told():
    before = {("vertex", "buckets", "old")}
    there = SimpleNamespace(
        gateway=lambda path: {ONE: {"owner": "a run", "seconds_left": 9.0}},
        resources=lambda: before | {("vertex", "models", "churn")},
    )
    assert left.running(there, before) == [
        f"{ONE} is still leased to 'a run'",
        "vertex has models that nobody took away: churn",
    ]


def test_a_process_that_works_below_the_folder_is_left_behind(home, monkeypatch):
    for port in ("AIRFLOW_PORT", "GATEWAY_PORT", "MLFLOW_PORT"):
        monkeypatch.setenv(port, str(processes.free_port()))
    assert nothing_left.left(home) == []
    own = home / "airflow" / "gateways" / ONE
    process = processes.start(own, "gateway", [sys.executable, "-c", SLEEPS], {})
    try:
        assert [line.split()[0] for line in nothing_left.left(home)] == [str(process.pid)]
    finally:
        processes.stop(own, [process], grace=2)


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        (("97_01_01, 97_05_02,", ""), [ONE, "97_05_02_blue_green_deployment"]),
        (("", "97.6"), ["97_06_01_training_serving_skew_antipattern"]),
    ],
)
def test_pipelines_are_chosen_by_their_names_or_their_section(asked, there):
    assert chaos.chosen(*asked) == there
    assert len(chaos.chosen("", "")) == len(list(environment.DAGS.glob("97_*.py")))


def test_a_time_that_is_none_is_refused(capsys):
    for minutes in ("0", "-1", "nan", "inf", "many"):
        with pytest.raises(SystemExit):
            chaos.main(["--minutes", minutes])
        assert "--minutes" in capsys.readouterr().err
