"""Who answers which caller: by weight, for good, and with as few moves as there can be."""

import pytest

from include.serving.routing import Route, Table

CALLERS = [str(number) for number in range(100_000)]


def picked(weights, healthy=("1", "2", "3")):
    route = Route("churn", weights)
    return [route.pick(caller, healthy) for caller in CALLERS]


def share(versions, version):
    return versions.count(version) / len(versions)


@pytest.mark.parametrize("weights", [{"1": 95, "2": 5}, {"1": 1, "2": 1, "3": 2}])
def test_a_hundred_thousand_callers_land_within_half_a_percent_of_the_weights(weights):
    versions = picked(weights)
    for version, weight in weights.items():
        assert share(versions, version) == pytest.approx(weight / sum(weights.values()), abs=0.005)


def test_more_weight_moves_only_callers_that_come_to_it():
    before, after = picked({"1": 90, "2": 10}), picked({"1": 75, "2": 25})
    moved = {(old, new) for old, new in zip(before, after, strict=True) if old != new}
    assert moved == {("1", "2")}
    assert sum(o != n for o, n in zip(before, after, strict=True)) == pytest.approx(15_000, abs=500)


def test_without_a_dead_version_only_its_callers_move():
    before = picked({"1": 1, "2": 1, "3": 1})
    after = picked({"1": 1, "2": 1, "3": 1}, healthy=("1", "3"))
    assert all(new == old for old, new in zip(before, after, strict=True) if old != "2")
    assert share(after, "2") == 0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "a route has 'model' and 'weights'"),
        ({"model": "churn", "weights": {}}, "must give each of 1 to 100 versions its share"),
        (
            {"model": "churn", "weights": {"1": -1}},
            "weight of version '1' must be from 0 to 1000000",
        ),
        ({"model": "churn", "weights": {"1": float("nan")}}, "must be from 0 to 1000000"),
        ({"model": "churn", "weights": {"1": 10**400}}, "must be from 0 to 1000000"),
        ({"model": "churn", "weights": {"1": True}}, "must be from 0 to 1000000"),
        ({"model": {}, "weights": {"1": 1}}, "'model' must be a name"),
        ({"model": "churn", "weights": {"1": 1}, "shadow": {}}, "'shadow' must be a text or null"),
        ({"model": "churn", "weights": {"1": 1}, "sticky": 7}, "'sticky' must be a text or null"),
        ({"model": "churn", "weights": {"1": 0}}, "one version at least"),
        ({"model": "churn", "weights": {"1": 1}, "shadow": "1"}, "live and shadow at once"),
        ({"model": "churn", "weights": {"1": 1}, "weight": 1}, "may have"),
    ],
)
def test_a_route_that_makes_no_sense_is_refused_in_words(given, says):
    with pytest.raises(ValueError, match=says):
        Route.parse(given)


def test_what_was_written_halfway_is_never_read(tmp_path):
    table = Table.load(tmp_path / "table.json")
    table.with_version("churn", "1", {"source": "x"})
    table.with_route("churn", Route("churn", {"1": 1.0}))
    (tmp_path / "table.part").write_text('{"routes": {"chu')
    kept = Table.load(tmp_path / "table.json")
    assert kept.routes == table.routes
    assert kept.models == {"churn": {"1": {"source": "x"}}}
    assert kept.used_by("churn", "1") == ["churn"]
