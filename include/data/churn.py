"""Customers of a subscription service, some of whom left.

The truth that is planted: the odds of leaving fall with tenure and with hours of use, rise with
support calls and with the fee, and are higher on the monthly plan; the region says nothing. Half of
the variation is luck, so no honest model gets much past an AUC of 0.80.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

SEED = 97
PLANS = ("monthly", "yearly", "family")
REGIONS = ("north", "east", "south", "west")
LABEL = "churned"


def customers(rows: int = 8_000, seed: int = SEED) -> "pd.DataFrame":
    """One row per customer, with the label `churned`."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    tenure = rng.gamma(shape=2.0, scale=14.0, size=rows).round().clip(1, 120)
    usage = rng.gamma(shape=2.5, scale=9.0, size=rows).round(1)
    calls = rng.poisson(1.2, size=rows)
    plan = rng.choice(PLANS, size=rows, p=[0.55, 0.30, 0.15])
    fee = (rng.normal(32, 8, size=rows) - 6 * (plan == "yearly")).clip(8, 80).round(2)
    log_odds = (
        -0.9
        - 0.030 * (tenure - 28)
        - 0.040 * (usage - 22)
        + 0.45 * (calls - 1.2)
        + 0.020 * (fee - 30)
        + 0.70 * (plan == "monthly")
    )
    return pd.DataFrame({
        "customer_id": np.arange(1, rows + 1),
        "region": rng.choice(REGIONS, size=rows),
        "plan": plan,
        "tenure_months": tenure.astype(int),
        "monthly_fee": fee,
        "usage_hours": usage,
        "support_calls": calls,
        LABEL: (rng.random(rows) < 1 / (1 + np.exp(-log_odds))).astype(int),
    })
