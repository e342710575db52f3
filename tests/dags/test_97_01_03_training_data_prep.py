"""97.1.3 Training Data Preparation: nothing leaks, nothing is lost, and it can be had again."""

import hashlib
import json
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from airflow.sdk.exceptions import ParamValidationError

from include import storage
from include.data import manifest, sampling, splits

DAG = "97_01_03_training_data_prep"
WAIT = pd.Timedelta(days=10)
FILES = ("train.parquet", "validation.parquet")


@pytest.fixture(scope="module")
def run(run_dag):
    return run_dag(DAG)


@pytest.fixture(scope="module")
def others(run, run_dag):
    """A run for each of the other splits, with another sampling each."""
    chosen = {"random": "oversample", "stratified": "undersample", "group": "smote"}
    return {
        split: run_dag(DAG, conf={"split": split, "sampling": sampling})
        for split, sampling in chosen.items()
    }


@pytest.fixture
def planted(monkeypatch):
    """Let a split make a mistake: what it returns goes through `spoil` first."""

    def plant(name, spoil):
        honest = getattr(splits, name)
        monkeypatch.setattr(splits, name, lambda *given: spoil(*honest(*given)))

    return plant


def parts(run):
    return run.frame("split.split", "train"), run.frame("split.split", "validation")


def shelf(run_or_version):
    version = getattr(run_or_version, "xcom", lambda _: run_or_version)("version.commit")
    return Path(storage.store().path) / DAG / "versions" / version


def described(run):
    return json.loads((shelf(run) / "manifest.json").read_text())


def kept():
    """Every file of every version, by its digest."""
    root = Path(storage.store().path) / DAG / "versions"
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def bytes_of(run):
    out = run.xcom("version.check_out")
    return {name: storage.read_bytes(out[name]) for name in FILES}


@pytest.mark.shows("97.1.3", "Data splitting")
def test_by_time_nothing_is_learned_that_was_not_known_when_validation_began(run, warehouse):
    train, validation = parts(run)
    begins = validation["at"].min()
    assert train["at"].max() + WAIT <= begins
    all_times = pd.to_datetime(pd.Series(warehouse.column("payments", "at")))
    assert len(train) == (all_times <= begins - WAIT).sum()
    assert len(validation) == (all_times >= begins).sum() == 2250
    assert run.xcom("split.check_leakage") == {
        "id": 0,
        "duplicate": 0,
        "future": 0,
        "group": train.account.isin(validation.account).sum(),
    }


@pytest.mark.shows("97.1.3", "Data splitting")
@pytest.mark.parametrize("split", ["random", "stratified", "group"])
def test_drawn_at_random_or_by_group_every_payment_is_in_exactly_one_part(others, split, warehouse):
    train, validation = parts(others[split])
    ids = sorted([*train.payment_id, *validation.payment_id])
    assert ids == sorted(warehouse.column("payments", "payment_id"))
    assert len(validation) == pytest.approx(len(ids) / 4, rel=0.1)


@pytest.mark.shows("97.1.3", "Data splitting")
def test_each_split_keeps_its_own_promise_and_no_other(others):
    shares = [part.fraud.mean() for part in parts(others["stratified"])]
    assert shares[0] == pytest.approx(shares[1], abs=5e-4)
    by_chance = [part.fraud.mean() for part in parts(others["random"])]
    assert abs(by_chance[0] - by_chance[1]) > 2e-3
    train, validation = parts(others["group"])
    assert not set(train.account) & set(validation.account)
    found = {split: run.xcom("split.check_leakage") for split, run in others.items()}
    assert (found["random"]["group"], found["group"]["group"]) == (6674, 0)
    assert found["random"]["future"] == 6750


def same_id(train, validation):
    twin = validation.head(1).assign(amount=0.01)
    return pd.concat([train, twin]), validation


def booked_twice(train, validation):
    twin = validation.head(1).assign(payment_id=99_999, fraud=1 - validation.fraud.head(1))
    return pd.concat([train, twin]), validation


def too_early(train, validation):
    return pd.concat([train, validation.tail(1)]), validation.head(-1)


