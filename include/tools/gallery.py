"""The README's table of the pipelines, from the specification and what is in `dags/`."""

import re

from include import spec
from include.tools import environment

FILE = environment.PROJECT / "README.md"
PLACE = re.compile(r"(?<=<!-- gallery -->\n).*?(?=<!-- /gallery -->)", re.DOTALL)


def text() -> str:
    """A table for each section; tasks that are not built yet are named in one line."""
    lines: list[str] = []
    for section in spec.load().sections:
        built = [task for task in section.tasks if (environment.DAGS / task.file).is_file()]
        planned = [f"{task.number} {task.title}" for task in section.tasks if task not in built]
        lines += [f"### {section.number} {section.title}", ""]
        if not planned:
            lines += [section.tour, ""]
        if built:
            lines += ["| Pipeline | Level | Shows |", "|---|---|---|"]
            lines += [
                f"| [{task.number} {task.title}](dags/{task.file}) | {task.level} "
                f"| {', '.join(box.lower() if box[:2].istitle() else box for box in task.boxes)} |"
                for task in built
            ]
            lines.append("")
        if planned:
            lines += [f"To come: {', '.join(planned)}.", ""]
    return "\n".join(lines)


def matches() -> bool:
    """Whether the README shows what there is."""
    found = PLACE.search(FILE.read_text(encoding="utf-8"))
    return found is not None and found.group() == text()


def write() -> None:
    """Put the tables between the README's two marks."""
    readme = FILE.read_text(encoding="utf-8")
    FILE.write_text(PLACE.sub(lambda _: text(), readme), encoding="utf-8")
