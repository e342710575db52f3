"""Customers of a subscription service, some of whom left.

The truth that is planted: the odds of leaving fall with tenure and with hours of use, rise with
support calls and with the fee, and are higher on the monthly plan; the region says nothing. Half of
the variation is luck, so no honest model gets past an AUC of 0.75.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

SEED = 97
PLANS = ("monthly", "yearly", "family")
REGIONS = ("north", "east", "south", "west")
LABEL = "churned"
PER_CALL = 0.45


def customers(rows: int = 8_000, seed: int = SEED) -> "pd.DataFrame":
    """One row per customer, with the label `churned`."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    tenure = rng.gamma(shape=2.0, scale=14.0, size=rows).round().clip(1, 120)
    usage = rng.gamma(shape=2.5, scale=9.0, size=rows).round(1)
    calls = rng.poisson(1.2, size=rows)
    plan = rng.choice(PLANS, size=rows, p=[0.55, 0.30, 0.15])
    fee = (rng.normal(32, 8, size=rows) - 6 * (plan == "yearly")).clip(8).round(2)
    region = rng.choice(REGIONS, size=rows)
    frame = pd.DataFrame({
        "customer_id": np.arange(1, rows + 1),
        "region": region,
        "plan": plan,
        "tenure_months": tenure.astype(int),
        "monthly_fee": fee,
        "usage_hours": usage,
        "support_calls": calls,
    })
    return frame.assign(**{LABEL: (rng.random(rows) < chance(frame)).astype(int)})


def chance(customers: "pd.DataFrame", per_call: float = PER_CALL) -> "pd.Series[float]":
    """How likely each customer is to leave: the truth that a model is to find."""
    log_odds = (
        -0.9
        - 0.030 * (customers["tenure_months"] - 28)
        - 0.040 * (customers["usage_hours"] - 22)
        + per_call * (customers["support_calls"] - 1.2)
        + 0.020 * (customers["monthly_fee"] - 30)
        + 0.70 * (customers["plan"] == "monthly")
    )
    likely: pd.Series[float] = 1 / (1 + np.exp(-log_odds))
    return likely
