"""A shadow's answers beside the live ones: are they there, the same, and in time?"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

NOTED = ["request_id", "status", "ms", "predictions", "scores"]
ANSWERS = ["live_predictions", "live_scores", "shadow_predictions", "shadow_scores"]


def joined(lines: Iterable[Mapping[str, Any]]) -> "pd.DataFrame":
    """One row for each request in a gateway's log; a copy that was not sent is a gap."""
    import pandas as pd

    sides: dict[str, list[dict[str, Any]]] = {"live": [], "shadow": []}
    for line in lines:
        row = {"request_id": line["request_id"], "status": line["status"]}
        row |= line["answer"] or {}
        sides[line["role"]].append(row | {"ms": 1000 * line["seconds"]})
    live, shadow = (
        pd
        .DataFrame(rows, columns=NOTED)
        .drop_duplicates("request_id")  # a caller who asks again under an old id counts once
        .set_index("request_id")
        .add_prefix(f"{role}_")
        for role, rows in sides.items()
    )
    return live.join(shadow)


def answered_by_both(log: "pd.DataFrame") -> "pd.DataFrame":
    """One row for each thing that was asked about and that both have answered."""
    both = log[(log.live_status == 200) & (log.shadow_status == 200)]
    return both[ANSWERS].explode(ANSWERS).astype(float)


def measured(log: "pd.DataFrame") -> dict[str, float]:
    """What can be said without labels; a measure that nothing was there for is left out."""
    import pandas as pd

    if log.empty:
        raise ValueError("nobody asked anything while the shadow ran: there is nothing to compare")
    copied = log[log.shadow_status.notna()]
    both = answered_by_both(log)
    difference = (both.shadow_scores - both.live_scores).abs()
    measures = pd.Series({
        "copies": len(copied) / len(log),
        "errors": (copied.shadow_status != 200).mean(),
        "agreement": (both.shadow_predictions == both.live_predictions).mean(),
        "mean_difference": difference.mean(),
        "largest_difference": difference.max(),
        "p50_ms": copied.shadow_ms.median(),
        "p99_ms": copied.shadow_ms.quantile(0.99),
        "live_errors": (log.live_status != 200).mean(),
        "live_p50_ms": log.live_ms.median(),
        "live_p99_ms": log.live_ms.quantile(0.99),
    })
    return {name: round(float(value), 6) for name, value in measures.dropna().items()}
