"""Rows to learn from and rows to judge by, and what of the second is known from the first.

Which split is right depends on what the model will meet: new rows of the same kind (at random, or
stratified where one label is rare), the future (by time), or somebody new (by group). None of them
looks after everything, so `crossings` says what crosses between two parts, however they were made.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    Parts = tuple[pd.DataFrame, pd.DataFrame]

NAMED_ROWS = 5


class LeakyData(ValueError):
    """A model would be judged by what it has learned by heart; trying again won't mend it."""


@dataclass(frozen=True)
class Columns:
    """What the columns of a table mean to a split; the rest is what a model may learn from."""

    row_id: str
    at: str
    group: str
    label: str


def at_random(rows: "pd.DataFrame", share: float, seed: int) -> "Parts":
    """Draw the validation rows, each with the same chance."""
    from sklearn.model_selection import train_test_split

    train, validation = train_test_split(rows, test_size=share, random_state=seed)
    return train, validation


def stratified(rows: "pd.DataFrame", label: str, share: float, seed: int) -> "Parts":
    """Draw the same share from each label: chance can't leave a rare one out."""
    from sklearn.model_selection import train_test_split

    train, validation = train_test_split(
        rows, test_size=share, random_state=seed, stratify=rows[label]
    )
    return train, validation


def by_time(rows: "pd.DataFrame", at: str, share: float, wait: timedelta) -> "Parts":
    """Learn before a moment and judge from it on; rows of one moment stay together.

    A label may become known as late as `wait` after its row. Rows whose label was not safely known
    at the cut are in neither part.
    """
    _refuse_gaps(rows, at)
    cut = rows[at].sort_values().iloc[int(len(rows) * (1 - share))]
    return rows[rows[at] + wait <= cut], rows[rows[at] >= cut]


def by_group(rows: "pd.DataFrame", group: str, share: float, seed: int) -> "Parts":
    """Draw whole groups: nobody in validation has been met in training."""
    from sklearn.model_selection import GroupShuffleSplit

    _refuse_gaps(rows, group)
    drawing = GroupShuffleSplit(test_size=share, random_state=seed)
    train, validation = next(drawing.split(rows, groups=rows[group]))
    return rows.iloc[train], rows.iloc[validation]


def _refuse_gaps(rows: "pd.DataFrame", column: str) -> None:
    """A row that could be on either side of a split is put on none."""
    if missing := int(rows[column].isna().sum()):
        raise ValueError(f"{missing} of {len(rows)} rows have no {column} to split by")


def crossings(
    train: "pd.DataFrame", validation: "pd.DataFrame", columns: Columns, wait: timedelta
) -> dict[str, list[Any]]:
    """The ids of the training rows that know something of validation, for each way of knowing."""
    import pandas as pd

    # A row that was booked twice has two ids, and perhaps two labels; the rest of it is equal.
    content = [each for each in train if each not in (columns.row_id, columns.label)]
    seen = pd.MultiIndex.from_frame(validation[content])
    known = {
        "id": train[columns.row_id].isin(validation[columns.row_id]),
        "duplicate": pd.MultiIndex.from_frame(train[content]).isin(seen),
        "future": train[columns.at] + wait > validation[columns.at].min(),
        "group": train[columns.group].isin(validation[columns.group]),
    }
    return {kind: train.loc[which, columns.row_id].tolist() for kind, which in known.items()}


def refuse(found: dict[str, list[Any]], forbidden: tuple[str, ...], row_id: str) -> None:
    """Raise if anything crosses that must not, and name rows of each kind."""
    leaks = [
        f"- {kind}: {len(found[kind])} training rows, {row_id} "
        f"{', '.join(map(str, found[kind][:NAMED_ROWS]))}"
        f"{' and more' if len(found[kind]) > NAMED_ROWS else ''}"
        for kind in forbidden
        if found[kind]
    ]
    if leaks:
        raise LeakyData("training rows know validation rows by\n" + "\n".join(leaks))
