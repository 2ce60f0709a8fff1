"""The first finding of a trial: what a person should know before all else, and the command that looks closer."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

from skilllab import format as fmt
from skilllab.experiments.trial.result import ToolTrial, TrialResult
from skilllab.experiments.trial.target import kind_of
from skilllab.settings import TRIAL_DURATION, TRIAL_LONGEST, TRIAL_RATE
from skilllab.stats import quantile, smallest_n

_STALL, _STALL_LEAST = 10.0, 0.1  # times the median, and seconds, that make one call a stall
_GROWTH, _GROWTH_LEAST, _GROWTH_CALLS = 0.1, 5 * 2**20, 50
_LARGE = 64 * 2**10  # bytes of a result
_CONNECT, _CONNECT_LEAST = 100.0, 0.3
_FIRST, _FIRST_LEAST = 10.0, 0.05
_FLOOR = 2.0  # times the noise floor, below which a time is mostly the engine's own


class First(NamedTuple):
    """A finding with its figures, and the next command."""

    text: str
    command: str


def first_finding(result: TrialResult) -> First:
    """Returns the gravest thing that a trial saw; that nothing is wrong when that is so."""
    return next(found for look in _LOOKS if (found := look(result)) is not None)


def command(result: TrialResult, tool: ToolTrial | None = None, *, duration: float | None = None) -> str:
    """Returns the command line that tries the same again: one tool of it, and longer."""
    parts = ["skilllab", "try", result.target]
    if kind_of(result.target) != result.kind:
        parts += ["--as", result.kind]
    for name in result.allow:
        if tool is None or tool.name == name:
            parts += ["--allow", name]
    if tool is not None:
        if len(result.tools) + len(result.passed_over) > 1:
            parts += ["--tool", tool.name]
        if tool.params:
            parts += ["--params", json.dumps(tool.params, ensure_ascii=False)]
    if result.rate != TRIAL_RATE:
        parts += ["--rate", f"{result.rate:g}"]
    if duration is not None or result.duration != TRIAL_DURATION:
        parts += ["--duration", f"{duration or result.duration:g}"]
    return shlex.join(parts)


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
    return First(text, command(result, hung, duration=TRIAL_LONGEST))


def _lost(result: TrialResult) -> First | None:
    losses = {tool.name: tool.errors.get("ServerLostError", 0) for tool in result.tools}
    if not any(losses.values()):
        return None
    tool = max(result.tools, key=lambda each: losses[each.name])
    times = "once" if losses[tool.name] == 1 else f"{losses[tool.name]} times"
    return First(f"The server was lost {times} in {tool.name}: {tool.said('ServerLostError')}", command(result, tool))


def _failing(result: TrialResult) -> First | None:
    failing = [tool for tool in result.tools if tool.errors]
    if not failing:
        return None
    tool = max(failing, key=lambda each: sum(each.errors.values()))
    kind, count = next(iter(tool.errors.items()))
    tries = tool.calls + 1
    return First(f"{tool.name}: {count} of {tries} calls failed with {kind}: {tool.said(kind)}", command(result, tool))


def _stalling(result: TrialResult) -> First | None:
    for tool in result.tools:
        median, _ = tool.handler_quantile(0.5)
        if median is None or tool.handled.max() < max(_STALL_LEAST, _STALL * median):
            continue
        long = int((tool.handled >= max(_STALL_LEAST, _STALL * median)).sum())
        text = (
            f"{tool.name} stalls: {long} of {len(tool.handled)} calls took {fmt.duration(_STALL_LEAST)} or more, the longest "
            f"{fmt.duration(float(tool.handled.max()))}, {fmt.times(float(tool.handled.max()) / median)} the median."
        )
        seen = seen_at(result.rate, tool)
        if seen is not None:
            text += (
                f" A client that asks {fmt.rate(result.rate)} and does not wait would have seen a p95 of {fmt.duration(seen)}, "
                "if calls are served one at a time (assumed)."
            )
        return First(text, command(result, tool, duration=TRIAL_LONGEST))
    return None


def _slow(result: TrialResult) -> First | None:
    for tool in result.tools:
        if len(tool.handled) and (mean := float(tool.handled.mean())) * result.rate > 1:
            text = f"One at a time {tool.name} does {fmt.rate(1 / mean)}, fewer than the ceiling of {fmt.rate(result.rate)}."
            return First(text, command(result, tool, duration=TRIAL_LONGEST))
    return None


def _growing(result: TrialResult) -> First | None:
    if result.calls < _GROWTH_CALLS or len(result.memory) < 4 or result.reconnects:
        return None
    begin, end = result.memory[1][1], result.memory[-1][1]  # the first is before the first call
    grown = end - begin
    if grown < max(_GROWTH_LEAST, _GROWTH * begin):
        return None
    text = f"The server's memory grew by {fmt.size(grown)} to {fmt.size(end)}, {fmt.size(grown / result.calls)} a call."
    return First(text, command(result, duration=TRIAL_LONGEST))


def _large(result: TrialResult) -> First | None:
    for tool in result.tools:
        if len(tool.sizes) and (size := quantile(tool.sizes, 0.5)) >= _LARGE:
            return First(
                f"Results of {tool.name} have {fmt.size(size)}: an agent reads all of it.", command(result, tool)
            )
    return None


def _too_few(result: TrialResult) -> First | None:
    if any(tool.handler_quantile(0.95)[1] is not None for tool in result.tools):
        return None
    tool = max(result.tools, key=lambda each: each.calls)
    text = f"{len(tool.handled)} calls of {tool.name} are too few for a p95 with an interval: give it more time."
    longest = None if result.duration >= TRIAL_LONGEST else TRIAL_LONGEST
    return First(text, command(result, tool, duration=longest))


def _connecting(result: TrialResult) -> First | None:
    medians = [median for tool in result.tools if (median := tool.handler_quantile(0.5)[0])]
    if not medians or result.connect < max(_CONNECT_LEAST, _CONNECT * max(medians)):
        return None
    calls = fmt.number(result.connect / max(medians), 2)
    what = "Import it once" if result.kind == "module" else "Keep the connection"
    return First(
        f"{what}: the {result.connecting} takes {fmt.duration(result.connect)}, as long as {calls} calls.",
        command(result, duration=TRIAL_LONGEST),
    )


def _cold(result: TrialResult) -> First | None:
    for tool in result.tools:
        median, _ = tool.handler_quantile(0.5)
        if median and tool.first is not None and tool.first >= max(_FIRST_LEAST, _FIRST * median):
            text = f"The first call of {tool.name} took {fmt.duration(tool.first)}, {fmt.times(tool.first / median)} the median."
            return First(text, command(result, tool, duration=TRIAL_LONGEST))
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
            return First(text, command(result, tool, duration=TRIAL_LONGEST))
    return None


def _fine(result: TrialResult) -> First | None:
    tool = max(result.tools, key=lambda each: each.handler_quantile(0.95)[0] or 0.0)
    p50, p95 = tool.handler_quantile(0.5)[0], tool.handler_quantile(0.95)[0]
    text = f"No call failed; the slowest tool, {tool.name}, takes {fmt.duration(p50)} at the median and {fmt.duration(p95)} at p95."
    return First(text, command(result, tool, duration=TRIAL_LONGEST))


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
