"""Who answers which caller: by weight, for good, and with as few moves as there can be."""

import hashlib
import json
import math
import os
import re
from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import pytest

from include.serving import routing
from include.serving.kept import NotKept
from include.serving.routing import Route, Table

CALLERS = [str(number) for number in range(100_000)]
NAMES = "1 to 100 letters, digits, '_', '-' and '.'"


def picked(weights, healthy=("1", "2", "3"), callers=CALLERS[:20_000]):
    route = Route("churn", weights)
    return [route.pick(caller, healthy) for caller in callers]


def share(versions, version):
    return versions.count(version) / len(versions)


@pytest.mark.parametrize(
    ("weights", "versions"),
    [
        ({"1": 1, "2": 1}, "1211122221112112122122112211111212111212"),
        ({"1": 90, "2": 10}, "1111111111111111111121112111111111111112"),
        ({"1": 1, "2": 0}, "1" * 40),
    ],
)
def test_the_same_callers_meet_the_same_versions_in_each_release_of_the_gateway(weights, versions):
    route = Route("churn", weights)
    assert "".join(route.pick(caller, {"1", "2"}) for caller in CALLERS[:40]) == versions


def test_without_a_healthy_version_with_weight_nobody_is_picked():
    route = Route("churn", {"1": 1.0, "2": 0.0})
    assert route.pick("a caller", {"2", "3"}) is None
    assert route.pick("a caller", set()) is None
    assert route.pick("a caller", {"1"}) == "1"


@pytest.mark.parametrize(
    ("drawn", "finish"), [(b"\0" * 8, 64 * math.log(2)), (b"\0" * 7 + b"\1", 63 * math.log(2))]
)
def test_the_lowest_draws_of_all_have_a_finish_too(monkeypatch, drawn, finish):
    monkeypatch.setattr(
        hashlib, "blake2b", lambda *given, **more: SimpleNamespace(digest=lambda: drawn)
    )
    assert routing.finish("churn", "1", "a caller") == pytest.approx(finish, rel=1e-12)


@pytest.mark.parametrize(
    "given",
    [
        {"model": "churn", "weights": {"1": 1}},
        {"model": "churn", "weights": {"1": 1_000_000, "2": 0}, "sticky": None, "shadow": None},
        {"model": "c" * 100, "weights": {"1": 0.5}, "sticky": "X-Customer", "shadow": "2"},
        {"model": "a_b-c.D9", "weights": {"1": 1, "2": 0}, "shadow": "2"},
        {"model": "churn", "weights": {str(number): 1e-9 for number in range(100)}},
    ],
)
def test_a_route_is_read_as_it_is_given(given):
    route = Route.parse(given)
    assert (route.model, route.weights) == (given["model"], given["weights"])
    assert (route.sticky, route.shadow) == (given.get("sticky"), given.get("shadow"))


FORM = "a route has 'model' and 'weights', and may have ['model', 'shadow', 'sticky', 'weights']"
WEIGHTS = "'weights' must give each of 1 to 100 versions its share"
MODEL = f"'model' must be {NAMES}"
SHADOW = f"'shadow' must be null or {NAMES}"
STICKY = f"'sticky' must be null or the name of a header that names callers: {NAMES}"
ONE = {"1": 1}


