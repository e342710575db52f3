"""Whether a run that was disturbed has ended as it should, and why one failed."""

import ast
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from include.tools import environment
from tests.chaos.victims import JOB, SCORER, TASK, Kill

SAME = "same"
CLEARED = "cleared"
WHOLE = "whole"
WRONG = "wrong"
STUCK = "stuck"
GOOD = (SAME, CLEARED, WHOLE)
TITLES = {
    SAME: "as undisturbed",
    CLEARED: "green when its failed tasks were cleared",
    WHOLE: "green when all of it was cleared",
    WRONG: "wrong",
    STUCK: "stuck",
}
WORDS = {
    "api-server": ("api_server", "/execution/", "airflow.sdk.api"),
    "azure_ml": ("azure",),
    "gateway": ("gateway", "version"),
    "kubeflow": ("kubeflow", "kfp"),
    "kubernetes": ("kubernetes", "pod", "trainjob"),
    "mlflow": ("mlflow",),
    "sagemaker": ("sagemaker", "s3", "endpoint url"),
    "scheduler": ("heartbeat",),
    "triggerer": ("trigger",),
    "vertex": ("vertex", "googleapis", "google"),
}
"""How messages name a service, where they don't give its address."""
OURS = (environment.DAGS, environment.PROJECT / "include")


@dataclass(frozen=True)
class Verdict:
    """How a run of a pipeline ended."""

    dag_id: str
    result: str
    kills: int = 0
    why: str = ""


@dataclass
class Reasons:
    """Finds in a failed task's log why it failed, and whether that says enough."""

    addresses: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Where each service listens, as messages write it."""

    def of(self, errors: Sequence[Mapping[str, Any]], met: Sequence[Kill]) -> str | None:
        """The reason; None where neither a message of ours nor a killed service is named."""
        told = next(
            (each["error_detail"] for each in reversed(errors) if "error_detail" in each), []
        )
        if not told:
            return self._of_silence(met)
        last = told[0]
        text = f"{last['exc_type']}: {last['exc_value']}"
        if last["frames"] and raised(last["frames"][-1]):
            return text
        said = [str(each.get("event", "")) for each in errors]
        named = self._named(" ".join([text, *said, *modules(last["frames"])]), met)
        return f"{named} was killed: {text}" if named else None

    def _of_silence(self, met: Sequence[Kill]) -> str | None:
        """A task that was killed says nothing, nor does one that ended with its scheduler."""
        ends = {TASK, "scheduler", "api-server"}
        kinds = sorted({kill.victim.kind for kill in met} & ends)
        return f"killed: {' and '.join(kinds)}" if kinds else None

    def _named(self, text: str, met: Sequence[Kill]) -> str | None:
        """The first of the services that were killed which a text names."""
        for kill in met:
            of_another = kill.victim.kind in (SCORER, JOB)
            service = kill.victim.service if of_another else kill.victim.kind
            words = (*WORDS.get(service, ()), *self.addresses.get(service, ()))
            if any(word in text.lower() for word in words):
                return kill.victim.name
        return None


def raised(frame: Mapping[str, Any]) -> bool:
    """Whether an exception comes from a `raise` in the catalogue's own code."""
    file = Path(frame["filename"])
    ours = any(file.is_relative_to(folder) for folder in OURS)
    return ours and frame["lineno"] in raises(file)


@cache
def raises(file: Path) -> frozenset[int]:
    """The lines of a file that belong to a `raise`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    )


def modules(frames: Iterable[Mapping[str, Any]]) -> list[str]:
    """The modules that an exception came through, as far as packages go."""
    found = []
    for frame in frames:
        _, _, path = frame["filename"].rpartition("site-packages/")
        found.append(path.removesuffix(".py").replace("/", "."))
    return found


def summary(verdicts: Sequence[Verdict]) -> str:
    """A table: one line for each pipeline, and one for all."""
    head = ["pipeline", "runs", "kills met", *TITLES]
    counts: dict[str, Counter[str]] = {}
    for each in verdicts:
        count = counts.setdefault(each.dag_id, Counter())
        count.update({"runs": 1, "kills met": each.kills, each.result: 1})
    total = sum(counts.values(), Counter())
    lines = [head] + [
        [name, *(str(count[column]) for column in head[1:])]
        for name, count in [*sorted(counts.items()), ("all", total)]
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    legend = [f"{name}: {title}" for name, title in TITLES.items() if name != title]
    return "\n".join([*table, "", *legend])
