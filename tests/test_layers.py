"""Imports go down the rooms only; read from the syntax tree, so that imports inside functions count too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "skilllab"

GROUND = "errors"
"""What every room may import, those of its own level included."""

LEVELS = {
    "errors": 0,
    "format": 0,
    "programs": 0,
    "frozen": 0,
    "settings": 0,
    "stats": 0,
    "conditions": 1,
    "model": 1,
    "plots": 1,
    "schema": 1,
    "cache": 2,
    "define": 2,
    "loading": 2,
    "trace": 2,
    "registry": 3,
    "engine": 4,
    "demo": 5,
    "monitor": 5,
    "skills": 5,
    "testing": 5,
    "experiments": 6,
    "panels": 7,
    "report": 7,
    "cli": 8,
}
"""The level of each room: a module or a package right under skilllab/. A new one needs a row."""

SAME_ROOM = {
    "histogram": "stats",
    "index": "registry",
    "postings": "registry",
    "look": "plots",
    "outcome": "model",
    "query": "model",
    "series": "stats",
    "templates": "model",
    "trying": "cli",
}
"""Modules that are part of a room with another name, in files of their own."""

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room of a dotted name; "" is the facade."""
    first = module.split(".")[1] if "." in module else ""
    return SAME_ROOM.get(first, first)


def imported_names(source: str, package: str) -> set[str]:
    """Every dotted name that the source imports, relative imports resolved against `package`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return {name for name in names if name == "skilllab" or name.startswith("skilllab.")}


def violations(module: str, source: str, *, package: str | None = None) -> list[str]:
    """What the module may not import, one sentence each: a room of its own level or above, or the facade."""
    room = room_of(module)
    found = []
    for name in sorted(imported_names(source, package or module.rpartition(".")[0])):
        target = room_of(name)
        if target in (room, GROUND):
            continue
        if target not in LEVELS:
            found.append(f"{module} imports {name}: not a room, import from the module that defines it")
        elif LEVELS[target] >= LEVELS[room]:
            found.append(f"{module} (level {LEVELS[room]}) imports {name} (level {LEVELS[target]})")
    return found


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_down(path: Path) -> None:
    """A module imports from lower rooms and its own room only."""
    name = module_name(path)
    assert room_of(name) in LEVELS, f"{name} has no level: add its room to LEVELS and to the design"
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    assert violations(name, path.read_text(encoding="utf-8"), package=package) == []


def test_every_level_is_used() -> None:
    """A room of the table that is gone from the package would hide a typing error in its name."""
    planned: set[str] = set()
    rooms = {room_of(module_name(path)) for path in MODULES}
    assert set(LEVELS) - rooms <= planned


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("import skilllab.panels.kit", "skilllab.panels.kit (level 7)"),
        ("from skilllab.engine import LayeredExecutionEngine", "skilllab.engine"),
        ("def f():\n    from skilllab import cli", "skilllab.cli (level 8)"),
        ("from skilllab import SkillCache", "not a room"),
        ("import skilllab", "not a room"),
        ("from .. import monitor", "skilllab.monitor (level 5)"),
        ("from ..trace.records import Trace", "skilllab.trace.records.Trace (level 2)"),
        ("if True:\n    import skilllab.define as d", "skilllab.define (level 2)"),
    ],
)
def test_a_planted_import_is_found(source: str, seen: str) -> None:
    """An import of the same level, of a higher one, or of the facade is reported, wherever in the file it stands."""
    (found,) = violations("skilllab.cache.stores", source)
    assert seen in found


@pytest.mark.parametrize(
    "source",
    [
        "from skilllab.errors import InvalidValueError",
        "from skilllab import format as fmt",
        "from skilllab.cache.keys import canonical_key",
        "from .keys import canonical_key",
        "from . import keys",
        "import numpy as np\nfrom collections import abc",
    ],
)
def test_an_allowed_import_passes(source: str) -> None:
    """Lower rooms, the module's own room and other packages are free."""
    assert violations("skilllab.cache.stores", source) == []
