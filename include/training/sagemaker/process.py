"""Processing job: from customers to numbers, in three parts, and requests without the answer.

Arguments: <folder with customers.csv> <folder for the parts>

Files have no header and the label first, as SageMaker's own algorithms want them, too.
"""

import sys
from pathlib import Path

import pandas as pd

LABEL = "churned"
NUMBERS = ["tenure_months", "monthly_fee", "usage_hours", "support_calls"]
PLANS = ["family", "monthly", "yearly"]
SHARES = {"holdout": 0.2, "validation": 0.25}  # each of what is left, of both labels alike
SEED = 97


def main(source: Path, target: Path) -> None:
    """Read, refuse what is broken, split, write."""
    customers = pd.read_csv(source / "customers.csv")
    missing = customers[NUMBERS].isna().sum()
    if broken := [f"{count} have no {name}" for name, count in missing.items() if count]:
        raise ValueError(f"of {len(customers)} customers {', '.join(broken)}: mend the source")
    table = customers[[LABEL, *NUMBERS]].copy()
    for plan in PLANS:
        table[plan] = (customers["plan"] == plan).astype(int)
    parts = {}
    for name, share in SHARES.items():
        parts[name] = table.groupby(LABEL).sample(frac=share, random_state=SEED)
        table = table.drop(parts[name].index)
    parts["train"] = table
    parts["requests"] = parts["holdout"].drop(columns=LABEL)
    for name, part in parts.items():
        (target / name).mkdir()
        part.to_csv(target / name / f"{name}.csv", header=False, index=False)
        print(f"{name}: {len(part)} customers")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
