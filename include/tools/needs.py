"""What a DAG file needs from the world around it, read from its text and from what it imports."""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from include.tools import environment

PROVIDERS = "airflow.providers."
# Names that many distributions share: only what follows tells which one it is.
SHARED = (PROVIDERS, "azure.", "google.")


@dataclass(frozen=True)
class Needs:
    """The facts, without running anything."""

    connections: frozenset[str]
    pools: frozenset[str]
    variables: frozenset[str]
    modules: frozenset[str]
    """Modules below `include`, with everything that they import in turn."""
    packages: frozenset[str]
    """Top-level modules from elsewhere that these import; those of shared names in full."""
    files: frozenset[str]
    """Files below `config/` that the DAG file names."""
    interpreters: frozenset[str]
    """Other interpreters that any of these asks for, by the files of `envs/`."""


def needs(file: Path) -> Needs:
    """Read a DAG file and the modules of `include` that it leads to."""
    modules, packages = _closure(file)
    tree = _tree(file)
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }
    connections, pools, variables = set(), set(), set()
    texts = {str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    files = {text for text in texts if text.startswith("config/")}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        for keyword in node.keywords:
            value = _text(keyword.value, constants)
            if value and keyword.arg == "pool":
                pools.add(value)
            if value and keyword.arg and keyword.arg.endswith("conn_id"):
                connections.add(value)
        owner = ast.unparse(node.func)
        first = _text(node.args[0], constants) if node.args else None
        if first and owner in ("Connection.get", "BaseHook.get_connection"):
            connections.add(first)
        if first and owner == "Variable.get":
            variables.add(first)
    return Needs(
        connections=frozenset(connections),
        pools=frozenset(pools),
        variables=frozenset(variables),
        modules=frozenset(modules),
        packages=frozenset(packages),
        files=frozenset(each for each in files if (environment.PROJECT / each).is_file()),
        interpreters=frozenset(_interpreters([file, *filter(None, map(path_of, modules))])),
    )


def modules(name: str) -> set[str]:
    """A module of `include` and all modules of it that this one leads to."""
    path = path_of(name)
    if path is None:
        raise ValueError(f"there is no module {name}")
    return {name} | _closure(path)[0]


def _closure(file: Path) -> tuple[set[str], set[str]]:
    """Follow imports, also those inside functions, through the modules of `include`."""
    modules: set[str] = set()
    packages: set[str] = set()
    waiting = [file]
    while waiting:
        for name in _imported(_tree(waiting.pop())):
            parts = name.split(".")
            if parts[0] != "include":
                packages.add(name if name.startswith(SHARED) else parts[0])
                continue
            for length in range(1, len(parts) + 1):
                module = ".".join(parts[:length])
                path = path_of(module)
                if path is not None and module not in modules:
                    modules.add(module)
                    waiting.append(path)
    return modules, packages


def _interpreters(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        for node in ast.walk(_tree(file)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "interpreters.interpreter":
                yield str(ast.literal_eval(node.args[0]))


def path_of(module: str) -> Path | None:
    """The file of a module below `include`; None for a name that is no module."""
    place = environment.PROJECT.joinpath(*module.split("."))
    for candidate in (place.with_suffix(".py"), place / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _imported(tree: ast.Module) -> Iterator[str]:
    """Every name that an import might load as a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and str(node.value).startswith("include."):
            yield str(node.value)  # a program that is started by its name: `python -m include.…`


def _tree(file: Path) -> ast.Module:
    return _parsed(file.read_text(encoding="utf-8"), str(file))


@cache
def _parsed(text: str, name: str) -> ast.Module:
    return ast.parse(text, filename=name)


def _text(node: ast.expr, constants: dict[str, str]) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return constants.get(node.id) if isinstance(node, ast.Name) else None