LEAKS = {
    "id": ("at_random", "random", same_id),
    "duplicate": ("stratified", "stratified", booked_twice),
    "future": ("by_time", "time", too_early),
    "group": ("by_group", "group", too_early),
}


@pytest.mark.shows("97.1.3", "Data splitting")
@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_of_each_kind_stops_the_run_and_names_its_row(run, run_dag, planted, kind):
    name, split, spoil = LEAKS[kind]
    spoiled = []

    def spoil_and_look(train, validation):
        leaky, judged = spoil(train, validation)
        spoiled.append(leaky.payment_id.iloc[-1])
        return leaky, judged

    planted(name, spoil_and_look)
    before = kept()
    failed = run_dag(DAG, conf={"split": split}, expect="failed")
    assert failed.error("split.check_leakage") == (
        f"training rows know validation rows by\n- {kind}: 1 training rows, payment_id {spoiled[0]}"
    )
    assert failed.tries("split.check_leakage") == 1
    assert failed.states["balance.sample"] == "upstream_failed"
    assert kept() == before


@pytest.mark.shows("97.1.3", "Data splitting")
def test_payments_booked_twice_are_found_where_a_split_tears_them_apart(run, run_dag, warehouse):
    warehouse.execute(
        "INSERT INTO payments SELECT payment_id + 10000, account, at, shop, amount, fraud "
        "FROM payments WHERE payment_id <= 40"
    )
    torn = run_dag(DAG, conf={"split": "random"}, expect="failed")
    message = torn.error("split.check_leakage")
    assert "- duplicate: " in message
    assert message.endswith(" and more")
    together = run_dag(DAG, conf={"split": "group"})
    assert together.xcom("split.check_leakage")["duplicate"] == 0


@pytest.mark.shows("97.1.3", "Sampling strategies")
def test_weights_let_both_labels_count_the_same_and_lose_no_row(run):
    train, _ = parts(run)
    sampled = run.frame("balance.sample")
    pd.testing.assert_frame_equal(sampled.drop(columns="weight"), train)
    sums = sampled.groupby("fraud")["weight"].sum()
    assert sums[0] == pytest.approx(sums[1])


@pytest.mark.shows("97.1.3", "Sampling strategies")
def test_undersampling_keeps_every_fraud_and_as_many_others(others):
    train, _ = parts(others["stratified"])
    sampled = others["stratified"].frame("balance.sample")
    assert sampled.payment_id.is_unique
    assert set(sampled.payment_id) <= set(train.payment_id)
    assert set(sampled.payment_id[sampled.fraud == 1]) == set(train.payment_id[train.fraud == 1])
    assert sampled.fraud.mean() == 0.5


@pytest.mark.shows("97.1.3", "Sampling strategies")
def test_oversampling_repeats_frauds_of_training_and_nothing_else(others):
    train, _ = parts(others["random"])
    sampled = others["random"].frame("balance.sample")
    assert sampled.fraud.mean() == 0.5
    assert set(sampled.payment_id) == set(train.payment_id)
    assert sampled.payment_id[sampled.fraud == 0].is_unique


@pytest.mark.shows("97.1.3", "Sampling strategies")
def test_smote_makes_frauds_between_those_of_training_which_nobody_has_booked(others):
    train, _ = parts(others["group"])
    sampled = others["group"].frame("balance.sample")
    real, made = sampled.head(len(train)), sampled.iloc[len(train) :]
    assert real.payment_id.tolist() == train.payment_id.tolist()
    assert made[["payment_id", "account", "at"]].isna().all(axis=None)
    assert (made.fraud == 1).all()
    assert sampled.fraud.mean() == 0.5
    frauds = train[train.fraud == 1]
    for feature in ("amount", "hour"):
        assert made[feature].between(frauds[feature].min(), frauds[feature].max()).all()
        assert not made[feature].isin(frauds[feature]).all()


@pytest.mark.shows("97.1.3", "Sampling strategies")
def test_validation_keeps_its_natural_balance_whatever_is_done_to_training(run, others, warehouse):
    columns = [warehouse.column("payments", name) for name in ("payment_id", "fraud")]
    labels = dict(zip(*columns, strict=True))
    for each in (run, *others.values()):
        validation = each.frame("version.check_out", "validation.parquet")
        assert each.digest("version.check_out", "validation.parquet") == each.digest(
            "split.split", "validation"
        )
        assert validation.payment_id.is_unique
        assert validation.fraud.tolist() == [labels[row] for row in validation.payment_id]
        assert 0.07 < validation.fraud.mean() < 0.10


