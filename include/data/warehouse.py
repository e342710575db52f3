"""The warehouse that the connection `warehouse` points to: a SQLite file with seeded tables."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from include.data import churn


def create(path: Path) -> bool:
    """Make the warehouse unless it is there; it appears whole or not at all."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    with closing(sqlite3.connect(part)) as database:
        churn.customers().to_sql("customers", database, index=False)
        database.commit()
    part.replace(path)
    return True
