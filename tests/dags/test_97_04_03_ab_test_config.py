"""97.4.3 A/B Test Configuration: on a real gateway, with customers of whom all is known.

That callers land on the sides by their weights, and that changed weights move only those who must
move, is in tests/serving/test_routing.py; how often the rule errs, in
tests/include/test_experiments_rates.py.
"""

import pytest
from airflow.sdk.exceptions import ParamValidationError
from scipy.stats import chisquare, norm

from include import storage, tracking
from include.serving import client, load
from include.serving.routing import Route
from tests.services import no_gateway

DAG = "97_04_03_ab_test_config"


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
    """The very first test: what there is has learned from thirty customers."""
    return run_dag(DAG)


@pytest.fixture(scope="module")
def noted(run, gateway):
    """What the gateway had written down when the first test was over."""
    return gateway.requests(DAG)[0]


@pytest.fixture(scope="module")
def at_the_end(run, noted, gateway):
    return sorted(gateway.versions(DAG)), gateway.route(DAG)


@pytest.fixture(scope="module")
def no_better(at_the_end, run_dag):
    """The next test, of a model that is as good as the one that has won."""
    return run_dag(DAG, conf={"looks": 1, "candidate_share": 0.4})


@pytest.fixture(scope="module")
def losing(no_better, run_dag):
    """The candidate loses answers; besides, the worker dies after the first customers."""
    drive, driven = load.drive, []

    def dies(*given):
        driven.append(drive(*given))
        if len(driven) == 1:
            raise ConnectionError("the worker is gone")
        return driven[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "drive", dies)
        return run_dag(DAG, conf={"practise": "the candidate loses answers"})


def numbers(run):
    return run.xcom("versions.stable"), run.xcom("versions.candidate")


def experiment(run):
    return storage.read_json(run.reference("set_up.plan"))


@pytest.mark.shows("97.4.3", "Traffic split configuration")
def test_each_customer_meets_the_side_that_the_route_gives_them(run, no_better, noted):
    stable, candidate = numbers(run)
    route = run.xcom("set_up.split_traffic")
    assert route["weights"] == {stable: 0.5, candidate: 0.5}
    assert route["sticky"] == "X-Customer"
    as_planned = Route(DAG, route["weights"])
    assert noted
    for line in noted:
        assert line["version"] == as_planned.pick(line["key"], [stable, candidate])
    of_next = no_better.xcom("set_up.split_traffic")["weights"]
    assert of_next == {no_better.xcom("versions.stable"): 0.6, numbers(no_better)[1]: 0.4}


@pytest.mark.shows("97.4.3", "Experiment setup")
def test_the_plan_says_before_the_first_request_how_many_it_takes(run, no_better):
    known = run.frame("versions.ingest", "train")
    baseline = (tracking.load(DAG, numbers(run)[0]).predict(known) == known.churned).mean()
    plan = experiment(run)
    assert plan["baseline"] == pytest.approx(baseline)
    assert (plan["alpha"], plan["power"], plan["lift"]) == (0.05, 0.8, 0.1)
    assert plan["bounds"][-1] == pytest.approx(2.024, abs=0.001)  # O'Brien and Fleming, four looks
    single = experiment(no_better)
    assert single["bounds"] == pytest.approx([1.96], abs=0.001)
    middle = single["baseline"] + 0.05
    spread = middle * (1 - middle) * (1 / 0.4 + 1 / 0.6)
    by_the_textbook = (norm.isf(0.025) + norm.isf(0.2)) ** 2 * spread / 0.1**2
    assert single["total"] == pytest.approx(by_the_textbook, abs=2)


@pytest.mark.shows("97.4.3", "Metric collection")
def test_what_is_counted_is_what_each_side_answered_to_each_customer(run, noted):
    stable, candidate = numbers(run)
    truth = run.frame("versions.ingest", "holdout").set_index("customer_id").churned
    looks = run.xcom("collect")
    assert len(noted) == looks[-1]["asked"]
    assert len({line["key"] for line in noted}) == len(noted)
    expected = []
    for version in (stable, candidate):
        own = [line for line in noted if line["version"] == version]
        right = [line["answer"]["predictions"][0] == truth[int(line["key"])] for line in own]
        expected += [sum(right), len(own)]
    assert looks[-1]["counts"] == expected


@pytest.mark.shows("97.4.3", "Winner selection")
def test_the_better_model_wins_as_soon_as_the_plan_allows(run, at_the_end, registry):
    stable, candidate = numbers(run)
    plan, looks = experiment(run), run.xcom("collect")
    assert all(abs(look["score"]) < b for look, b in zip(looks[:-1], plan["bounds"], strict=False))
    assert looks[-1]["score"] >= plan["bounds"][len(looks) - 1]
    selected = run.xcom("winner.select")
    assert selected["winner"] == "candidate"
    assert 0 < selected["low"] < selected["difference"] < selected["high"]
    versions, route = at_the_end
    assert (versions, route["weights"]) == ([candidate], {candidate: 1.0})
    (won,) = (each for each in tracking.versions(DAG) if each.number == candidate)
    assert won.replaces == stable
    (of_run,) = registry.runs(DAG, run.key)
    assert of_run.data.tags["release"] == run.xcom("winner.settle")
    assert of_run.data.metrics["difference"] == selected["difference"]
    settled = f"version {candidate} answers everybody; candidate has won: {selected['why']}"
    assert run.xcom("winner.settle") == settled