def test_sampling_before_splitting_is_what_the_check_is_for(run):
    whole = pd.concat(parts(run))
    columns = splits.Columns("payment_id", "at", "account", "fraud")
    leaky = splits.at_random(sampling.oversampled(whole, "fraud", seed=1), 0.25, seed=1)
    found = splits.crossings(*leaky, columns, WAIT)
    assert len(found["id"]) == len(found["duplicate"]) > 1000


@pytest.mark.shows("97.1.3", "Data versioning")
def test_the_manifest_says_of_each_file_what_is_in_it(run):
    content = described(run)["content"]
    assert content["settings"] == {
        "split": "time",
        "sampling": "class_weights",
        "validation_share": 0.25,
        "seed": 97,
        "wait_days": 10,
    }
    assert content["source"]["sha256"] == run.digest("source.ingest")
    assert sorted(content["files"]) == sorted(FILES)
    for name, file in content["files"].items():
        kept_bytes = (shelf(run) / name).read_bytes()
        rows = pd.read_parquet(shelf(run) / name)
        assert file["sha256"] == hashlib.sha256(kept_bytes).hexdigest()
        assert (file["rows"], file["frauds"]) == (len(rows), rows.fraud.sum())
    assert described(run)["version"] == manifest.version(content) == shelf(run).name


@pytest.mark.shows("97.1.3", "Data versioning")
def test_an_earlier_version_comes_back_byte_for_byte_without_the_warehouse(
    run, others, run_dag, warehouse
):
    warehouse.execute("DROP TABLE payments")
    before = kept()
    back = run_dag(DAG, conf={"version": run.xcom("version.commit")})
    assert bytes_of(back) == bytes_of(run)
    assert back.states["source.ingest"] == back.states["version.commit"] == "skipped"
    assert back.events("training_data") == [{"version": run.xcom("version.commit")}]
    assert kept() == before


@pytest.mark.shows("97.1.3", "Data versioning")
def test_each_version_names_the_one_that_was_newest_when_it_was_made(run, others):
    line = [described(each) for each in (run, *others.values())]
    for older, newer in pairwise(line):
        assert newer["parent"] == older["version"]
        assert newer["generation"] == older["generation"] + 1


@pytest.mark.shows("97.1.3", "Data versioning")
def test_one_other_number_in_the_source_is_another_version(run, others, run_dag, warehouse):
    warehouse.execute("UPDATE payments SET amount = amount + 1 WHERE payment_id = 9000")
    before = kept()
    changed = run_dag(DAG)
    assert changed.xcom("version.commit") not in {name.partition("/")[0] for name in before}
    assert described(changed)["content"]["settings"] == described(run)["content"]["settings"]
    assert before.items() <= kept().items()


def test_the_same_again_is_the_same_version_and_never_its_own_parent(run, others, run_dag):
    before = kept()
    for date in (run.logical_date, datetime(2027, 1, 1, tzinfo=UTC)):
        again = run_dag(DAG, logical_date=date)
        assert again.xcom("version.check_out") == run.xcom("version.check_out")
        assert kept() == before
    assert described(run)["parent"] != described(run)["version"]


def test_a_crash_before_the_manifest_leaves_no_version_and_the_next_try_makes_it(
    run, run_dag, monkeypatch
):
    keep, seen = storage.keep, []

    def die_once(content, shelf, name):
        if name == "manifest.json" and not seen:
            seen.append(sorted(kept()))
            raise ConnectionError("the machine went away")
        return keep(content, shelf, name)

    monkeypatch.setattr(storage, "keep", die_once)
    before = kept()
    saved = run_dag(DAG, conf={"seed": 3})
    made = {f"{saved.xcom('version.commit')}/{name}" for name in FILES}
    assert seen == [sorted({*before, *made})]
    assert saved.tries("version.commit") == 2
    assert kept().keys() == {*before, *made, f"{saved.xcom('version.commit')}/manifest.json"}
    assert before.items() <= kept().items()
    assert described(saved)["content"]["settings"]["seed"] == 3
    assert described(saved)["parent"] in {name.partition("/")[0] for name in before}


