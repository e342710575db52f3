"""97.5.5 Model Monitoring Pipeline: nothing is counted twice, nobody is told twice."""

import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest
from airflow.sdk.exceptions import ParamValidationError
from prometheus_client.parser import text_string_to_metric_families
from sklearn.metrics import roc_auc_score

from include import notices, runs, storage, tracking
from include.data import live
from include.serving import client, prediction_log
from tests.conftest import HOME
from tests.services import no_gateway

DAG = "97_05_05_model_monitoring"
TODAY = datetime(2026, 2, 1, tzinfo=UTC)
WEEK = [date(2026, 1, 26) + timedelta(days=day) for day in range(7)]
LOST = date(2026, 1, 27)


@pytest.fixture(scope="module", autouse=True)
def connected(model_gateway):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_MODEL_GATEWAY", model_gateway.connection)
        yield


@pytest.fixture(scope="module")
def run(run_dag, connected):
    """A week of which the last five days went wrong."""
    return run_dag(DAG, logical_date=TODAY)


@pytest.fixture(scope="module")
def again(run, run_dag):
    """The same date once more; its day before is delivered another time, in another file."""
    file = store() / "delivered" / "2026-01-31.again.jsonl"
    file.write_text((store() / "delivered" / "2026-01-31.jsonl").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notices.Notice, "notify", refuse)
        return run_dag(DAG, logical_date=TODAY)


@pytest.fixture(scope="module")
def next_day(again, run_dag):
    """A slow version; the worker dies when the log has got one of several new files."""
    write_to, done = storage.write_to, []

    def dies(target, content):
        if runs.here().task_id == "log.append" and len(done) < 2:
            done.append(target)
            if len(done) == 2:
                raise ConnectionError("the worker is gone")
        return write_to(target, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "write_to", dies)
        return run_dag(
            DAG, logical_date=TODAY + timedelta(days=1), conf={"planted": "a slow version"}
        )


@pytest.fixture(scope="module")
def cooled(next_day, run_dag):
    """Three days after the first alert, which is as long as it is to be quiet."""
    return run_dag(DAG, logical_date=TODAY + timedelta(days=3), conf={"planted": "few callers"})


@pytest.fixture(scope="module")
def quiet(cooled, run_dag):
    """An earlier week without any trouble, with a gateway of its own."""
    with no_gateway() as nobody:
        finished = run_dag(
            DAG, logical_date=datetime(2026, 1, 17, tzinfo=UTC), conf={"planted": "nothing"}
        )
    return finished, nobody


def refuse(*_):
    raise AssertionError("somebody is told twice")


def store():
    return HOME / "artifacts" / DAG


def verdicts(run):
    return {each["name"]: each for each in storage.read_json(run.reference("alerts.judge"))}


def notice(run):
    return (HOME / "notices" / f"{DAG}.{run.key}.alerts.tell.txt").read_text()


@pytest.fixture
def logged(monkeypatch):
    """What the log says of some days, read from outside of any task."""

    def read(days):
        place = runs.Place(DAG, "20300101T000000", "look", -1, 1, "")
        with monkeypatch.context() as patch:
            patch.setattr(runs, "here", lambda: place)
            return prediction_log.read(days)

    return read


@pytest.mark.shows("97.5.5", "Prediction logging")
def test_every_request_that_was_delivered_is_in_the_log_once_under_its_day(run):
    assert run.xcom("practice.call") == 700
    counted = {"delivered": 638, "appended": 590, "twice": 48, "late": 20, "refused": 0}
    assert run.xcom("log.append") == counted
    rows = run.frame("log.read")
    assert rows.request_id.is_unique
    counted = Counter(rows.day)
    late = {WEEK[0]: 95, LOST: 0, WEEK[-1]: 95}
    assert {day: counted[str(day)] for day in WEEK} == {day: late.get(day, 100) for day in WEEK}
    folders = sorted(file.parent.name for file in store().glob("prediction_log/*/*.parquet"))
    assert folders[:6] == [f"day={day}" for day in WEEK if day != LOST]


