"""What was said on which day, across runs, so that nobody hears it twice.

    <dag_id>/said/<book>/2026-01-04.ranks_badly

An entry is a file of its own: two runs that write at once lose nothing of each other.
"""

from collections.abc import Collection
from datetime import date

from airflow.sdk import ObjectStoragePath

from include import runs, storage


def said(book: str) -> dict[str, list[date]]:
    """For each thing the days on which it was said, the first of them first."""
    entries: dict[str, list[date]] = {}
    for entry in storage.names(_book(book)):
        day, _, what = entry.partition(".")
        entries.setdefault(what, []).append(date.fromisoformat(day))
    return entries


def note(book: str, things: Collection[str], day: date) -> None:
    """Write down that these were said; noted again, they are the same entries."""
    for what in things:
        storage.write_to(_book(book) / f"{day}.{what}", runs.here().key.encode())


def _book(name: str) -> ObjectStoragePath:
    return storage.store() / runs.here().dag_id / "said" / name
