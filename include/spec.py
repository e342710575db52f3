"""The fifty tasks of the catalogue, read from `spec.yaml`."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

LEVELS = ("beginner", "intermediate", "advanced")


@dataclass(frozen=True)
class Task:
    """One numbered task of the catalogue, and the DAG file that carries it."""

    number: str
    title: str
    file: str
    tags: tuple[str, ...]
    purpose: str
    boxes: tuple[str, ...]
    expected: str

    @property
    def dag_id(self) -> str:
        """The file's stem, which is also the DAG's id."""
        return self.file.removesuffix(".py")

    @property
    def display_name(self) -> str:
        """What the UI shows: the number padded with zeros, since the list is sorted as text."""
        section, topic, task = self.number.split(".")
        return f"{section}.{int(topic):02}.{int(task):02} · {self.title}"

    @property
    def level(self) -> str:
        """How much a reader should know."""
        return next(tag for tag in self.tags if tag in LEVELS)


@dataclass(frozen=True)
class Section:
    """Five tasks on one subject, and a tour of them in a few sentences."""

    number: str
    title: str
    tour: str
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Topic:
    """A line of the closing list: done when the whole section is."""

    title: str
    section: str


@dataclass(frozen=True)
class Specification:
    """Everything that is promised."""

    title: str
    sections: tuple[Section, ...]
    topics: tuple[Topic, ...]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All fifty, in order."""
        return tuple(task for section in self.sections for task in section.tasks)

    def task(self, dag_id: str) -> Task:
        """The task that a DAG carries."""
        for task in self.tasks:
            if task.dag_id == dag_id:
                return task
        raise KeyError(f"{dag_id} is not one of the {len(self.tasks)} DAGs in include/spec.yaml")


@cache
def load() -> Specification:
    """Read the specification, once per process."""
    raw = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return Specification(
        title=raw["title"],
        sections=tuple(
            Section(
                number=section["number"],
                title=section["title"],
                tour=section["tour"],
                tasks=tuple(
                    Task(**task | {"tags": tuple(task["tags"]), "boxes": tuple(task["boxes"])})
                    for task in section["tasks"]
                ),
            )
            for section in raw["sections"]
        ),
        topics=tuple(Topic(**topic) for topic in raw["topics"]),
    )
