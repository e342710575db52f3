"""Card payments, some of them fraud, and the disputes by which fraud becomes known days later.

The truth that is planted: the odds of fraud rise with the amount, at night, and with how exposed an
account is. The exposure can't be seen; what can be seen is how many disputes the account has had
*until then*, since fraud repeats. A dispute reaches the bank two to ten days after its payment, so
counting those of today would look into the future. Electronics cost more than groceries, and the
amount is what counts, not the amount for that kind of shop.

A credit bureau rates most of the accounts each month. Its rating says something of the exposure,
and it is restated once the disputes of the month are in: lower, under the same month, and published
weeks after the payments of that month. A rating looked up by its month alone knows their fraud.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

SEED = 97
LABEL = "fraud"
DAYS = 90
ACCOUNTS = 500
RATED_SHARE = 0.92
RATED_MONTHS = ("2025-12", "2026-01", "2026-02", "2026-03")
RATING_SCALE = (300.0, 850.0)
SHOPS = ("groceries", "electronics")


def stream(rows: int = 9_000, seed: int = SEED) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Payments in the order of time, and disputes in the order in which they became known."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    exposure = _exposure(rng)
    account = rng.integers(ACCOUNTS, size=rows)
    seconds = np.sort(rng.integers(DAYS * 86_400, size=rows))
    at = pd.Timestamp("2026-01-01") + pd.to_timedelta(seconds, unit="s")
    shop = rng.choice(SHOPS, size=rows)
    amount = rng.lognormal(np.where(shop == "groceries", 3.2, 5.2), 0.8).round(2)
    night = (at.hour < 6).astype(int)
    log_odds = -6.6 + 1.3 * exposure[account] + 0.75 * np.log1p(amount) + 1.0 * night
    fraud = (rng.random(rows) < 1 / (1 + np.exp(-log_odds))).astype(int)
    payments = pd.DataFrame({
        "payment_id": np.arange(1, rows + 1),
        "account": account,
        "at": at,
        "shop": shop,
        "amount": amount,
        LABEL: fraud,
    })
    wait = pd.to_timedelta(rng.integers(2 * 86_400, 10 * 86_400, size=rows), unit="s")
    disputes = payments.assign(known_at=payments["at"] + wait)[payments[LABEL] == 1]
    disputes = disputes.rename(columns={"at": "event_at"})[["account", "event_at", "known_at"]]
    return payments, disputes.sort_values("known_at", ignore_index=True)


def ratings(disputes: "pd.DataFrame", seed: int = SEED) -> "pd.DataFrame":
    """Ratings and their restatements, in the order in which the bureau published them."""
    import pandas as pd

    exposure = _exposure(np.random.default_rng(seed))
    rng = np.random.default_rng(seed + 1)
    rated = np.flatnonzero(rng.random(ACCOUNTS) < RATED_SHARE)
    account, month = np.tile(rated, len(RATED_MONTHS)), np.repeat(RATED_MONTHS, len(rated))
    first = pd.DataFrame({"account": account, "event_at": pd.to_datetime(month)})
    minutes = rng.integers(3 * 1440, 6 * 1440, size=len(first))
    first["known_at"] = first["event_at"] + pd.to_timedelta(minutes, unit="min")
    first["rating"] = (600 - 45 * exposure[account] + rng.normal(0, 45, len(first))).round(1)

    months = disputes["event_at"].dt.to_period("M").dt.to_timestamp()
    of_month = disputes.groupby(["account", months.rename("event_at")])["known_at"]
    restated = first.drop(columns="known_at").merge(
        of_month.agg(frauds="size", last="max").reset_index(), on=["account", "event_at"]
    )
    restated["known_at"] = restated["last"].dt.ceil("min") + pd.Timedelta(days=1)
    restated["rating"] -= 40 * restated["frauds"]
    published = pd.concat([first, restated[first.columns]])
    published["rating"] = published["rating"].clip(*RATING_SCALE)
    return published.sort_values(["known_at", "account"], ignore_index=True)


def _exposure(rng: np.random.Generator) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """How likely each account is a target: the first thing that is drawn, and never shown."""
    return rng.normal(size=ACCOUNTS)
