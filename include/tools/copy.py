"""`make copy`: one pipeline into another Airflow project, with just what it needs.

Everything is checked before the first file is written, and no file that is there is ever changed,
but for missing lines that are added to requirements.txt.
"""

import argparse
import ast
import re
import sys
from dataclasses import dataclass, field
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from include.tools import environment, needs

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,199}")
# What only teaches: an anti-pattern's mistake, and the task that states its harm.
NOT_COPIED = ("wrong", "compare")
# What a copy can do without, at a place that its owner may not expect.
ELSE_AT_HOME = {
    "include.tracking": ("Connection mlflow_default", "models", "a SQLite file"),
    "include.storage": ("Variable artifact_store", "artifacts", "a folder"),
}
DOCUMENT = re.compile(r"`(docs/[\w-]+\.md)`")
# Modules that others import only where they are there, and that pipelines do not do without.
OPTIONAL = {"pandas": ["pyarrow"], "botocore": ["aiobotocore"]}


@dataclass
class Copy:
    """What will be written where, and what its owner has to see to."""

    files: dict[Path, str] = field(default_factory=dict)
    requirements: list[str] = field(default_factory=list)
    wanted: needs.Needs | None = None
    left_out: list[str] = field(default_factory=list)


def plan(dag_id: str, to: Path, name: str) -> Copy:
    """Work out the copy; raise SystemExit, with the reason, where it must not be made."""
    source = environment.dag_file(dag_id)
    if not NAME.fullmatch(name):
        raise SystemExit(
            f"NAME={name[:80]!r} can't be a file and a dag_id: begin with a letter, then up to 199 "
            "letters, digits and underscores."
        )
    if name in sys.stdlib_module_names or name in packages_distributions():
        raise SystemExit(f"NAME={name} would hide the module {name} from all of your DAGs.")
    target = _folder(to)
    if target == environment.PROJECT or environment.PROJECT in target.parents:
        raise SystemExit(f"TO={to} lies in the catalogue itself: name another project.")

    made = Copy(wanted=needs.needs(source))
    text, made.left_out = _without_lesson(source.read_text(encoding="utf-8"))
    made.files[target / "dags" / f"{name}.py"] = _renamed(text, dag_id, name)
    assert made.wanted is not None  # noqa: S101
    modules = [needs.path_of(module) for module in sorted(made.wanted.modules)]
    lists = (f"envs/{name}.txt" for name in made.wanted.interpreters)
    beside = {*made.wanted.files, *DOCUMENT.findall(text), *lists}
    for path in [*modules, *(environment.PROJECT / name for name in sorted(beside))]:
        assert path is not None  # noqa: S101
        relative = path.relative_to(environment.PROJECT)
        made.files[target / relative] = path.read_text(encoding="utf-8")
    made.requirements = _requirements(made.wanted.packages)
    _refuse_conflicts(made, target)
    return made


def _folder(to: Path) -> Path:
    """The project to copy to."""
    try:
        target = to.expanduser().resolve()
        there = target.is_dir()
    except (OSError, RuntimeError) as error:  # a loop of links, a user who is not there
        raise SystemExit(f"TO={str(to)[:200]} is no folder: {str(error)[:200]}") from None
    if not there:
        raise SystemExit(f"TO={to} is no folder: make it first, or name your Airflow project.")
    return target


def write(made: Copy, target: Path) -> None:
    """Write what was planned, each file whole or not at all."""
    for path, text in made.files.items():
        if not path.exists():
            _write(path, text)
    file = target / "requirements.txt"
    present = _text(file)
    named = {re.split(r"[\[=<>~! ;]", line)[0].lower() for line in present.splitlines()}
    missing = [line for line in made.requirements if line.partition("==")[0] not in named]
    if missing:
        _write(file, "\n".join([*present.rstrip("\n").splitlines(), *missing]) + "\n")


def report(made: Copy, name: str) -> str:
    """What was written, and what is left to do."""
    wanted = made.wanted
    assert wanted is not None  # noqa: S101
    lines = [f"{name} and {len(wanted.modules)} modules of include/ are copied."]
    if wanted.files:
        lines.append(f"Yours to edit: {', '.join(sorted(wanted.files))}.")
    if made.left_out:
        lines.append(f"Left out, since it only teaches: {', '.join(made.left_out)}.")
    lines += ["", "To install (they are in requirements.txt):"]
    lines += [f"  {line}" for line in made.requirements]
    for kind, names in (
        ("Connections", wanted.connections),
        ("Pools", wanted.pools),
        ("Variables", wanted.variables),
    ):
        if names:
            lines.append(f"{kind} that it needs: {', '.join(sorted(names))}")
    lines += [
        f"Variable {name}_python: the path of an interpreter with the packages of envs/{name}.txt."
        for name in sorted(wanted.interpreters)
    ]
    lines += [
        f"{name}: where {what} go; without it, {place} below AIRFLOW_HOME."
        for module, (name, what, place) in ELSE_AT_HOME.items()
        if module in wanted.modules and name.split()[1] not in wanted.connections
    ]
    documents = sorted({path.name for path in made.files if path.parent.name == "docs"})
    lines += [f"Read docs/{name} for what the real service needs." for name in documents]
    lines.append("The project's own folder must be on PYTHONPATH, for `import include`.")
    return "\n".join(lines)


