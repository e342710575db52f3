"""97.5.2 Blue-Green Model Deployment: on a real gateway, with callers asking all the time."""

from collections import Counter

import pytest
from airflow.sdk.exceptions import ParamValidationError

from include import tracking
from include.serving import client, load, release
from include.tools import environment, needs
from tests.services import no_gateway

DAG = "97_05_02_blue_green_deployment"
PREVIEW = f"{DAG}-preview"


@pytest.fixture(scope="module", autouse=True)
def connected(model_gateway):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_MODEL_GATEWAY", model_gateway.connection)
        yield


@pytest.fixture(scope="module")
def gateway(connected):
    return client.connected()


@pytest.fixture(scope="module")
def run(run_dag, gateway):
    """The very first release: there was nothing before it."""
    return run_dag(DAG)


@pytest.fixture(scope="module")
def at_the_end(run, gateway):
    """What was running when the first release was over, before anything else happened."""
    return sorted(gateway.versions(DAG)), gateway.route(DAG)["weights"]


@pytest.fixture(scope="module")
def failed_under_traffic(at_the_end, run_dag):
    return run_dag(DAG, conf={"practise": "green fails under traffic"})


@pytest.mark.shows("97.5.2", "New version deployment")
def test_green_answers_what_is_known_beside_blue_under_a_name_of_its_own(run, gateway):
    green = run.xcom("versions.green")
    assert run.xcom("green.start_green") == sorted([run.xcom("versions.blue"), green])
    smoke = run.xcom("green.smoke_test")
    assert (smoke["failed"], smoke["wrong"], smoke["by_version"]) == (0, 0, {green: 20})
    asked, _ = gateway.requests(PREVIEW)
    assert {each["version"] for each in asked[:20]} == {green}
    assert gateway.route(PREVIEW) is None


@pytest.mark.shows("97.5.2", "Traffic switch")
def test_nobody_is_failed_and_nobody_meets_the_wrong_version_during_the_switch(run, gateway):
    counted = run.xcom("switch.switch")
    blue, green = run.xcom("versions.blue"), run.xcom("versions.green")
    assert counted["failed"] == 0
    assert counted["misrouted"] == 0
    assert counted["requests"] >= 300
    assert counted["by_version"].keys() == {blue, green}
    # The gateway's own book says the same.
    noted = gateway.requests(DAG)[0][: counted["requests"]]
    assert {each["status"] for each in noted} == {200}
    assert Counter(each["version"] for each in noted) == counted["by_version"]


@pytest.mark.shows("97.5.2", "Rollback capability")
def test_a_green_that_fails_under_traffic_is_found_and_all_are_back_on_blue(
    failed_under_traffic, run, gateway
):
    failed, blue = failed_under_traffic, run.xcom("versions.green")
    green = failed.xcom("versions.green")
    assert failed.xcom("versions.blue") == blue
    assert failed.xcom("green.smoke_test")["failed"] == 0
    watched = failed.xcom("switch.watch")
    assert watched["failed"] == 8  # one in 25 of 200
    back = failed.xcom("settle.roll_back")
    assert back["misrouted"] == 0
    assert back["by_version"].keys() == {blue, green}
    assert f"8 of 200 requests failed, p95 {watched['p95_ms']:.0f} ms" in back["outcome"]
    assert gateway.route(DAG)["weights"] == {blue: 1.0}
    assert sorted(gateway.versions(DAG)) == [blue]
    assert tracking.champion(DAG).number == blue
    assert failed.states["settle.remove_blue"] == "skipped"


@pytest.mark.shows("97.5.2", "Cleanup old version")
def test_in_the_end_green_alone_runs_and_the_registry_says_so(run, at_the_end):
    blue, green = run.xcom("versions.blue"), run.xcom("versions.green")
    assert run.xcom("settle.remove_blue") == [green]
    assert at_the_end == ([green], {green: 1.0})
    newest = tracking.versions(DAG)
    assert {blue, green} <= {each.number for each in newest}  # stopped, not forgotten
    released = next(each for each in newest if each.number == green)
    assert released.replaces == blue


def test_the_outcome_stands_where_the_versions_come_from(run, failed_under_traffic, registry):
    (first,) = registry.runs(DAG, run.key)
    (second,) = registry.runs(DAG, failed_under_traffic.key)
    assert first.data.tags["release"] == "version 2 has replaced version 1"
    assert second.data.tags["release"].endswith("callers are back on version 2")
    assert first.data.metrics.keys() == {"blue_auc", "green_auc"}
    assert first.data.metrics["green_auc"] > 0.7


