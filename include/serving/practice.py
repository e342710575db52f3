"""The days of a service, played in seconds: real callers and answers, and logs shipped with flaws.

A day is played once and kept; whoever wants it again gets what was answered then. What is known of
the customers later, who left, is kept beside it.
"""

import json
from collections.abc import Sequence
from datetime import date, timedelta
from io import BytesIO
from typing import TYPE_CHECKING

from airflow.sdk import ObjectStoragePath

from include import runs, storage
from include.data import churn, live, splits
from include.serving import client, load, prediction_log, release

if TYPE_CHECKING:
    import pandas as pd

HOLDOUT_SHARE = 0.25
SEED = 97
CALLERS = 100  # a day
RATE = 200  # a second
CUSTOMER = "X-Customer"
LATE = 5  # lines come with the next day's delivery
TWICE = 8  # lines come once more


def first(customers: "pd.DataFrame") -> str:
    """Train and register the version that callers have before anything is watched."""
    train, holdout = splits.stratified(customers, churn.LABEL, HOLDOUT_SHARE, SEED)
    return release.trained("first", train, holdout, churn.LABEL)


def answering(number: str, delay_seconds: float = 0.0) -> None:
    """Have a version answer all callers; one that is slower, or isn't any more, starts anew."""
    gateway, name = client.gateway(), runs.here().dag_id
    running = gateway.versions(name).get(number)
    if running is None or running["delay_seconds"] != delay_seconds:
        gateway.remove_route(name)
        gateway.stop_version(name, number)
        source = release.source(name, number)
        gateway.start_version(name, number, source, delay_seconds=delay_seconds)
    gateway.set_route(name, name, {number: 1.0}, sticky=CUSTOMER)


def play(
    number: str,
    day: date,
    truth: str = "nothing",
    delay_seconds: float = 0.0,
    callers: int = CALLERS,
) -> int:
    """Have the customers of a day asked about, unless they were; returns how many were now."""
    if f"{day}.jsonl" in storage.names(_folder("played")):
        return 0
    customers, outcomes = live.day(truth, day, callers)
    answering(number, delay_seconds)
    gateway, name = client.gateway(), runs.here().dag_id
    heads = [
        {"X-Request-Id": f"{day}-{customer}", CUSTOMER: str(customer), **load.token(gateway)}
        for customer in customers["customer_id"]
    ]
    _, begins = gateway.requests(name)
    address = load.route_address(gateway, name)
    load.drive(address, customers.to_dict("records"), RATE, callers, heads)
    lines, _ = gateway.requests(name, after=begins)
    # They were answered on the day that is played, not on the day on which it is played.
    moved = [
        line | {"at": f"{day}{line['at'][10:]}"}
        for line in lines
        if line["request_id"].startswith(f"{day}-")  # another run may be playing another day
    ]
    buffer = BytesIO()
    outcomes.to_parquet(buffer, index=False)
    storage.write_to(_folder("outcomes") / f"{day}.parquet", buffer.getvalue())
    storage.write_to(_folder("played") / f"{day}.jsonl", _text(moved).encode())
    return callers


def deliver(days: Sequence[date], lost: date) -> None:
    """Ship the log of each day as shippers do: some lines twice, the last ones a day later.

    One day is lost on its way, unless it has come before; the next run finds it again.
    """
    delivered, played = _folder(prediction_log.DELIVERED), storage.names(_folder("played"))
    for day in days:
        if day == lost and f"{day}.jsonl" not in storage.names(delivered):
            continue
        lines = _lines(day)
        shipped = lines[:-LATE] + lines[:TWICE]
        before = day - timedelta(days=1)
        if before != lost and f"{before}.jsonl" in played:
            shipped += _lines(before)[-LATE:]
        storage.write_to(delivered / f"{day}.jsonl", _text(shipped).encode())


def outcomes(days: Sequence[date], by: date) -> "pd.DataFrame":
    """Who left of the customers of these days, as far as it is known by the end of a day."""
    import pandas as pd

    folder = _folder("outcomes")
    found = pd.concat(
        pd.read_parquet(BytesIO(folder.fs.cat_file((folder / f"{day}.parquet").path)))
        for day in days
    )
    known = found[found["known_on"] <= by.isoformat()]
    return known.rename(columns={churn.LABEL: "label"}).drop(columns="known_on")


def _lines(day: date) -> list[dict[str, object]]:
    file = _folder("played") / f"{day}.jsonl"
    return [json.loads(line) for line in file.fs.cat_file(file.path).splitlines()]


def _text(lines: Sequence[dict[str, object]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def _folder(name: str) -> ObjectStoragePath:
    return storage.store() / runs.here().dag_id / name
