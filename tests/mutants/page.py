"""What is known of the mutants: the survivors that are kept, with reasons, and `docs/mutants.md`.

`accepted.toml` names a survivor by its module and by what its lines are before and after the
change, so it stays known when the lines move.
"""

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.hunt import Outcome
from tests.mutants.planting import Mutant

ACCEPTED = Path(__file__).with_name("accepted.toml")
ROW = re.compile(r"^\| \[(.+)\]\(.+\) \| (\d+) \| (\d+) \| .+ \|$", re.MULTILINE)
LEAST = 90  # percent

Kept = dict[str, dict[tuple[str, str], str]]

HEAD = f"""# Mutants

A mutant is a copy of a module with one small fault: a comparison turned round, a number one higher,
a call left out. The tests of the module run against each mutant, and at least one of them must
fail. `make mutants MODULE=include/runs.py` plants the mutants of one module and updates this page;
`make mutants` does it for all modules of the table.

The command fails where fewer than {LEAST} % of the mutants are noticed, or where one survives
without a reason below.

`include/evaluation/plots.py` is left out: most of its mutants only change how a picture looks.

| Module | Planted | Noticed | Share |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Verdict:
    """What an outcome means, given the survivors that are kept."""

    outcome: Outcome
    kept: Mapping[tuple[str, str], str]

    @property
    def unexplained(self) -> list[Mutant]:
        """The survivors without a reason."""
        return [each for each in self.outcome.survived if each.change not in self.kept]

    @property
    def stale(self) -> list[tuple[str, str]]:
        """The survivors with a reason that are noticed by now, or that nobody plants."""
        survived = {each.change for each in self.outcome.survived}
        return [change for change in self.kept if change not in survived]

    @property
    def good(self) -> bool:
        """Whether enough are noticed and the rest is explained."""
        enough = 100 * self.outcome.noticed >= LEAST * len(self.outcome.planted)
        return enough and not self.unexplained


def kept(file: Path = ACCEPTED) -> Kept:
    """The survivors that are kept, by module, each with its reason."""
    told = tomllib.loads(file.read_text(encoding="utf-8"))
    return {
        module: {(each["before"], each["after"]): each["reason"] for each in survivors}
        for module, survivors in told.items()
    }


def rows(page: str) -> dict[str, tuple[int, int]]:
    """The modules of a page, each with how many mutants were planted and noticed."""
    return {module: (int(planted), int(seen)) for module, planted, seen in ROW.findall(page)}


def text(known: Mapping[str, tuple[int, int]], accepted: Kept, modules: Collection[str]) -> str:
    """The page, with a row for each module that has one."""
    lines = [
        f"| [{module}](../{module}) | {planted} | {noticed} | {share(noticed, planted)} |"
        for module, (planted, noticed) in sorted(known.items())
        if module in modules
    ]
    page = HEAD + "\n".join(lines) + "\n"
    for module, survivors in sorted(accepted.items()):
        page += f"\n## Survivors of {module}\n"
        for (before, after), reason in survivors.items():
            page += f"\n{reason}\n\n```diff\n- {before}\n+ {after}\n```\n"
    return page


def share(noticed: int, planted: int) -> str:
    """The share that is noticed, rounded down."""
    return f"{100 * noticed // planted} %"
