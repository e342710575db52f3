"""Cross-validation that is done by hand, to keep what each row was given while nobody knew it."""

from typing import TYPE_CHECKING, Any

from include.evaluation import binary

if TYPE_CHECKING:
    import pandas as pd


def cross_validated(
    recipe: Any, rows: "pd.DataFrame", label: str, folds: int, repeats: int, seed: int
) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Fit the recipe anew for each fold, features and all, with the folds drawn anew each repeat.

    Returns the scores of all rows from models that had not met them (a column for each repeat), and
    the measures of each fold.
    """
    import pandas as pd
    from sklearn.base import clone
    from sklearn.model_selection import StratifiedKFold

    labels = rows[label]
    scores, measured = pd.DataFrame({label: labels}), []
    for repeat in range(repeats):
        drawn = StratifiedKFold(folds, shuffle=True, random_state=seed + repeat)
        of_repeat = pd.Series(index=rows.index)
        for fold, (learned, judged) in enumerate(drawn.split(rows, labels)):
            fitted = clone(recipe).fit(rows.iloc[learned], labels.iloc[learned])
            given = fitted.predict_proba(rows.iloc[judged])[:, 1]
            of_repeat.iloc[judged] = given
            report = binary.report(labels.iloc[judged], given)
            measured.append({"repeat": repeat, "fold": fold, **report})
        scores[f"repeat_{repeat}"] = of_repeat
    return scores, pd.DataFrame(measured)
