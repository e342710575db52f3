"""97.5.4 Model Rollback Pipeline: all four parts go back together, or stay as they are."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from airflow.models import dagrun
from airflow.models.asset import AssetEvent, AssetModel
from airflow.sdk.exceptions import ParamValidationError
from sqlalchemy import select

from include import runs, storage, tracking
from include.serving import client, live
from tests.conftest import HOME
from tests.services import no_gateway

DAG = "97_05_04_model_rollback"
EARNEST = {"practise": "nothing"}


@pytest.fixture(scope="module", autouse=True)
def connected(model_gateway):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_MODEL_GATEWAY", model_gateway.connection)
        yield


@pytest.fixture(scope="module")
def gateway(connected):
    return client.connected()


@pytest.fixture
def look(monkeypatch):
    """Look at what is live from outside of any task."""

    def inside(what, *given, key="20300101T000000"):
        place = runs.Place(DAG, key, "look", -1, 1, "")
        with monkeypatch.context() as patch:
            patch.setattr(runs, "here", lambda: place)
            return what(*given)

    return inside


@pytest.fixture(scope="module")
def run(run_dag, connected):
    """The very first run: version 1 is good, version 2 is bad, and then 1 is live again."""
    return run_dag(DAG)


@pytest.fixture
def alarm(monkeypatch):
    """Let the next run be started by an alarm that says this."""

    def give(**said):
        create = dagrun.get_or_create_dagrun

        def alarmed(*given, session, **named):
            made = create(*given, session=session, **named)
            asset = session.scalar(select(AssetModel).where(AssetModel.name == f"{DAG}/alarm"))
            event = AssetEvent(asset_id=asset.id, extra=said, timestamp=datetime.now(UTC))
            made.consumed_asset_events.append(event)
            session.commit()
            return made

        monkeypatch.setattr(dagrun, "get_or_create_dagrun", alarmed)

    return give


def notice(run):
    return (HOME / "notices" / f"{DAG}.{run.key}.tell.notify.txt").read_text()


@pytest.mark.shows("97.5.4", "Version management")
def test_every_version_is_listed_and_the_last_that_was_good_is_chosen(run, look):
    rows = storage.read_json(run.reference("trigger.list_versions"))
    assert [(row["version"], row["live"], row["complete"]) for row in rows] == [
        ("2", True, True),
        ("1", False, True),
    ]
    assert {row["made_by"] for row in rows} == {run.key}
    choice = run.xcom("trigger.choose")
    assert (choice["from"], choice["to"]) == ("2", "1")
    after = {row["version"]: row for row in look(live.history)}
    assert after["2"]["taken_back"] == "a rollback is practised"
    assert (after["1"]["taken_back"], after["1"]["live"]) == (None, True)


@pytest.mark.shows("97.5.4", "State restoration")
def test_model_traffic_features_and_settings_are_those_of_the_target(run, look, gateway):
    assert run.xcom("restore.verify") == {"asked": 20, "right": 20}
    good, bad = look(live.target, "1"), look(live.target, "2")
    assert all(good[part] != bad[part] for part in live.PARTS)
    assert look(live.state) == good
    assert sorted(gateway.versions(DAG)) == ["1"]
    fees = [storage.read_frame(each["features"])["monthly_fee"].mean() for each in (good, bad)]
    assert fees[1] == pytest.approx(100 * fees[0])
    holdout = run.frame("practice.ingest", "holdout").drop(columns="churned").head(5)
    answer, version = gateway.ask(DAG, holdout.to_dict("records"))
    expected = tracking.load(DAG, "1").predict_proba(holdout)[:, 1]
    assert version == "1"
    assert answer["scores"] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.shows("97.5.4", "Notification")
def test_people_are_told_and_the_record_stands_where_versions_are_looked_at(run, registry, look):
    text = notice(run)
    assert text.startswith(f"Rollback of {DAG}, version 2 to 1: done\n")
    assert "Reason, from a person: a rollback is practised" in text
    (kept,) = registry.runs(DAG, run.key)
    assert kept.data.tags["release"] == "version 2 to 1: done"
    file = registry.client.download_artifacts(kept.info.run_id, "rollback.json", str(HOME))
    record = json.loads(Path(file).read_text())
    assert record == look(live.record, key=run.key)
    assert (record["outcome"], record["reason"]) == ("done", "a rollback is practised")
    assert (record["from"]["alias"], record["to"]["alias"]) == ("2", "1")
    assert record["golden"] == {"asked": 20, "right": 20}


@pytest.fixture(scope="module")
def undone(run, run_dag):
    """The target fails its golden requests: the bad release stays, wholly."""
    return run_dag(DAG, conf={"practise": "a bad target"}, expect="failed")


@pytest.mark.shows("97.5.4", "State restoration")
def test_where_the_target_fails_all_four_parts_are_as_they_were(undone, look, gateway):
    bad = undone.xcom("practice.release_bad")
    assert undone.xcom("restore.verify")["right"] < 20
    assert look(live.state) == look(live.target, bad)
    assert sorted(gateway.versions(DAG)) == [bad]
    assert f"version {bad} to 1: undone" in undone.error("tell.audit")
    assert undone.tries("tell.audit") == 1
    assert f"version {bad} to 1: undone" in notice(undone)
    assert look(live.record, key=undone.key)["outcome"] == "undone"


@pytest.mark.shows("97.5.4", "Rollback trigger")
def test_an_alarm_takes_back_the_version_that_it_is_about_and_no_other(
    undone, run_dag, alarm, look, mailbox, monkeypatch
):
    bad = undone.xcom("practice.release_bad")
    monkeypatch.setenv("AIRFLOW_CONN_NOTICES", mailbox.connection)
    alarm(reason="errors since noon", version="1")
    late = run_dag(DAG)
    assert late.states["practice.ingest"] == "skipped"
    assert late.states["trigger.choose"] == late.states["restore.apply"] == "skipped"
    assert late.states["tell.notify"] == "skipped"
    assert look(live.state)["alias"] == bad

    alarm(reason="errors since noon", version=bad)
    started = run_dag(DAG)
    assert started.xcom("trigger.trigger")["by"] == "an alarm"
    assert look(live.state) == look(live.target, "1")
    (mail,) = mailbox.mails
    assert mail["Subject"].replace("\n", "") == f"Rollback of {DAG}, version {bad} to 1: done"
    (part,) = mail.get_payload()
    assert "Reason, from an alarm: errors since noon" in part.get_payload(decode=True).decode()


def test_an_alarm_that_does_not_say_what_it_is_about_starts_nothing(run, run_dag, alarm):
    alarm(reason="errors since noon")
    failed = run_dag(DAG, expect="failed")
    assert failed.error("trigger.trigger") == "the alarm lacks version in its extra"
    assert failed.tries("trigger.trigger") == 1
    assert failed.states["restore.apply"] == "upstream_failed"
    assert notice(failed).startswith(f"Rollback of {DAG}, no version: failed, see its tasks")


@pytest.fixture(scope="module")
def again(run, undone, run_dag):
    """The first date again; the worker dies when two of four parts are changed."""
    before, put, done = tracking.versions(DAG), live.put, []

    def dies(part, value):
        put(part, value)
        done.append((part, runs.here().task_id))
        if done.count(("settings", "restore.apply")) == 1 and part == "settings":
            raise ConnectionError("the worker is gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "put", dies)
        return run_dag(DAG, logical_date=run.logical_date), before


def test_the_same_date_again_with_a_crash_in_the_middle_comes_to_the_same_end(again, run, look):
    repeated, before = again
    assert repeated.tries("restore.apply") == 2
    assert tracking.versions(DAG) == before
    for task in ("practice.release_bad", "restore.verify"):
        assert repeated.xcom(task) == run.xcom(task)
    assert look(live.state) == look(live.target, repeated.xcom("trigger.choose")["to"])


def test_the_model_alone_taken_back_is_found_to_answer_wrongly(again, run_dag, look, monkeypatch):
    monkeypatch.setattr(live, "PARTS", ("route", "alias"))
    carry_out = live.carry_out
    whole = ("features", "settings", "route", "alias")

    def all_of_a_release(record):
        with monkeypatch.context() as patch:
            if record["reason"] == "a bad release is practised":
                patch.setattr(live, "PARTS", whole)
            carry_out(record)

    monkeypatch.setattr(live, "carry_out", all_of_a_release)
    failed = run_dag(DAG, expect="failed")
    assert failed.xcom("restore.verify") == {"asked": 20, "right": 0}
    assert failed.xcom("restore.conclude")["outcome"] == "undone"
    monkeypatch.undo()
    assert look(live.state) == look(live.target, failed.xcom("practice.release_bad"))


def test_a_version_that_can_not_be_gone_back_to_is_refused_and_no_process_is_left(
    again, run_dag, look, gateway
):
    before = look(live.state)
    with no_gateway() as nobody:
        failed = run_dag(DAG, conf=EARNEST | {"to_version": "77"}, expect="failed")
    assert "can't go back to 77: released before it, and not taken back, are " in failed.error(
        "trigger.choose"
    )
    assert failed.tries("trigger.choose") == 1
    assert "nothing was begun" in failed.error("restore.conclude")
    assert failed.states["practice.release_bad"] == "skipped"
    nobody.check_that_own_one_is_gone(failed)
    assert look(live.state) == before


def test_a_run_that_meets_another_one_says_so_and_leaves_nothing_mixed(
    again, run_dag, look, monkeypatch
):
    begin = live.begin

    def meets_another(to, reason, change="rollback"):
        begun = begin(to, reason, change)
        if change == "rollback":
            look(live.settle)
        return begun

    monkeypatch.setattr(live, "begin", meets_another)
    failed = run_dag(DAG, expect="failed")
    assert "undone by the run 20300101T000000; golden requests" in failed.error("tell.audit")
    assert failed.tries("tell.audit") == 1
    number = look(live.state)["alias"]
    assert look(live.state) == look(live.target, number)


@pytest.mark.parametrize(
    "conf", [{"reason": " "}, {"reason": "bad"}, {"to_version": "latest"}, {"practise": "luck"}]
)
def test_a_wrong_param_is_refused_before_any_task_starts(run_dag, conf):
    with pytest.raises(ParamValidationError):
        run_dag(DAG, conf=conf)


def test_what_is_passed_on_is_small(run, undone):
    for each in (run, undone):
        assert max(len(json.dumps(what)) for what in each.xcoms().values()) < 1024
