"""Point-in-time joins by hand: what each row may know, and who is refused."""

import numpy as np
import pandas as pd
import pytest

from include.features import point_in_time


def day(number):
    return pd.Timestamp("2026-01-01") + pd.Timedelta(days=number - 1)


def facts(*lines, entity="a"):
    """Facts of one account: about a day, known on a day, and what they say."""
    return pd.DataFrame({
        "account": [entity] * len(lines),
        "event_at": [day(about) for about, _, _ in lines],
        "known_at": [day(known) for _, known, _ in lines],
        "rating": [says for _, _, says in lines],
    })


def asked(*days, account="a"):
    return pd.DataFrame({"account": [account] * len(days), "at": [day(each) for each in days]})


def test_a_row_gets_the_newest_fact_that_was_known_by_its_moment():
    view = point_in_time.newest(facts((1, 3, 10), (5, 8, 20)), "account")
    joined = point_in_time.join(asked(2, 3, 7, 8, 9), view, "account")
    assert joined["rating"].tolist() == pytest.approx([np.nan, 10, 10, 20, 20], nan_ok=True)
    assert joined["known_at"].tolist()[1:] == [day(3), day(3), day(8), day(8)]


def test_a_late_fact_about_an_older_time_changes_nothing_and_a_correction_does():
    view = point_in_time.newest(facts((5, 6, 10), (1, 7, 99), (5, 8, 20)), "account")
    assert view["rating"].tolist() == [10, 20]


def test_each_entity_has_its_own_newest_fact():
    both = pd.concat([facts((5, 6, 10)), facts((1, 7, 30), entity="b")], ignore_index=True)
    view = point_in_time.newest(both, "account")
    rows = pd.concat([asked(9), asked(9, account="b"), asked(9, account="c")])
    joined = point_in_time.join(rows, view, "account")
    assert joined["rating"].tolist() == pytest.approx([10, 30, np.nan], nan_ok=True)


def test_a_count_grows_each_time_a_fact_becomes_known():
    both = pd.concat([facts((1, 9, 0), (2, 3, 0), (4, 4, 0)), facts((1, 2, 0), entity="b")])
    view = point_in_time.running_count(both, "account", "disputes")
    assert view[["account", "known_at", "disputes"]].to_numpy().tolist() == [
        ["b", day(2), 1],
        ["a", day(3), 1],
        ["a", day(4), 2],
        ["a", day(9), 3],
    ]


def test_a_fact_about_a_time_to_come_counts_from_that_time_on():
    view = point_in_time.newest(facts((9, 2, 10)), "account")
    assert view["known_at"].tolist() == [day(9)]


def test_of_facts_that_become_known_together_the_one_about_the_later_time_is_the_newest():
    view = point_in_time.newest(facts((2, 3, 20), (1, 3, 10)), "account")
    joined = point_in_time.join(asked(3), view, "account")
    assert joined["rating"].tolist() == [20]


def test_facts_that_become_known_together_are_counted_in_the_order_of_what_they_are_about():
    view = point_in_time.running_count(facts((2, 3, 0), (1, 3, 0)), "account", "disputes")
    assert view[["event_at", "disputes"]].to_numpy().tolist() == [[day(1), 1], [day(2), 2]]


def test_rows_of_one_moment_keep_their_order():
    rows = asked(*[5, 3] * 20).assign(number=range(40))
    view = point_in_time.newest(facts((1, 1, 10)), "account")
    joined = point_in_time.join(rows, view, "account")
    assert joined["number"].tolist() == [*range(1, 40, 2), *range(0, 40, 2)]


def test_a_naive_join_takes_facts_as_known_when_they_happened():
    told = point_in_time.told_at_once(facts((1, 3, 10)))
    assert told[["event_at", "known_at"]].to_numpy().tolist() == [[day(1), day(1)]]


FACTS = facts(*[(1, 2, 0)] * 6).assign(account=list("abcdef"))


@pytest.mark.parametrize(
    "view", [point_in_time.newest, lambda *facts: point_in_time.running_count(*facts, "number")]
)
@pytest.mark.parametrize("time", ["event_at", "known_at"])
def test_facts_without_a_time_are_refused_with_five_of_their_accounts(view, time):
    without = FACTS.assign(**{time: pd.NaT})
    with pytest.raises(ValueError, match="to join by") as refused:
        view(without, "account")
    assert str(refused.value) == f"6 rows have no {time} to join by: account a, b, c, d, e"


@pytest.mark.parametrize(
    "view", [point_in_time.newest, lambda *facts: point_in_time.running_count(*facts, "number")]
)
def test_facts_about_nobody_are_refused(view):
    nobodys = FACTS.assign(account=["a", None, None, "b", "c", "d"])
    with pytest.raises(ValueError, match=r"^2 rows have no account to join by$"):
        view(nobodys, "account")


def test_rows_without_a_time_or_about_nobody_are_refused():
    known = point_in_time.newest(FACTS, "account")
    with pytest.raises(ValueError, match=r"^1 rows have no at to join by: account b$"):
        point_in_time.join(
            FACTS.assign(at=day(1)).iloc[:2].assign(at=[day(1), None]), known, "account"
        )
    with pytest.raises(ValueError, match=r"^1 rows have no account to join by$"):
        point_in_time.join(asked(1, 2).assign(account=["a", None]), known, "account")
