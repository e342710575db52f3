"""97.1.5 Model Artifact Management: bytes under their digest, versions, names, and what may go."""

import json
import pickle
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from airflow.sdk.exceptions import ParamValidationError
from sklearn.metrics import roc_auc_score

from include import model_store, runs, storage, tracking
from include.training import model_format
from tests.harness import FinishedRun

DAG = "97_01_05_model_artifacts"
STORE = "AIRFLOW_VAR_ARTIFACT_STORE"
STRICT = {"keep_newest": 1, "keep_days": 1}
PROJECT = Path(__file__).parents[2]
KINDS = (model_store.BLOBS, model_store.VERSIONS, model_store.CLAIMS, model_store.SWEEPS)


def forget(registry):
    """Begin with an empty registry, as a copy of the DAG does."""
    for known in registry.client.search_registered_models(f"name = '{DAG}'"):
        registry.client.delete_registered_model(known.name)


def kept(models):
    """What is in a folder of models, by kind."""
    return {
        kind: sorted(path.name for path in (models / kind).iterdir())
        for kind in KINDS
        if (models / kind).exists()
    }


def registered(registry):
    """The versions that the registry has, by number, with their digests and aliases."""
    return {
        int(each.version): each for each in registry.client.search_model_versions(f"name = '{DAG}'")
    }


def aliases(registry):
    pointed = registry.client.get_registered_model(DAG).aliases
    return {alias: int(number) for alias, number in pointed.items()}


def plan(run):
    return storage.read_json(run.reference("clean.plan", "plan"))


def version(run):
    return run.xcom("version.describe")


def sidecar(models, run):
    return json.loads((models / "versions" / f"{version(run)}.json").read_text())


@pytest.fixture
def models(tmp_path, monkeypatch, registry):
    """A store of this test's own, with nothing in it yet: the folder that models will be in."""
    monkeypatch.setenv(STORE, tmp_path.as_uri())
    forget(registry)
    return tmp_path / DAG / "models"


@dataclass
class FiveMonths:
    """Five runs, a month apart, and what was left after each and in the end."""

    runs: list[FinishedRun]
    after: list[set[int]]
    models: Path
    aliases: dict[str, int]
    references: dict[int, str]


