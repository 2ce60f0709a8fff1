"""Programs start quickly: they import the standard library only, and little of it, read from the syntax tree and tried."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[2] / "skilllab" / "programs"
MODULES = sorted(PROGRAMS.glob("*.py"))
ELSEWHERE = {"kinds": {"cloudpickle"}}
"""What else a module may import within a function, when it is needed."""

QUICK = ("supervisor", "warm", "worker", "commands")
HEAVY = ("numpy", "asyncio", "cloudpickle", "inspect", "logging", "typing_extensions", "pydantic")


def imports(source: str) -> Iterator[tuple[str, bool]]:
    """Each imported module, and whether it is imported within a function."""
    tree = ast.parse(source)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides where it leads"
            yield node.module or "", id(node) in inside


def foreign(name: str, source: str) -> list[str]:
    """What the module imports from neither the standard library nor the programs."""
    return [
        module
        for module, within in imports(source)
        if module.partition(".")[0] not in sys.stdlib_module_names
        and module != "skilllab.programs"
        and not module.startswith("skilllab.programs.")
        and not (within and module in ELSEWHERE.get(name, set()))
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_programs_import_the_standard_library_only(path: Path) -> None:
    """A program needs no installed package, so that it starts without a search for any."""
    assert foreign(path.stem, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import numpy",
        "from skilllab.errors import SkilllabError",
        "from skilllab import programs",
        "import cloudpickle",
        "def f():\n    import pydantic.v1",
    ],
)
def test_a_planted_import_is_found(source: str) -> None:
    """An import of anything else is seen, wherever it stands."""
    assert len(foreign("kinds", source)) == 1


def test_an_import_within_a_function_may_be_allowed() -> None:
    """Only the module that is named may import another package, and only within a function."""
    source = "def f():\n    import cloudpickle"
    assert foreign("kinds", source) == []
    assert foreign("worker", source) == ["cloudpickle"]


@pytest.mark.parametrize("name", QUICK)
def test_what_starts_quickly_imports_little(run_alone: Callable[..., str], name: str) -> None:
    """Without any installed package the program can be imported, and nothing heavy comes with it."""
    source = """
        import importlib
        importlib.import_module(f"skilllab.programs.{sys.argv[1]}")
        print(*(name for name in sys.argv[2:] if name in sys.modules))
    """
    assert run_alone(source, name, *HEAVY) == ""
