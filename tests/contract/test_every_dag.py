"""What every DAG of the catalogue owes its readers; a new file is held to it by being there."""

import ast
import json
import re
import warnings

import pytest

from include import spec
from include.tools import environment, needs, services
from tests.conftest import HOME
from tests.prove import ledger

FILES = sorted(environment.DAGS.glob("*.py"))
POOLS = json.loads((environment.PROJECT / "config" / "pools.json").read_text())
HEADINGS = ["**Run it**", "**What you should see**", "**Copy it when**", "**For production**"]


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request):
    return request.param


@pytest.fixture
def dag(dags, file):
    return dags[file.stem]


@pytest.fixture
def task_of_spec(file):
    return spec.load().task(file.stem)


def why(task):
    """The docstring; a mapped task keeps it with its function."""
    if task.is_mapped:
        return task.python_callable.__doc__
    return task.doc_md


def is_hitl(task):
    return hasattr(task, "response_timeout")


def test_it_is_the_one_dag_of_its_file_which_imports_without_any_warning(file):
    from airflow.dag_processing.dagbag import DagBag

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bag = DagBag(dag_folder=file)
    assert bag.import_errors == {}
    assert list(bag.dags) == [file.stem]


def test_its_long_proofs_were_run_as_it_stands(file):
    asks = f"{file.stem}, or something that it depends on, has changed: make prove DAG={file.stem}"
    assert ledger.claims().get(file.stem) == ledger.digest(file.stem), asks


def test_name_and_tags_are_the_specifications(dag, task_of_spec):
    assert dag.dag_display_name == task_of_spec.display_name
    assert sorted(dag.tags) == sorted(task_of_spec.tags)


def test_schedule_catchup_and_concurrency_are_written_down(file):
    (decorator,) = [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dag"
    ]
    written = {keyword.arg for keyword in decorator.keywords}
    assert {"schedule", "start_date", "catchup", "max_active_runs", "doc_md"} <= written


def test_every_task_says_why_it_is_there_and_when_it_gives_up(dag):
    for task in dag.tasks:
        assert why(task), f"{task.task_id} has no docstring"
        assert task.task_display_name != task.task_id, f"{task.task_id} has no display name"
        assert task.owner == "ml-catalogue"
        assert task.retries == 2
        assert task.retry_policy is not None, f"{task.task_id} lacks retries.POLICY"
        limit = task.response_timeout if is_hitl(task) else task.execution_timeout
        assert limit, f"{task.task_id} could hang for ever"


def test_no_task_stands_alone(dag):
    for task in dag.tasks:
        assert task.upstream_task_ids | task.downstream_task_ids, f"{task.task_id} is an orphan"


def test_every_pool_is_in_the_configuration(dag):
    for task in dag.tasks:
        pool = POOLS.get(task.pool, {"slots": 128} if task.pool == "default_pool" else None)
        assert pool, f"{task.task_id} uses pool {task.pool}, which is not in config/pools.json"
        assert task.pool_slots <= pool["slots"]


def test_every_connection_is_in_the_configuration(file):
    filled = environment.connections(environment.airflow(HOME, store=HOME) | services.ports())
    known = filled.keys() | services.connections()
    assert needs.needs(file).connections <= known


def test_every_param_makes_a_good_form(dag):
    for name in dag.params:
        param = dag.params.get_param(name)
        assert param.description, f"{name} has no description"
        schema = param.schema
        assert schema.get("title"), f"{name} has no title"
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if {"number", "integer"} & set(kinds):
            assert {"minimum", "maximum"} <= schema.keys() or "enum" in schema, name
        if kinds == ["string"]:
            assert "enum" in schema or "pattern" in schema or "format" in schema, name


def test_a_text_param_refuses_long_texts_and_a_hidden_end_of_line(dag):
    from airflow.sdk.exceptions import ParamValidationError

    for name in dag.params:
        param = dag.params.get_param(name)
        if "string" not in param.schema["type"] or "enum" in param.schema:
            continue
        texts = [each * 10_000 for each in ("a", "1", "0123456789ab")]
        if "$" in param.schema.get("pattern", ""):
            texts += [f"{each}\n" for each in ("usual", "1", "0123456789ab", param.value)]
        for text in texts:
            with pytest.raises(ParamValidationError):
                param.resolve(text)


def test_it_survives_serialisation(dag):
    from airflow.serialization.serialized_objects import DagSerialization

    again = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    assert again.dag_id == dag.dag_id
    assert {t.task_id: t.downstream_task_ids for t in again.tasks} == {
        t.task_id: t.downstream_task_ids for t in dag.tasks
    }
    assert {t.task_id: (t.pool, t.retries, t.trigger_rule) for t in again.tasks} == {
        t.task_id: (t.pool, t.retries, t.trigger_rule) for t in dag.tasks
    }
    assert again.params.dump() == dag.params.dump()


def test_the_header_has_its_anatomy(file):
    text = ast.get_docstring(ast.parse(file.read_text()))
    assert text.startswith("> **")
    for row in ("Level", "Needs", "Runs in", "Look at"):
        assert f"| **{row}** |" in text
    assert "```text" in text
    places = [text.find(heading) for heading in HEADINGS]
    assert -1 not in places
    assert places == sorted(places)
    assert f"make run DAG={file.stem}" in text


def test_the_header_names_each_box_and_the_tasks_that_show_it(file, dag, task_of_spec):
    text = ast.get_docstring(ast.parse(file.read_text()))
    table = text.partition("| Box | Shown by |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| ([^|]*) \| (`[^|]*) \|$", table, re.MULTILINE)
    assert [box for box, _ in rows if box.strip()] == list(task_of_spec.boxes)
    for _, tasks in rows:
        for named in re.findall(r"`([^`]+)`", tasks):
            assert named in dag.task_ids, f"the header names {named}, which is no task"


def test_level_of_header_and_specification_agree(file, task_of_spec):
    assert f"| **Level** | {task_of_spec.level} |" in file.read_text()


def test_it_is_short_enough_to_read(file):
    assert 80 <= len(file.read_text().splitlines()) <= 320


def test_it_knows_nothing_of_this_machine(file):
    found = re.findall(r"localhost|127\.0\.0\.1|local_cloud|sleep\(", file.read_text())
    assert found == []
