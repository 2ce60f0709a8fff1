"""What tests with real worker processes share: engines on a loop that outlives one test, and a look at what is left."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from skilllab.define import definition_of
from skilllab.engine import FunctionOptions, GuardOptions, LayeredExecutionEngine, SandboxOptions
from skilllab.engine.workers.machine import this_machine
from skilllab.programs import tree
from skilllab.registry import InMemorySkillRegistry

ISOLATIONS = ("bubblewrap", "process")


class Lab:
    """An engine in an event loop of its own; `run` runs a coroutine there."""

    def __init__(self, isolation: str, **options: Any) -> None:
        self.isolation = isolation
        self.runner = asyncio.Runner()
        self.registry = InMemorySkillRegistry()
        self.engine = LayeredExecutionEngine(
            self.registry,
            functions=FunctionOptions(isolation=isolation),  # type: ignore[arg-type]
            sandbox=SandboxOptions(isolation=isolation, **options),  # type: ignore[arg-type]
            guards=GuardOptions(breaker_failures=None),
        )

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def register(self, *skills: Any) -> None:
        for each in skills:
            if definition_of(each).id not in self.registry:
                self.run(self.registry.register(each))

    def execute(self, skill_id: str, params: dict[str, Any] | None = None, **options: Any) -> Any:
        return self.run(self.engine.execute(skill_id, params or {}, **options))

    def close(self) -> None:
        supervision = self.engine._supervision
        pids = [] if supervision.pid is None else [supervision.pid, *tree.descendants(supervision.pid)]
        self.run(self.engine.aclose())
        self.runner.close()
        assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []
        assert left_behind(supervision._name) == []


@pytest.fixture(scope="module", params=ISOLATIONS)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab with either isolation, shared by the tests of a module."""
    if request.param == "bubblewrap":
        request.getfixturevalue("needs")("bwrap")
    made = Lab(request.param)
    yield made
    made.close()


@pytest.fixture(scope="module")
def make_lab(needs: Callable[[str], str]) -> Iterator[Callable[..., Lab]]:
    """A function that makes labs, closed at the end of the module."""
    made: list[Lab] = []

    def make(isolation: str, **options: Any) -> Lab:
        if isolation == "bubblewrap":
            needs("bwrap")
        made.append(Lab(isolation, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def left_behind(name: str, within: float = 1.0) -> list[str]:
    """The temporary folders and control groups whose names begin so; waits for their end."""
    ends = time.monotonic() + within
    while True:
        found = [each for each in os.listdir(tempfile.gettempdir()) if each.startswith(name)]
        for place in this_machine().places.values():
            found += [each for each in os.listdir(place.folder) if each.startswith(name)]
        if not found or time.monotonic() > ends:
            return found
        time.sleep(0.01)