@pytest.mark.shows("97.5.5", "Prediction logging")
def test_what_is_logged_is_what_the_model_answered_to_real_requests(run):
    rows, version = run.frame("log.read"), run.xcom("practice.release_first")
    noted, _ = client.connected().requests(DAG)
    answers = {line["request_id"]: line["answer"]["scores"][0] for line in noted}
    assert rows.score.tolist() == [answers[name] for name in rows.request_id]
    assert set(rows.version) == {version}
    asked, _ = live.day("meaning", WEEK[-1], 100)
    scores = tracking.load(DAG, version).predict_proba(asked)[:, 1]
    of_day = rows[rows.day == str(WEEK[-1])].set_index("customer_id").score
    expected = dict(zip(asked.customer_id, scores, strict=True))
    assert of_day.tolist() == pytest.approx([expected[each] for each in of_day.index], abs=1e-5)


@pytest.mark.shows("97.5.5", "Performance metrics")
def test_who_was_right_is_measured_over_the_labels_that_were_known_that_day(run):
    table, rows = run.frame("measure.by_day"), run.frame("log.join_labels")
    assert table.labelled.tolist() == pytest.approx(
        [1, float("nan"), 1, 1, 0.67, 0.34, 0], nan_ok=True
    )
    assert table.requests.tolist() == pytest.approx(
        [95, float("nan"), 100, 100, 100, 100, 95], nan_ok=True
    )
    _, left = live.day("meaning", WEEK[3], 100)
    of_day = rows[rows.day == str(WEEK[3])].sort_values("customer_id")
    assert of_day.label.tolist() == left.churned.tolist()
    assert table.roc_auc[str(WEEK[3])] == roc_auc_score(left.churned, of_day.score)
    assert table.roc_auc.isna().tolist() == [False, True, False, False, False, True, True]
    assert (table.p50_ms.dropna() > 0).all()
    assert table.missing_days.tolist() == [0, 1, 0, 0, 0, 0, 0]