def _renamed(text: str, dag_id: str, name: str) -> str:
    text = text.replace(f"DAG={dag_id}", f"DAG={name}").replace(
        f"`make run DAG={name}", f"`airflow dags test {name}"
    )
    title = name.replace("_", " ").capitalize()
    return re.sub(r'dag_display_name="[^"]*"', f'dag_display_name="{title}"', text)


def _without_lesson(text: str) -> tuple[str, list[str]]:
    """Take the group `wrong` and the task `compare` out, and the lines that use their results."""
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    lesson = [node for node in functions if node.name in NOT_COPIED]
    if not any(node.name == "wrong" for node in lesson):
        return text, []
    outer = next(n for n in functions if any(child in lesson for child in n.body))
    gone: list[ast.stmt] = [*lesson]
    names = set(NOT_COPIED)
    for statement in outer.body:
        used = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)}
        if not isinstance(statement, ast.FunctionDef) and used & names:
            gone.append(statement)
            if isinstance(statement, ast.Assign):
                names |= {t.id for t in statement.targets if isinstance(t, ast.Name)}
    lines = text.splitlines(keepends=True)
    for node in gone:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        for number in range(first - 1, node.end_lineno or first):
            lines[number] = ""
    return "".join(lines), sorted(node.name for node in lesson)


def _requirements(imported: frozenset[str]) -> list[str]:
    """The locked lines for the packages that the copy imports."""
    locked: dict[str, str] = {}
    for file in ("requirements.txt", "requirements-torch.in"):
        for line in (environment.PROJECT / file).read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                requirement = Requirement(line)
                if requirement.marker is None or requirement.marker.evaluate():
                    pinned = f"{requirement.name}{requirement.specifier}"
                    locked[canonicalize_name(requirement.name)] = pinned
    distributions = packages_distributions()
    modules = set(imported)
    for module, more in OPTIONAL.items():
        modules |= set(more) if module in modules else set()
    wanted: set[str] = {
        canonicalize_name(distribution)
        for module in modules - set(sys.stdlib_module_names) - {"airflow"}
        for distribution in distributions.get(module, [])
    }
    wanted |= {"apache-airflow", "apache-airflow-providers-standard"}
    for module in imported:
        if module.startswith(needs.PROVIDERS):
            # `airflow.providers.google.cloud` is of the one, `airflow.providers.cncf.kubernetes` of
            # the other kind.
            one, other = module.removeprefix(needs.PROVIDERS).split(".")[:2]
            wanted |= {f"apache-airflow-providers-{name}" for name in (one, f"{one}-{other}")}
        elif module.startswith(needs.SHARED):  # `google.cloud.storage` is of `google-cloud-storage`
            parts = canonicalize_name(module).split("-")
            wanted |= {"-".join(parts[:length]) for length in range(2, len(parts) + 1)}
    return sorted(locked[name] for name in wanted if name in locked)


def _refuse_conflicts(made: Copy, target: Path) -> None:
    dag_file = next(iter(made.files))
    _text(target / "requirements.txt")
    if target not in (target / "requirements.txt").resolve().parents:
        raise SystemExit(f"{target}/requirements.txt is a link to another project's: remove it.")
    for path, text in made.files.items():
        if target not in path.resolve().parents:
            raise SystemExit(f"{path} would lie outside {target}: a link leads out of it.")
        for folder in path.parents:
            if folder.exists() and not folder.is_dir():
                raise SystemExit(f"{folder} must be a folder, and is a file: move it aside.")
        if not path.exists():
            continue
        if path == dag_file:
            raise SystemExit(f"{path} exists already: choose another NAME, or remove it.")
        if path.parent in (target / "config", target / "docs", target / "envs"):
            continue  # edited since an earlier copy: its owner's, and it stays
        if _text(path) != text:
            raise SystemExit(
                f"{path} exists and is not what this pipeline needs; nothing was written. Move "
                "yours aside, or copy into a project of its own."
            )


def _text(file: Path) -> str:
    """What a file of the project holds, or nothing where it is not there."""
    if not file.exists():
        return ""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{file} is no text that can be read: {error}. Move it aside.") from None


def _write(path: Path, text: str) -> None:
    path = path.resolve()  # what a link leads to is changed, and the link stays
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def main(arguments: list[str] | None = None) -> None:
    """Copy and say what is left to do."""
    parser = argparse.ArgumentParser(prog="make copy")
    parser.add_argument("dag")
    parser.add_argument("to", type=Path)
    parser.add_argument("name")
    asked = parser.parse_args(arguments)
    made = plan(asked.dag, asked.to, asked.name)
    try:
        write(made, asked.to.expanduser().resolve())
    except OSError as error:
        raise SystemExit(f"{error.filename} can't be written: {error.strerror}.") from None
    print(report(made, asked.name))


if __name__ == "__main__":
    main()
