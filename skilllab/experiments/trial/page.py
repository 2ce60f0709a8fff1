"""A trial as one page of text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from skilllab import format as fmt
from skilllab.experiments.trial.advice import First, first_finding
from skilllab.experiments.trial.result import ToolTrial, TrialResult, estimate
from skilllab.skills.redaction import HIDDEN
from skilllab.stats import quantile

WIDTH = 118
_MOST_TOOLS = 12
_MOST_TROUBLES = 14  # lines about what went wrong, so that it stays one page
_BUSY = 0.25  # share of the processors for others, beyond which times are theirs as well
_FEW, _NO_INTERVAL = "n too small", "no interval"
_NEXT = "Next: "


def page(result: TrialResult, kept: str = "") -> str:
    """Returns the page, at most 60 lines of 118 characters. kept: where the result was stored."""
    blocks = [_wrapped(_head(result)), _wrapped(_connects(result)), _apart(result), _table(result)]
    blocks += [[*_few(list(_troubles(result))), *_wrapped(_rest(result))], _wrapped(_closing(result, kept))]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def paragraph(result: TrialResult) -> str:
    """Returns the trial in a few sentences."""
    found = first_finding(result)
    return (
        f"Trial of {result.title}: {fmt.several(result.calls, 'call')} of {fmt.several(len(result.tools), 'tool')} in "
        f"{fmt.duration(result.elapsed)}, {fmt.count(result.errors)} failed. {found.text} {' '.join(_next(found))}"
    )


def _head(result: TrialResult) -> Iterator[str]:
    yield f"{result.title}"
    stopped = ", stopped by hand" if result.stopped else ""
    pings = " with the pings" if result.pings else ""
    yield (
        f"{fmt.several(result.calls, 'call')} in {fmt.duration(result.elapsed)}{stopped}: one at a time, at most "
        f"{fmt.rate(result.rate)}{pings}; nothing was tried again or answered from a cache"
    )
    if result.others is not None and result.others > _BUSY:
        yield f"warning  other programs used {fmt.ratio(result.others, 0)} of the processors: times are longer than they are alone"


def _connects(result: TrialResult) -> Iterator[str]:
    yield f"connect  {fmt.duration(result.connect)} ({result.connecting}, once, and part of no time below)"
    if result.reconnects:
        again = ", ".join(map(fmt.duration, result.reconnects[:3])) + ", …" * (len(result.reconnects) > 3)
        yield f"         and again, since the server was lost, {len(result.reconnects)} ×: {again}"


def _apart(result: TrialResult) -> list[str]:
    """Returns what is no handler time, a row each."""
    nothing = "a call that does nothing" + ", to a server here that answers at once" * (result.kind == "http")
    rows = [("", "p50 (95 %)", "p95 (95 %)", ""), ("noise floor", *_both(result.floor), nothing)]
    if result.pings:
        rows.append(("round trip", *_both(result.pings), "to the server and back, without a tool"))
    rows.append(("queue", *_both(result.queue), "in the engine, before the tool began"))
    rows.append(("late", *_both(result.late), "how late this client itself began, by its timer"))
    return _columns(rows, "lrrl")


def _table(result: TrialResult) -> list[str]:
    shown = _shown(result)
    rows: list[tuple[str, ...]] = [
        ("tool", "calls", "first", "handler p50 (95 %)", "handler p95 (95 %)", "longest", "size", "errors")
    ]
    rows += [_row(tool) for tool in shown]
    more = len(result.tools) - len(shown)
    return [*_columns(rows, "lrrrrrrr"), *([f"and {more} more, which the stored result has"] if more else [])]


def _shown(result: TrialResult) -> list[ToolTrial]:
    """Returns the tools that the page has room for: those that failed or hung first, then the most called."""
    return sorted(result.tools, key=lambda tool: (not tool.errors and not tool.cut, -tool.calls))[:_MOST_TOOLS]


def _columns(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """Returns a line a row, each cell as wide as its column, on its left or right side."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, sides, strict=True)
        ).rstrip()
        for row in rows
    ]


