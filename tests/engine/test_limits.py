"""Limits: enforced, or the call is refused before it starts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from skilllab.define import skill
from skilllab.engine import LayeredExecutionEngine
from skilllab.errors import InvalidValueError, LimitNotEnforceableError
from skilllab.model import ResourceLimits, SkillDefinition
from skilllab.outcome import ExecutionResult
from skilllab.registry import InMemorySkillRegistry
from skilllab.testing import FakeRunner


@skill(id="double")
async def double(x: int) -> int:
    return 2 * x


PLAIN = SkillDefinition(id="fake", name="fake", layer=1, handler="textwrap:dedent")


def execute(skill_id: str, params: Any, *skills: Any, limits: Any = None, **options: Any) -> ExecutionResult:
    async def run() -> ExecutionResult:
        registry = InMemorySkillRegistry()
        for definition in skills or (double,):
            await registry.register(definition)
        async with LayeredExecutionEngine(registry, **options) as engine:
            return await engine.execute(skill_id, params, resource_limits=limits)

    return asyncio.run(run())


@pytest.mark.parametrize("name", ResourceLimits.model_fields)
def test_each_limit_is_refused_by_name(name: str) -> None:
    """A limit that the runner cannot hold refuses the call before it starts, whoever asks for the limit."""
    limits = ResourceLimits(**{name: 7})
    own = SkillDefinition(id="own", name="own", layer=1, handler="textwrap:dedent", resource_limits=limits)
    runners = {"function": FakeRunner()}
    for result in (
        execute("double", {"x": 1}, limits=limits, runners=runners),
        execute("own", {"text": ""}, own, runners=runners),
    ):
        assert isinstance(result.error, LimitNotEnforceableError)
        assert result.error.limits == (name,)
        assert f"{name}=7" in str(result.error)
        assert "this runner holds nothing" in str(result.error)
        assert result.metadata.duration is None


def test_a_limit_is_refused_before_the_parameters_are_looked_at() -> None:
    """A refused limit comes before a wrong parameter, and every refused limit is named."""
    limits = ResourceLimits(max_disk=2**20, max_network_requests=1, max_duration=1.5)
    result = execute("double", {}, limits=limits)
    assert isinstance(result.error, LimitNotEnforceableError)
    assert result.error.limits == ("max_disk", "max_network_requests")


def test_a_runners_usual_limits_hold_where_a_definition_names_none() -> None:
    """A definition's own limit takes the place of the runner's usual one, be it looser; a call only tightens."""
    runner = FakeRunner(enforces=["max_memory", "max_duration"])
    runner.limits = ResourceLimits(max_memory=5, max_duration=2.0)
    definition = PLAIN.model_copy(update={"resource_limits": ResourceLimits(max_memory=9)})
    for asked in (None, ResourceLimits(max_memory=50, max_duration=1.0)):
        execute("fake", {}, definition, limits=asked, runners={"function": runner})
    assert [got for _, _, got in runner.calls] == [
        ResourceLimits(max_memory=9, max_duration=2.0),
        ResourceLimits(max_memory=9, max_duration=1.0),
    ]


def test_empty_limits_and_wrong_ones() -> None:
    """Limits that ask for nothing are none; what is no ResourceLimits is an error."""
    assert execute("double", {"x": 1}, limits=ResourceLimits()).output == 2
    for limits in ({"max_memory": 1}, 5):
        assert isinstance(execute("double", {"x": 1}, limits=limits).error, InvalidValueError)


@pytest.mark.parametrize(
    ("asked", "own", "held"), [(5, 9, 5), (9, 5, 5), (None, 5, 5), (5, None, 5), (None, None, None)]
)
def test_a_call_tightens_and_never_loosens(asked: int | None, own: int | None, held: int | None) -> None:
    """The runner gets the smaller of the call's limit and the definition's."""
    runner = FakeRunner(enforces=["max_memory", "max_duration"])
    limits = {"max_duration": 3.0}
    definition = PLAIN.model_copy(update={"resource_limits": ResourceLimits(max_memory=own, **limits)})
    execute("fake", {}, definition, limits=ResourceLimits(max_memory=asked), runners={"function": runner})
    [(_, _, got)] = runner.calls
    assert got == ResourceLimits(max_memory=held, max_duration=3.0)