@pytest.mark.shows("97.5.5", "Performance metrics")
def test_prometheus_can_read_the_measures_and_an_older_day_does_not_replace_them(
    run, cooled, quiet
):
    def published(text):
        return {
            (sample.name, sample.labels.get("days")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    table = run.frame("measure.by_day")
    of_run = published(storage.read_bytes(run.reference("measure.publish")).decode())
    assert of_run["model_window_requests_per_day", "1"] == 95
    assert of_run["model_window_labelled_ratio", "7"] == pytest.approx(396 / 590)
    last = table.p95_ms[str(WEEK[-1])] / 1000
    assert of_run["model_window_latency_p95_seconds", "1"] == pytest.approx(last)
    latest = (store() / "metrics" / f"{DAG}.prom").read_text()
    assert latest.encode() == storage.read_bytes(cooled.reference("measure.publish"))
    assert published(latest)["model_window_day_seconds", None] == cooled.logical_date.timestamp()
    assert published(latest)["model_window_requests_per_day", "1"] == 15
    older = published(storage.read_bytes(quiet[0].reference("measure.publish")).decode())
    assert older["model_window_day_seconds", None] < of_run["model_window_day_seconds", None]


@pytest.mark.shows("97.5.5", "Alert configuration")
def test_rules_of_the_file_are_judged_over_their_own_windows_and_people_are_told(run):
    judged, rows = verdicts(run), run.frame("log.join_labels")
    known = rows[rows.day > str(LOST)].dropna(subset="label")
    assert judged["ranks_badly"]["value"] == roc_auc_score(known.label, known.score)
    assert judged["ranks_badly"]["value"] < 0.68
    assert judged["few_callers"]["value"] == 95
    broken = {name for name, each in judged.items() if each["broken"]}
    assert broken >= {"ranks_badly", "gap_in_log"}
    assert not broken & {"failing", "few_callers"}
    assert set(run.xcom("alerts.tell")) == broken
    assert notice(run).startswith(f"{DAG} on 2026-02-01: ")
    assert "warning: gap_in_log: missing_days over 7 days is 1, above 0\n" in notice(run)
    assert "critical: ranks_badly: roc_auc over 5 days is 0." in notice(run)


@pytest.mark.shows("97.5.5", "Retraining trigger")
def test_a_rule_that_says_so_asks_for_a_new_model_and_gives_its_reason(run):
    (event,) = run.events("retraining")
    assert event == {
        "version": run.xcom("practice.release_first"),
        "because": {"ranks_badly": verdicts(run)["ranks_badly"]["value"]},
        "window": run.xcom("log.join_labels"),
    }
    assert run.states["retraining.keep"] == "skipped"


def test_the_same_date_again_logs_nothing_twice_and_tells_nobody_twice(run, again):
    assert again.xcom("practice.call") == 0
    counted = {"delivered": 746, "appended": 0, "twice": 746, "late": 0, "refused": 0}
    assert again.xcom("log.append") == counted
    for task in ("log.read", "log.join_labels", "measure.by_day", "alerts.judge"):
        assert again.digest(task) == run.digest(task)
    assert again.digest("measure.publish") == run.digest("measure.publish")
    assert again.xcom("alerts.tell") == []
    assert again.events("retraining") == run.events("retraining")  # those of the first time
    assert again.states["retraining.trigger"] == "skipped"
    assert len(tracking.versions(DAG)) == 1
    assert sorted(client.connected().versions(DAG)) == ["1"]


@pytest.mark.shows("97.5.5", "Prediction logging")
def test_late_lines_and_a_lost_day_come_to_their_days_also_through_a_crash(next_day):
    assert next_day.tries("log.append") == 2
    rows = next_day.frame("log.read")
    assert rows.request_id.is_unique
    week = dict.fromkeys(map(str, WEEK[1:]), 100)
    assert Counter(rows.day) == week | {"2026-02-02": 95}
    assert Counter(rows[rows.arrived > rows.day].day) == dict.fromkeys(week, 5)
    assert next_day.frame("measure.by_day").missing_days.sum() == 0


@pytest.mark.shows("97.5.5", "Alert configuration")
def test_a_rule_keeps_quiet_while_it_cools_down_and_another_speaks(next_day, cooled):
    assert verdicts(next_day)["slow"]["value"] > 2500
    assert verdicts(next_day)["ranks_badly"]["broken"] is True
    assert next_day.xcom("alerts.tell") == ["slow"]
    assert "ranks_badly" not in notice(next_day)
    assert next_day.events("retraining") == []
    assert "one was asked for" in next_day.xcom("retraining.keep")
    assert {"ranks_badly", "few_callers"} <= set(cooled.xcom("alerts.tell"))
    assert len(cooled.events("retraining")) == 1


@pytest.mark.shows("97.5.5", "Retraining trigger")
def test_without_trouble_nobody_is_asked_for_a_new_model(quiet):
    finished, _ = quiet
    judged = verdicts(finished)
    assert judged["ranks_badly"]["broken"] is False
    assert judged["ranks_badly"]["value"] > 0.68
    assert finished.states["retraining.trigger"] == "skipped"
    assert finished.events("retraining") == []
    assert "No rule asks" in finished.xcom("retraining.keep")


def test_a_gateway_of_the_runs_own_is_gone_afterwards(quiet):
    finished, nobody = quiet
    nobody.check_that_own_one_is_gone(finished)


def test_the_picture_is_kept_with_the_run(run, registry):
    (kept,) = registry.runs(DAG, run.key)
    assert "windows.png" in {file.path for file in registry.client.list_artifacts(kept.info.run_id)}


def test_a_broken_line_is_set_aside_and_a_wrong_rule_is_named_and_not_tried_again(
    cooled, run_dag, dags, logged, tmp_path, monkeypatch
):
    days = [*WEEK, *(TODAY.date() + timedelta(days=day) for day in range(1, 4))]
    before = logged(days)
    file = store() / "delivered" / "2026-02-04.broken.jsonl"
    file.write_text('{"role": "live"}\n')
    of_dag = dags[DAG].get_task("alerts.read_rules").python_callable.__globals__
    monkeypatch.setitem(of_dag, "PROJECT", tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "alerts.yaml").write_text("slow: {metric: luck}")
    failed = run_dag(DAG, logical_date=cooled.logical_date, expect="failed")
    file.unlink()
    assert failed.xcom("log.append")["refused"] == 1
    assert "config/alerts.yaml: rule 'slow' must have" in failed.error("alerts.read_rules")
    assert failed.tries("alerts.read_rules") == 1
    assert failed.states["alerts.tell"] == "upstream_failed"
    assert failed.xcom("close_gateway") is False
    assert logged(days).equals(before)


@pytest.mark.parametrize("conf", [{"planted": "luck"}, {"planted": None}])
def test_a_wrong_param_is_refused_before_any_task_starts(run_dag, conf):
    with pytest.raises(ParamValidationError):
        run_dag(DAG, conf=conf)


def test_what_is_passed_on_is_small(run, next_day):
    for each in (run, next_day):
        assert max(len(json.dumps(what)) for what in each.xcoms().values()) < 1024
