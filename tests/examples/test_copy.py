"""A copied pipeline runs in an empty project that has nothing but what was copied."""

import errno
from pathlib import Path

import pytest

from include.tools import copy, environment

SKEW = "97_06_01_training_serving_skew_antipattern"


def copied(dag_id, target, name="churn_gates"):
    made = copy.plan(dag_id, target, name)
    copy.write(made, target)
    return made


def everything(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def test_the_copy_carries_its_own_name_everywhere(tmp_path):
    copied("97_04_02_validation_gates", tmp_path)
    text = (tmp_path / "dags" / "churn_gates.py").read_text()
    assert 'dag_display_name="Churn gates"' in text
    assert "airflow dags test churn_gates" in text
    assert "97_04_02" not in text


def test_only_what_is_imported_is_copied(tmp_path):
    copied(SKEW, tmp_path)
    names = {str(path) for path in everything(tmp_path)}
    assert "include/features/payments.py" in names
    assert "include/features/churn.py" not in names
    assert not any(name.startswith("include/tools") for name in names)


def test_a_configuration_file_that_it_names_is_copied_once_and_is_its_owners_from_then_on(tmp_path):
    tuned, file = "97_01_04_hyperparameter_config", "config/hyperparameters.yaml"
    made = copied(tuned, tmp_path)
    assert (tmp_path / file).read_text() == (environment.PROJECT / file).read_text()
    assert [path for path in everything(tmp_path) if path.parts[0] == "config"] == [Path(file)]
    assert f"Yours to edit: {file}." in copy.report(made, "churn_gates")
    (tmp_path / file).write_text("trees: 20")
    copied(tuned, tmp_path, name="another")
    assert (tmp_path / file).read_text() == "trees: 20"


def test_an_anti_pattern_is_copied_without_its_mistakes(tmp_path):
    made = copied(SKEW, tmp_path)
    text = (tmp_path / "dags" / "churn_gates.py").read_text()
    assert made.left_out == ["compare", "wrong"]
    assert "# WRONG" not in text
    assert "def right(" in text
    assert "compare, wrong" in copy.report(made, "churn_gates")


def test_what_it_needs_is_said(tmp_path):
    made = copied("97_02_01_local_training", tmp_path)
    told = copy.report(made, "churn_gates")
    assert "Pools that it needs: gpu_pool" in told
    assert "Connections that it needs: warehouse" in told
    assert "Connection mlflow_default: where models go; without it, a SQLite file below" in told
    assert any(line.startswith("torch") for line in made.requirements)


@pytest.mark.parametrize(
    ("dag_id", "provider"),
    [
        ("97_03_02_sagemaker_pipelines", "amazon"),
        ("97_03_03_vertex_ai_pipelines", "google"),
        ("97_03_05_kubeflow_integration", "cncf-kubernetes"),
    ],
)
def test_the_provider_of_its_operators_is_among_the_requirements(tmp_path, dag_id, provider):
    providers = {
        line.split("==")[0].removeprefix("apache-airflow-providers-")
        for line in copied(dag_id, tmp_path).requirements
        if line.startswith("apache-airflow-providers-")
    }
    assert providers == {provider, "sqlite", "standard"}


def test_an_interpreter_beside_airflows_own_comes_with_its_list_of_packages(tmp_path):
    made = copied("97_03_04_azure_ml_integration", tmp_path)
    assert (tmp_path / "envs" / "azure_ml.txt").read_text().count("azure-ai-ml==") == 1
    told = copy.report(made, "churn_gates")
    assert "Variable azure_ml_python: the path of" in told
    assert "Variable artifact_store: where artifacts go; without it, a folder below" in told
    assert "Read docs/real-clouds.md" in told
    assert "azure_ml_default" in (tmp_path / "docs" / "real-clouds.md").read_text()
    named = {line.split("==")[0] for line in made.requirements}
    assert "azure-identity" in named  # what waits beside Airflow signs in with it
    assert "azure-ai-ml" not in named


def test_lines_of_requirements_that_are_there_stay(tmp_path):
    (tmp_path / "requirements.txt").write_text("pandas>=2\n")
    copied(SKEW, tmp_path)
    lines = (tmp_path / "requirements.txt").read_text().splitlines()
    assert lines[0] == "pandas>=2"
    assert not any(line.startswith("pandas==") for line in lines)
    assert any(line.startswith("scikit-learn==") for line in lines)


def test_a_second_pipeline_shares_the_modules_of_the_first(tmp_path):
    copied("97_04_02_validation_gates", tmp_path)
    copied("97_01_01_ml_pipeline_structure", tmp_path, name="churn")
    assert {path.name for path in (tmp_path / "dags").iterdir()} == {"churn.py", "churn_gates.py"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../out", "can't be a file"),
        ("9lives", "can't be a file"),
        ("a b", "can't be a file"),
        ("x" * 201, "up to 199 letters"),
    ],
)
def test_a_bad_name_is_refused_and_nothing_written(tmp_path, name, reason):
    with pytest.raises(SystemExit, match=reason):
        copied(SKEW, tmp_path, name=name)
    assert everything(tmp_path) == set()


@pytest.mark.parametrize("name", ["pandas", "airflow", "json"])
def test_a_name_that_hides_a_module_is_refused(tmp_path, name):
    with pytest.raises(SystemExit, match=f"NAME={name} would hide the module {name}"):
        copied(SKEW, tmp_path, name=name)
    assert everything(tmp_path) == set()


def test_a_project_that_can_not_be_looked_at_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for to in (tmp_path / "loop", Path("~nobody-of-this-name/x"), tmp_path / ("x" * 5000)):
        with pytest.raises(SystemExit, match="is no folder"):
            copied(SKEW, to)


def test_a_project_that_can_not_be_written_to_is_named(tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SystemExit, match=r"can't be written: No space left on device"):
        copy.main([SKEW, str(tmp_path), "mine"])


def test_nothing_is_ever_overwritten(tmp_path):
    copied(SKEW, tmp_path)
    with pytest.raises(SystemExit, match="exists already"):
        copied(SKEW, tmp_path)
    (tmp_path / "include" / "storage.py").write_text("mine = True\n")
    before = everything(tmp_path)
    with pytest.raises(SystemExit, match=r"storage\.py exists and is not what"):
        copied(SKEW, tmp_path, name="other")
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda to: (to / "requirements.txt").mkdir(), "requirements.txt is no text"),
        (lambda to: (to / "requirements.txt").write_bytes(b"\xff"), "requirements.txt is no text"),
        (lambda to: (to / "dags").write_text(""), "dags must be a folder, and is a file"),
        (lambda to: (to / "include").write_text(""), "include must be a folder, and is a file"),
    ],
)
def test_a_project_that_can_not_take_the_copy_is_refused_before_anything_is_written(
    tmp_path, spoil, reason
):
    spoil(tmp_path)
    before = everything(tmp_path)
    with pytest.raises(SystemExit, match=reason):
        copied(SKEW, tmp_path)
    assert everything(tmp_path) == before


def test_a_link_that_leads_out_of_the_target_is_refused(tmp_path):
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    target.mkdir()
    elsewhere.mkdir()
    (target / "dags").symlink_to(elsewhere)
    with pytest.raises(SystemExit, match="a link leads out"):
        copied(SKEW, target)
    assert everything(elsewhere) == set()


@pytest.mark.parametrize(
    "to", [Path("/not/there"), environment.PROJECT, environment.PROJECT / "dags"]
)
def test_a_target_that_is_no_other_project_is_refused(to):
    with pytest.raises(SystemExit, match="TO="):
        copied(SKEW, to)
