"""Runs of pipelines, a few at once: undisturbed, disturbed, and made green again in the quiet."""

import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count

from tests import outcomes
from tests.chaos import outcome, verdict, victims
from tests.chaos.installation import AWAY, Installation
from tests.chaos.outcome import Outcome
from tests.chaos.run import Run
from tests.chaos.verdict import CLEARED, SAME, STUCK, WHOLE, WRONG, Verdict
from tests.chaos.victims import Kill
from tests.waiting import until

FIRST = datetime(2026, 2, 28, tzinfo=UTC)
WEEK = timedelta(weeks=1)
AT_ONCE = 3
"""Runs; each may have several tasks at work."""
PAUSE = 20.0
"""Seconds from one kill to the next."""
STUCK_AFTER = 600.0
"""Seconds without a change. A kill is noticed within a minute, and most tasks must end in five."""
BACK_WITHIN = 300.0
CLEARS = (SAME, CLEARED, WHOLE)
"""What a run is that ends as it should after it was cleared so many times."""


class Play:
    """All runs of one installation, and what became of them."""

    def __init__(
        self,
        installation: Installation,
        dag_ids: Sequence[str],
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        """Nothing runs yet."""
        self.installation, self.say = installation, say
        self.draw = random.Random(seed)  # noqa: S311 - the same seed must give the same draws
        self.dates = {dag_id: map(_date, count()) for dag_id in dag_ids}
        self.turn = deque(dag_ids)
        self.undisturbed: dict[str, Outcome] = {}
        self.open: list[Run] = []
        self.failed: list[Run] = []
        self.kills: list[Kill] = []
        self.verdicts: list[Verdict] = []

    def calm(self) -> None:
        """Run each pipeline twice: the first run also makes what only the very first one makes."""
        for ended in (self._settled, self._noted):
            self._work(_each(map(self._new, tuple(self.turn))), ended)

    def storm(self, seconds: float) -> float:
        """Run the pipelines in turn while something is killed again and again.

        Returns for how long: it is over when every pipeline has failed.
        """
        began = time.monotonic()
        self._work(self._in_turn, self._judged, seconds, disturb=True)
        return min(seconds, time.monotonic() - began)

    def quiet(self) -> None:
        """Have all services back; then clear what has failed, and at first no more than that."""
        until(
            self.installation.unwell,
            "all services to be back",
            lambda bad: not bad,
            BACK_WITHIN,
            pause=1.0,
        )
        while self.failed:
            again, self.failed = self.failed, []
            self._work(_each(map(Run.clear, again)), self._judged)

    def _work(
        self,
        coming: Callable[[], Run | None],
        ended: Callable[[Run], bool],
        seconds: float = float("inf"),
        disturb: bool = False,
    ) -> None:
        """Have a few runs at work for a while, and all that were begun to their end."""
        stop, kill_at = time.monotonic() + seconds, time.monotonic() + PAUSE
        while True:
            now = time.monotonic()
            while now < stop and len(self.open) < AT_ONCE and (run := coming()):
                self.open.append(run)
            if not self.open:
                return
            if disturb and kill_at <= now < stop:
                self._kill()
                kill_at = now + PAUSE
            self.open = [run for run in self.open if not self._over(run, ended)]
            time.sleep(1.0)

    def _in_turn(self) -> Run | None:
        """The pipeline that ran longest ago; one that has failed waits until it is cleared."""
        busy = {run.dag_id for run in (*self.open, *self.failed)}
        for dag_id in self.turn:
            if dag_id not in busy:
                self.turn.remove(dag_id)
                self.turn.append(dag_id)
                return self._new(dag_id)
        return None

    def _new(self, dag_id: str) -> Run:
        return Run(dag_id, next(self.dates[dag_id]))

    def _over(self, run: Run, ended: Callable[[Run], bool]) -> bool:
        """Whether nothing more is to come of a run for now."""
        run.order(self.installation)
        run.look(self.installation.home)
        if run.over and ended(run):
            return True
        if time.monotonic() - run.changed < STUCK_AFTER:
            return False
        states = {name: state for name, (state, _) in run.tasks.items()}
        why = f"nothing has changed for {STUCK_AFTER:.0f} s: run {run.state}, tasks {states}"
        self._out(run)
        self._say(run, STUCK, "\n".join(filter(None, [why, run.told])))
        return True

    def _settled(self, run: Run) -> bool:
        """The very first run only has to be green."""
        if run.green:
            self.say(f"{run}: green, the very first run")
        else:
            self._not_calm(run)
        return True

    def _noted(self, run: Run) -> bool:
        """Note what later runs must come to."""
        if not run.green:
            self._not_calm(run)
            return True
        found = self._outcome(run)
        if found is not None:
            self.undisturbed[run.dag_id] = found
            self.say(f"{run}: green, noted for comparison")
        return found is not None

    def _not_calm(self, run: Run) -> None:
        self._out(run)
        words = outcomes.last_words(self.installation.home, run.dag_id, run.run_id)
        self._say(run, WRONG, f"failed undisturbed\n{words}")

    def _judged(self, run: Run) -> bool:
        """Compare a run with the undisturbed one, or find out why it failed."""
        if not run.green:
            self._fell(run)
            return True
        found = self._outcome(run)
        if found is None:
            return False
        if differ := outcome.differences(self.undisturbed[run.dag_id], found):
            told = f"undisturbed and disturbed differ in {differ}"
            run.wrong = "\n".join(filter(None, [run.wrong, told]))
        self._say(run, WRONG if run.wrong else CLEARS[run.cleared], run.wrong)
        return True

    def _outcome(self, run: Run) -> Outcome | None:
        """What a run came to; None while a server that must be asked is away."""
        try:
            return outcome.of(self.installation, run.dag_id, run.run_id, run.when)
        except AWAY as error:
            run.told = f"{type(error).__name__}: {error}"
            return None

    def _fell(self, run: Run) -> None:
        """Find out why a run failed, and leave it to be cleared, or give it up."""
        home = self.installation.home
        known = verdict.Reasons(self.installation.addresses())
        reasons = dict(run.reasons(home, self.kills, known))
        why = "; ".join(f"{task}: {reason or 'no reason'}" for task, reason in reasons.items())
        if run.cleared == 0 and not (reasons and all(reasons.values())):
            words = outcomes.last_words(home, run.dag_id, run.run_id)
            run.wrong = f"failed without a reason: {why}\n{words}"
        if run.cleared == len(CLEARS) - 1:
            told = f"not green when all of it was cleared: {why}"
            self._out(run)
            self._say(run, WRONG, "\n".join(filter(None, [run.wrong, told])))
        else:
            self.failed.append(run)
            self.say(f"{run}: failed, is cleared in the quiet. {why}")

    def _out(self, run: Run) -> None:
        """Start no more runs of a pipeline: the next one would wait for this one, or meet it."""
        if run.dag_id in self.turn:
            self.turn.remove(run.dag_id)

    def _kill(self) -> None:
        """Kill something, and say what ran."""
        home = self.installation.home
        tasks = victims.running(home)
        victim = victims.choose(self.draw, victims.found(home, tasks))
        if victim is not None and victims.kill(victim):
            kill = Kill(datetime.now(UTC), victim, tuple(tasks.values()))
            self.kills.append(kill)
            self.say(str(kill))

    def _say(self, run: Run, result: str, why: str = "") -> None:
        """Note what became of a run."""
        met = len(run.met(self.kills))
        self.verdicts.append(Verdict(run.dag_id, result, met, f"{run}: {why}" if why else ""))
        took = (datetime.now(UTC) - run.began).total_seconds()
        line = f"{run}: {verdict.TITLES[result]}, {took:.0f} s, kills met: {met}"
        self.say("\n".join(filter(None, [line, why])))


def _each(runs: Iterator[Run]) -> Callable[[], Run | None]:
    """What gives one run after the other, and then None."""
    return lambda: next(runs, None)


def _date(week: int) -> datetime:
    return FIRST + week * WEEK
