"""The callers' token follows from the operators', not the other way round; a wrong one is none."""

import pytest

from include.serving import tokens


def test_the_callers_token_is_the_same_in_each_release():
    assert tokens.of_callers("the operators' own") == (
        "43f2b2d71541b0ee1f59862c12ce7e494388e8452adb3ce95442b605e5cd984f"
    )


def test_each_gateway_has_callers_of_its_own():
    assert tokens.of_callers("one") != tokens.of_callers("another")


@pytest.mark.parametrize(
    ("shown", "right"),
    [
        ("Bearer one with a space", True),
        ("bearer one with a space", True),
        ("Basic one with a space", False),
        ("one with a space", False),
        ("Bearer space", False),
        ("Bearer  one with a space", False),
        ("Bearer one with a space ", False),
        ("Bearer", False),
        ("", False),
        ("Bearer \xe9", False),
        ("Bearer \udcff", False),  # a byte that is no text, as aiohttp reads it
    ],
)
def test_a_header_shows_the_token_or_it_does_not(shown, right):
    assert tokens.same(shown, "one with a space") is right