def churn(weights=ONE, **more):
    return {"model": "churn", "weights": weights} | more


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], FORM),
        ({"model": "churn"}, FORM),
        ({"weights": ONE}, FORM),
        (churn(weight=1), FORM),
        (churn({}), WEIGHTS),
        (churn([1]), WEIGHTS),
        (churn({str(number): 1 for number in range(101)}), WEIGHTS),
        *[
            (churn({"1": weight}), "the weight of version '1' must be from 0 to 1000000")
            for weight in (-1, 1_000_001, math.nan, math.inf, 10**400, True, "1", None)
        ],
        (
            churn({"1" * 100: -1}),
            f"the weight of version '{'1' * 80}' must be from 0 to 1000000",
        ),
        ({"model": {}, "weights": ONE}, MODEL),
        ({"model": "c" * 101, "weights": ONE}, MODEL),
        ({"model": "", "weights": ONE}, MODEL),
        ({"model": "-churn", "weights": ONE}, MODEL),
        ({"model": "a churn", "weights": ONE}, MODEL),
        (churn({"a version": 1}), f"the name of a version must be {NAMES}"),
        (churn(shadow={}), SHADOW),
        (churn(shadow=""), SHADOW),
        (churn(sticky=7), STICKY),
        (churn(sticky="X Customer"), STICKY),
        (churn(sticky="Authorization"), STICKY),
        (churn(sticky="cookie"), STICKY),
        (churn(sticky="Proxy-Authorization"), STICKY),
        (churn({"1": 0}), "one version at least must have a weight above 0"),
        (churn({"2": 1}, shadow="2"), "version 2 can't be live and shadow at once"),
    ],
)
def test_a_route_that_makes_no_sense_is_refused_in_words(given, says):
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        Route.parse(given)


def test_a_route_in_the_table_can_not_be_changed_past_the_disk():
    with pytest.raises(FrozenInstanceError):
        Route("churn", ONE).model = "fraud"


def test_a_route_needs_its_versions_with_weight_and_its_shadow():
    assert Route("churn", {"1": 1, "2": 0, "3": 0.1}).versions() == {"1", "3"}
    assert Route("churn", {"1": 1, "2": 0}, shadow="4").versions() == {"1", "4"}


def test_what_was_written_halfway_is_never_read(tmp_path):
    table = Table.load(tmp_path / "table.json")
    table.with_version("churn", "1", {"source": "x"})
    table.with_route("churn", Route("churn", {"1": 1.0}))
    (tmp_path / "table.part").write_text('{"routes": {"chu')
    kept = Table.load(tmp_path / "table.json")
    assert kept.routes == table.routes
    assert kept.models == {"churn": {"1": {"source": "x"}}}
    assert kept.used_by("churn", "1") == ["churn"]


@pytest.fixture
def kept(tmp_path):
    """A table with one version and its route, which led to another version before."""
    table = Table.load(tmp_path / "table.json")
    table.with_version("churn", "1", {"source": "x"})
    table.with_route("churn", Route("churn", {"0": 1.0}))
    table.with_route("churn", Route("churn", {"1": 1.0}))
    return table


CHANGES = {
    "a new route": lambda table: table.with_route("other", Route("churn", {"1": 1.0})),
    "another route": lambda table: table.with_route("churn", Route("churn", {"2": 1.0})),
    "no route": lambda table: table.with_route("churn", None),
    "a new version": lambda table: table.with_version("churn", "2", {"source": "y"}),
    "no version": lambda table: table.with_version("churn", "1", None),
}


def content(table):
    return table.routes, table.models, table.back("churn")


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_replaces_the_file_and_never_writes_into_it(kept, tmp_path, change):
    before = kept.file.read_bytes()
    os.link(kept.file, tmp_path / "before.json")  # the same file under a second name
    CHANGES[change](kept)
    assert (tmp_path / "before.json").read_bytes() == before
    assert kept.file.read_bytes() != before


@pytest.mark.parametrize("change", CHANGES)
def test_a_restart_finds_each_change(kept, change):
    CHANGES[change](kept)
    again = Table.load(kept.file)
    assert (again.routes, again.models) == (kept.routes, kept.models)
    assert kept.models == {
        "a new version": {"churn": {"1": {"source": "x"}, "2": {"source": "y"}}},
        "no version": {},
    }.get(change, {"churn": {"1": {"source": "x"}}})


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_is_not_on_disk_is_not_in_memory_either(kept, monkeypatch, change):
    def full(number):
        raise OSError(28, "No space left on device")

    before, on_disk = content(kept), kept.file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(NotKept, match="No space left"):
            CHANGES[change](kept)
    assert content(kept) == before
    assert kept.file.read_bytes() == on_disk


