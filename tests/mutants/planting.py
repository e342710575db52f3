"""Plant small faults in the source of a module, one at a time.

A mutant replaces one piece of the source and leaves the rest as it is. Docstrings, annotations,
blocks under `if TYPE_CHECKING` and the cause of a `raise … from` have no mutants: they change
nothing that a caller gets. The texts of messages have: a message says what to do next.
"""

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
OPPOSITES = {
    "all": "any",
    "endswith": "startswith",
    "lstrip": "rstrip",
    "max": "min",
    "partition": "rpartition",
    "removeprefix": "removesuffix",
}
OPPOSITES |= {other: name for name, other in OPPOSITES.items()}
SIMPLE = (ast.Expr, ast.Raise, ast.Delete, ast.Assert)
NOTHING = ast.Constant(None)


@dataclass(frozen=True)
class Mutant:
    """One planted fault. `before` and `after` are the lines that it changes, as one line each."""

    line: int
    before: str
    after: str
    text: str

    @property
    def change(self) -> tuple[str, str]:
        """What is changed, wherever in the module it stands."""
        return self.before, self.after


@dataclass(frozen=True)
class _Change:
    """A node, what stands in its place, and the first and the last part of an element that goes."""

    node: ast.AST
    new: ast.AST
    gone: tuple[ast.AST, ast.AST] | None = None


def plant(text: str) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    source = _Source(text)
    mutants = []
    for statement in _children(ast.parse(text)):
        seen = {ast.dump(statement)}
        for anchor, change in _changes(statement):
            meaning = ast.dump(copy.deepcopy(statement, {id(change.node): change.new}))
            if meaning not in seen:
                seen.add(meaning)
                mutants.append(source.mutant(statement, anchor, change, meaning))
    return sorted(mutants, key=lambda each: (each.line, each.before, each.after))


class _Source:
    """The text of a module. The columns of its syntax tree count bytes."""

    def __init__(self, text: str) -> None:
        self.data = text.encode()
        self.starts = [0]
        for line in self.data.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def mutant(self, statement: ast.stmt, anchor: ast.AST, change: _Change, meaning: str) -> Mutant:
        """Write a change into the text, so that the rest of its lines stays as it was."""
        if change.gone is not None and anchor is change.node:
            start, end = self._span(change.gone[0])[0], self._span(change.gone[1])[1]
            after_it = len(self.data[end:]) - len(self.data[end:].lstrip())
            if self.data[end + after_it : end + after_it + 1] == b",":
                end += after_it + 1
            attempts = [b""]
        else:
            start, end = self._span(anchor)
            new = ast.unparse(copy.deepcopy(anchor, {id(change.node): change.new}))
            attempts = [new.encode(), f"({new})".encode()]
        first, last = self._span(statement)
        for put in attempts:
            if _meaning(self.data[first:start] + put + self.data[end:last]) == meaning:
                return self._shown(start, end, put)
        raise AssertionError(f"{self.data[start:end]!r} can't be replaced in its place")

    def _span(self, node: ast.AST) -> tuple[int, int]:
        """Where a node begins and ends; a function begins with its decorators."""
        line, column = node.lineno, node.col_offset
        for decorator in getattr(node, "decorator_list", [])[:1]:
            line, column = decorator.lineno, node.col_offset
        end = self.starts[node.end_lineno - 1] + node.end_col_offset
        return self.starts[line - 1] + column, end

    def _shown(self, start: int, end: int, put: bytes) -> Mutant:
        line = self.data.count(b"\n", 0, start)
        last = self.data.find(b"\n", end)
        before = self.data[self.starts[line] : last]
        after = self.data[self.starts[line] : start] + put + self.data[end:last]
        text = self.data[:start] + put + self.data[end:]
        return Mutant(line + 1, _one_line(before), _one_line(after), text.decode())


def _meaning(statement: bytes) -> str | None:
    try:
        return ast.dump(ast.parse(statement).body[0])
    except SyntaxError:
        return None


def _one_line(text: bytes) -> str:
    return " ".join(text.decode().split())


