"""Customers as they come to be scored, a window a day, and what changed since the model was made.

The truth that is planted is one of
- `nothing`: they come as those did that the model learned from;
- `usage`: everybody uses the service half a standard deviation more, and leaves less for it;
- `plans`: half of the monthly customers have moved to the yearly plan;
- `meaning`: they look the same, but those who call have been helped, and leave less, not more.
Only the last makes a model wrong that knew everything; the others take it where it knows less.
Who left becomes known later: of the newest customers of a window nobody can say yet.
"""

from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np

from include.data import churn

if TYPE_CHECKING:
    import pandas as pd

PLANTED = ("nothing", "usage", "plans", "meaning")
HALF_A_DEVIATION = 7.1  # of the hours of use
ROWS = 2_000
LABELLED_SHARE = 0.6
KNOWN_WITHIN = 3  # days


def window(
    planted: str, seed: int, rows: int = ROWS, labelled: float = LABELLED_SHARE
) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """The customers of a window, and the labels that are known by its end."""
    came = churn.customers(rows, seed).drop(columns=churn.LABEL)
    rng = np.random.default_rng([seed, 1])
    if planted == "usage":
        came["usage_hours"] += HALF_A_DEVIATION
    if planted == "plans":
        moved = (came["plan"] == "monthly") & (rng.random(rows) < 0.5)
        came["plan"] = came["plan"].mask(moved, "yearly")
    per_call = -churn.PER_CALL if planted == "meaning" else churn.PER_CALL
    left = (rng.random(rows) < churn.chance(came, per_call)).astype(int)
    known = came[["customer_id"]].assign(**{churn.LABEL: left})
    return came, known.head(int(rows * labelled))


def day(planted: str, of: date, rows: int) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """The customers of one day; and who of them left, with the day on which that is known."""
    came, left = window(planted, of.toordinal(), rows, labelled=1.0)
    waits = np.arange(rows) * KNOWN_WITHIN // rows + 1
    known_on = [(of + timedelta(days=int(wait))).isoformat() for wait in waits]
    return came, left.assign(day=of.isoformat(), known_on=known_on)
