"""The warehouse: seeded tables that appear whole or not at all."""

import os
import sqlite3
from contextlib import closing

import pandas as pd
import pytest

from include.data import churn, payments, warehouse


@pytest.fixture
def tables(monkeypatch):
    """Two small tables in place of the large ones."""
    small = {
        "customers": lambda: pd.DataFrame({"customer_id": [1, 2]}),
        "payments": lambda: pd.DataFrame({"payment_id": [7]}),
    }
    monkeypatch.setattr(warehouse, "TABLES", small)


def rows(path, query):
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


def test_it_holds_the_customers_and_the_payments():
    assert list(warehouse.TABLES) == ["customers", "payments"]
    assert warehouse.TABLES["customers"] is churn.customers
    assert warehouse.TABLES["payments"]().equals(payments.stream()[0])


def test_it_is_made_once(tmp_path, tables):
    path = tmp_path / "below" / "deep" / "warehouse.db"
    assert warehouse.create(path) is True
    assert rows(path, "SELECT * FROM customers") == [(1,), (2,)]
    assert rows(path, "SELECT * FROM payments") == [(7,)]
    assert [each.name for each in path.parent.iterdir()] == ["warehouse.db"]
    assert warehouse.create(path) is False


def test_an_older_one_gets_what_it_lacks_and_keeps_what_it_has(tmp_path, tables):
    path = tmp_path / "warehouse.db"
    with closing(sqlite3.connect(path)) as older:
        older.execute("CREATE TABLE customers (customer_id INTEGER)")
        older.execute("INSERT INTO customers VALUES (99)")
        older.execute("CREATE TABLE mine (id INTEGER)")
        older.commit()
    assert warehouse.create(path) is True
    assert rows(path, "SELECT * FROM customers") == [(99,)]
    assert rows(path, "SELECT * FROM payments") == [(7,)]
    assert rows(path, "SELECT * FROM mine") == []
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_that_can_not_be_made_leaves_nothing(tmp_path, tables, monkeypatch):
    def broken():
        raise OSError("the disk is full")

    monkeypatch.setitem(warehouse.TABLES, "payments", broken)
    path = tmp_path / "warehouse.db"
    with pytest.raises(OSError, match="the disk is full"):
        warehouse.create(path)
    assert not path.exists()
    (part,) = tmp_path.iterdir()
    assert part.name == f".warehouse.db.{os.getpid()}.part"
    monkeypatch.undo()


def test_what_an_ended_attempt_has_left_is_no_hindrance(tmp_path, tables):
    path = tmp_path / "warehouse.db"
    part = tmp_path / f".warehouse.db.{os.getpid()}.part"
    part.write_text("half of it")
    assert warehouse.create(path) is True
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_no_database_is_refused_with_what_to_do(tmp_path, tables):
    path = tmp_path / "warehouse.db"
    path.write_text("no database" * 100)
    with pytest.raises(RuntimeError) as refused:
        warehouse.create(path)
    assert str(refused.value) == (
        f"{path}: file is not a database. Delete it, and it is made anew."
    )