def _row(tool: ToolTrial) -> tuple[str, ...]:
    ok = tool.handled
    return (
        fmt.cut(tool.name, 24),
        fmt.count(tool.calls),
        fmt.duration(tool.first),
        *_both(ok),
        fmt.duration(float(ok.max()) if len(ok) else None),
        fmt.size(quantile(tool.sizes, 0.5) if len(tool.sizes) else None),
        fmt.count(sum(tool.errors.values())),
    )


def _both(values: npt.ArrayLike) -> tuple[str, str]:
    """Returns p50 and p95 of seconds in the order of time, with their intervals."""
    return _quantile(values, 0.5), _quantile(values, 0.95)


def _quantile(values: npt.ArrayLike, q: float) -> str:
    value, interval = estimate(values, q)
    if value is None:
        return _FEW if np.size(values) else fmt.NOT_MEASURED
    if interval is None:
        return f"{fmt.duration(value)} ({_NO_INTERVAL})"
    return f"{fmt.duration(value)} ({fmt.interval(interval.low, interval.high, fmt.duration)})"


def _troubles(result: TrialResult) -> Iterator[str]:
    for tool in _shown(result):
        for kind, count in tool.errors.items():
            yield f"{tool.name}: {count} × {kind}: {tool.said(kind)}"
        if tool.gave_up:
            yield f"{tool.name}: left alone after {tool.failed_last} failures in a row"
        if tool.cut:
            cut = (
                "1 call was cut off at the end and counts"
                if tool.cut == 1
                else f"{tool.cut} calls were cut off and count"
            )
            yield f"{tool.name}: {cut} as nothing"


def _few(troubles: list[str]) -> list[str]:
    """Returns lines for which the page has room: whole, else one for each, and how many there are beyond them."""
    rows = _wrapped(troubles)
    if len(rows) <= _MOST_TROUBLES:
        return rows
    rows = [fmt.cut(trouble, WIDTH) for trouble in troubles[:_MOST_TROUBLES]]
    more = len(troubles) - len(rows)
    return [*rows, *([f"and {more} more of these, which the stored result has"] if more else [])]


def _rest(result: TrialResult) -> Iterator[str]:
    if result.memory:
        sizes = [size for _, size in result.memory]
        yield (
            f"memory of the server  {fmt.size(sizes[0])} after the first call, {fmt.size(sizes[-1])} at the end, "
            f"{fmt.size(max(sizes))} at most"
        )
    if result.passed_over:
        reasons = dict.fromkeys(result.passed_over.values())
        named = {why: ", ".join(name for name, other in result.passed_over.items() if other == why) for why in reasons}
        yield f"not called  {fmt.cut('; '.join(f'{names} ({why})' for why, names in named.items()), 3 * WIDTH)}"
    if result.problems:
        yield f"no skills  {fmt.cut('; '.join(result.problems), 2 * WIDTH)}"


def _closing(result: TrialResult, kept: str) -> Iterator[str]:
    found = first_finding(result)
    yield f"First finding: {found.text}"
    yield from _next(found)
    if kept:
        yield kept


def _next(found: First) -> Iterator[str]:
    """Returns the next command, or what to do where no command would show more."""
    if not found.command:
        yield f"No next command: {found.instead}."
        return
    yield f"{_NEXT}{found.command}"
    if HIDDEN in found.command:
        yield f"(In this command {HIDDEN} stands for secrets, which are left out: put them in again.)"


def _wrapped(lines: Iterable[str]) -> list[str]:
    """Returns the lines cut to the page's width, but a command, which is copied whole."""
    rows: list[str] = []
    for line in lines:
        cut = textwrap.wrap(line, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        rows += [line] if line.startswith(_NEXT) else cut
    return rows