@pytest.mark.parametrize("weights", [{"1": 95, "2": 5}, {"1": 1, "2": 1, "3": 2}])
def test_a_hundred_thousand_callers_land_within_half_a_percent_of_the_weights(weights):
    versions = picked(weights, callers=CALLERS)
    for version, weight in weights.items():
        assert share(versions, version) == pytest.approx(weight / sum(weights.values()), abs=0.005)


def test_more_weight_moves_only_callers_that_come_to_it():
    before, after = picked({"1": 90, "2": 10}), picked({"1": 75, "2": 25})
    moved = {(old, new) for old, new in zip(before, after, strict=True) if old != new}
    assert moved == {("1", "2")}
    assert sum(o != n for o, n in zip(before, after, strict=True)) == pytest.approx(3000, abs=200)


def test_without_a_dead_version_only_its_callers_move():
    before = picked({"1": 1, "2": 1, "3": 1})
    after = picked({"1": 1, "2": 1, "3": 1}, healthy=("1", "3"))
    assert all(new == old for old, new in zip(before, after, strict=True) if old != "2")
    assert share(after, "2") == 0


def test_a_version_of_another_model_is_not_in_use(kept):
    assert kept.used_by("churn", "1") == ["churn"]
    assert kept.used_by("fraud", "1") == []


def test_all_routes_that_need_a_version_are_named_in_order(kept):
    kept.with_route("b", Route("churn", {"2": 1.0}, shadow="1"))
    kept.with_route("a", Route("churn", {"2": 0.5, "1": 0.5}))
    kept.with_route("c", Route("churn", {"2": 1.0, "1": 0.0}))
    assert kept.used_by("churn", "1") == ["a", "b", "churn"]


def test_the_way_back_leads_to_what_callers_have_and_to_what_they_had_before(tmp_path):
    table = Table.load(tmp_path / "table.json")
    assert table.back("churn") == set()
    first, second = Route("churn", {"1": 1.0}, shadow="2"), Route("churn", {"3": 1.0})
    table.with_route("churn", first)
    assert (table.before, table.back("churn")) == ({}, {"1", "2"})
    table.with_route("churn", second)
    table.with_route("churn", second)  # the same again leaves the way back as it was
    assert (table.before, table.back("churn")) == ({"churn": first}, {"1", "2", "3"})
    table.with_route("churn", None)
    assert (table.routes, table.back("churn")) == ({}, {"3"})


def test_a_route_and_a_version_change_no_other_one(kept):
    kept.with_route("other", Route("fraud", {"7": 1.0}, "X-Customer", "8"))
    kept.with_version("fraud", "7", {"source": "z"})
    kept.with_version("churn", "2", {"source": "y"})
    kept.with_version("churn", "1", None)
    kept.with_version("churn", "1", None)  # forgotten already
    assert kept.models == {"churn": {"2": {"source": "y"}}, "fraud": {"7": {"source": "z"}}}
    assert kept.routes == {
        "churn": Route("churn", {"1": 1.0}),
        "other": Route("fraud", {"7": 1.0}, "X-Customer", "8"),
    }
    churn = {"model": "churn", "weights": {"1": 1.0}, "sticky": None, "shadow": None}
    other = {"model": "fraud", "weights": {"7": 1.0}, "sticky": "X-Customer", "shadow": "8"}
    assert json.loads(kept.file.read_text()) == {
        "routes": {"churn": churn, "other": other},
        "models": kept.models,
    }
    assert Table.load(kept.file).routes == kept.routes


def test_two_models_draw_for_the_same_callers_independently():
    weights, callers = {"1": 1.0, "2": 1.0}, CALLERS[:4000]
    churn, fraud = (
        [Route(model, weights).pick(caller, weights) for caller in callers]
        for model in ("churn", "fraud")
    )
    both = sum(one == other == "2" for one, other in zip(churn, fraud, strict=True))
    assert both / len(callers) == pytest.approx(1 / 4, abs=0.03)