@pytest.fixture(scope="module")
def five_months(run_dag, registry, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    forget(registry)
    finished, after = [], []
    with pytest.MonkeyPatch.context() as setting:
        setting.setenv(STORE, store.as_uri())
        for month in range(1, 6):
            finished.append(run_dag(DAG, logical_date=datetime(2027, month, 4, tzinfo=UTC)))
            after.append(set(registered(registry)))
    references = {n: each.tags["reference"] for n, each in registered(registry).items()}
    return FiveMonths(finished, after, store / DAG / "models", aliases(registry), references)


@pytest.mark.shows("97.1.5", "Model storage patterns")
def test_equal_models_are_one_file_named_after_its_bytes(five_months):
    references = {run.reference("store.train") for run in five_months.runs}
    (digest,) = {reference.partition("#sha256=")[2] for reference in references}
    assert len(references) == 1
    (file,) = (five_months.models / "blobs").iterdir()
    assert file.name == f"{digest}.skops"
    assert sha256(file.read_bytes()).hexdigest() == digest
    assert set(five_months.references.values()) == references
    assert not any((five_months.models / "claims").iterdir())


@pytest.mark.shows("97.1.5", "Model storage patterns")
def test_a_flipped_byte_is_refused_on_load_and_mended_by_the_next_training(
    models, run_dag, monkeypatch, registry
):
    put = model_store.put

    def flipped(content):
        reference = put(content)
        (file,) = (models / "blobs").iterdir()
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        return reference

    with monkeypatch.context() as damaging:
        damaging.setattr(model_store, "put", flipped)
        failed = run_dag(DAG, expect="failed")
    assert "was changed after it was written: its SHA-256 is" in failed.error("version.load_back")
    assert failed.tries("version.load_back") == 1
    assert failed.states["name.promote"] == failed.states["clean.plan"] == "upstream_failed"
    assert registered(registry) == {}
    assert "versions" not in kept(models)
    mended = run_dag(DAG, logical_date=failed.logical_date)
    assert storage.read_bytes(mended.reference("store.train"))
    assert len(kept(models)["blobs"]) == len(kept(models)["versions"]) == 1


@pytest.mark.shows("97.1.5", "Model storage patterns")
def test_a_pickle_is_refused_and_not_run(models, run_dag, monkeypatch, tmp_path):
    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "it-ran",)

    monkeypatch.setattr(model_format, "dumps", lambda model: pickle.dumps(Hostile()))
    failed = run_dag(DAG, expect="failed")
    assert "bytes are not a skops file" in failed.error("version.load_back")
    assert failed.tries("version.load_back") == 1
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.shows("97.1.5", "Model storage patterns")
def test_the_same_file_keeps_its_models_in_s3(run_dag, bucket, registry):
    forget(registry)
    shelf = f"catalogue/{DAG}/models"
    first = run_dag(DAG)
    run_dag(DAG, conf={"trees": 5, **STRICT})
    third = run_dag(DAG, conf={"trees": 6, **STRICT})
    digests, everything = [run.digest("store.train") for run in (first, third)], bucket.keys()
    assert first.reference("store.train").startswith(f"s3://aws_default@{bucket.name}/{shelf}/")
    assert [key for key in everything if key.startswith(shelf)] == sorted([
        *(f"{shelf}/blobs/{digest}.skops" for digest in digests),
        *(f"{shelf}/versions/{version(run)}.json" for run in (first, third)),
    ])
    assert third.xcom("clean.clean_up") == {"versions": 2, "blobs": 2}
    champion = f"{shelf}/blobs/{digests[0]}.skops"
    content = bucket.get(champion)
    assert sha256(content).hexdigest() == digests[0]
    bucket.put(champion, content[:-1] + bytes([content[-1] ^ 1]))
    failed = run_dag(DAG, conf={"trees": 7}, expect="failed")
    assert "was changed after it was written" in failed.error("name.promote")
    assert failed.tries("name.promote") == 1
    assert aliases(registry) == {"champion": 1}


@pytest.mark.shows("97.1.5", "Artifact versioning")
def test_each_run_is_a_version_that_leads_back_to_run_and_bytes(five_months):
    numbers = [run.xcom("version.track") for run in five_months.runs]
    assert numbers == ["1", "2", "3", "4", "5"]
    for run in five_months.runs:
        assert version(run) == f"{run.key}-{run.digest('store.train')[:12]}"
    assert five_months.aliases == {"champion": 1}
    assert {run.xcom("name.promote") for run in five_months.runs} == {"1"}


@pytest.mark.shows("97.1.5", "Artifact versioning")
def test_another_setting_is_another_version_and_callers_get_it_if_it_ranks_better(
    models, run_dag, registry
):
    small = run_dag(DAG, conf={"trees": 2})
    large = run_dag(DAG, conf={"trees": 20})
    assert small.digest("store.train") != large.digest("store.train")
    assert [run.xcom("name.promote") for run in (small, large)] == ["1", "2"]
    assert aliases(registry) == {"champion": 2}
    assert len(kept(models)["blobs"]) == len(kept(models)["versions"]) == 2


def test_the_same_run_again_is_the_same_version_and_the_same_plan(models, run_dag, registry):
    run = run_dag(DAG, conf={"trees": 3})
    before = kept(models), sidecar(models, run), set(registered(registry)), plan(run)
    again = run_dag(DAG, conf={"trees": 3}, logical_date=run.logical_date)
    assert (kept(models), sidecar(models, again), set(registered(registry)), plan(again)) == before
    assert again.xcom("version.track") == run.xcom("version.track") == "1"


