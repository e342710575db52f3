"""Planted faults: which there are, who notices them, and what is said of those that survive."""

import ast
import hashlib

import pytest

from include.tools import environment
from tests.mutants import page
from tests.mutants.__main__ import PAGE
from tests.mutants.hunt import NotGreen, Outcome, hunt
from tests.mutants.modules import TESTS
from tests.mutants.planting import Mutant, plant

AGES = '''"""Who pays what."""

ADULT = 18


def is_adult(age: int) -> bool:
    """Whether somebody pays in full."""
    return age >= ADULT


def fee(age: int) -> int:
    """What somebody pays."""
    return 2 if is_adult(age) else 1


def wait(done: bool) -> None:
    """Wait until it is done."""
    while not done:
        pass
'''
TEST_AGES = """
import ages


def test_an_adult_is_eighteen():
    assert ages.is_adult(18)
    assert ages.is_adult(19)
    assert not ages.is_adult(17)


def test_an_adult_pays_two():
    assert ages.fee(20) == 2


def test_what_is_done_needs_no_waiting():
    ages.wait(True)
"""
PLANTED = {
    "x = a < b": ["x = a <= b", "x = a >= b"],
    "x = a == b": ["x = a != b"],
    "x = a is None": ["x = a is not None"],
    "x = a + b": ["x = a - b"],
    "x = (a + b) * c": ["x = (a + b) / c", "x = (a - b) * c"],
    "x -= a": ["x += a"],
    "x = a and b": ["x = a", "x = a or b", "x = b"],
    "x = not a": ["x = a"],
    "x = -a": ["x = a"],
    "x = 1": ["x = 0", "x = 2"],
    "x = 0": ["x = -1", "x = 1"],
    "x = True": ["x = False"],
    "x = 'y'": ["x = 'XXy'"],
    "x = b'y'": ["x = b'XXy'"],
    "x = None": ["x = 'XX'"],
    "x = f'{a}-{b}'": ["x = f'-{b}'", "x = f'XX{a}-{b}'", "x = f'{a}-'"],
    "x = a if b else c": ["x = c if b else a"],
    "x = a[:n]": ["x = a[:]"],
    "x = a[m:n]": ["x = a[:n]", "x = a[m:]"],
    "x = [a, b]": ["x = [ b]", "x = [a, ]"],
    "x = (a, b)": ["x = (a,)", "x = (b,)"],
    "x = {a: b, **c}": ["x = { **c}", "x = {a: b}"],
    "x = [a for a in b if c]": ["x = [a for a in b if not c]"],
    "x = lambda: a": ["x = lambda: None"],
    "x = any(a for a in b)": ["x = all(a for a in b)", "x = any()"],
    "f(a, b)": ["f(a, )", "pass"],
    "f(a, b=c)": ["f( b=c)", "f(a, )", "pass"],
    "x.y = a": ["pass"],
    "x[y] = a": ["pass"],
    "raise a from None": ["pass"],
    "def f(a=b): return a": ["def f(a=b): return None"],
    "def f(a, b=3): pass": ["def f(a, b=2): pass", "def f(a, b=4): pass"],
    "while a: break": ["while a: continue", "while not a: break"],
    "if a: f()": ["if a: pass", "if not a: f()"],
}


@pytest.mark.parametrize("text", PLANTED)
def test_a_line_has_these_mutants(text):
    found = plant(f"{text}\n")
    assert sorted(each.after for each in found) == sorted(PLANTED[text])
    assert {(each.line, each.before) for each in found} == {(1, text)}


@pytest.mark.parametrize(
    "text",
    [
        '"""A docstring."""\n',
        'def f():\n    """A docstring."""\n',
        'class A:\n    b: int\n    """A docstring below an attribute."""\n',
        'def f(a: "int", *, b: "Literal[1]") -> "Literal[2]": pass\n',
        'a: "list[int]"\n',
        "if TYPE_CHECKING:\n    import a\n    b = 1\n",
        "import a\nfrom b import c\n",
        "x = a\n",
    ],
)
def test_what_says_nothing_to_a_caller_has_no_mutants(text):
    assert plant(text) == []


