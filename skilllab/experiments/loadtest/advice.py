"""Warnings: what limits the meaning of a load test's figures, each with a number and a next step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skilllab import format as fmt
from skilllab import series
from skilllab.experiments.loadtest.generator import spans
from skilllab.experiments.loadtest.slo import parse_slo
from skilllab.settings import SLOW_STEP
from skilllab.stats import Array, quantile

if TYPE_CHECKING:
    from skilllab.experiments.loadtest.result import LoadTestResult

_LAG = 1e-3  # s at p99 that a generator on an event loop is late at most when it keeps up
_LAG_SHARE = 0.05  # of the response time
_FAILED = 0.01  # of the requests, beyond which latencies of the others say less
_SLICES = 20  # of the first stage, whose medians tell a trend
_EACH = 10  # successes in a slice at least
_TREND = 1.1  # times as slow as ever in the second half
_GROWTH = 1.5
_STEAL, _OTHERS, _LOAD, _FULL = 0.01, 0.1, 1.0, 0.95  # shares of the processors; load for each of them
_ROOM = 1.2  # times the duration that would just do
_EARLY = {"aborted": "mend the cause and run it again", "stopped": "run it to its end for the whole"}


class LoadWarning(NamedTuple):
    """One thing that limits what the figures mean. value: its number. text: what was seen. advice: what to do next."""

    kind: str
    value: float
    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.text}; {self.advice}."


def warnings_of(result: LoadTestResult) -> tuple[LoadWarning, ...]:
    """Returns all warnings about a result, those that make it void first."""
    return tuple(found for rule in _RULES for found in rule(result))


def _ended_early(result: LoadTestResult) -> Iterator[LoadWarning]:
    reason, seconds = result.ending.reason, result.ending.seconds
    if reason in _EARLY:
        why = f": {result.ending.why}" if result.ending.why else ""
        text = f"The test was {reason} after {fmt.duration(seconds)}{why}"
        before = "what came before is measured"
        if result.ending.lost:
            before += " and what was under way is in no figure, so that no SLO passes"
        yield LoadWarning(reason, seconds, text, f"{before}, {_EARLY[reason]}")


def _failures(result: LoadTestResult) -> Iterator[LoadWarning]:
    if not len(result.measured.ok):
        yield LoadWarning(
            "nothing-measured",
            len(result.requests),
            f"No request ended after the warm-up of {fmt.duration(result.scenario.warmup)}",
            "give it a longer duration or a shorter warmup",
        )
        return
    failed = result.measured.error_share
    if failed > _FAILED:
        kinds = ", ".join(f"{kind} {fmt.count(count)}" for kind, count in list(result.errors.items())[:3])
        rest = "there is no response time" if failed == 1 else "response times are those of the others"
        text = f"{fmt.ratio(failed)} of the requests failed ({kinds}): {rest}"
        yield LoadWarning("failures", failed, text, "look at one with engine.execute(...).error before the next test")


def _lost(result: LoadTestResult) -> Iterator[LoadWarning]:
    if result.dropped:
        most = fmt.count(result.scenario.max_in_flight)
        text = (
            f"{fmt.count(result.dropped)} requests were dropped, since {most} were under way: they are in no "
            "response time, which is too low for that"
        )
        yield LoadWarning("dropped", result.dropped, text, "lower the rate: the target does not keep up with it")
    if result.unfinished:
        early = result.ending.reason in _EARLY
        text = (
            f"{fmt.count(result.unfinished)} requests had no end when the test ended: they are in no response time, "
            f"which {'may be' if early else 'is'} too low for that"
        )
        slower = "lower the rate, or " if result.scenario.open else ""
        advice = f"{slower}give requests a timeout so that they end"
        yield LoadWarning("unfinished", result.unfinished, text, _EARLY[result.ending.reason] if early else advice)


def _late(result: LoadTestResult) -> Iterator[LoadWarning]:
    """The generator sent requests late, or the skill kept it from sending."""
    columns, step = result.measured, result.ending.longest_step
    if not len(columns.lag):
        return
    late, share = quantile(columns.lag, 0.99), columns.lag.sum() / max(1e-12, columns.response.sum())
    if not result.scenario.open:
        yield from _starved(result)
    elif late > _LAG and share > _LAG_SHARE:
        seen = f"p99 of its lag is {fmt.duration(late)}, and lag is {fmt.ratio(share)} of all response time"
        if step >= SLOW_STEP:
            text = f"The skill held up the event loop for up to {fmt.duration(step)}, and the generator with it: {seen}"
            yield LoadWarning("loop-blocked", step, text, "write it as a plain def, which runs in a thread")
        else:
            used = None if result.ending.machine is None else result.ending.machine.generator
            text = f"The generator could not keep up: {seen}; its process used {fmt.ratio(used)} of a processor"
            room = "end what else runs here" if result.ending.apart else 'run it apart with where="process"'
            yield LoadWarning("generator-late", late, text, f"lower the rate, or {room}")


def _starved(result: LoadTestResult) -> Iterator[LoadWarning]:
    """Workers of a closed test waited for the event loop, not for their answers."""
    workers, columns = _begun(result), result.measured
    waited, busy = float(columns.lag.sum()), float((columns.end - columns.start).sum())
    idle = max(0, workers.count(0) - result.requests.unfinished)  # one whose first request had no end has sent it
    if len(workers) < 2 or len(columns.ok) < 3 or not (waited > busy or (idle and max(workers) >= 3)):
        return
    at_once = busy / max(1e-12, result.seconds)
    few = f", and {idle} of them sent nothing" if idle else ""
    text = (
        f"Workers starved: of {len(workers)} only {fmt.number(at_once, 2)} were under way at a time{few}, since the skill "
        f"(or a function of parameters) never yields to the event loop; {fmt.ratio(waited / (waited + busy))} of the "
        "response time is waiting for it"
    )
    yield LoadWarning("workers-starved", at_once, text, "write the skill as a plain def, which runs in a thread")


def _begun(result: LoadTestResult) -> list[int]:
    """Returns the requests that each worker finished, of those whose turn had come when the test ended."""
    ending = result.ending
    begun = {worker for worker, begin, _ in spans(result.scenario) if begin < ending.seconds}
    return [requests for worker, requests in enumerate(ending.workers) if worker in begun]


def _short(result: LoadTestResult) -> Iterator[LoadWarning]:
    """A quantile that matters has no interval."""
    n, open_slo = len(result.responses), [] if result.scenario.slo is None else parse_slo(result.scenario.slo)
    wanted = {each.q for each in open_slo if each.q is not None} or {0.95}
    missing = sorted(q for q in wanted if result.percentile_interval(100 * q) is None)
    if not n or not missing:
        return
    q = missing[-1]
    size, needed = series.effective_size(result.responses, q), series.enough(q)
    factor = _ROOM * max(needed / size, needed / n)
    text = (
        f"The run is too short for an interval of p{fmt.trimmed(fmt.number(100 * q))}: its {fmt.count(n)} response times "
        f"tell as much as {fmt.count(int(size))} independent ones, and it takes {fmt.count(needed)}"
    )
    longer = result.seconds * factor + result.scenario.warmup
    step = f"run it for {fmt.duration(longer, 2)}"
    if result.scenario.duration is None:
        step = f"run it with count={math.ceil(factor * len(result.requests)):,d}".replace(",", "_")
    yield LoadWarning("too-short", size, text, step)


def _trend(result: LoadTestResult) -> Iterator[LoadWarning]:
    """Response times fell at first, or grew to the end, within the first stage where the load stays the same."""
    stage = result.scenario.stages[0]
    if stage.to is not None:
        return
    medians, width = _medians(result)
    if not len(medians):
        return
    begin, settled = result.scenario.warmup, medians[_SLICES // 2 :]
    slow = medians > _TREND * settled.max()
    if slow[0]:
        seconds = begin + width * int(np.argmin(slow))
        text = (
            f"The target was still warming: its median was {fmt.duration(medians[0])} at first and "
            f"{fmt.duration(float(np.median(settled)))} later"
        )
        yield LoadWarning("still-warming", medians[0] / float(np.median(settled)), text, f"use warmup={seconds:.2g}")
    first, last = medians[: _SLICES // 4], medians[-_SLICES // 4 :]
    if result.scenario.open and last.min() > _GROWTH * first.max():
        text = (
            f"The target does not keep up: its median went from {fmt.duration(float(np.median(first)))} to "
            f"{fmt.duration(float(np.median(last)))} and has no steady value"
        )
        growth = float(np.median(last) / np.median(first))
        yield LoadWarning("backlog", growth, text, "lower the rate; find_capacity tells which one holds")


def _medians(result: LoadTestResult) -> tuple[Array, float]:
    """Returns medians of the response in slices of the first stage and their width in seconds; none where one is thin."""
    begin, end = result.scenario.warmup, min(result.scenario.bounds[1], result.ending.seconds)
    ok = result.measured.where(result.measured.ok)
    place = ((ok.intended - begin) / max(1e-12, end - begin) * _SLICES).astype(np.int64)
    columns = [ok.response[place == number] for number in range(_SLICES)]
    if begin >= end or min(len(column) for column in columns) < _EACH:
        return np.zeros(0), 0.0
    return np.array([np.median(column) for column in columns]), (end - begin) / _SLICES


def _busy(result: LoadTestResult) -> Iterator[LoadWarning]:
    """The machine was busy, with something else or as a whole; the warning's value is the largest of its numbers."""
    machine = result.ending.machine
    if machine is None:
        return
    rules = (
        (machine.steal, _STEAL, f"its host took {fmt.ratio(machine.steal)} of the processors away (steal)"),
        (machine.others, _OTHERS, f"other programs used {fmt.ratio(machine.others)} of the processors"),
        (machine.load, _LOAD, f"the load before was {fmt.number(machine.load, 2)} for each processor"),
        (machine.busy, _FULL, f"its processors were {fmt.ratio(machine.busy)} busy"),
    )
    seen = [(value, text) for value, most, text in rules if value is not None and value > most]
    if seen:
        text = f"The machine was busy: {', '.join(text for _, text in seen)}"
        advice = "end what else runs, unless it is what is tested, and repeat the test"
        yield LoadWarning("machine-busy", max(value for value, _ in seen), text, advice)


_RULES: tuple[Callable[[LoadTestResult], Iterator[LoadWarning]], ...] = (
    _ended_early,
    _failures,
    _lost,
    _late,
    _short,
    _trend,
    _busy,
)
