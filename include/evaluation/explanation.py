"""What a model looks at: overall by shuffling columns, and for each row by SHAP values.

Shuffling says what a column is worth to the measure, SHAP by how much it moved each answer. They
disagree where a column moves many answers and improves none.
"""

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike
    from sklearn.pipeline import Pipeline


def worth(
    model: "Pipeline", inputs: "pd.DataFrame", labels: "ArrayLike", repeats: int, seed: int
) -> "pd.DataFrame":
    """How much AUC is lost when a column is shuffled: mean and deviation over the repeats."""
    import pandas as pd
    from sklearn.inspection import permutation_importance

    lost = permutation_importance(
        model, inputs, labels, scoring="roc_auc", n_repeats=repeats, random_state=seed
    )
    return pd.DataFrame(
        {"auc_lost": lost.importances_mean, "deviation": lost.importances_std},
        index=pd.Index(inputs.columns, name="column"),
    )


def moved(model: "Pipeline", background: "pd.DataFrame", rows: "pd.DataFrame") -> "pd.DataFrame":
    """By how much each column moved each row's log-odds, from the `base` of the background.

    The model is the churn features with a linear classifier on them. The columns that a category
    was spread over are added up, so that the answer is about the table that the reader knows.
    """
    import numpy as np
    import pandas as pd

    from include.features.churn import CATEGORICAL, NUMERIC

    with warnings.catch_warnings():
        # Its colour maps are set up in a way that Matplotlib wants to end.
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        import shap
    features, classifier = model[:-1], model[-1]
    known, asked = features.transform(background), features.transform(rows)
    masker = shap.maskers.Independent(known, max_samples=len(known))
    explained = shap.LinearExplainer(classifier, masker)(asked)

    spread = features[0].named_transformers_["spread"].categories_
    origin = NUMERIC + np.repeat(CATEGORICAL, [len(values) for values in spread]).tolist()
    by_feature = pd.DataFrame(explained.values, columns=origin, index=rows.index)
    by_column = by_feature.T.groupby(level=0, sort=False).sum().T
    return by_column.assign(base=explained.base_values)
