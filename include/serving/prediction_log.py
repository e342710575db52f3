"""What a model has answered: Parquet, a folder for each day, and each request in it exactly once.

    <dag_id>/delivered/2026-01-04.jsonl                       where the gateway's log is put
    <dag_id>/prediction_log/day=2026-01-04/<digest>.parquet
    <dag_id>/quarantine/2026-01-04.jsonl-<digest>.json        lines that can't be read, and why

Who ships logs brings some lines twice rather than lose one; others come late, or a day doesn't come
at all until somebody has looked for it. So lines are sorted by the day on which they were answered,
whatever delivery they came with. Those that the day has are left out, and the others become one
more file, named after the requests in it. A delivery that comes again adds nothing, and a try that
was killed between two days is finished by the next. Should two runs bring the same line at the same
moment, readers still see it once; and they see a file whole or not at all.

A line that can't be read goes to the quarantine with its place and the reason, and is counted. The
rest of its delivery is taken.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from io import BytesIO
from typing import TYPE_CHECKING, Any

from airflow.sdk import ObjectStoragePath

from include import runs, storage

if TYPE_CHECKING:
    import pandas as pd

DELIVERED, QUARANTINE = "delivered", "quarantine"
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


MOST = 2**63  # the first number that a column of int64 can't hold


@dataclass(frozen=True)
class Refused:
    """A line that can't be read."""

    source: str
    line: int
    reason: str
    text: str


@dataclass(frozen=True)
class Delivery:
    """What came: the requests in it, and the lines that can't be read."""

    rows: "pd.DataFrame"
    refused: list[Refused]


def delivered(days: Sequence[date]) -> Delivery:
    """All that was put there for these days, in files called after their day.

    `2026-01-04.jsonl`, and where more comes `2026-01-04.again.jsonl`.
    """
    import pandas as pd

    folder, wanted = storage.store() / runs.here().dag_id / DELIVERED, {str(day) for day in days}
    came = [
        parse(_text_of(folder / name), name, arrived=name[:10])
        for name in storage.names(folder)
        if name[:10] in wanted
    ]
    if not came:
        raise FileNotFoundError(
            f"{folder} has no delivery of {days[0]} to {days[-1]}: is the shipping of logs at work?"
        )
    rows = pd.concat([each.rows for each in came], ignore_index=True)
    return Delivery(rows, [line for each in came for line in each.refused])


def parse(text: str, source: str, arrived: str) -> Delivery:
    """Read a delivery of a gateway's log.

    Shadows' answers went to nobody and are left out. A request is about one customer, whose number
    was sent as the route's sticky key.
    """
    import pandas as pd

    rows, refused = [], []
    lines = text.removesuffix("\n").split("\n") if text else []  # no other sign ends a line
    for place, line in enumerate(lines, start=1):
        try:
            line.encode()  # fails where a byte was no UTF-8
            row = _row(json.loads(line))
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as fault:
            reason = f"{type(fault).__name__}: {fault}"
            refused.append(Refused(source, place, reason, line))
            continue
        if row is not None:
            rows.append(row | {"arrived": arrived})
    return Delivery(pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS), refused)


def append(delivery: Delivery) -> dict[str, int]:
    """Add what is not there yet, and count what came; `late` is what came with a later day."""
    import pandas as pd

    _quarantine(delivery.refused)
    came = delivery.rows
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
        "refused": len(delivery.refused),
    }


def read(days: Iterable[date]) -> "pd.DataFrame":
    """Everything that was answered on these days, in the order in which it was."""
    import pandas as pd

    none = pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    parts = [part for day in days for part in _parts(day.isoformat())]
    found = pd.concat(parts) if parts else none
    found["day"] = found["at"].dt.strftime("%Y-%m-%d")
    once = found.drop_duplicates(["day", "request_id"])
    return once.sort_values(["at", "request_id"], ignore_index=True)


def newest() -> date | None:
    """The last day that anything is known of."""
    found = storage.names(_log())
    return date.fromisoformat(found[-1].removeprefix(PARTITION)) if found else None


def _quarantine(refused: Sequence[Refused]) -> None:
    """Keep each line in a file of its own name, so that it is there once however often it comes."""
    for each in refused:
        content = json.dumps(asdict(each), indent=2, sort_keys=True).encode()
        name = f"{each.source}-{runs.digest(each.text.encode(errors='surrogatepass'))}.json"
        storage.write_to(storage.store() / runs.here().dag_id / QUARANTINE / name, content)


def _text_of(file: ObjectStoragePath) -> str:
    content: bytes = file.fs.cat_file(file.path)
    return content.decode(errors="surrogateescape")


def _row(line: dict[str, Any]) -> dict[str, Any] | None:
    if line["role"] != "live":
        return None
    answer = line["answer"]
    scores = [None] if answer is None else answer.get("scores") or []
    if len(scores) != 1:
        raise ValueError(f"has {len(scores)} scores, where one is expected")
    (score,) = scores
    if score is not None and not math.isfinite(score):
        raise ValueError(f"the score is {score}, which is no number")
    at = datetime.fromisoformat(line["at"])
    if at.tzinfo is None:
        raise ValueError(f"{line['at']!r} has no time zone, so nobody knows of which day it is")
    return {
        "request_id": _text(line, "request_id"),
        "at": at,
        "customer_id": _whole(line, "key"),
        "version": _text(line, "version"),
        "status": _whole(line, "status"),
        "ms": 1000 * float(line["seconds"]),
        "score": None if score is None else float(score),
    }


def _text(line: dict[str, Any], name: str) -> str:
    text = str(line[name])
    text.encode()  # fails for half of a pair of surrogates, which JSON can name
    return text


def _whole(line: dict[str, Any], name: str) -> int:
    number = int(line[name])
    if abs(number) >= MOST:
        raise ValueError(f"the {name} {str(line[name])[:40]} has more than 63 bits")
    return number


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
