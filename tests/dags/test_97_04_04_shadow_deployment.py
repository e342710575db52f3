"""97.4.4 Shadow Deployment: on a real gateway, with callers who must not notice anything."""

import os
import signal
from threading import Timer

import numpy as np
import pandas as pd
import pytest
from airflow.sdk.exceptions import ParamValidationError

from include import tracking
from include.serving import client, load
from tests.services import no_gateway

DAG = "97_04_04_shadow_deployment"
ASKED = 150


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
def noted(run, gateway):
    """What the gateway had written down when the first run was over."""
    lines, _ = gateway.requests(DAG, after=run.xcom("shadow.mirror")["begins"])
    return {
        role: {line["request_id"]: line for line in lines if line["role"] == role}
        for role in ("live", "shadow")
    }


@pytest.fixture(scope="module")
def at_the_end(run, noted, gateway):
    return sorted(gateway.versions(DAG)), gateway.route(DAG)


@pytest.fixture(scope="module")
def slow(at_the_end, run_dag):
    return run_dag(DAG, conf={"practise": "the shadow takes 2 seconds"})


@pytest.fixture(scope="module")
def failing(slow, run_dag):
    """One request in ten fails; besides, the worker dies when the callers have been answered."""
    drive, driven = load.drive, []

    def dies(*given):
        driven.append(drive(*given))
        if len(driven) == 2:
            raise ConnectionError("the worker is gone")
        return driven[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "drive", dies)
        return run_dag(DAG, conf={"practise": "the shadow fails"})


@pytest.fixture(scope="module")
def crashed(failing, run_dag, gateway):
    """The shadow's process is killed under traffic, and nothing is asked of it but agreement."""
    drive = load.drive

    def kill():
        (shadow,) = gateway.versions(DAG).keys() - gateway.route(DAG)["weights"].keys()
        os.kill(gateway.versions(DAG)[shadow]["pid"], signal.SIGKILL)

    def killing(address, rows, rate, count, headers):
        timer = Timer(0.5, kill)
        if count == ASKED:
            timer.start()
        return drive(address, rows, rate, count, headers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "drive", killing)
        return run_dag(DAG, conf={"criteria": {"agreement": {"least": 0.99}}})


def numbers(run):
    return run.xcom("versions.stable"), run.xcom("versions.candidate")


@pytest.mark.shows("97.4.4", "Parallel prediction")
def test_the_candidate_gets_a_copy_of_each_request_and_callers_get_stables_answer(run, noted):
    stable, candidate = numbers(run)
    mirrored = run.xcom("shadow.mirror")["mirrored"]
    assert run.xcom("shadow.start_shadow") == sorted([stable, candidate])
    assert (mirrored["failed"], mirrored["by_version"]) == (0, {stable: ASKED})
    assert {line["version"] for line in noted["shadow"].values()} == {candidate}
    assert noted["shadow"].keys() <= noted["live"].keys()
    assert len(noted["shadow"]) == ASKED * run.xcom("compare.measure")["copies"]


@pytest.mark.shows("97.4.4", "Comparison logging")
def test_joined_are_the_answers_of_both_models_to_one_and_the_same_customer(run, noted, gateway):
    log = run.frame("compare.join")
    assert sorted(log.index) == sorted(noted["live"])
    asked = {name: line["asked"]["dataframe_records"][0] for name, line in noted["live"].items()}
    for number, side in zip(numbers(run), ("live", "shadow"), strict=True):
        answered = log[log[f"{side}_status"] == 200]
        customers = pd.DataFrame([asked[each] for each in answered.index])
        expected = tracking.load(DAG, number).predict_proba(customers)[:, 1]
        assert answered[f"{side}_scores"].str[0].to_numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.shows("97.4.4", "Performance validation")
def test_the_measures_are_those_of_the_gateways_own_log(run, noted):
    pairs = [(noted["live"][each], line) for each, line in noted["shadow"].items()]
    both = [(live["answer"], shadow["answer"]) for live, shadow in pairs]
    gaps = [abs(ours["scores"][0] - theirs["scores"][0]) for ours, theirs in both]
    expected = {
        "copies": len(pairs) / ASKED,
        "errors": 0.0,
        "agreement": np.mean([live["predictions"] == new["predictions"] for live, new in both]),
        "mean_difference": np.mean(gaps),
        "largest_difference": max(gaps),
        "live_errors": 0.0,
    }
    for role, prefix in (("shadow", ""), ("live", "live_")):
        took = [1000 * line["seconds"] for line in noted[role].values()]
        expected |= {f"{prefix}p{p}_ms": np.percentile(took, p) for p in (50, 99)}
    measured = run.xcom("compare.measure")
    assert measured == pytest.approx(expected, abs=1e-6)
    assert 0.9 < measured["agreement"] < 1
    assert 0 < measured["mean_difference"] < measured["largest_difference"]


@pytest.mark.shows("97.4.4", "Promotion criteria")
def test_who_meets_every_criterion_gets_the_callers(run, at_the_end, registry):
    stable, candidate = numbers(run)
    measured = run.xcom("compare.measure")
    rows = {row["measure"]: row for row in run.xcom("settle.check_criteria")}
    assert rows.keys() == {"copies", "errors", "agreement", "mean_difference", "p99_ms"}
    assert all(row["met"] and row["value"] == measured[name] for name, row in rows.items())
    versions, route = at_the_end
    assert versions == [candidate]
    assert (route["weights"], route["shadow"]) == ({candidate: 1.0}, None)
    (released,) = (each for each in tracking.versions(DAG) if each.number == candidate)
    assert released.replaces == stable
    (of_run,) = registry.runs(DAG, run.key)
    assert of_run.data.tags["release"] == f"version {candidate} has replaced version {stable}"
    assert of_run.data.metrics["agreement"] == measured["agreement"]


