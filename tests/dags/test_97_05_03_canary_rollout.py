"""97.5.3 Canary Model Rollout: what callers met at each step, read from the gateway's own log."""

import json

import pytest
from airflow.sdk.exceptions import ParamValidationError

from include import processes, tracking
from include.serving import client, load
from tests.services import no_gateway

DAG = "97_05_03_canary_rollout"
CHECK, AFTERWARDS = 300, 100
STEPS = {"first": 5, "second": 25, "third": 50, "fourth": 100}


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
    """The very first rollout, through all four steps."""
    return run_dag(DAG)


@pytest.fixture(scope="module")
def at_the_end(run, gateway):
    """What was running when the first rollout was over, before anything else happened."""
    return sorted(gateway.versions(DAG)), gateway.route(DAG)["weights"]


@pytest.fixture(scope="module")
def aborted(at_the_end, run_dag):
    return run_dag(DAG, conf={"practise": "errors"})


def asked(gateway, run, step):
    """What the gateway's log says of one step."""
    lines, _ = gateway.requests(DAG, after=run.xcom(f"steps.{step}.shift")["since"])
    return [line for line in lines if line["request_id"].startswith(f"{run.key}-{STEPS[step]}-")]


@pytest.mark.shows("97.5.3", "Initial small traffic")
def test_at_first_one_caller_in_twenty_meets_the_canary(run, gateway):
    lines = asked(gateway, run, "first")
    met = sum(line["version"] == run.xcom("versions.canary") for line in lines)
    assert len(lines) >= CHECK
    assert 0.01 < met / len(lines) < 0.11
    assert {line["version"] for line in lines} == {
        run.xcom("versions.stable"),
        run.xcom("versions.canary"),
    }


@pytest.mark.shows("97.5.3", "Metric monitoring")
def test_what_is_compared_is_what_callers_got(run, gateway):
    for step in STEPS:
        seen = run.xcom(f"steps.{step}.monitor")
        assert (seen["share"], seen["verdict"]) == (STEPS[step], "promote")
        tests = {"errors", "scores"} | ({"latency"} if step != "fourth" else set())
        assert seen["by_chance"].keys() == tests
    lines = asked(gateway, run, "third")
    for who in ("stable", "canary"):
        number = run.xcom(f"versions.{who}")
        counted = sum(line["version"] == number for line in lines)
        assert run.xcom("steps.third.monitor")["failed_of"][who] == [0, counted]


@pytest.mark.shows("97.5.3", "Gradual increase")
def test_the_share_grows_and_who_had_the_canary_keeps_it(run, gateway):
    canary, before = run.xcom("versions.canary"), set()
    for step in STEPS:
        lines = [line for line in asked(gateway, run, step) if "-1-" in line["request_id"]]
        met = {line["key"] for line in lines if line["version"] == canary}
        assert before <= met
        assert abs(len(met) / CHECK - STEPS[step] / 100) < 0.1
        before = met
    assert len(before) == CHECK


@pytest.mark.shows("97.5.3", "Full promotion")
def test_in_the_end_the_canary_alone_runs_and_the_registry_says_so(run, at_the_end, registry):
    stable, canary = run.xcom("versions.stable"), run.xcom("versions.canary")
    assert at_the_end == ([canary], {canary: 100})
    promoted = next(each for each in tracking.versions(DAG) if each.number == canary)
    assert promoted.replaces == stable
    assert run.xcom("outcome.promote") == f"version {canary} has replaced version {stable}"
    assert run.states["outcome.abort"] == "skipped"
    (noted,) = registry.runs(DAG, run.key)
    assert noted.data.tags["release"] == run.xcom("outcome.promote")


@pytest.mark.shows("97.5.3", "Metric monitoring")
def test_errors_are_seen_in_the_first_check_and_no_caller_meets_the_canary_after_it(
    aborted, run, gateway
):
    stable = aborted.xcom("versions.stable")
    assert stable == run.xcom("versions.canary")
    seen = aborted.xcom("steps.first.monitor")
    assert (seen["checks"], seen["verdict"]) == (1, "abort")
    failed, of = seen["failed_of"]["canary"]
    assert failed == of // 2
    assert seen["failed_of"]["stable"] == [0, CHECK - of]
    lines, _ = gateway.requests(DAG, after=aborted.xcom("steps.first.shift")["since"])
    after = lines[CHECK : CHECK + AFTERWARDS]
    assert [line["version"] for line in after] == [stable] * AFTERWARDS
    back = aborted.xcom("outcome.abort")
    assert (back["by_version"], back["failed"]) == ({stable: AFTERWARDS}, 0)
    assert back["outcome"].startswith("abort at 5 %, by chance {'errors': ")
    assert aborted.states["steps.second.shift"] == "skipped"
    assert gateway.route(DAG)["weights"] == {stable: 100}
    assert sorted(gateway.versions(DAG)) == [stable]
    assert tracking.champion(DAG).number == stable