def test_the_newest_is_the_same_for_everybody_also_after_two_branched_off():
    def version(name, generation):
        return {"version": name, "generation": generation}

    known = [version("a", 1), version("c", 2), version("b", 2)]
    assert manifest.newest(known) == manifest.newest(reversed(known)) == version("c", 2)
    assert manifest.newest([]) is None


def test_an_unknown_version_is_refused_and_the_known_ones_are_listed(run, run_dag):
    failed = run_dag(DAG, conf={"version": "0123456789ab"}, expect="failed")
    assert "no version 0123456789ab among: " in failed.error("version.check_out")
    assert run.xcom("version.commit") in failed.error("version.check_out")
    assert failed.tries("version.check_out") == 1


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("train.parquet", lambda content: content[:-1], "train.parquet was changed after"),
        ("manifest.json", lambda content: content.replace(b'"seed": 97', b'"seed": 1'), "changed"),
        ("manifest.json", lambda content: content[:40], "manifest.json is no manifest"),
    ],
)
def test_a_damaged_version_is_never_handed_out(run, run_dag, name, damage, said):
    file = shelf(run) / name
    good = file.read_bytes()
    file.write_bytes(damage(good))
    try:
        conf = {"version": run.xcom("version.commit")}
        failed = run_dag(DAG, conf=conf, expect="failed")
    finally:
        file.write_bytes(good)
    assert said in failed.error("version.check_out")
    assert failed.tries("version.check_out") == 1
    assert failed.events("training_data") == []


@pytest.mark.shows("97.1.3", "Quality validation")
def test_broken_rows_stop_the_run_with_every_broken_expectation_listed(run, run_dag, warehouse):
    warehouse.execute("UPDATE payments SET amount = -5 WHERE payment_id = 7")
    warehouse.execute("UPDATE payments SET shop = 'casino' WHERE payment_id IN (8, 9)")
    warehouse.execute("UPDATE payments SET at = 'yesterday' WHERE payment_id = 10")
    warehouse.execute("UPDATE payments SET payment_id = 11 WHERE payment_id = 12")
    before = kept()
    failed = run_dag(DAG, expect="failed")
    message = failed.error("source.validate")
    assert "expectations on payments are broken:" in message
    assert "- amount: expect_column_values_to_be_between(min_value=0" in message
    assert "fails for payment_id 7" in message
    assert "- shop: expect_column_values_to_be_in_set" in message
    assert "fails for payment_id 8, 9" in message
    assert "- at: expect_column_values_to_not_be_null fails for payment_id 10" in message
    assert "fails for payment_id 11, 11" in message
    assert failed.tries("source.validate") == 1
    assert failed.states["split.split"] == "upstream_failed"
    assert kept() == before


@pytest.mark.shows("97.1.3", "Quality validation")
def test_a_validation_part_with_too_few_frauds_gets_no_version(run, run_dag):
    before = kept()
    failed = run_dag(DAG, conf={"validation_share": 0.02}, expect="failed")
    message = failed.error("balance.validate")
    assert "1 of 5 expectations on validation are broken:" in message
    assert "- fraud: expect_column_sum_to_be_between(min_value=50" in message
    assert failed.states["version.commit"] == "upstream_failed"
    assert failed.states["version.check_out"] == "upstream_failed"
    assert kept() == before


def test_trainings_are_told_which_version_is_ready(run):
    assert run.events("training_data") == [{"version": run.xcom("version.commit")}]


def test_what_is_passed_on_is_small(run):
    sizes = {where: len(json.dumps(what)) for where, what in run.xcoms().items()}
    assert max(sizes.values()) < 1024


@pytest.mark.parametrize(
    ("name", "value"),
    [("split", "by_hand"), ("sampling", "magic"), ("validation_share", 0.9), ("version", "latest")],
)
def test_a_wrong_param_is_refused_before_any_task_starts(run_dag, name, value):
    with pytest.raises(ParamValidationError, match=str(value)):
        run_dag(DAG, conf={name: value})
