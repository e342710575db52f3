"""Card payments, some of them fraud, and the disputes by which fraud becomes known days later.

The truth that is planted: the odds of fraud rise with the amount, at night, and with how exposed an
account is. The exposure can't be seen; what can be seen is how many disputes the account has had
*until then*, since fraud repeats. A dispute reaches the bank two to ten days after its payment, so
counting those of today would look into the future. Electronics cost more than groceries, and the
amount is what counts, not the amount for that kind of shop.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

SEED = 97
LABEL = "fraud"
DAYS = 90
SHOPS = ("groceries", "electronics")


def stream(rows: int = 9_000, seed: int = SEED) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Payments in the order of time, and disputes in the order in which they became known."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    accounts = 500
    exposure = rng.normal(size=accounts)
    account = rng.integers(accounts, size=rows)
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
    return payments, disputes[["account", "known_at"]].sort_values("known_at", ignore_index=True)
