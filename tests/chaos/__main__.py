"""`make chaos`: pipelines run in a whole Airflow whose processes are killed at random."""

import math
import os
import secrets
import shutil
import signal
import sys
import tempfile
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests import alone
from tests.chaos import installation, left, verdict
from tests.chaos.play import Play
from tests.prove import __main__ as prove

STORM = 600.0
"""Seconds at the most until the failed runs are cleared, and must end green."""


def main(arguments: Sequence[str]) -> int:
    """Understand what is asked for, and do it where loopback is the whole network."""
    parser = ArgumentParser(prog="make chaos")
    parser.add_argument("--minutes", type=_minutes, default=60.0)
    parser.add_argument("--dag", default="", help="one pipeline, or several with commas between")
    parser.add_argument("--section", default="")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    asked = parser.parse_args(arguments)
    dag_ids = chosen(asked.dag, asked.section)
    if "ONLY_LOOPBACK" not in os.environ:
        alone.main(["-m", "tests.chaos", *arguments, "--seed", str(asked.seed)])
    for sign in (signal.SIGINT, signal.SIGTERM):  # everything ends with this, however it ends
        signal.signal(sign, signal.default_int_handler)
    return disturbed(dag_ids, asked.minutes, asked.seed)


def chosen(dag: str, section: str) -> list[str]:
    """The pipelines that are meant; with nothing named, all."""
    parts = [part.strip() for part in dag.split(",") if part.strip()]
    if not parts:
        return prove.chosen("", section, not section, 0)
    return sorted({name for part in parts for name in prove.chosen(part, "", False, 0)})


def disturbed(dag_ids: Sequence[str], minutes: float, seed: int) -> int:
    """The whole of it; returns the exit status."""
    home = Path(tempfile.mkdtemp(prefix="catalogue-chaos-")).resolve()
    say(f"{len(dag_ids)} pipelines, {minutes:g} minutes, SEED={seed}; everything is in {home}")
    faults: list[str] = []
    play = None
    try:
        with installation.opened(home) as started:
            play = Play(started, dag_ids, seed, say)
            say("undisturbed: each pipeline twice")
            play.calm()
            before = started.resources()
            seconds = minutes * 60
            while seconds > 0 and play.turn:
                say(f"disturbed, for {seconds:.0f} s more")
                seconds -= play.storm(min(STORM, seconds))
                say("quiet: what has failed is cleared")
                play.quiet()
            faults += left.running(started, before)
    except (AssertionError, RuntimeError) as fault:  # something did not come, or refused
        faults.append(str(fault))
    verdicts = play.verdicts if play else []
    faults += left.stopped(home, play.kills[-1].at if play and play.kills else None)
    print(f"\n{len(play.kills) if play else 0} kills\n{verdict.summary(verdicts)}")
    faults += [each.why for each in verdicts if each.result not in verdict.GOOD]
    if not faults:
        shutil.rmtree(home)
        return 0
    print("\n" + "\n\n".join(faults))
    print(f"\nLogs are in {home / 'services'} and {home / 'airflow' / 'logs'}.")
    return 1


def say(line: str) -> None:
    """A line of progress."""
    print(f"[{datetime.now(UTC):%H:%M:%S}] {line}", flush=True)


def _minutes(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise ArgumentTypeError(f"{text} is no number of minutes")
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
