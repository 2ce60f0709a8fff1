"""The trial itself, in virtual time: what is called, how often, what counts as which time, and what is left out."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import pytest

from skilllab.errors import InvalidValueError, ServerLostError, ToolError
from skilllab.experiments.failures.virtual import in_virtual_time
from skilllab.experiments.trial import Target, TrialPlan, TrialResult, trial
from skilllab.experiments.trial.advice import first_finding
from skilllab.experiments.trial.page import page
from skilllab.model import FunctionHandler, SkillDefinition

Function = Callable[..., Awaitable[Any]]


def tool(name: str, function: Function) -> SkillDefinition:
    return SkillDefinition(id=name, name=name, layer=1, handler=FunctionHandler(target="tests:tool", function=function))


async def nothing() -> None:
    return None


def target(functions: Mapping[str, Function], **fields: Any) -> Target:
    given: dict[str, Any] = {
        "kind": "mcp",
        "text": "my-server",
        "title": "MCP server mine",
        "tools": {name: tool(name, function) for name, function in functions.items()},
        "allowed": frozenset(functions),
        "connect": 0.25,
        "connecting": "start of the process and first answer",
        "nothing": tool("skilllab-nothing", nothing),
    }
    return Target(**{**given, **fields})


def tried(functions: Mapping[str, Function], *, stop_after: float | None = None, **options: Any) -> TrialResult:
    """A trial of async functions in virtual time."""
    fields = options.pop("fields", {})

    async def main() -> TrialResult:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        if stop_after is not None:
            loop.call_later(stop_after, stop.set)
        plan = TrialPlan({name: {} for name in functions}, {})
        return await trial(target(functions, **fields), plan, clock=loop.time, stop=stop, **options)

    return in_virtual_time(main)


def taking(*seconds: float) -> Function:
    """A tool that takes these times in turn, the last again and again."""
    times = itertools.chain(seconds, itertools.repeat(seconds[-1]))

    async def work() -> str:
        await asyncio.sleep(next(times))
        return "done"

    return work


def failing(every: int, seconds: float = 0.0) -> Function:
    """A tool whose every so manieth call fails, at once, while the others take their time."""
    number = itertools.count(1)

    async def work() -> str:
        if next(number) % every == 0:
            raise ToolError("work: no tea", skill_id="work")
        await asyncio.sleep(seconds)
        return "done"

    return work


# how often, and which


def test_the_rate_is_a_ceiling() -> None:
    """Calls begin at most `rate` times a second, varied by half, one at a time, and none is made up for after a stall."""
    result = tried({"work": taking(0.01, 0.01, 3.0, 0.01)}, rate=10.0, duration=10.0)
    (only,) = result.tools
    starts = np.array(only.at)
    gaps = np.diff(starts)
    assert gaps.min() >= 0.5 / 10 - 1e-6
    assert np.delete(gaps, 1).max() <= 1.5 / 10 + 1e-3
    assert gaps[1] == pytest.approx(3.0, abs=1e-3)  # after the stall: once, and then at the old pace
    assert len(starts) == pytest.approx(70, abs=8)
    assert result.elapsed <= 10.2


def test_tools_take_turns() -> None:
    """Several tools are called in turn, so that what happens meanwhile meets all of them alike."""
    result = tried({"a": taking(0.01), "b": taking(0.01), "c": taking(0.01)}, duration=3.0)
    frame = result.frame()
    assert frame["tool"].tolist()[:7] == ["a", "b", "c", "a", "b", "c", "a"]
    assert [only.first for only in result.tools] == pytest.approx([0.01] * 3, abs=1e-4)
    assert frame["at"].is_monotonic_increasing


def test_a_tool_that_only_fails_is_left_alone() -> None:
    """After ten failures in a row a tool is called no more; the others go on."""
    result = tried({"bad": failing(1), "good": taking(0.0)}, duration=5.0, rate=20.0)
    bad, good = result.tools
    assert (bad.calls + 1, bad.gave_up, good.gave_up) == (10, True, False)
    assert good.calls > 60
    assert "bad: left alone after 10 failures in a row" in page(result)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", 0),
        ("rate", math.nan),
        ("rate", 1001),
        ("duration", -1),
        ("duration", 61),
        ("timeout", math.inf),
        ("rate", True),
        ("seed", -1),
    ],
)
def test_a_trial_is_gentle(name: str, value: float) -> None:
    """A rate, duration, timeout or seed beyond what a trial has is refused with its value, before anything is called."""
    called = []

    async def work() -> None:
        called.append(1)

    with pytest.raises(InvalidValueError, match=f"{name}={value}"):
        tried({"work": work}, **{name: value})
    assert not called


# which time is which


def test_failures_are_no_fast_answers() -> None:
    """Half of the calls fail at once: median and p95 are those of the calls that worked, and the share of errors stands apart."""
    result = tried({"work": failing(2, 0.02)}, rate=50.0, duration=10.0)
    (only,) = result.tools
    assert only.handler_quantile(0.5)[0] == pytest.approx(0.02, abs=1e-4)
    assert float(only.handled.min()) == pytest.approx(0.02, abs=1e-4)
    assert result.metrics()["work errors"][0] == pytest.approx(0.5, abs=0.01)
    assert only.errors == {"ToolError": pytest.approx(only.calls / 2, abs=1)}
    assert not result.failed


def test_a_skill_that_always_fails_has_no_times() -> None:
    """Success rate 0, errors by kind, and no latency made of failures."""
    result = tried({"work": failing(1)}, duration=2.0)
    assert result.failed
    assert set(result.metrics()) == {"connect", "work errors"}
    assert "ToolError: no tea" in first_finding(result).text


def test_connecting_again_is_no_handler_time() -> None:
    """A call that has to connect again takes two seconds for that and a hundredth for its work: it took a hundredth."""
    connects = [0.25]
    number = itertools.count(1)

    async def work() -> str:
        here = next(number)
        if here % 10 == 5:
            raise ServerLostError("work: it ended", skill_id="work")
        if here % 10 == 6:
            await asyncio.sleep(2.0)
            connects.append(2.0)
        await asyncio.sleep(0.01)
        return "done"

    result = tried({"work": work}, rate=20.0, duration=20.0, fields={"connects": connects})
    (only,) = result.tools
    assert len(result.reconnects) >= 3
    assert float(only.handled.max()) == pytest.approx(0.01, abs=1e-3)
    assert first_finding(result).text.startswith("The server was lost ")
    assert "2.00 s" in page(result)


def test_what_the_end_cuts_off_is_no_error() -> None:
    """A call under way when the time is up is counted apart; one that meets its own timeout is an error."""
    result = tried({"hangs": taking(0.0, 60.0)}, duration=3.0, timeout=10.0)
    (only,) = result.tools
    assert (only.calls, only.cut, result.errors) == (0, 1, 0)
    assert result.elapsed <= 3.1
    timed_out = tried({"hangs": taking(0.0, 60.0)}, duration=3.0, timeout=0.5)
    assert set(timed_out.tools[0].errors) == {"ExecutionTimeoutError"}
    assert timed_out.tools[0].calls >= 4


def test_a_noise_floor_that_fails_costs_no_trial() -> None:
    """When the call that does nothing fails, there is no noise floor any more; the calls of the target are as they were."""
    number = itertools.count()

    async def broken() -> None:
        if next(number) == 3:
            raise RuntimeError("no room")

    nothing = tool("skilllab-nothing", broken)
    result = tried({"work": taking(0.01)}, duration=5.0, fields={"nothing": nothing})
    assert result.calls > 80
    assert not result.errors
    assert next(number) == 4
    assert len(result.floor) == 2
    assert result.noise_floor is None
    never = tried({"work": taking(0.01)}, duration=5.0, fields={"nothing": tool("skilllab-nothing", failing(1))})
    assert (never.floor, never.errors) == ((), 0)
    assert "First finding: too few" not in page(never)


def test_stopping_keeps_what_was_measured() -> None:
    """Who stops a trial gets the calls so far at once, in the middle of a call that would have taken ten seconds."""
    result = tried({"work": taking(*[0.01] * 20, 10.0)}, duration=30.0, timeout=20.0, stop_after=4.0)
    assert result.stopped
    assert result.elapsed == pytest.approx(4.0, abs=0.01)
    assert result.tools[0].calls == 19
    assert "stopped by hand" in page(result)


def test_pings_are_few_and_lost_servers_no_matter() -> None:
    """One ping comes on four calls; a server that is lost just then ends no trial."""
    asked = itertools.count()

    async def ping() -> float:
        if next(asked) % 2:
            raise ServerLostError("gone")
        return 0.001

    result = tried({"work": taking(0.0)}, duration=4.0, fields={"ping": ping})
    assert next(asked) == pytest.approx(result.calls / 4, abs=1)
    assert len(result.pings) == pytest.approx(result.calls / 8, abs=1)


def test_the_ceiling_is_for_calls_and_pings_together() -> None:
    """Two requests of whatever kind never begin closer than half the usual gap, and in all there are `rate` a second."""
    sent: list[float] = []

    async def request() -> float:
        sent.append(asyncio.get_running_loop().time())
        return 0.001

    result = tried({"a": request, "b": request}, rate=50.0, duration=20.0, fields={"ping": request})
    assert np.diff(sent).min() >= 0.5 / 50 - 1e-6
    assert len(sent) == result.calls + len(result.pings) == pytest.approx(20 * 50, rel=0.05)
    assert [only.calls for only in result.tools] == pytest.approx([result.calls / 2] * 2, abs=2)
    assert "at most 50 /s with the pings;" in page(result)


def test_a_ping_that_hangs_ends_with_the_trial() -> None:
    """A server that answers calls and no pings holds the trial up no longer than a call may at its end."""

    async def ping() -> float:
        await asyncio.sleep(600)
        return 600.0

    result = tried({"work": taking(0.01)}, duration=2.0, timeout=10.0, fields={"ping": ping})
    assert result.elapsed <= 2.6
    assert result.calls == 1


def test_an_error_is_told_without_the_secrets_of_its_address() -> None:
    """What an error quotes of an address has its password and query left out before anything keeps it."""

    async def work() -> None:
        raise ToolError("GET https://me:hidden@host/a?key=hidden answered 404", skill_id="work")

    (only,) = tried({"work": work}, duration=1.0).tools
    assert only.messages == {"ToolError": "GET https://me:***@host/a?key=*** answered 404"}
