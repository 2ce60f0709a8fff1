"""Functions of a module as skills."""

from __future__ import annotations

import asyncio
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skilllab import InMemorySkillRegistry, LayeredExecutionEngine, from_module, skill
from skilllab.errors import InvalidDefinitionError, InvalidParametersError, InvalidValueError

SOURCE = '''
from __future__ import annotations
from pathlib import Path
from textwrap import dedent
from typing import Literal
from skilllab import skill

def plain(text: str, times: int = 2) -> str:
    """Repeats a text.

    And more."""
    return text * times

async def later(a, b=3, *rest, **others):
    return [a, b]

def stars(*rest: int):
    return list(rest)

def chosen(mode: Literal["a", "b"], **rest):
    return mode

def path(where: Path) -> str:
    return str(where)

def first(a, /):
    return a

def counting(to: int):
    yield from range(to)

@skill(id="made-v1", category="own")
def made(x: int) -> int:
    return x

def _private() -> None: ...

CONSTANT = 3
class Kind: ...
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    (tmp_path / "source_of_skills.py").write_text(SOURCE)
    (tmp_path / "raises_when_imported.py").write_text("1 / 0")
    (tmp_path / "exits_when_imported.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "source_of_skills", raising=False)
    import importlib

    return importlib.import_module("source_of_skills")


def test_a_module_is_its_own_public_functions(module: types.ModuleType) -> None:
    """Typed and untyped functions become skills, made ones stay; imported, private and impossible ones do not."""
    source = from_module("source_of_skills", prefix="mine/")
    assert list(source) == ["mine/plain", "mine/later", "mine/stars", "mine/chosen", "mine/counting", "mine/made-v1"]
    assert [problem.partition(":")[0] for problem in source.problems] == ["path", "first"]
    assert source["mine/plain"].description == "Repeats a text."
    assert source["mine/made-v1"].category == "own"
    assert source["mine/counting"].streaming
    assert list(from_module(module)) == ["plain", "later", "stars", "chosen", "counting", "made-v1"]


def test_they_run_like_any_other(module: types.ModuleType) -> None:
    """They are registered and executed; hints are checked, a parameter without one takes any value, *rest takes nothing."""

    async def main() -> None:
        registry = InMemorySkillRegistry()
        for definition in from_module(module).values():
            await registry.register(definition)
        async with LayeredExecutionEngine(registry) as engine:
            assert await engine.call("plain", {"text": "ab"}) == "abab"
            assert await engine.call("later", {"a": {"any": None}}) == [{"any": None}, 3]
            assert await engine.call("stars") == []
            assert await engine.call("chosen", {"mode": "a"}) == "a"
            assert await engine.call("made-v1", {"x": 4}) == 4
            for skill_id, params in [
                ("plain", {"text": 3}),
                ("later", {}),
                ("later", {"a": 1, "c": 2}),
                ("stars", {"rest": 1}),
                ("chosen", {"mode": "c"}),
                ("chosen", {"mode": "a", "more": 1}),
            ]:
                assert isinstance((await engine.execute(skill_id, params)).error, InvalidParametersError)

    asyncio.run(main())


def test_one_function(module: types.ModuleType) -> None:
    """One function is given by name, or itself; the function stays as it was."""

    def own(a: int) -> int:
        """Returns it."""
        return a

    assert list(from_module("source_of_skills:plain")) == ["plain"]
    assert list(from_module(module.plain)) == ["plain"]
    ((skill_id, definition),) = from_module(own).items()
    assert (skill_id, definition.description) == ("own", "Returns it.")
    assert not hasattr(own, "definition")
    decorated = skill(id="own-v2")(own)
    assert list(from_module(decorated)) == ["own-v2"]


@pytest.mark.parametrize(
    ("target", "error", "told"),
    [
        ("no_such_module_here", InvalidValueError, "'no_such_module_here' cannot be imported"),
        ("raises_when_imported", InvalidValueError, "it raised ZeroDivisionError"),
        ("exits_when_imported:run", InvalidValueError, "it raised SystemExit: 3"),
        ("source_of_skills:plan", InvalidValueError, "has no 'plan'; its functions: chosen, counting, first"),
        ("source_of_skills:CONSTANT", InvalidValueError, "3 is no Python function"),
        ("source_of_skills:Kind", InvalidValueError, "Kind'> is no Python function"),
        (math.sqrt, InvalidValueError, "sqrt> is no Python function"),
        ("source_of_skills:path", InvalidDefinitionError, "'where' is hinted .* no JSON type"),
        ("source_of_skills:first", InvalidDefinitionError, "'a' cannot be given by name"),
        ("", InvalidValueError, "''"),
    ],
)
def test_what_is_no_source(
    module: types.ModuleType, target: str | Callable[..., Any], error: type[Exception], told: str
) -> None:
    """What is not there, cannot be imported or is no function is refused with its name and what there is."""
    with pytest.raises(error, match=told):
        from_module(target)
