"""The trial itself, in virtual time: what is called, how often, what counts as which time, and what is left out."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import pytest

from skilllab.errors import InvalidValueError, ServerLostError, ToolError
from skilllab.experiments.failures.virtual import in_virtual_time
from skilllab.experiments.history import History
from skilllab.experiments.trial import Target, ToolTrial, TrialPlan, TrialResult, trial
from skilllab.experiments.trial.advice import command, first_finding, seen_at
from skilllab.experiments.trial.page import WIDTH, page, paragraph
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
    assert "left alone" in page(result)


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
    ],
)
def test_a_trial_is_gentle(name: str, value: float) -> None:
    """A rate, duration or timeout beyond what a trial has is refused with its value, before anything is called."""
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


# what is said


def trial_of(handler: list[float], *, rate: float = 20.0, **fields: Any) -> TrialResult:
    zeros = (0.0,) * len(handler)
    at = tuple(number / rate for number in range(len(handler)))
    rest: dict[str, Any] = {
        "first": 0.01,
        "late": zeros,
        "queue": zeros,
        "size": (5.0,) * len(handler),
        "error": ("",) * len(handler),
    }
    only = ToolTrial("work", at=at, handler=tuple(handler), **{"params": {}, **rest, **fields.pop("tool", {})})
    given: dict[str, Any] = {
        "target": "my-server",
        "kind": "mcp",
        "title": "MCP server mine",
        "connect": 0.1,
        "connecting": "connection",
        "rate": rate,
        "duration": 10.0,
        "elapsed": 10.0,
        "tools": (only,),
        "passed_over": {},
        "floor": (1e-5,) * 200,
    }
    return TrialResult(**{**given, **fields})


STEADY = [0.01, 0.011] * 200


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (trial_of(STEADY), "No call failed; the slowest tool, work, takes 10.5 ms at the median and 11.0 ms at p95."),
        (
            trial_of([*STEADY[:399], 1.0]),
            "work stalls: 1 of 400 calls took 100 ms or more, the longest 1.00 s, 95.2× the median.",
        ),
        (trial_of([0.1] * 400), "One at a time work does 10 /s, fewer than the ceiling of 20 /s."),
        (trial_of(STEADY[:60]), "60 calls of work are too few for a p95 with an interval"),
        (trial_of(STEADY, connect=3.0), "Keep the connection: the connection takes 3.00 s, as long as 286 calls."),
        (trial_of(STEADY, tool={"first": 1.0}), "The first call of work took 1.00 s, 95.2× the median."),
        (trial_of(STEADY, floor=(0.009,) * 400), "work takes 10.5 ms, and a call that does nothing 9.00 ms"),
        (trial_of(STEADY, tool={"size": (2.0**20,) * 400}), "Results of work have 1.00 MiB"),
        (
            trial_of(STEADY, memory=tuple((number, (50 + number) * 2**20) for number in range(10))),
            "The server's memory grew by 8.00 MiB to 59.0 MiB, 20.4 KiB a call.",
        ),
        (trial_of([], tool={"first": None, "cut": 1}), "No call ended within 10.0 s: work did not answer."),
    ],
)
def test_the_first_finding(result: TrialResult, told: str) -> None:
    """The gravest thing is said first, with its figures; when nothing is wrong, that is said."""
    assert told in first_finding(result).text
    assert first_finding(result).text.replace(" ", "") in page(result).replace("\n", "").replace(" ", "")


def test_what_an_open_client_would_have_seen() -> None:
    """By hand: at 10 a second, calls of 0.05 s and one of 0.35 s among 72; three that come meanwhile wait 0.25, 0.2 and so on.

    The waits after the long call fall by 0.05 each: 0.25, 0.20, 0.15, 0.10, 0.05. With the work of 0.05 the largest
    responses are 0.35, 0.30, 0.25, 0.20, 0.15, 0.10; of 72 values p95 lies at rank 67.45 (from 0), between 0.15 and 0.20.
    """
    values = [0.05] * 30 + [0.35] + [0.05] * 41
    (only,) = trial_of(values).tools
    assert seen_at(10.0, only) == pytest.approx(0.15 + 0.45 * 0.05)
    assert seen_at(25.0, only) is None  # more than one at a time can do
    assert seen_at(10.0, trial_of(values[:71]).tools[0]) is None  # too few for a p95


def test_the_command_can_be_copied() -> None:
    """The next command has what the trial was given: allowed tools, parameters in quotes, a rate and a kind of its own."""
    result = trial_of(
        STEADY, target="http://127.0.0.1:1/mcp", kind="http", rate=50.0, allow=("work",), tool={"params": {"a": "b c"}}
    )
    assert command(result, result.tools[0], duration=60) == (
        'skilllab try http://127.0.0.1:1/mcp --as http --allow work --params \'{"a": "b c"}\' --rate 50 --duration 60'
    )


def test_the_page_is_one_page() -> None:
    """Forty tools, each with errors, and long reasons make at most 60 lines of 118 characters, the command apart."""
    many = tuple(ToolTrial(f"a_tool_with_a_rather_long_name_{number}", {}, first=0.1) for number in range(40))
    errors = {"tools": many, "passed_over": {f"tool_{number}": "because of this or that" for number in range(40)}}
    lines = page(trial_of(STEADY, **errors), "Kept as run 1").split("\n")
    assert len(lines) <= 60
    assert max(len(line) for line in lines if not line.startswith("Next: ")) <= WIDTH
    assert "28 more" in "\n".join(lines)


def test_too_few_values_are_said_and_not_guessed() -> None:
    """With 71 values there is a median and no p95; with 72 a p95, whose interval takes twice as many."""
    assert "n too small" in page(trial_of(STEADY[:71]))
    assert trial_of(STEADY[:71]).tools[0].handler_quantile(0.95) == (None, None)
    p95, interval = trial_of(STEADY[:72]).tools[0].handler_quantile(0.95)
    assert p95 is not None
    assert interval is None
    assert trial_of(STEADY).tools[0].handler_quantile(0.95)[1] is not None


# what is kept


def test_a_result_comes_back(tmp_path: Any) -> None:
    """A result survives JSON and the history, nan included, and says the same afterwards."""
    sizes = (math.nan, *[5.0] * 399)
    result = trial_of(STEADY, memory=((0.0, 5),), pings=(0.1,), tool={"size": sizes}, passed_over={"order": "no"})
    again = TrialResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    assert page(again) == page(result)
    assert math.isnan(again.tools[0].size[0])
    history = History(tmp_path / "history.sqlite")
    kept = history.load(history.save(result, label="mine"))
    assert isinstance(kept, TrialResult)
    assert paragraph(kept) == paragraph(result)
    assert history.trend("work p50")["value"].tolist() == [pytest.approx(0.0105)]


@pytest.mark.parametrize("values", [{}, {"version": 2}, {"version": 1}, {"version": 1, "tools": [{"nme": "x"}]}])
def test_what_is_no_result_is_refused(values: dict[str, Any]) -> None:
    """JSON of another version, or that is no trial, is refused."""
    with pytest.raises(InvalidValueError, match=r"version|no trial"):
        TrialResult.from_json(values)


def test_no_secret_of_an_address_is_kept() -> None:
    """Password and query of an address stay out of what is stored."""
    stored = json.dumps(trial_of(STEADY, target="https://me:hidden@example.org/a?key=hidden").to_json())
    assert "hidden" not in stored
    assert "https://example.org/a" in stored


@pytest.mark.slow
def test_a_plot_has_a_line_a_tool_and_the_floor() -> None:
    """The figure shows each tool with enough values, and the noise floor; without any it is refused."""
    ax = trial_of(STEADY).plot()
    assert {line.get_label() for line in ax.get_lines()} >= {"work", "nothing"}
    with pytest.raises(InvalidValueError, match="too few"):
        trial_of([0.1], floor=()).plot()
