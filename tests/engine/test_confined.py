"""Functions in workers: what travels, how it comes back, and what cannot go is refused before anything starts."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from skilllab import ResourceLimits, skill
from skilllab.engine.confined import reference_of
from skilllab.errors import (
    HandlerNotRunnableError,
    InvalidParametersError,
    LimitExceededError,
    LimitNotEnforceableError,
    RemoteError,
    SkillFailedError,
)
from skilllab.model import SkillDefinition
from skilllab.skills.checksum import checksum
from tests.engine.workers.conftest import Lab, lab, make_lab  # noqa: F401 - fixtures

LIMITS = ResourceLimits(max_duration=5.0)
FACTOR = 3


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


@skill(id="scaled", check_output=False)
def scaled(x: int) -> int:
    return FACTOR * x


@skill(id="later", check_output=False)
async def later(x: int) -> int:
    await asyncio.sleep(0)
    return -x


@skill(id="yields", streaming=True)
def yields(n: int) -> Any:
    yield from range(n)


@skill(id="fails", check_output=False)
def fails(kind: str) -> int:
    if kind == "own":

        class OwnError(Exception):
            def __init__(self, one: int, two: int) -> None:
                super().__init__("mine")

        raise OwnError(1, 2)
    if kind == "recursion":
        return fails(kind)
    raise ZeroDivisionError("by zero")


@skill(id="points", check_output=False)
def points(n: int) -> Any:
    return [Point(each) for each in range(n)]


def test_a_function_is_named_or_sent() -> None:
    """What can be imported elsewhere goes by its name, what is only here goes by value."""
    assert reference_of(checksum) == "skilllab.skills.checksum:checksum"
    assert reference_of(textwrap.dedent) == "textwrap:dedent"

    def inner() -> None: ...

    assert reference_of(inner) == ""
    assert reference_of(lambda: None) == ""
    assert reference_of(len) == ""


def test_functions_run_in_workers(lab: Lab) -> None:  # noqa: F811
    """A function with a limit runs in a process of its own, with what it refers to, and is measured there."""
    lab.register(scaled, later, points)
    result = lab.execute("scaled", {"x": 7}, resource_limits=LIMITS)
    assert result.output == 21
    assert result.metadata.isolation == lab.isolation
    assert result.metadata.resource_usage.memory_used is not None
    assert lab.execute("scaled", {"x": 7}).metadata.isolation == "none"
    assert lab.execute("later", {"x": 7}, resource_limits=LIMITS).output == -7
    assert [each.x for each in lab.execute("points", {"n": 3}, resource_limits=LIMITS).output] == [0, 1, 2]


def test_streams_travel(lab: Lab) -> None:  # noqa: F811
    """A generator function with a limit streams from its worker."""
    lab.register(yields)

    async def read() -> list[int]:
        return [chunk async for chunk in lab.engine.stream("yields", {"n": 5}, resource_limits=LIMITS)]

    assert lab.run(read()) == [0, 1, 2, 3, 4]


def test_errors_come_back(lab: Lab) -> None:  # noqa: F811
    """The cause is the error itself where it can travel, else its text; the worker goes on."""
    lab.register(fails)
    error = lab.execute("fails", {"kind": "zero"}, resource_limits=LIMITS).error
    assert isinstance(error, SkillFailedError)
    assert isinstance(error.__cause__, ZeroDivisionError)
    error = lab.execute("fails", {"kind": "own"}, resource_limits=LIMITS).error
    assert str(error) == "fails: fails.<locals>.OwnError: mine"
    assert isinstance(error.__cause__, RemoteError)
    assert "raise OwnError" in str(error.__cause__)
    error = lab.execute("fails", {"kind": "recursion"}, resource_limits=LIMITS).error
    assert "RecursionError" in str(error)


def test_a_skill_may_demand_isolation(make_lab: Any) -> None:  # noqa: F811
    """A function that demands an isolation runs in it without any limit, and a limit of the definition holds."""
    made = make_lab("process")

    @skill(id="demands", isolation="bubblewrap", check_output=False)
    def demands() -> list[str]:
        import os

        return sorted(os.listdir("/"))

    @skill(id="bounded", resource_limits=ResourceLimits(max_memory=2**25), check_output=False)
    def bounded(n: int) -> int:
        return len(bytearray(n))

    made.register(demands, bounded)
    result = made.execute("demands")
    assert result.metadata.isolation == "bubblewrap"
    assert "var" not in result.output
    assert "tmp" in result.output
    assert made.execute("bounded", {"n": 1000}).output == 1000
    error = made.execute("bounded", {"n": 2**28}).error
    assert isinstance(error, LimitExceededError)
    assert (error.limit, error.allowed) == ("max_memory", 2**25)


def test_what_cannot_travel_is_refused(make_lab: Any) -> None:  # noqa: F811
    """A function, a parameter or a lease that cannot travel refuses the call before it starts; an output fails it."""
    made = make_lab("process")
    lock = threading.Lock()

    @skill(id="holds", check_output=False)
    def holds() -> bool:
        return lock.locked()

    @skill(id="takes", check_output=False)
    def takes(what: Any) -> int:
        return 1

    @skill(id="gives", check_output=False)
    def gives() -> Any:
        import threading

        return threading.Lock()

    @skill(id="leases", leases=["db"], check_output=False)
    def leases(db: Any) -> int:
        return 1

    made.register(holds, takes, gives, leases)
    error = made.execute("holds", resource_limits=LIMITS).error
    assert isinstance(error, HandlerNotRunnableError)
    assert "cannot travel" in str(error)
    assert isinstance(made.execute("takes", {"what": lock}, resource_limits=LIMITS).error, InvalidParametersError)
    assert made.engine._supervision.pid is None
    error = made.execute("gives", resource_limits=LIMITS).error
    assert isinstance(error, SkillFailedError)
    assert "lock" in str(error)
    error = made.execute("leases", resource_limits=LIMITS).error
    assert isinstance(error, LimitNotEnforceableError)
    assert "leased connections" in str(error)


def test_a_handler_that_cannot_be_imported(lab: Lab) -> None:  # noqa: F811
    """A handler that names what is not there fails the call before anything starts."""
    lab.register(SkillDefinition(id="absent", name="absent", layer=1, handler="no.such:function"))
    error = lab.execute("absent", resource_limits=LIMITS).error
    assert isinstance(error, HandlerNotRunnableError)


MAIN = """
import asyncio
from skilllab import InMemorySkillRegistry, LayeredExecutionEngine, ResourceLimits, skill

print("imported", flush=True)

class Answer:
    def __init__(self, value): self.value = value

@skill(id="own", check_output=False)
def own(x: int):
    return Answer(x + 1)

async def main():
    registry = InMemorySkillRegistry()
    await registry.register(own)
    async with LayeredExecutionEngine(registry) as engine:
        for _ in range(3):
            answer = await engine.call("own", {"x": 1}, resource_limits=ResourceLimits(max_memory=2**26))
            print(answer.value, type(answer) is Answer)

asyncio.run(main())
"""


@pytest.mark.slow
def test_nothing_imports_the_notebook_again(tmp_path: Path) -> None:
    """A function of the main program travels by value: the program runs once, and its classes come back as they are."""
    (tmp_path / "program.py").write_text(MAIN)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split("\n")[:-1] == ["imported", "2 True", "2 True", "2 True"]