def test_a_shadow_that_takes_two_seconds_is_not_felt_and_not_promoted(slow, run):
    live = slow.xcom("shadow.mirror")["mirrored"]
    assert (live["failed"], live["by_version"]) == (0, {run.xcom("versions.candidate"): ASKED})
    assert live["p99_ms"] < 1000  # under 200 on a machine that has nothing else to do
    measured = slow.xcom("compare.measure")
    assert measured["p50_ms"] > 2000
    assert measured["copies"] < 0.9  # what waits has a bound: further copies are not sent
    assert slow.states["settle.promote"] == "skipped"
    stays = f"callers stay on version {run.xcom('versions.candidate')}: copies is "
    assert slow.xcom("settle.keep_stable").startswith(stays)
    assert slow.xcom("settle.keep_stable").endswith(f"p99_ms is {measured['p99_ms']}")


def test_a_shadow_that_fails_harms_nobody_and_is_measured_once_although_tried_twice(failing):
    assert failing.tries("shadow.mirror") == 2
    assert failing.xcom("shadow.mirror")["mirrored"]["failed"] == 0
    assert len(failing.frame("compare.join")) == ASKED
    measured = failing.xcom("compare.measure")
    assert measured["errors"] == pytest.approx(0.1, abs=0.01)
    assert measured["live_errors"] == 0
    assert f": errors is {measured['errors']}" in failing.xcom("settle.keep_stable")


def test_a_shadow_that_crashes_harms_nobody_and_the_criteria_alone_decide(crashed, gateway):
    live = crashed.xcom("shadow.mirror")["mirrored"]
    assert (live["failed"], live["requests"]) == (0, ASKED)
    assert live["p99_ms"] < 1000
    assert crashed.xcom("compare.measure")["errors"] > 0.01
    (row,) = crashed.xcom("settle.check_criteria")
    assert (row["measure"], row["value"], row["met"]) == ("agreement", 1.0, True)
    assert gateway.route(DAG)["weights"] == {crashed.xcom("versions.candidate"): 1.0}


def test_a_candidate_that_thinks_otherwise_is_told_so(crashed, run_dag, gateway):
    other = run_dag(DAG, conf={"practise": "the shadow learned little"})
    unmet = {row["measure"] for row in other.xcom("settle.check_criteria") if not row["met"]}
    assert "mean_difference" in unmet
    assert gateway.route(DAG)["weights"] == {crashed.xcom("versions.candidate"): 1.0}
    assert tracking.champion(DAG).number == crashed.xcom("versions.candidate")


def test_the_same_date_again_ends_the_same_although_its_last_task_dies_halfway(
    crashed, run_dag, gateway, monkeypatch
):
    before = tracking.versions(DAG)
    stop, died = client.Gateway.stop_version, []

    def dies(gateway, model, version):
        if version == crashed.xcom("versions.stable") and not died:
            died.append(version)
            raise ConnectionError("the worker is gone")
        stop(gateway, model, version)

    monkeypatch.setattr(client.Gateway, "stop_version", dies)
    again = run_dag(
        DAG,
        conf={"criteria": {"agreement": {"least": 0.99}}},
        logical_date=crashed.logical_date,
    )
    for part in ("train", "holdout"):
        assert again.digest("versions.ingest", part) == crashed.digest("versions.ingest", part)
    assert again.tries("settle.promote") == 2
    assert numbers(again) == numbers(crashed)
    assert tracking.versions(DAG) == before
    assert sorted(gateway.versions(DAG)) == [again.xcom("versions.candidate")]
    assert gateway.route(DAG)["weights"] == {again.xcom("versions.candidate"): 1.0}


def test_a_run_that_fails_in_the_middle_leaves_no_process_of_its_own(run, run_dag, monkeypatch):
    def broken(*given):
        raise ValueError("the callers are broken")

    monkeypatch.setattr(load, "drive", broken)
    with no_gateway() as nobody:
        failed = run_dag(DAG, expect="failed")
    assert failed.error("shadow.mirror") == "the callers are broken"
    assert failed.tries("shadow.mirror") == 1
    nobody.check_that_own_one_is_gone(failed)


def test_a_customer_without_a_label_stops_the_run_before_anything_is_served(
    run, run_dag, warehouse, gateway
):
    live = gateway.versions(DAG)
    warehouse.execute("UPDATE customers SET churned = 2 WHERE customer_id = 7")
    failed = run_dag(DAG, expect="failed")
    assert "fails for customer_id 7" in failed.error("versions.ingest")
    assert failed.tries("versions.ingest") == 1
    assert failed.states["shadow.serve_stable"] == "upstream_failed"
    assert gateway.versions(DAG) == live


@pytest.mark.parametrize(
    "conf",
    [
        {"practise": "the shadow sings"},
        {"criteria": {"agrement": {"least": 0.9}}},
        {"criteria": {"agreement": {"minimum": 0.9}}},
        {"criteria": {}},
    ],
)
def test_what_the_form_does_not_know_is_refused_before_anything_starts(run_dag, conf):
    with pytest.raises(ParamValidationError, match=next(iter(conf))):
        run_dag(DAG, conf=conf)
