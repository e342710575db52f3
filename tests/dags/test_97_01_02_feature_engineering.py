"""97.1.2 Feature Engineering Tasks: no row knows its future, and equal input makes one version."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from airflow.models import TaskInstance
from airflow.sdk.exceptions import ParamValidationError
from airflow.utils.session import create_session
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sqlalchemy import select

from include import storage
from include.data import landing
from include.data import warehouse as warehouse_data
from include.data.payments import stream
from include.features import payment_risk, payments, point_in_time, recipe
from tests.conftest import HOME
from tests.harness import Warehouse

DAG = "97_01_02_feature_engineering"
LANDING = HOME / "landing"
SHELF = HOME / "artifacts" / DAG / "feature_sets"
SOURCES = ("payments", "disputes", "ratings")
MARCH = pd.Timestamp("2026-03-01")


@pytest.fixture
def deliver():
    """Change a delivered file; it is put back after the test."""
    before = {file: file.read_bytes() for file in LANDING.iterdir()}

    def change(name, text):
        (LANDING / name).write_text(text)

    yield change
    for file, content in before.items():
        file.write_bytes(content)


@pytest.fixture(scope="module")
def run(run_dag):
    return run_dag(DAG)


@pytest.fixture(scope="module")
def sources(run):
    return [run.frame("extract", map_index=index) for index in range(len(SOURCES))]


@pytest.fixture(scope="module")
def joined(run):
    return run.frame("features.join", "rows")


def manifest(run):
    (event,) = run.events("feature_set")
    return storage.read_json(event["manifest"])


def kept():
    """Everything in the store, with the moment at which it was last written."""
    return {path: path.stat().st_mtime_ns for path in SHELF.rglob("*") if path.is_file()}


@pytest.mark.shows("97.1.2", "Feature extraction tasks")
def test_each_source_arrives_whole_whatever_form_it_came_in(sources, warehouse):
    paid, disputed, rated = sources
    assert sorted(paid.payment_id) == sorted(warehouse.column("payments", "payment_id"))
    seeded, disputes = stream()
    pd.testing.assert_frame_equal(paid, seeded)
    pd.testing.assert_frame_equal(disputed, disputes.astype(disputed.dtypes))
    lines = (LANDING / "ratings.csv").read_text().splitlines()[1:]
    account, month, published, score = lines[0].split(";")
    assert len(rated) == len(lines)
    assert rated.iloc[0].to_dict() == {
        "account": int(account),
        "event_at": pd.to_datetime(f"01.{month}", dayfirst=True),
        "known_at": pd.to_datetime(published, dayfirst=True),
        "rating": float(score.replace(",", ".")),
    }


@pytest.mark.shows("97.1.2", "Feature extraction tasks")
def test_each_extraction_bears_the_name_of_its_source(run):
    with create_session() as session:
        named = session.execute(
            select(TaskInstance.map_index, TaskInstance.rendered_map_index).where(
                TaskInstance.dag_id == DAG, TaskInstance.task_id == "extract"
            )
        ).all()
    assert set(named) == set(enumerate(SOURCES))


@pytest.mark.shows("97.1.2", "Feature transformation")
def test_the_transformer_has_learned_from_the_training_window_only(run, joined):
    fitted = run.model("transform.fit")
    window = joined[joined["at"] < MARCH]
    learned = fitted.named_transformers_["scaled"].mean_[0]
    assert learned == pytest.approx(window.disputes_known.mean())
    assert learned < joined.disputes_known.mean() - 0.1
    filled = fitted.named_transformers_["filled"][0].statistics_[0]
    assert filled == window.rating.median() != joined.rating.median()


@pytest.mark.shows("97.1.2", "Feature transformation")
def test_the_saved_transformer_makes_the_published_numbers_again(run, joined):
    what = manifest(run)
    published = storage.read_frame(what["features"])
    fitted = storage.read_model(what["transformer"])
    names = list(fitted.get_feature_names_out())
    assert list(published.columns) == ["payment_id", "account", "at", "fraud", *names]
    assert (published[names].to_numpy() == fitted.transform(joined)).all()
    assert not published.isna().any().any()


@pytest.mark.shows("97.1.2", "Feature store integration")
def test_a_planted_future_value_leaks_by_a_naive_join_and_not_by_this_one(
    run, run_dag, joined, deliver
):
    payment = joined[joined.rating.notna() & (joined["at"] > "2026-02-15")].iloc[0]
    table = (LANDING / "ratings.csv").read_text()
    a_day_later = (payment["at"] + pd.Timedelta(days=1)).strftime(landing.BUREAU_TIME)
    deliver("ratings.csv", f"{table}{payment.account};02.2026;{a_day_later};301,5\n")

    planted = run_dag(DAG)
    rated = planted.frame("extract", map_index=2)
    naive = pd.merge_asof(
        joined[["payment_id", "account", "at"]],
        rated.sort_values("event_at", kind="stable"),
        left_on="at",
        right_on="event_at",
        by="account",
    ).set_index("payment_id")
    assert naive.rating[payment.payment_id] == 301.5

    after = planted.frame("features.join", "rows")
    assert after.set_index("payment_id").rating[payment.payment_id] == payment.rating
    changed = joined.rating.fillna(0) != after.rating.fillna(0)
    assert (after[changed].account == payment.account).all()
    assert (after[changed]["at"] >= payment["at"] + pd.Timedelta(hours=23)).all()


@pytest.mark.shows("97.1.2", "Feature store integration")
@pytest.mark.parametrize("day", ["2026-01-20", "2026-02-10", "2026-03-20"])
def test_what_became_known_later_changes_no_earlier_row(sources, joined, day):
    then = pd.Timestamp(day)
    paid, disputed, rated = sources
    known = payment_risk.joined(
        paid[paid["at"] <= then],
        disputed[disputed.known_at <= then],
        rated[rated.known_at <= then],
    )
    pd.testing.assert_frame_equal(known, joined[joined["at"] <= then])


def test_the_join_agrees_with_the_one_that_goes_event_by_event(sources, joined):
    paid, disputed, _ = sources
    slowly = payments.as_of(paid, disputed)
    assert (joined.disputes_known == slowly.disputes_known).all()


def test_each_rating_is_the_newest_that_was_published(sources, joined):
    rated = sources[2]
    for row in joined.sample(60, random_state=7).itertuples():
        known = rated[(rated.account == row.account) & (rated.known_at <= row.at)]
        best = known.sort_values(["event_at", "known_at"]).rating
        assert (best.iloc[-1] == row.rating) if len(best) else pd.isna(row.rating)


def test_a_late_correction_of_an_older_month_and_a_rating_announced_ahead_have_to_wait():
    day = pd.Timestamp("2026-02-01")
    facts = pd.DataFrame(
        [
            (day - pd.Timedelta(days=31), day - pd.Timedelta(days=30), "January"),
            (day, day + pd.Timedelta(days=3), "February"),
            (day - pd.Timedelta(days=31), day + pd.Timedelta(days=9), "January, corrected"),
            (day + pd.Timedelta(days=28), day + pd.Timedelta(days=12), "March, announced"),
        ],
        columns=["event_at", "known_at", "rating"],
    ).assign(account=1)
    asked = pd.DataFrame({"account": 1, "at": day + pd.to_timedelta([2, 5, 15, 28], unit="D")})
    told = point_in_time.join(asked, point_in_time.newest(facts, "account"), "account")
    assert list(told.rating) == ["January", "February", "February", "March, announced"]


@pytest.mark.parametrize("time", ["event_at", "known_at"])
def test_a_fact_without_one_of_its_times_is_refused_and_not_guessed(sources, time):
    paid, disputed, rated = (source.copy() for source in sources)
    rated.loc[3, time] = pd.NaT
    with pytest.raises(ValueError, match=f"1 rows have no {time} to join by: account") as told:
        payment_risk.joined(paid, disputed, rated)
    assert str(rated.account[3]) in str(told.value)


def test_a_naive_join_promises_what_the_header_says_and_does_not_deliver(run, sources, joined):
    paid, *facts = sources
    naive = payment_risk.joined(paid, *(point_in_time.told_at_once(each) for each in facts))
    seen, unseen = joined["at"] < MARCH, joined["at"] >= MARCH
    transformer = payment_risk.transformer().fit(naive[seen])
    model = LogisticRegression().fit(transformer.transform(naive[seen]), naive.fraud[seen])

    def auc(rows):
        scores = model.predict_proba(transformer.transform(rows[unseen]))[:, 1]
        return roc_auc_score(rows.fraud[unseen], scores)

    text = (Path(__file__).parents[2] / "dags" / f"{DAG}.py").read_text()
    assert f"an AUC of {auc(naive):.2f} and\ndelivers {auc(joined):.2f}" in text
    assert run.xcom("features.join")["told_too_early"] == pytest.approx(0.37, abs=0.005)


@pytest.mark.shows("97.1.2", "Feature validation")
def test_broken_payments_stop_the_run_before_anything_is_fitted_and_are_named(run_dag, warehouse):
    warehouse.execute("UPDATE payments SET amount = -5 WHERE payment_id IN (7, 4242)")
    warehouse.execute("UPDATE payments SET shop = 'casino' WHERE payment_id = 99")
    before = kept()
    failed = run_dag(DAG, expect="failed")
    told = failed.error("features.validate")
    assert "amount: expect_column_values_to_be_between" in told
    assert "fails for payment_id 7, 4242" in told
    assert "fails for payment_id 99" in told
    assert failed.tries("features.validate") == 1
    assert failed.states["transform.fit"] == failed.states["publish"] == "upstream_failed"
    assert failed.events("feature_set") == []
    assert kept() == before


@pytest.mark.shows("97.1.2", "Feature validation")
def test_a_join_that_reaches_into_the_future_is_refused_with_its_rows(run_dag, monkeypatch):
    def nearest(rows, view, entity):
        return pd.merge_asof(
            rows, view, left_on="at", right_on="known_at", by=entity, direction="nearest"
        )

    monkeypatch.setattr(point_in_time, "join", nearest)
    told = run_dag(DAG, expect="failed").error("features.validate")
    assert "column_A=at, column_B=dispute_known_at" in told
    assert "column_A=at, column_B=rating_known_at" in told
    assert "fails for payment_id " in told


def test_the_version_says_which_code_data_and_settings_it_comes_of(run):
    (event,) = run.events("feature_set")
    what = manifest(run)
    assert run.xcom("publish") == event["version"] == what["version"]
    assert what["version"] == recipe.version(what["made_from"])
    assert what["made_from"]["data"] == {
        source: run.digest("extract", map_index=index) for index, source in enumerate(SOURCES)
    }
    assert what["made_from"]["settings"] == {"train_until": "2026-03-01"}
    assert {f"{DAG}.py", "payment_risk.py", "point_in_time.py"} < what["made_from"]["code"].keys()
    assert what["rows"] == 9_000


def test_the_same_input_gives_the_same_version_and_no_second_write(run, run_dag):
    before = kept()
    for again in (run_dag(DAG), run_dag(DAG, logical_date=run.logical_date)):
        assert again.events("feature_set")[-1:] == run.events("feature_set")
        assert again.digest("transform.apply") == run.digest("transform.apply")
    assert kept() == before


def test_other_code_data_or_settings_give_another_version(run, run_dag, warehouse, tmp_path):
    first = manifest(run)["version"]
    narrower = run_dag(DAG, conf={"train_until": "2026-02-15"})
    warehouse.execute("UPDATE payments SET amount = amount + 1 WHERE payment_id = 7")
    dearer = run_dag(DAG)
    versions = {first, manifest(narrower)["version"], manifest(dearer)["version"]}
    assert len(versions) == 3
    assert versions <= {path.name for path in SHELF.iterdir()}

    same, other = tmp_path / "join.py", tmp_path / "other" / "join.py"
    other.parent.mkdir()
    same.write_text("DAYS = 1")
    other.write_text("DAYS = 2")
    one, two = (recipe.version(recipe.recipe([file], {}, {})) for file in (same, other))
    assert one != two


def test_a_publication_that_broke_off_is_finished_by_the_next_try(run_dag, warehouse, monkeypatch):
    warehouse.execute("UPDATE payments SET amount = amount + 2 WHERE payment_id = 8")
    keep, seen = storage.keep, []

    def lost(content, shelf, name):
        if name == "manifest.json" and not seen:
            seen.append(sorted(path.name for path in (SHELF.parent / shelf).iterdir()))
            raise ConnectionError("the store went away")
        return keep(content, shelf, name)

    monkeypatch.setattr(storage, "keep", lost)
    run = run_dag(DAG)
    assert seen == [["features.parquet", "transformer.skops"]]
    assert run.tries("publish") == 2
    what = manifest(run)
    assert storage.read_frame(what["features"]).shape == (9_000, 12)
    assert sorted(path.name for path in (SHELF / what["version"]).iterdir()) == [
        "features.parquet",
        "manifest.json",
        "transformer.skops",
    ]


def test_a_kept_file_that_was_changed_is_refused_and_not_written_over(run, run_dag):
    file = SHELF / manifest(run)["version"] / "features.parquet"
    content = file.read_bytes()
    file.write_bytes(b"tampered")
    try:
        failed = run_dag(DAG, expect="failed")
        assert "is kept already, with other content" in failed.error("publish")
        assert failed.tries("publish") == 1
        assert file.read_bytes() == b"tampered"
    finally:
        file.write_bytes(content)


def test_a_broken_line_of_the_log_is_named_and_not_tried_again(run_dag, deliver):
    log = (LANDING / "disputes.jsonl").read_text().splitlines()
    log[11] = '{"account": 3}'
    deliver("disputes.jsonl", "\n".join(log))
    failed = run_dag(DAG, expect="failed")
    assert "disputes.jsonl, line 12 is no dispute: KeyError('paid_at')" in failed.error(
        "extract[1]"
    )
    assert failed.tries("extract[1]") == 1
    assert failed.states["extract[0]"] == failed.states["extract[2]"] == "success"


@pytest.mark.parametrize("day", ["2025-12-31", "2026-06-01"])
def test_a_window_outside_of_the_payments_is_refused_with_the_days_that_there_are(run_dag, day):
    failed = run_dag(DAG, conf={"train_until": day}, expect="failed")
    assert f"train_until={day} must lie within the payments" in failed.error("transform.fit")
    assert "from 2026-01-01 to 2026-03-31" in failed.error("transform.fit")
    assert failed.tries("transform.fit") == 1


@pytest.mark.parametrize("day", ["yesterday", "2026-13-01", 20260301])
def test_what_is_no_day_is_refused_before_anything_starts(dags, day):
    with pytest.raises(ParamValidationError):
        dags[DAG].params.get_param("train_until").resolve(day)


def test_an_older_warehouse_gets_the_payments_and_keeps_what_it_has(tmp_path):
    older = tmp_path / "warehouse.db"
    with closing(sqlite3.connect(older)) as database:
        database.execute("CREATE TABLE customers AS SELECT 17 AS customer_id")
        database.commit()
    assert warehouse_data.create(older)
    assert Warehouse(older).column("customers", "customer_id") == [17]
    assert len(Warehouse(older).column("payments", "payment_id")) == 9_000
    assert not warehouse_data.create(older)
    assert [path.name for path in tmp_path.iterdir()] == ["warehouse.db"]


def test_xcom_carries_references_and_less_than_a_kilobyte(run):
    for (task, _, key), value in run.xcoms().items():
        assert len(json.dumps(value)) < 1024, (task, key)
