"""What a model has answered: Parquet, a folder for each day, and each request in it exactly once.

    <dag_id>/delivered/2026-01-04.jsonl                       where the gateway's log is put
    <dag_id>/prediction_log/day=2026-01-04/<digest>.parquet

Who ships logs brings some lines twice rather than lose one; others come late, or a day doesn't come
at all until somebody has looked for it. So lines are sorted by the day on which they were answered,
whatever delivery they came with. Those that the day has are left out, and the others become one
more file, named after the requests in it. A delivery that comes again adds nothing, and a try that
was killed between two days is finished by the next. Should two runs bring the same line at the same
moment, readers still see it once; and they see a file whole or not at all.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from io import BytesIO
from typing import TYPE_CHECKING, Any

from airflow.sdk import ObjectStoragePath

from include import runs, storage

if TYPE_CHECKING:
    import pandas as pd

DELIVERED = "delivered"
PARTITION = "day="
# `at` is when it was answered; `arrived` is the day of the delivery that brought it.
COLUMNS = {
    "request_id": "str",
    "at": "datetime64[us, UTC]",
    "customer_id": "int64",
    "version": "str",
    "status": "int64",
    "ms": "float64",
    "score": "float64",
    "arrived": "str",
}


def delivered(days: Sequence[date]) -> "pd.DataFrame":
    """All that was put there for these days, in files called after their day.

    `2026-01-04.jsonl`, and where more comes `2026-01-04.again.jsonl`.
    """
    import pandas as pd

    folder, wanted = storage.store() / runs.here().dag_id / DELIVERED, {str(day) for day in days}
    came = [
        parse(folder.fs.cat_file((folder / name).path).decode(), name, arrived=name[:10])
        for name in storage.names(folder)
        if name[:10] in wanted
    ]
    if not came:
        raise FileNotFoundError(
            f"{folder} has no delivery of {days[0]} to {days[-1]}: is the shipping of logs at work?"
        )
    return pd.concat(came, ignore_index=True)


def parse(text: str, source: str, arrived: str) -> "pd.DataFrame":
    """Read a delivery of a gateway's log; of a line that is broken, say where and why.

    Shadows' answers went to nobody and are left out. A request is about one customer, whose number
    was sent as the route's sticky key.
    """
    import pandas as pd

    rows = []
    for place, line in enumerate(text.splitlines(), start=1):
        try:
            row = _row(json.loads(line))
        except (ValueError, LookupError, TypeError) as fault:
            raise ValueError(
                f"{source}, line {place}: {type(fault).__name__}: {fault}. Have the day delivered "
                "again, or take the line out; nothing was appended."
            ) from None
        if row is not None:
            rows.append(row | {"arrived": arrived})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def append(came: "pd.DataFrame") -> dict[str, int]:
    """Add what is not there yet, and count what came; `late` is what came with a later day."""
    import pandas as pd

    once = came.drop_duplicates("request_id")
    added = []
    for day, rows in once.groupby(once["at"].dt.strftime("%Y-%m-%d")):
        new = rows[~rows["request_id"].isin(_ids(str(day)))].sort_values("request_id")
        if not new.empty:
            buffer = BytesIO()
            new.to_parquet(buffer, index=False)
            name = runs.digest("\n".join(new["request_id"]).encode())
            storage.write_to(_folder(str(day)) / f"{name}.parquet", buffer.getvalue())
        added.append(new)
    new = pd.concat(added) if added else once
    return {
        "delivered": len(came),
        "appended": len(new),
        "twice": len(came) - len(new),
        "late": int((new["arrived"] > new["at"].dt.strftime("%Y-%m-%d")).sum()),
    }


def read(days: Iterable[date]) -> "pd.DataFrame":
    """Everything that was answered on these days, in the order in which it was."""
    import pandas as pd

    none = pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    parts = [part for day in days for part in _parts(day.isoformat())]
    found = pd.concat(parts, ignore_index=True) if parts else none
    found["day"] = found["at"].dt.strftime("%Y-%m-%d")
    once = found.drop_duplicates(["day", "request_id"])
    return once.sort_values(["at", "request_id"], ignore_index=True)


def newest() -> date | None:
    """The last day that anything is known of."""
    found = storage.names(_log())
    return date.fromisoformat(found[-1].removeprefix(PARTITION)) if found else None


def _row(line: dict[str, Any]) -> dict[str, Any] | None:
    if line["role"] != "live":
        return None
    answer = line["answer"]
    if answer is not None and len(answer["scores"]) != 1:
        raise ValueError(f"answers {len(answer['scores'])} rows at once, where one is expected")
    at = datetime.fromisoformat(line["at"])
    if at.tzinfo is None:
        raise ValueError(f"{line['at']!r} has no time zone, so nobody knows of which day it is")
    return {
        "request_id": str(line["request_id"]),
        "at": at.astimezone(UTC),
        "customer_id": int(line["key"]),
        "version": str(line["version"]),
        "status": int(line["status"]),
        "ms": 1000 * float(line["seconds"]),
        "score": float(answer["scores"][0]) if answer else None,
    }


def _ids(day: str) -> set[str]:
    return {name for part in _parts(day, ["request_id"]) for name in part["request_id"]}


def _parts(day: str, columns: list[str] | None = None) -> list["pd.DataFrame"]:
    import pandas as pd

    folder = _folder(day)
    return [
        pd.read_parquet(BytesIO(folder.fs.cat_file((folder / name).path)), columns=columns)
        for name in storage.names(folder)
    ]


def _folder(day: str) -> ObjectStoragePath:
    return _log() / f"{PARTITION}{day}"


def _log() -> ObjectStoragePath:
    return storage.store() / runs.here().dag_id / "prediction_log"
