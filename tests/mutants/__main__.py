"""`make mutants`: plant faults in one module or in all, and say which of them no test notices."""

import sys
from collections.abc import Sequence

from include.tools import environment
from tests.mutants import page
from tests.mutants.hunt import NotGreen, hunt
from tests.mutants.modules import TESTS
from tests.mutants.planting import Mutant

PAGE = environment.PROJECT / "docs" / "mutants.md"


def main(asked: Sequence[str]) -> None:
    """Hunt in the modules that are named, or in all; fail where a verdict is not good."""
    if unknown := sorted(set(asked) - set(TESTS)):
        there = "\n  ".join(sorted(TESTS))
        raise SystemExit(
            f"{unknown[0]} has no tests in tests/mutants/modules.py. These have:\n  {there}"
        )
    verdicts = [judged(module) for module in asked or sorted(TESTS)]
    sys.exit(not all(verdict.good for verdict in verdicts))


def judged(module: str) -> page.Verdict:
    """Hunt in one module, say what was found, and write it on the page."""
    accepted = page.kept()
    known = accepted.get(module, {})

    def tell(mutant: Mutant) -> None:
        if mutant.change not in known:
            print(
                f"{module}:{mutant.line} survives\n  - {mutant.before}\n  + {mutant.after}",
                flush=True,
            )

    try:
        outcome = hunt(environment.PROJECT, module, TESTS[module], tell)
    except NotGreen as error:
        raise SystemExit(str(error)) from None
    verdict = page.Verdict(outcome, known)
    for before, after in verdict.stale:
        print(f"{page.ACCEPTED.name} is stale: this one of {module} is noticed, or not planted.")
        print(f"  - {before}\n  + {after}")
    planted, noticed = len(outcome.planted), outcome.noticed
    print(
        f"{module}: {planted} planted, {noticed} noticed ({page.share(noticed, planted)}), "
        f"{len(outcome.survived)} survived, {len(verdict.unexplained)} of them unexplained",
        flush=True,
    )
    rows = page.rows(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    rows[module] = (planted, noticed)
    PAGE.write_text(page.text(rows, accepted, TESTS), encoding="utf-8")
    return verdict


if __name__ == "__main__":
    main(sys.argv[1:])