@pytest.mark.shows("97.1.5", "Metadata tracking")
def test_the_sidecar_says_what_the_model_is_and_how_good_the_stored_bytes_are(five_months):
    run = five_months.runs[0]
    told = sidecar(five_months.models, run)
    rows = run.frame("store.prepare", "holdout")
    scores = run.model("store.train").predict_proba(rows)[:, 1]
    assert told["metrics"]["roc_auc"] == pytest.approx(roc_auc_score(rows["churned"], scores))
    assert told["params"] == {"trees": 20, "depth": 6}
    assert told["data_version"] == run.digest("store.prepare", "train")
    assert told["sha256"] == run.digest("store.train")
    assert told["bytes"] == len(storage.read_bytes(run.reference("store.train")))
    assert told["created"] == "2027-01-04T00:00:00+00:00"
    inputs = told["signature"]["inputs"]
    assert inputs == {name: str(rows[name].dtype) for name in inputs}
    assert (run.model("store.train").predict_proba(rows[list(inputs)])[:, 1] == scores).all()
    code = [PROJECT / name for name in (f"dags/{DAG}.py", "include/features/churn.py")]
    assert told["code_version"] == runs.digest(b"".join(file.read_bytes() for file in code))


@pytest.mark.shows("97.1.5", "Metadata tracking")
def test_mlflow_knows_the_same(five_months, registry):
    run = five_months.runs[0]
    told = sidecar(five_months.models, run)
    (tracked,) = registry.runs(DAG, run.key)
    assert tracked.data.params == {"trees": "20", "depth": "6"}
    assert tracked.data.metrics == pytest.approx(told["metrics"])
    assert tracked.data.tags["data_version"] == told["data_version"]
    assert tracked.data.tags["code_version"] == told["code_version"]
    file = Path(tracked.info.artifact_uri.removeprefix("file://")) / "version.json"
    known = json.loads(file.read_text())
    assert known.pop("reference") == run.reference("store.train")
    assert known == told


@pytest.mark.shows("97.1.5", "Artifact cleanup")
def test_the_newest_the_young_and_the_champion_stay_and_the_rest_goes(five_months):
    assert five_months.after == [{1}, {1, 2}, {1, 2, 3}, {1, 2, 3, 4}, {1, 3, 4, 5}]
    left = [version(five_months.runs[index]) for index in (0, 2, 3, 4)]
    assert kept(five_months.models)["versions"] == [f"{name}.json" for name in left]
    may = plan(five_months.runs[4])
    assert [(row["days"], row["kept_for"]) for row in may["versions"]] == [
        (0, ["newest 3", "under 30 days"]),
        (30, ["newest 3"]),
        (61, ["newest 3"]),
        (89, []),
        (120, ["alias champion"]),
    ]
    assert may["goes"] == [version(five_months.runs[1])]


@pytest.mark.shows("97.1.5", "Artifact cleanup")
def test_what_a_dry_run_lists_goes_in_earnest_also_after_a_crash_halfway(
    models, run_dag, registry, monkeypatch
):
    champion, old = run_dag(DAG), run_dag(DAG, conf={"trees": 2})
    dry = run_dag(DAG, conf={"trees": 3, **STRICT, "dry_run": True})
    assert plan(dry)["goes"] == dry.xcom("clean.plan")["oldest_of_them"] == [version(old)]
    assert plan(dry)["blobs"] == [old.digest("store.train")]
    assert dry.states["clean.clean_up"] == "skipped"
    assert len(registered(registry)) == len(kept(models)["versions"]) == 3

    retire, seen = model_store.retire, []

    def lost(name):
        if not seen:
            seen.append((set(registered(registry)), len(kept(models)["versions"])))
            raise ConnectionError("the store went away")
        retire(name)

    monkeypatch.setattr(model_store, "retire", lost)
    wet = run_dag(DAG, conf={"trees": 3, **STRICT}, logical_date=dry.logical_date)
    assert seen == [({1, 3}, 3)]
    assert wet.tries("clean.clean_up") == 2
    assert plan(wet) == plan(dry)
    assert kept(models)["versions"] == [f"{version(run)}.json" for run in (champion, wet)]
    assert f"{old.digest('store.train')}.skops" not in kept(models)["blobs"]
    assert wet.xcom("clean.clean_up") == {"versions": 2, "blobs": 2}
    assert len(kept(models)["blobs"]) == len(registered(registry)) == 2


