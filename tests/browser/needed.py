"""Which cells of a notebook a cell needs, read from their syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class _Cell:
    binds: frozenset[str]
    reads: frozenset[str]
    imports: frozenset[str]
    changes: frozenset[str]
    """Names of objects that it may change without binding them: `await registry.register(...)`, `table[0] = 1`."""

    @classmethod
    def of(cls, source: str) -> _Cell:
        plain = "\n".join("" if line.startswith("%") else line for line in source.splitlines())
        nodes = list(ast.walk(compile(plain, "cell", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)))
        names = [node for node in nodes if isinstance(node, ast.Name)]
        imports = {alias.asname or alias.name.partition(".")[0] for node in nodes for alias in _aliases(node)}
        binds = {name.id for name in names if isinstance(name.ctx, ast.Store)} | imports
        binds |= {
            node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        }
        binds |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        reads = {name.id for name in names if isinstance(name.ctx, ast.Load)} - binds
        changes = {name for node in nodes for name in _changed(node)}
        return cls(*map(frozenset, (binds, reads, imports, changes)))


def needed(sources: Sequence[str]) -> list[int]:
    """Returns the places of the cells that the last one needs, itself included, in order.

    Those are the cells that bind what a needed cell reads, and those that call a method of an object that a needed cell
    has made, or set a part of it. A name that a cell reads before it binds it itself is not followed.
    """
    cells = [_Cell.of(source) for source in sources]
    imported = {name for cell in cells for name in cell.imports}
    chosen: set[int] = set()
    more = {len(cells) - 1}
    while more:
        chosen |= more
        made = {name for place in chosen for name in cells[place].binds} - imported
        makers = {_maker(cells, place, name) for place in chosen for name in cells[place].reads}
        more = {place for place, cell in enumerate(cells) if place in makers or cell.changes & made} - chosen
    return sorted(chosen)


def _maker(cells: Sequence[_Cell], before: int, name: str) -> int | None:
    """Returns the last cell before another that binds a name; None for a name of Python's own."""
    return next((place for place in reversed(range(before)) if name in cells[place].binds), None)


def _aliases(node: ast.AST) -> list[ast.alias]:
    return node.names if isinstance(node, ast.Import | ast.ImportFrom) else []


def _changed(node: ast.AST) -> Iterator[str]:
    targets: list[ast.expr] = []
    if isinstance(node, ast.Expr):
        value = node.value.value if isinstance(node.value, ast.Await) else node.value
        targets = [value.func] if isinstance(value, ast.Call) else []
    elif isinstance(node, ast.Assign | ast.Delete):
        targets = node.targets
    elif isinstance(node, ast.AugAssign):
        targets = [node.target]
    for target in targets:
        while isinstance(target, ast.Attribute | ast.Subscript):
            target = target.value
            if isinstance(target, ast.Name):
                yield target.id
