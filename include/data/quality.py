"""Expectations on a table, checked by Great Expectations, with the rows that break them named."""

import logging
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

NAMED_ROWS = 5


class BrokenExpectations(ValueError):
    """The data is not what was agreed on; trying again won't mend it."""


def expectations() -> ModuleType:
    """Great Expectations' vocabulary, imported without its two hundred lines of log."""
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it still imports sre_constants
        import great_expectations.expectations
    # One of its modules turns itself up to INFO while it is imported.
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    vocabulary: ModuleType = great_expectations.expectations
    return vocabulary


def check(frame: "pd.DataFrame", agreed: Sequence[Any], row_id: str, source: str) -> None:
    """Raise unless every expectation holds, and say which rows of `source` break which."""
    expectations()
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    suite = gx.ExpectationSuite(name=source, expectations=list(agreed))
    results = batch.validate(suite, result_format={"result_format": "COMPLETE"}).results

    broken = [_sentence(each, frame, row_id) for each in results if not each.success]
    if broken:
        raise BrokenExpectations(
            f"{len(broken)} of {len(results)} expectations on {source} are broken:\n"
            + "\n".join(f"- {line}" for line in broken)
        )


def _sentence(result: Any, frame: "pd.DataFrame", row_id: str) -> str:
    """Say what was expected of which column, and where it does not hold."""
    wanted = result.expectation_config
    column = wanted.kwargs.get("column")
    if column is not None and column not in frame:
        return f"{column}: there is no such column; there are {', '.join(frame)}"
    terms = {
        name: value for name, value in wanted.kwargs.items() if name not in ("column", "batch_id")
    }
    subject = f"{column or 'the table'}: {wanted.type}"
    if terms:
        subject += f"({', '.join(f'{name}={value}' for name, value in terms.items())})"
    if reasons := _exceptions(result.exception_info):
        return f"{subject} could not be checked: {'; '.join(reasons)}"
    rows = result.result.get("unexpected_index_list")
    if not rows:
        found = result.result.get("observed_value")
        return f"{subject}, found {'no value to look at' if found is None else found}"
    ids = frame.loc[rows[:NAMED_ROWS], row_id].tolist() if row_id in frame else rows[:NAMED_ROWS]
    more = f" and {len(rows) - NAMED_ROWS} more" if len(rows) > NAMED_ROWS else ""
    return f"{subject} fails for {row_id} {', '.join(map(str, ids))}{more}"


def _exceptions(told: dict[str, Any]) -> list[str]:
    """What went wrong, once each: Great Expectations tells it for each metric, in any order."""
    each = [told] if "exception_message" in told else list(told.values())
    return sorted({str(one["exception_message"]) for one in each if one["exception_message"]})