@pytest.mark.parametrize(
    ("fault", "test"), [("slow answers", "latency"), ("wrong units", "scores")]
)
def test_each_fault_is_found_by_the_test_that_is_there_for_it(aborted, run_dag, fault, test):
    found = run_dag(DAG, conf={"practise": fault, "steps": [10, 100]})
    seen = found.xcom("steps.first.monitor")
    assert (seen["checks"], seen["verdict"]) == (1, "abort")
    assert seen["failed_of"]["canary"][0] == 0
    assert min(seen["by_chance"], key=seen["by_chance"].get) == test
    assert found.states["outcome.promote"] == "skipped"
    assert tracking.champion(DAG).number == found.xcom("versions.stable")


@pytest.fixture(scope="module")
def again(run, aborted, run_dag, gateway):
    """The first rollout's date again: the gateway forgot everything, and a worker dies."""
    before = tracking.versions(DAG)
    gateway.remove_route(DAG)
    for number in gateway.versions(DAG):
        gateway.stop_version(DAG, number)
    drive, weights = load.drive, []

    def dies(*given):
        done = drive(*given)
        weights.append(gateway.route(DAG)["weights"])
        if len(weights) == 2:
            raise ConnectionError("the worker is gone")
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "drive", dies)
        repeated = run_dag(DAG, logical_date=run.logical_date)
    return repeated, weights, before


def test_a_worker_that_dies_at_a_step_is_followed_by_one_that_gives_the_same_share(again):
    repeated, weights, _ = again
    assert repeated.tries("steps.second.monitor") == 2
    assert weights[1] == weights[2]
    answers = repeated.xcom("steps.second.monitor")["failed_of"]
    assert answers["stable"][1] + answers["canary"][1] == CHECK  # nobody is counted twice


def test_the_same_date_again_after_other_rollouts_changes_no_version(run, again, gateway):
    repeated, _, before = again
    for part in ("train", "holdout"):
        assert repeated.digest("versions.ingest", part) == run.digest("versions.ingest", part)
    for task in ("versions.stable", "versions.canary", "outcome.promote"):
        assert repeated.xcom(task) == run.xcom(task)
    assert tracking.versions(DAG) == before
    assert gateway.route(DAG)["weights"] == {run.xcom("versions.canary"): 100}
    assert sorted(gateway.versions(DAG)) == [run.xcom("versions.canary")]


def test_a_gateway_of_its_own_is_gone_also_when_the_rollout_fails(
    again, run_dag, gateway, monkeypatch
):
    live = gateway.route(DAG)
    left, stop = [], processes.stop

    def stopping(folder, found):
        left.append(client.gateway().route(DAG)["weights"])
        stop(folder, found)

    def broken(*given):
        raise ValueError("nobody can ask")

    monkeypatch.setattr(processes, "stop", stopping)
    monkeypatch.setattr(load, "drive", broken)
    with no_gateway() as nobody:
        failed = run_dag(DAG, conf={"steps": [20, 100]}, expect="failed")
    assert failed.error("steps.first.monitor") == "nobody can ask"
    assert failed.tries("steps.first.monitor") == 1
    assert left == [{failed.xcom("versions.stable"): 100}]  # nobody stays with an unwatched canary
    nobody.check_that_own_one_is_gone(failed)
    assert gateway.route(DAG) == live


@pytest.mark.parametrize("steps", [[5, 25], [25, 5, 100], [5, 5, 100]])
def test_steps_that_lead_nowhere_are_refused_before_anything_is_trained(run_dag, steps):
    failed = run_dag(DAG, conf={"steps": steps}, expect="failed")
    assert f"steps is {steps}: the shares must rise, and end with 100" in failed.error(
        "versions.plan"
    )
    assert failed.tries("versions.plan") == 1
    assert failed.states["versions.ingest"] == "upstream_failed"


@pytest.mark.parametrize("conf", [{"steps": [100]}, {"steps": [0, 100]}, {"practise": "luck"}])
def test_a_wrong_param_is_refused_before_any_task_starts(run_dag, conf):
    with pytest.raises(ParamValidationError):
        run_dag(DAG, conf=conf)


def test_a_customer_without_a_label_stops_the_run_before_anything_is_served(run_dag, warehouse):
    warehouse.execute("UPDATE customers SET churned = 2 WHERE customer_id = 7")
    failed = run_dag(DAG, expect="failed")
    assert "fails for customer_id 7" in failed.error("versions.ingest")
    assert failed.tries("versions.ingest") == 1
    assert failed.states["beside.serve_stable"] == "upstream_failed"


def test_what_is_passed_on_is_small(run, aborted):
    for each in (run, aborted):
        assert max(len(json.dumps(what)) for what in each.xcoms().values()) < 1024
