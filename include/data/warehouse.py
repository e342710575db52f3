"""The warehouse that the connection `warehouse` points to: a SQLite file with seeded tables."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from include.data import churn, payments

if TYPE_CHECKING:
    import pandas as pd

TABLES: dict[str, Callable[[], "pd.DataFrame"]] = {
    "customers": churn.customers,
    "payments": lambda: payments.stream()[0],
}


def create(path: Path) -> bool:
    """Make the warehouse, or the tables that an older one lacks; it appears whole or not at all."""
    missing = TABLES.keys() - _tables(path)
    if not missing:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    with closing(sqlite3.connect(part)) as database:
        if path.exists():
            with closing(sqlite3.connect(path)) as older:
                older.backup(database)
        for name in sorted(missing):
            TABLES[name]().to_sql(name, database, index=False)
    part.replace(path)
    return True


def _tables(path: Path) -> set[str]:
    if not path.exists():
        return set()
    with closing(sqlite3.connect(path)) as database:
        try:
            return {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        except sqlite3.DatabaseError as error:
            raise RuntimeError(f"{path}: {error}. Delete it, and it is made anew.") from error
