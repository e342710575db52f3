"""What a payment looks like to a model: one definition, read by training and by serving.

`Accounts` is the feature store. It is fed events in the order in which they became known and asked
for a payment's features at the moment of the payment. Training feeds it history, serving feeds it
the live stream; neither can be told what is not known yet, and both get the same bytes.
"""

import math
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

FEATURES = ["log_amount", "at_night", "payments_24h", "disputes_known"]
DAY_SECONDS = 86_400


class Accounts:
    """Everything that is known about the accounts at a moment."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._disputes: Counter[int] = Counter()
        self._recent: defaultdict[int, deque[Any]] = defaultdict(deque)

    def features(self, account: int, at: Any, amount: float) -> dict[str, float]:
        """How this payment looks now, before anything is known of how it ends."""
        recent = self._recent[account]
        while recent and (at - recent[0]).total_seconds() > DAY_SECONDS:
            recent.popleft()
        return {
            "log_amount": math.log1p(amount),
            "at_night": float(at.hour < 6),
            "payments_24h": float(len(recent)),
            "disputes_known": float(self._disputes[account]),
        }

    def pay(self, account: int, at: Any) -> None:
        """Take note of a payment, once its features have been read."""
        self._recent[account].append(at)

    def dispute(self, account: int) -> None:
        """Take note of a dispute that has just become known."""
        self._disputes[account] += 1


def as_of(payments: "pd.DataFrame", disputes: "pd.DataFrame") -> "pd.DataFrame":
    """Features of each payment as of its own moment: the point-in-time join, event by event."""
    import pandas as pd

    accounts = Accounts()
    known = deque(disputes.itertuples())
    rows = []
    for payment in payments.itertuples():
        while known and known[0].known_at <= payment.at:
            accounts.dispute(known.popleft().account)
        rows.append(accounts.features(payment.account, payment.at, payment.amount))
        accounts.pay(payment.account, payment.at)
    return pd.DataFrame(rows, columns=FEATURES, index=payments.index)


def first_difference(served: "pd.DataFrame", replayed: "pd.DataFrame") -> str | None:
    """The first feature whose served values are not bit for bit what the training path gives."""
    for feature in FEATURES:
        if served[feature].to_numpy().tobytes() != replayed[feature].to_numpy().tobytes():
            return feature
    return None