@pytest.mark.parametrize("module", TESTS)
def test_the_mutants_of_a_module_are_different_modules(module):
    text = (environment.PROJECT / module).read_text()
    meanings = {ast.dump(ast.parse(each.text)) for each in plant(text)}
    assert len(meanings) == len(plant(text)) > 10
    assert ast.dump(ast.parse(text)) not in meanings


@pytest.fixture
def project(tmp_path):
    """A project with one module, half of which is tested."""
    for name, text in (("ages.py", AGES), ("test_ages.py", TEST_AGES), (".gitignore", "/left/\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / "test_red.py").write_text("raise SystemError")
    return tmp_path


def content(folder):
    """Everything below a folder."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_planted_faults_are_noticed_and_survivors_told_and_nothing_changes(project):
    before, told = content(project), []
    outcome = hunt(project, "ages.py", ["test_ages.py"], told.append, cores=1, spare=0.0)
    seen = {each.after for each in outcome.planted} - {each.after for each in outcome.survived}
    assert seen == {
        "ADULT = 17",
        "ADULT = 19",
        "return age > ADULT",
        "return age < ADULT",
        "return None",
        "return 1 if is_adult(age) else 2",
        "return 2 if is_adult() else 1",
        "return 1 if is_adult(age) else 1",
        "return 3 if is_adult(age) else 1",
        "while done:",
    }
    assert [(each.line, each.before, each.after) for each in told] == [
        (13, "return 2 if is_adult(age) else 1", "return 2 if is_adult(age) else 0"),
        (13, "return 2 if is_adult(age) else 1", "return 2 if is_adult(age) else 2"),
    ]
    assert outcome.survived == told
    assert outcome.noticed == len(outcome.planted) - 2
    assert content(project) == before


def test_tests_that_fail_without_a_fault_are_refused_with_what_they_said(project):
    (project / "test_ages.py").write_text(
        "import ages\n\ndef test_red(): assert ages.fee(3) == 9\n"
    )
    with pytest.raises(NotGreen, match=r"fail without a fault(.|\n)*assert 1 == 9"):
        hunt(project, "ages.py", ["test_ages.py"], print, cores=1)


def mutant(number):
    return Mutant(number, f"before {number}", f"after {number}", "")


def verdict(survived, kept, planted=20):
    everything = [mutant(number) for number in range(planted)]
    outcome = Outcome("a.py", everything, everything[:survived])
    return page.Verdict(outcome, {mutant(number).change: "a reason" for number in kept})


def test_a_verdict_is_good_if_enough_is_noticed_and_the_rest_explained():
    assert verdict(survived=0, kept=[]).good
    assert verdict(survived=2, kept=[0, 1]).good
    assert not verdict(survived=3, kept=[0, 1, 2]).good  # 85 %
    unexplained = verdict(survived=2, kept=[0])
    assert not unexplained.good
    assert unexplained.unexplained == [mutant(1)]


def test_a_reason_for_what_is_noticed_or_not_planted_is_stale():
    stale = verdict(survived=1, kept=[0, 7, 99])
    assert stale.stale == [mutant(7).change, mutant(99).change]
    assert stale.good


def test_a_page_keeps_the_rows_of_other_modules_and_loses_those_without_tests():
    kept = {"a.py": {("x = 1", "x = 2"): "Nobody asks."}}
    text = page.text({"b.py": (9, 9), "a.py": (40, 39), "gone.py": (1, 1)}, kept, ["a.py", "b.py"])
    assert "| [a.py](../a.py) | 40 | 39 | 97 % |\n| [b.py](../b.py) | 9 | 9 | 100 % |\n" in text
    assert "Nobody asks.\n\n```diff\n- x = 1\n+ x = 2\n```\n" in text
    assert page.rows(text) == {"a.py": (40, 39), "b.py": (9, 9)}


def test_the_page_says_what_is_kept_and_why():
    text = PAGE.read_text()
    assert page.text(page.rows(text), page.kept(), TESTS) == text
    assert set(page.rows(text)) == set(TESTS)


@pytest.mark.parametrize("module", page.kept())
def test_each_survivor_that_is_kept_can_still_be_planted(module):
    planted = {each.change for each in plant((environment.PROJECT / module).read_text())}
    assert set(page.kept()[module]) <= planted
