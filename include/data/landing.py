"""The folder where other companies put their files: what the Variable `landing_zone` points to.

Each in its own manner, and not in ours. The payment network appends disputes to a log, one JSON
object a line; the credit bureau sends a table as its spreadsheet writes it: semicolons, decimal
commas, days before months.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from include.data import payments

if TYPE_CHECKING:
    import pandas as pd

DISPUTES = "disputes.jsonl"
RATINGS = "ratings.csv"
BUREAU_TIME = "%d.%m.%Y %H:%M"


def create(folder: Path) -> bool:
    """Deliver the files that are not there; each appears whole or not at all."""
    missing = [name for name in (DISPUTES, RATINGS) if not (folder / name).exists()]
    if not missing:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    _, disputes = payments.stream()
    texts = {DISPUTES: as_log(disputes), RATINGS: as_table(payments.ratings(disputes))}
    for name in missing:
        part = folder / f".{name}.{os.getpid()}.part"
        part.write_text(texts[name], encoding="utf-8")
        part.replace(folder / name)
    return True


def as_log(disputes: "pd.DataFrame") -> str:
    """Disputes as the payment network logs them."""
    log = disputes.rename(columns={"event_at": "paid_at", "known_at": "received_at"})
    return str(log.to_json(orient="records", lines=True, date_format="iso", date_unit="s"))


def as_table(ratings: "pd.DataFrame") -> str:
    """Ratings as the bureau exports them."""
    table = ratings.assign(
        event_at=ratings["event_at"].dt.strftime("%m.%Y"),
        known_at=ratings["known_at"].dt.strftime(BUREAU_TIME),
    )
    table.columns = ["Account", "Month", "Published", "Score"]
    return str(table.to_csv(sep=";", decimal=",", index=False))
