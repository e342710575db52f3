"""A copied pipeline runs in an empty project that has nothing but what was copied."""

import os
import subprocess
import sys
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


@pytest.mark.slow
@pytest.mark.parametrize("dag_id", [SKEW])
def test_the_copy_is_green_under_its_own_name_with_nothing_else_around(
    dag_id, tmp_path, airflow_database, warehouse_file
):
    project, home = tmp_path / "project", tmp_path / "home"
    project.mkdir()
    copied(dag_id, project)
    settings = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_VAR_ARTIFACT_STORE": (home / "artifacts").as_uri(),
        "AIRFLOW__CORE__DAGS_FOLDER": str(project / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
        "PYTHONPATH": str(project),
    }
    settings.pop("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST")
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "dags", "test", "churn_gates", "2027-05-02"],
        env=settings,
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert (home / "artifacts" / "churn_gates").is_dir()


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
    assert any(line.startswith("torch") for line in made.requirements)


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
    [("../out", "can't be a file"), ("9lives", "can't be a file"), ("a b", "can't be a file")],
)
def test_a_bad_name_is_refused_and_nothing_written(tmp_path, name, reason):
    with pytest.raises(SystemExit, match=reason):
        copied(SKEW, tmp_path, name=name)
    assert everything(tmp_path) == set()


def test_nothing_is_ever_overwritten(tmp_path):
    copied(SKEW, tmp_path)
    with pytest.raises(SystemExit, match="exists already"):
        copied(SKEW, tmp_path)
    (tmp_path / "include" / "storage.py").write_text("mine = True\n")
    before = everything(tmp_path)
    with pytest.raises(SystemExit, match=r"storage\.py exists and is not what"):
        copied(SKEW, tmp_path, name="other")
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
