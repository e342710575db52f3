"""A notice arrives by the way that the connection names, as it was written."""

import json
from dataclasses import replace

import pytest

from include import notices, runs

PLACE = runs.Place("a_dag", "20260104T000000", "tell.notify", -1, 1, "")
NOTICE = notices.Notice("Rollback", "because <b> of {{ conn.warehouse.host }}")


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setattr(runs, "here", lambda: PLACE)


def connect(monkeypatch, **connection):
    monkeypatch.setenv("AIRFLOW_CONN_NOTICES", json.dumps(connection))


def test_a_file_is_written_where_the_connection_says_and_once(tmp_path, monkeypatch):
    connect(monkeypatch, conn_type="file", host=str(tmp_path / "told"))
    for _ in range(2):
        NOTICE({})
    (file,) = (tmp_path / "told").iterdir()
    assert file.name == "a_dag.20260104T000000.tell.notify.txt"
    assert file.read_text() == "Rollback\n\nbecause <b> of {{ conn.warehouse.host }}\n"


def test_without_a_connection_it_lies_below_airflow_home(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    NOTICE({})
    assert len(list((tmp_path / "notices").glob("a_dag.*.txt"))) == 1


def test_a_mail_is_sent_and_what_people_wrote_is_neither_template_nor_markup(mailbox, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_NOTICES", mailbox.connection)
    NOTICE({})
    (mail,) = mailbox.mails
    assert (mail["Subject"], mail["To"]) == ("Rollback", "on-call@example.org")
    (part,) = mail.get_payload()
    text = part.get_payload(decode=True).decode()
    assert text == "<pre>because &lt;b&gt; of {{ conn.warehouse.host }}</pre>"


def test_a_mail_to_nobody_is_refused(monkeypatch):
    connect(monkeypatch, conn_type="smtp", host="127.0.0.1", port=9)
    with pytest.raises(ValueError, match="the Airflow connection notices has no 'to'"):
        NOTICE({})


def test_each_task_of_each_run_writes_a_file_of_its_own(tmp_path, monkeypatch):
    connect(monkeypatch, conn_type="file", host=str(tmp_path))
    places = [
        PLACE,
        replace(PLACE, task_id="tell.again"),
        replace(PLACE, key="20260105T000000"),
        replace(PLACE, dag_id="b_dag"),
    ]
    for place in places:
        monkeypatch.setattr(runs, "here", lambda place=place: place)
        NOTICE({})
    assert len(list(tmp_path.iterdir())) == len(places)
