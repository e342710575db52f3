"""Joins that can't look into the future: each row is told what was known at its own moment.

A fact has two times: the one that it is about (`event_at`) and the one from which it could be known
(`known_at`). A join by the first alone looks right and leaks: a figure that was corrected weeks
later is found under the day that it is about. So facts are first turned into a *view*, each line of
which says what there was to know from `known_at` on, and rows are joined to its newest line.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

NAMED = 5


def newest(facts: "pd.DataFrame", entity: str) -> "pd.DataFrame":
    """View of the newest fact: what arrives late about an older time changes nothing of the now."""
    known = _in_order(facts, entity)
    return known[known["event_at"] >= known.groupby(entity)["event_at"].cummax()]


def running_count(facts: "pd.DataFrame", entity: str, name: str) -> "pd.DataFrame":
    """View of how many facts there are: one more each time that one becomes known."""
    known = _in_order(facts, entity)
    return known.assign(**{name: known.groupby(entity).cumcount() + 1})


def join(rows: "pd.DataFrame", view: "pd.DataFrame", entity: str) -> "pd.DataFrame":
    """Give each row the newest line of the view that was known by its `at`; none leaves a gap."""
    import pandas as pd

    _refuse_timeless(rows, "at", entity)
    _refuse_nobodys(rows, entity)
    return pd.merge_asof(
        rows.sort_values("at", kind="stable"),
        view,
        left_on="at",
        right_on="known_at",
        by=entity,
        direction="backward",
    )


def told_at_once(facts: "pd.DataFrame") -> "pd.DataFrame":
    """The facts as a naive join takes them: known the moment that they are about."""
    return facts.assign(known_at=facts["event_at"])


def _in_order(facts: "pd.DataFrame", entity: str) -> "pd.DataFrame":
    """In the order of knowing; what is about a time to come counts from that time on."""
    for time in ("event_at", "known_at"):
        _refuse_timeless(facts, time, entity)
    _refuse_nobodys(facts, entity)
    known_at = facts[["event_at", "known_at"]].max(axis=1)
    return facts.assign(known_at=known_at).sort_values(["known_at", "event_at"])


def _refuse_timeless(rows: "pd.DataFrame", time: str, entity: str) -> None:
    """Nobody can say what a row without its time may know, so none is guessed."""
    without = rows.loc[rows[time].isna(), entity].tolist()
    if without:
        named = ", ".join(map(str, without[:NAMED]))
        raise ValueError(f"{len(without)} rows have no {time} to join by: {entity} {named}")


def _refuse_nobodys(rows: "pd.DataFrame", entity: str) -> None:
    """Rows that are about nobody would be joined to one another."""
    if missing := int(rows[entity].isna().sum()):
        raise ValueError(f"{missing} rows have no {entity} to join by")