def _changes(tree: ast.AST) -> Iterator[tuple[ast.AST, _Change]]:
    """Each change with the node whose text is written anew.

    Before Python 3.12 the parts of an f-string have no position: it is written anew as a whole.
    """
    waiting: list[tuple[ast.AST, ast.AST | None]] = [(tree, None)]
    while waiting:
        node, string = waiting.pop()
        if string is None and isinstance(node, ast.JoinedStr):
            string = node
        for change in _changes_of(node):
            yield string or change.node, change
        waiting.extend((child, string) for child in _children(node))


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a node that may change."""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
        yield from [node.value, *node.slice.elts]
        return
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "cause", "type_params", "format_spec"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _says_nothing(node, child):
                yield child


def _says_nothing(parent: ast.AST, child: ast.AST) -> bool:
    match child:
        case ast.Expr(value=ast.Constant()):
            return True  # a docstring, or one below an attribute
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Constant(value=str()):
            return isinstance(parent, ast.JoinedStr)
        case ast.Constant(value=None):
            return isinstance(parent, ast.Compare)  # `is None` is turned into `is not None`
    return False


def _changes_of(node: ast.AST) -> Iterator[_Change]:
    """What may be wrong with one node."""
    for new in _others(node):
        yield _Change(node, new)
    yield from _shorter(node)
    for condition in _conditions(node):
        if not isinstance(condition, ast.Compare) and not _is_not(condition):
            yield _Change(condition, ast.UnaryOp(ast.Not(), condition))


def _others(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in place of a node."""
    match node:
        case ast.Compare(ops=operators):
            for at, operator in enumerate(operators):
                for other in COMPARISONS[type(operator)]:
                    yield _with(node, ops=_replaced(operators, at, other()))
        case ast.BoolOp(op=operator, values=values):
            yield _with(node, op=ast.Or() if isinstance(operator, ast.And) else ast.And())
            for at in range(len(values)):
                left = _without(values, at)
                yield left[0] if len(left) == 1 else _with(node, values=left)
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator) if type(operator) in ARITHMETIC:
            yield _with(node, op=ARITHMETIC[type(operator)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.IfExp(body=body, orelse=orelse):
            yield _with(node, body=orelse, orelse=body)
        case ast.Constant(value=value):
            yield from map(_constant, _values(value))
        case ast.JoinedStr(values=values):
            yield _joined([ast.Constant("XX"), *values])
        case ast.Slice(lower=lower, upper=upper, step=step):
            bounds = {"lower": lower, "upper": upper, "step": step}
            for name, bound in bounds.items():
                if bound is not None:
                    yield _with(node, **{name: None})
        case ast.Name(id=name) if name in OPPOSITES:
            yield _with(node, id=OPPOSITES[name])
        case ast.Attribute(attr=name) if name in OPPOSITES:
            yield _with(node, attr=OPPOSITES[name])
        case ast.Lambda(body=body):
            yield _with(node, body=NOTHING)
        case ast.Return(value=ast.expr()):
            yield _with(node, value=NOTHING)
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()
    if isinstance(node, SIMPLE) or (isinstance(node, ast.stmt) and _sets_a_part(node)):
        yield ast.Pass()


def _shorter(node: ast.AST) -> Iterator[_Change]:
    """A node without one of its elements: an argument, an entry, a piece of an f-string.

    Of the arguments without a name only the last may be missing without a TypeError.
    """
    match node:
        case ast.Call(args=arguments, keywords=keywords):
            for gone in arguments[-1:]:
                in_brackets = isinstance(gone, ast.GeneratorExp)  # they may be those of the call
                new = _with(node, args=arguments[:-1])
                yield _Change(node, new, None if in_brackets else (gone, gone))
            for at, keyword in enumerate(keywords):
                if keyword.arg is not None:
                    new = _with(node, keywords=_without(keywords, at))
                    yield _Change(node, new, (keyword, keyword))
        case ast.List(elts=elements, ctx=ast.Load()):
            for at, gone in enumerate(elements):
                yield _Change(node, _with(node, elts=_without(elements, at)), (gone, gone))
        case ast.Set(elts=elements) if len(elements) > 1:
            for at, gone in enumerate(elements):
                yield _Change(node, _with(node, elts=_without(elements, at)), (gone, gone))
        case ast.Tuple(elts=elements, ctx=ast.Load()):
            for at in range(len(elements)):
                yield _Change(node, _with(node, elts=_without(elements, at)))
        case ast.Dict(keys=keys, values=values):
            for at, (key, value) in enumerate(zip(keys, values, strict=True)):
                new = _with(node, keys=_without(keys, at), values=_without(values, at))
                yield _Change(node, new, (key, value) if key else None)
        case ast.JoinedStr(values=values):
            for at, value in enumerate(values):
                if isinstance(value, ast.FormattedValue):
                    yield _Change(node, _joined(_without(values, at)))


def _conditions(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.If(test=test) | ast.While(test=test):
            return [test]
        case ast.comprehension(ifs=tests):
            return tests
    return []


def _is_not(node: ast.AST) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def _sets_a_part(node: ast.stmt) -> bool:
    """Whether a statement sets an attribute or an entry of something."""
    targets = {
        ast.Assign: lambda: node.targets,
        ast.AugAssign: lambda: [node.target],
        ast.AnnAssign: lambda: [node.target],
    }
    found: Callable[[], list[ast.expr]] = targets.get(type(node), list)
    return any(isinstance(target, ast.Attribute | ast.Subscript) for target in found())


def _values(value: object) -> list[object]:
    match value:
        case bool():
            return [not value]
        case int() | float():
            return [value + 1, value - 1]
        case str():
            return [f"XX{value}"]
        case bytes():
            return [b"XX" + value]
        case None:
            return ["XX"]
    return []


def _joined(values: list[ast.expr]) -> ast.JoinedStr:
    """An f-string of these parts, with its constant parts in one piece, as the parser makes it."""
    parts: list[ast.expr] = []
    for value in values:
        match parts[-1:], value:
            case [ast.Constant(value=text)], ast.Constant(value=more):
                parts[-1] = ast.Constant(text + more)
            case _:
                parts.append(value)
    return ast.JoinedStr(parts)


def _constant(value: object) -> ast.expr:
    """A constant as the parser makes it, with the sign of a number apart."""
    if isinstance(value, int | float) and value < 0:
        return ast.UnaryOp(ast.USub(), ast.Constant(-value))
    return ast.Constant(value)


def _with(node: ast.AST, **changed: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in changed.items():
        setattr(new, name, value)
    return new


def _replaced(items: list, at: int, new: object) -> list:
    return [*items[:at], new, *items[at + 1 :]]


def _without(items: list, at: int) -> list:
    return [*items[:at], *items[at + 1 :]]
