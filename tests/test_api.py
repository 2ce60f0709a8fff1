"""The public names: complete, literal, and cheap until used."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import skilllab

HEAVY = ("numpy", "pandas", "matplotlib", "numba", "aiohttp", "IPython", "ipywidgets", "jupyter_client", "nbformat")


def test_all_is_a_sorted_literal_without_repeats() -> None:
    """`__all__` is written out in the source, so that editors and type checkers can read it."""
    tree = ast.parse(Path(skilllab.__file__).read_text(encoding="utf-8"))
    (value,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]
    )
    names = ast.literal_eval(value)
    assert names == skilllab.__all__
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", skilllab.__all__)
def test_public_name_resolves(name: str) -> None:
    """Every public name loads, is what its home module defines, and is an attribute of the package afterwards."""
    value = getattr(skilllab, name)
    assert vars(skilllab)[name] is value


def test_lazy_table_and_all_agree() -> None:
    """Every name that loads lazily is public, and every public name has a home."""
    assert set(skilllab._HOME) == set(skilllab.__all__)


def test_dir_lists_public_names() -> None:
    """Completion offers the public names before any is loaded."""
    assert set(skilllab.__all__) <= set(dir(skilllab))


def test_unknown_name_is_an_attribute_error() -> None:
    """A name that does not exist fails as any missing attribute does, and names itself."""
    with pytest.raises(AttributeError, match="Registery"):
        skilllab.Registery  # noqa: B018


def test_import_is_light() -> None:
    """`import skilllab`, and listing it, loads none of the heavy libraries."""
    code = "import json, sys, skilllab; dir(skilllab); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "skilllab" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_type_checkers_see_the_names_where_they_load_from() -> None:
    """The imports for type checkers name the same homes as the lazy table."""
    tree = ast.parse(Path(skilllab.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "__future__"]
    seen = {
        alias.name: node.module.removeprefix("skilllab.")
        for node in imports
        if node.module is not None and node.module.startswith("skilllab.")
        for alias in node.names
    }
    assert seen == skilllab._HOME