def test_a_green_that_fails_its_smoke_test_gets_no_caller(failed_under_traffic, run_dag, gateway):
    before = gateway.requests(DAG)[1]
    live = gateway.route(DAG)
    failed = run_dag(DAG, conf={"practise": "green fails its smoke test"})
    assert failed.states["switch.switch"] == "skipped"
    assert "5 of 20 failed, 0 were wrong" in failed.xcom("settle.discard_green")
    assert gateway.requests(DAG, after=before)[0] == []
    assert gateway.route(DAG) == live
    assert sorted(gateway.versions(DAG)) == list(live["weights"])


def test_a_model_under_a_wrong_number_is_known_by_its_answers(
    failed_under_traffic, run_dag, monkeypatch
):
    source = release.source
    monkeypatch.setattr(release, "source", lambda name, number: source(name, "1"))
    failed = run_dag(DAG)
    found = failed.xcom("green.smoke_test")
    assert (found["failed"], found["wrong"]) == (0, 20)
    assert failed.states["settle.discard_green"] == "success"


@pytest.fixture(scope="module")
def interrupted(failed_under_traffic, run_dag, gateway):
    """A release that ended in its smoke test, and left two versions and the preview behind."""

    def broken(*given):
        raise ValueError("the smoke test is broken")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "drive", broken)
        ended = run_dag(DAG, expect="failed")
    return ended, sorted(gateway.versions(DAG)), gateway.route(DAG)["weights"]


@pytest.fixture(scope="module")
def after_a_crash(interrupted, run_dag):
    """The next release; its worker dies when it has just switched."""
    switched, died = load.switched, []

    def dies(*given):
        done = switched(*given)
        if not died:
            died.append(done)
            raise ConnectionError("the worker is gone")
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "switched", dies)
        return run_dag(DAG)


def test_an_interrupted_release_leaves_callers_on_blue_and_is_cleared_away_by_the_next(
    interrupted, after_a_crash, gateway
):
    ended, left, weights = interrupted
    blue, green = ended.xcom("versions.blue"), ended.xcom("versions.green")
    assert ended.tries("green.smoke_test") == 1
    assert ended.states["close_gateway"] == "success"
    assert (left, weights) == (sorted([blue, green]), {blue: 1.0})
    released = after_a_crash.xcom("versions.green")
    assert after_a_crash.xcom("versions.blue") == blue
    assert after_a_crash.xcom("green.serve_blue") == [blue]
    assert after_a_crash.xcom("green.start_green") == sorted([blue, released])
    assert gateway.route(PREVIEW) is None


def test_a_worker_that_dies_right_after_the_switch_is_followed_by_one_that_sees_it(
    after_a_crash, gateway
):
    green = after_a_crash.xcom("versions.green")
    assert after_a_crash.tries("switch.switch") == 2
    counted = after_a_crash.xcom("switch.switch")
    assert (counted["failed"], counted["misrouted"]) == (0, 0)
    assert counted["by_version"].keys() == {green}
    assert sorted(gateway.versions(DAG)) == [green]
    assert tracking.champion(DAG).number == green


@pytest.fixture(scope="module")
def alone(after_a_crash, run_dag):
    """The same date again, where no gateway answers."""
    before = tracking.versions(DAG)
    with no_gateway() as nobody:
        again = run_dag(DAG, logical_date=after_a_crash.logical_date)
    return again, nobody, before


def test_a_gateway_of_its_own_comes_and_goes_with_the_run(alone, model_gateway):
    again, nobody, _ = alone
    assert again.xcom("open_gateway") != model_gateway.address
    assert again.xcom("switch.switch")["misrouted"] == 0
    nobody.check_that_own_one_is_gone(again)


def test_the_same_date_again_gives_the_same_versions_and_no_third(alone, after_a_crash):
    again, _, before = alone
    run = after_a_crash
    for part in ("train", "holdout"):
        assert again.digest("versions.ingest", part) == run.digest("versions.ingest", part)
    for task in ("versions.blue", "versions.green", "settle.remove_blue"):
        assert again.xcom(task) == run.xcom(task)
    assert tracking.versions(DAG) == before


def test_a_customer_without_a_label_stops_the_run_before_anything_is_served(
    run, run_dag, warehouse, gateway
):
    live = gateway.versions(DAG)
    warehouse.execute("UPDATE customers SET churned = 2 WHERE customer_id = 7")
    failed = run_dag(DAG, expect="failed")
    assert "fails for customer_id 7" in failed.error("versions.ingest")
    assert failed.tries("versions.ingest") == 1
    assert failed.states["green.serve_blue"] == "upstream_failed"
    assert gateway.versions(DAG) == live


def test_an_unknown_practice_is_refused_before_anything_starts(run_dag):
    with pytest.raises(ParamValidationError, match="practise"):
        run_dag(DAG, conf={"practise": "green is blue"})


def test_a_copy_takes_along_the_programs_that_serve():
    wanted = needs.needs(environment.DAGS / f"{DAG}.py").modules
    assert {"include.serving.gateway", "include.serving.scorer"} <= wanted
