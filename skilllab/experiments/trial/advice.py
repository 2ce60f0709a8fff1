"""The first finding of a trial: what a person should know before all else, and the command that looks closer."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

from skilllab import format as fmt
from skilllab.errors import ExecutionTimeoutError
from skilllab.experiments.trial.plan import NOT_CHOSEN
from skilllab.experiments.trial.result import ToolTrial, TrialResult
from skilllab.experiments.trial.run import HIGHEST_RATE
from skilllab.experiments.trial.target import kind_of
from skilllab.settings import TRIAL_DURATION, TRIAL_LONGEST, TRIAL_RATE, TRIAL_TIMEOUT
from skilllab.skills.redaction import redacted, redacted_params
from skilllab.stats import quantile, smallest_n

_STALL, _STALL_LEAST = 10.0, 0.1  # times the median, and seconds, that make one call a stall
_GROWTH, _GROWTH_LEAST, _GROWTH_CALLS = 0.1, 5 * 2**20, 50
_LARGE = 64 * 2**10  # bytes of a result
_CONNECT, _CONNECT_LEAST = 100.0, 0.3
_FIRST, _FIRST_LEAST = 10.0, 0.05
_FLOOR = 2.0  # times the noise floor, below which a time is mostly the engine's own
_FASTER = 4.0  # times the rate, where the longest trial has too few calls


class First(NamedTuple):
    """A finding with its figures, and the next command; `instead` says what to do where no command would show more ("")."""

    text: str
    command: str
    instead: str = ""


def first_finding(result: TrialResult) -> First:
    """Returns the gravest thing that a trial saw; that nothing is wrong when that is so."""
    return next(found for look in _LOOKS if (found := look(result)) is not None)


def command(result: TrialResult, tool: ToolTrial | None = None, **changed: float) -> str:
    """Returns the command line that tries the same again, as it was or one tool of it, with secrets left out.

    changed: rate, duration or timeout.
    """
    if tool is None and len(result.tools) == 1:
        (tool,) = result.tools
    parts = ["skilllab", "try", redacted(result.target)]
    if kind_of(result.target) != result.kind:
        parts += ["--as", result.kind]
    for name in result.allow:
        if tool is None or tool.name == name:
            parts += ["--allow", name]
    for name in _chosen(result, tool):
        parts += ["--tool", name]
    params = _params(result, tool)
    if params:
        parts += ["--params", json.dumps(redacted_params(params), ensure_ascii=False)]
    usual = {"rate": TRIAL_RATE, "duration": TRIAL_DURATION, "timeout": TRIAL_TIMEOUT, "seed": 0}
    for name, default in usual.items():
        value = changed.get(name, getattr(result, name))
        if value != default:
            parts += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join([*parts, *result.options])


def _chosen(result: TrialResult, tool: ToolTrial | None) -> list[str]:
    """Returns the tools that the command has to choose: none where it is to call all that it may."""
    if tool is not None:
        return [tool.name] if len(result.tools) + len(result.passed_over) > 1 else []
    return [each.name for each in result.tools] if NOT_CHOSEN in result.passed_over.values() else []


def _params(result: TrialResult, tool: ToolTrial | None) -> Mapping[str, Any]:
    """Returns parameters as --params takes them: of the one tool, else by tool."""
    if tool is None:
        return {each.name: dict(each.params) for each in result.tools if each.params}
    params = dict(tool.params)
    by_tool = set(params) == {tool.name} and all(isinstance(value, Mapping) for value in params.values())
    return {tool.name: params} if by_tool else params  # which would be taken for parameters by tool


def _then(result: TrialResult, text: str, instead: str, tool: ToolTrial | None = None, **changed: float) -> First:
    """Returns a finding with a command that shows more than what was run; `instead` where that is the same."""
    line = command(result, tool, **changed)
    return First(text, "", instead) if line == command(result) and not result.stopped else First(text, line)


def _longer(result: TrialResult, text: str, instead: str, tool: ToolTrial | None = None) -> First:
    """Returns a finding with the command of the longest trial, which shows it with more calls."""
    return _then(result, text, instead, tool, duration=TRIAL_LONGEST)


def seen_at(rate: float, tool: ToolTrial, q: float = 0.95) -> float | None:
    """Returns the quantile that a client would have seen who asks `rate` times a second, whatever became of the calls before.

    Assumed, not measured: the calls are those of the trial, in its order, and served one at a time (Lindley 1952). None
    where they are too few, or more than can be served so.
    """
    values = tool.handled
    if len(values) < smallest_n(q) or float(values.mean()) * rate >= 1:
        return None
    waits = accumulate(values[:-1].tolist(), lambda wait, taken: max(0.0, wait + taken - 1 / rate), initial=0.0)
    return quantile([wait + taken for wait, taken in zip(waits, values.tolist(), strict=True)], q)


# the looks, gravest first


def _nothing_ended(result: TrialResult) -> First | None:
    if result.calls:
        return None
    hung = next((tool for tool in result.tools if tool.cut), None)
    what = f"No call ended within {fmt.duration(result.elapsed)}"
    text = f"{what}." if hung is None else f"{what}: {hung.name} did not answer."
    return _longer(result, text, "see on the server's side what the call waits for", hung)


def _lost(result: TrialResult) -> First | None:
    losses = {tool.name: tool.errors.get("ServerLostError", 0) for tool in result.tools}
    if not any(losses.values()):
        return None
    tool = max(result.tools, key=lambda each: losses[each.name])
    times = "once" if losses[tool.name] == 1 else f"{losses[tool.name]} times"
    text = f"The server was lost {times} in {tool.name}: {tool.said('ServerLostError')}"
    return _then(
        result, text, "start the server by hand, call the tool, and read what it writes to standard error", tool
    )


def _failing(result: TrialResult) -> First | None:
    failing = [tool for tool in result.tools if tool.errors]
    if not failing:
        return None
    tool = max(failing, key=lambda each: sum(each.errors.values()))
    kind, count = next(iter(tool.errors.items()))
    tries = tool.calls + 1
    text = f"{tool.name}: {count} of {tries} calls failed with {kind}: {tool.said(kind)}"
    if kind == ExecutionTimeoutError.__name__ and result.timeout < TRIAL_LONGEST:
        return _then(result, text, "", tool, duration=TRIAL_LONGEST, timeout=TRIAL_LONGEST)
    return _then(result, text, "mend what the message names, or give other parameters with --params", tool)


def _stalling(result: TrialResult) -> First | None:
    for tool in result.tools:
        median, _ = tool.handler_quantile(0.5)
        least = max(_STALL_LEAST, _STALL * (median or 0.0))
        if median is None or tool.handled.max() < least:
            continue
        long = int((tool.handled >= least).sum())
        text = (
            f"{tool.name} stalls: {long} of {len(tool.handled)} calls took {fmt.duration(least)} or more, the longest "
            f"{fmt.duration(float(tool.handled.max()))}, {fmt.times(float(tool.handled.max()) / median)} the median."
        )
        seen = seen_at(result.rate, tool)
        if seen is not None:
            text += (
                f" A client that asks {fmt.rate(result.rate)} and does not wait would have seen a p95 of {fmt.duration(seen)}, "
                "if calls are served one at a time (assumed)."
            )
        return _longer(result, text, "load_test() shows what clients see who do not wait", tool)
    return None


def _slow(result: TrialResult) -> First | None:
    for tool in result.tools:
        if len(tool.handled) and (mean := float(tool.handled.mean())) * result.rate > 1:
            text = f"One at a time {tool.name} does {fmt.rate(1 / mean)}, fewer than the ceiling of {fmt.rate(result.rate)}."
            return _longer(result, text, "find_capacity() tells how many calls a second it bears at once", tool)
    return None


def _growing(result: TrialResult) -> First | None:
    if result.calls < _GROWTH_CALLS or len(result.memory) < 4 or result.reconnects:
        return None
    begin, end = result.memory[1][1], result.memory[-1][1]  # after the first call much may still be loading
    grown = end - begin
    if grown < max(_GROWTH_LEAST, _GROWTH * begin):
        return None
    text = f"The server's memory grew by {fmt.size(grown)} to {fmt.size(end)}, {fmt.size(grown / result.calls)} a call."
    return _longer(result, text, "look in the server for what it keeps of each call")


def _large(result: TrialResult) -> First | None:
    for tool in result.tools:
        if len(tool.sizes) and (size := quantile(tool.sizes, 0.5)) >= _LARGE:
            text = f"Results of {tool.name} have {fmt.size(size)}: an agent reads all of it."
            return First(text, "", "let it return less (a limit, pages, fewer fields), and try it again")
    return None


def _too_few(result: TrialResult) -> First | None:
    if any(tool.handler_quantile(0.95)[1] is not None for tool in result.tools):
        return None
    tool = max(result.tools, key=lambda each: each.calls)
    text = f"{len(tool.handled)} calls of {tool.name} are too few for a p95 with an interval: "
    if result.stopped or result.duration < TRIAL_LONGEST:
        return _longer(result, f"{text}give it more time.", "", tool)
    instead = "load_test() takes the time that it is given"
    return _then(result, f"{text}call it more often.", instead, tool, rate=min(HIGHEST_RATE, _FASTER * result.rate))


def _connecting(result: TrialResult) -> First | None:
    medians = [median for tool in result.tools if (median := tool.handler_quantile(0.5)[0])]
    if not medians or result.connect < max(_CONNECT_LEAST, _CONNECT * max(medians)):
        return None
    calls = fmt.number(result.connect / max(medians), 2)
    what = "Import it once" if result.kind == "module" else "Keep the connection"
    text = f"{what}: the {result.connecting} takes {fmt.duration(result.connect)}, as long as {calls} calls."
    return _longer(result, text, "connect once for many calls")


def _cold(result: TrialResult) -> First | None:
    for tool in result.tools:
        median, _ = tool.handler_quantile(0.5)
        if median and tool.first is not None and tool.first >= max(_FIRST_LEAST, _FIRST * median):
            text = f"The first call of {tool.name} took {fmt.duration(tool.first)}, {fmt.times(tool.first / median)} the median."
            return _longer(result, text, "call it once before anybody waits for it", tool)
    return None


def _at_the_floor(result: TrialResult) -> First | None:
    floor = result.noise_floor
    for tool in result.tools:
        median, _ = tool.handler_quantile(0.5)
        if floor and median is not None and median <= _FLOOR * floor:
            text = (
                f"{tool.name} takes {fmt.duration(median)}, and a call that does nothing {fmt.duration(floor)}: what it costs "
                "is mostly the way to it, and benchmark() tells small times apart."
            )
            return _longer(result, text, "benchmark() compares it with another way to do the same", tool)
    return None


def _fine(result: TrialResult) -> First | None:
    tool = max(result.tools, key=lambda each: each.handler_quantile(0.95)[0] or 0.0)
    p50, p95 = tool.handler_quantile(0.5)[0], tool.handler_quantile(0.95)[0]
    text = f"No call failed; the slowest tool, {tool.name}, takes {fmt.duration(p50)} at the median and {fmt.duration(p95)} at p95."
    return _longer(result, text, "load_test() and find_capacity() ask more of it than a trial does", tool)


_LOOKS: tuple[Callable[[TrialResult], First | None], ...] = (
    _nothing_ended,
    _lost,
    _failing,
    _stalling,
    _slow,
    _growing,
    _large,
    _too_few,
    _connecting,
    _cold,
    _at_the_floor,
    _fine,
)