@pytest.mark.shows("97.4.3", "Winner selection")
def test_nobody_wins_where_there_is_no_difference(no_better, gateway):
    (look,) = no_better.xcom("collect")
    assert look["asked"] == experiment(no_better)["total"]
    selected = no_better.xcom("winner.select")
    assert abs(look["score"]) < 1.96
    assert selected["low"] < 0 < selected["high"]
    assert (selected["winner"], selected["why"]) == (None, "too little to tell the two apart")
    stable = no_better.xcom("versions.stable")
    assert no_better.xcom("winner.settle").startswith(f"version {stable} answers everybody; nobody")


@pytest.mark.shows("97.4.3", "Winner selection")
def test_a_side_that_loses_answers_can_not_win(losing, gateway):
    stable = losing.xcom("versions.stable")
    assert losing.tries("collect") == 2
    _, of_stable, _, of_candidate = losing.xcom("collect")[-1]["counts"]
    p_value = losing.xcom("winner.check_split")
    assert p_value == pytest.approx(chisquare([of_stable, of_candidate]).pvalue)
    assert p_value < 0.001
    selected = losing.xcom("winner.select")
    assert selected["winner"] is None
    assert selected["why"].startswith("answers are missing on one side")
    assert sorted(gateway.versions(DAG)) == [stable]
    assert gateway.route(DAG)["weights"] == {stable: 1.0}
    assert tracking.champion(DAG).number == stable


def test_the_same_date_again_ends_the_same_although_its_last_task_dies_halfway(
    losing, run, run_dag, gateway, monkeypatch
):
    before = tracking.versions(DAG)
    stable, candidate = numbers(run)
    stop, died = client.Gateway.stop_version, []

    def dies(gateway, model, version):
        if version == stable and not died:
            died.append(version)
            raise ConnectionError("the worker is gone")
        stop(gateway, model, version)

    monkeypatch.setattr(client.Gateway, "stop_version", dies)
    # As if nothing had been decided since.
    tracking.client().set_registered_model_alias(DAG, tracking.CHAMPION, candidate)
    again = run_dag(DAG, logical_date=run.logical_date)
    for part in ("train", "holdout"):
        assert again.digest("versions.ingest", part) == run.digest("versions.ingest", part)
    assert again.digest("set_up.plan") == run.digest("set_up.plan")
    assert again.xcom("collect") == run.xcom("collect")
    assert again.tries("winner.settle") == 2
    assert again.xcom("winner.settle") == run.xcom("winner.settle")
    assert tracking.versions(DAG) == before
    assert sorted(gateway.versions(DAG)) == [candidate]


def test_a_run_that_fails_in_the_middle_leaves_no_process_of_its_own(run, run_dag, monkeypatch):
    def broken(*given):
        raise ValueError("the callers are broken")

    monkeypatch.setattr(load, "drive", broken)
    with no_gateway() as nobody:
        failed = run_dag(DAG, expect="failed")
    assert failed.error("collect") == "the callers are broken"
    assert failed.tries("collect") == 1
    nobody.check_that_own_one_is_gone(failed)


def test_a_lift_that_takes_more_customers_than_there_are_is_refused_before_anybody_is_asked(
    run, run_dag, gateway
):
    before = gateway.requests(DAG)[1]
    failed = run_dag(DAG, conf={"lift": 0.02}, expect="failed")
    assert "customers, and there are 2000: plan for a larger lift" in failed.error("set_up.plan")
    assert failed.tries("set_up.plan") == 1
    assert gateway.requests(DAG, after=before)[0] == []


def test_a_customer_without_a_label_stops_the_run_before_anything_is_served(
    run, run_dag, warehouse
):
    warehouse.execute("UPDATE customers SET churned = 2 WHERE customer_id = 7")
    failed = run_dag(DAG, expect="failed")
    assert "fails for customer_id 7" in failed.error("versions.ingest")
    assert failed.tries("versions.ingest") == 1
    assert failed.states["set_up.split_traffic"] == "upstream_failed"


@pytest.mark.parametrize("conf", [{"looks": 6}, {"candidate_share": 1.0}, {"lift": -0.1}])
def test_an_experiment_that_makes_no_sense_is_refused_before_anything_starts(run_dag, conf):
    with pytest.raises(ParamValidationError, match=next(iter(conf))):
        run_dag(DAG, conf=conf)
