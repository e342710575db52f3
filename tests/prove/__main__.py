"""`make prove`: the long proofs of the pipelines that changed, or of those that are named."""

import hashlib
import subprocess
from argparse import ArgumentParser
from pathlib import Path

from include.tools import environment
from tests import alone, sections
from tests.prove import ledger

HERE = Path(__file__).parent


def main() -> None:
    """Choose the pipelines, and become the process that proves them."""
    parser = ArgumentParser(prog="make prove")
    parser.add_argument("--dag", default="")
    parser.add_argument("--section", default="")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--sample", type=int, default=0)
    asked = parser.parse_args()
    names = chosen(asked.dag, asked.section, asked.all, asked.sample)
    if not names:
        print(f"All {len(ledger.pipelines())} pipelines are proved as they stand.")
        return
    print(f"To prove: {', '.join(names)}", flush=True)
    options = ["-p", "no:cacheprovider", "--confcutdir", str(HERE)]
    alone.main(["-m", "pytest", "-v", *options, "--dags", ",".join(names), str(HERE)])


def chosen(dag: str, section: str, everything: bool, sample: int) -> list[str]:
    """The pipelines that are meant; with nothing named, those that changed."""
    there = ledger.pipelines()
    if everything:
        return there
    if sample:
        commit = _commit()
        print(f"{commit[:19]} picks {sample} of {len(there)} pipelines.")
        return ledger.sample(commit, sample)
    if dag:
        found = [name for name in there if name.startswith(dag)]
        if not found:
            raise SystemExit(f"There is no pipeline {dag!r}. There are:\n  " + "\n  ".join(there))
        return found
    if section:
        known = sections.with_pipelines()
        if section not in known:
            raise SystemExit(f"There is no section {section!r}. There are: {', '.join(known)}.")
        return [name for name in there if sections.section(f"test_{name}") == section]
    return ledger.changed()


def _commit() -> str:
    """The commit's hash. Where there is no git, the ledger's digest: nobody chooses it, either."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607
        cwd=environment.PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return f"Commit {done.stdout.strip()}"
    return f"Ledger {hashlib.sha256(ledger.FILE.read_bytes()).hexdigest()}"


if __name__ == "__main__":
    main()