@pytest.mark.shows("97.1.5", "Artifact cleanup")
def test_whatever_an_alias_points_to_stays_also_one_set_since_the_plan(
    models, run_dag, registry, monkeypatch
):
    run_dag(DAG)
    audited, chosen = run_dag(DAG, conf={"trees": 2}), run_dag(DAG, conf={"trees": 3})
    registry.client.set_registered_model_alias(DAG, "audit", "2")
    write = storage.write_json

    def meanwhile(content, name):
        registry.client.set_registered_model_alias(DAG, "rollback", "3")
        return write(content, name)

    monkeypatch.setattr(storage, "write_json", meanwhile)
    run = run_dag(DAG, conf={"trees": 4, **STRICT})
    assert plan(run)["goes"] == [version(chosen)]
    assert set(registered(registry)) == {1, 2, 3, 4}
    assert aliases(registry) == {"champion": 1, "audit": 2, "rollback": 3}
    for each in (audited, chosen):
        assert storage.read_bytes(each.reference("store.train"))
        assert sidecar(models, each)


def test_without_an_answer_from_mlflow_or_with_a_damaged_sidecar_nothing_goes(
    models, run_dag, registry, monkeypatch
):
    run_dag(DAG)
    old = run_dag(DAG, conf={"trees": 2})

    def silent():
        raise ConnectionError("MLflow does not answer")

    with monkeypatch.context() as lost:
        lost.setattr(tracking, "aliases", silent)
        failed = run_dag(DAG, conf={"trees": 3, **STRICT}, expect="failed")
    assert "MLflow does not answer" in failed.error("clean.plan")
    assert failed.states["clean.clean_up"] == "upstream_failed"

    (models / "versions" / f"{version(old)}.json").write_text('{"version": ')
    failed = run_dag(
        DAG, conf={"trees": 3, **STRICT}, logical_date=failed.logical_date, expect="failed"
    )
    assert f"{version(old)}.json is no sidecar" in failed.error("clean.plan")
    assert failed.tries("clean.plan") == 1
    assert len(registered(registry)) == 3
    assert len(kept(models)["versions"]) == len(kept(models)["blobs"]) == 3


def test_bytes_that_a_run_still_needs_stay_and_forgotten_ones_go(models, run_dag, monkeypatch):
    elsewhere = runs.Place(DAG, "20260301T000000", "store.train", -1, 1, "")
    with monkeypatch.context() as unfinished:
        unfinished.setattr(runs, "here", lambda: elsewhere)
        needed = model_store.put(b"a model that another run will make a version")
    forgotten = models / "blobs" / f"{sha256(b'forgotten').hexdigest()}.skops"
    forgotten.write_bytes(b"forgotten")
    run_dag(DAG)
    assert storage.read_bytes(needed)
    assert not forgotten.exists()
    assert len(kept(models)["blobs"]) == 2


@pytest.mark.parametrize(
    ("name", "value"), [("trees", 0), ("keep_newest", 0), ("keep_days", 0), ("dry_run", "yes")]
)
def test_a_wrong_parameter_is_refused_before_anything_starts(dags, name, value):
    with pytest.raises(ParamValidationError):
        dags[DAG].params.get_param(name).resolve(value)


def test_the_header_tells_what_the_runs_find(five_months):
    text = (PROJECT / "dags" / f"{DAG}.py").read_text()
    auc = five_months.runs[0].xcom("version.load_back")["roc_auc"]
    assert f"an AUC of {auc:.3f}, from the stored bytes" in text


def test_xcom_carries_references_and_less_than_a_kilobyte(five_months):
    for (task, _, key), value in five_months.runs[-1].xcoms().items():
        assert len(json.dumps(value)) < 1024, (task, key)
