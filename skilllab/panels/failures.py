"""FailuresPanel: what timeout and breaker do to callers while a server stalls, predicted at once and measured on request."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

from skilllab import format as fmt
from skilllab import plots
from skilllab.errors import InvalidValueError
from skilllab.experiments.failures import Outage, Scenario, outage_apart, predicted
from skilllab.experiments.failures.drawing import OutageDrawing
from skilllab.panels.controls import Control, durations, named, steps, whole_numbers
from skilllab.panels.measuring import MeasuringPanel
from skilllab.panels.picture import Picture

_STALLS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)  # s
_LATER = 1.0  # s that the server works again at least
_FRAME = 0.25  # s between two pictures of a run
_MOST_KNOWN = 200  # predictions kept: some 100 KiB each


class Measure(Protocol):
    """Measures an outage and tells how far it is, as `outage_apart` does."""

    def __call__(self, scenario: Scenario, *, on_progress: Callable[[Outage], object]) -> Awaitable[Outage]: ...


class FailuresPanel(MeasuringPanel[Scenario, Outage]):
    """Latency of every call over time, without and with a breaker, and the breaker's states, through one outage.

    scenario: where the controls start, and what they do not change; its length stays as it is. measure: what Run does.
    A moved control shows a prediction: the same engine, breaker, arrivals and queue in virtual time. Run measures the
    same with real servers in processes of their own; to change a control ends that. What was measured stays known.

    Controls: .timeout, .failures, .recovery, .stall; and .run, the button that starts and stops.
    Raises InvalidValueError for a scenario that leaves no time after the longest stall.
    """

    _starting = "starting servers …"

    def __init__(self, scenario: Scenario | None = None, *, measure: Measure = outage_apart) -> None:
        self._base = base = scenario or Scenario()
        stalls = sorted({*_STALLS, base.stall})
        if base.duration - base.before - stalls[-1] < _LATER:
            raise InvalidValueError(
                f"a scenario of {fmt.duration(base.duration)} must leave {fmt.duration(_LATER)} after a stall of "
                f"{fmt.duration(stalls[-1])}: make `after` longer"
            )
        self._prepare(measure)
        self._known: dict[Scenario, Outage] = {}
        self._so_far: Outage | None = None
        self._drawn = 0.0
        waits, pauses = durations(0.1, 2.0, base.timeout), durations(0.1, 2.0, base.recovery)
        counts = named(whole_numbers(1, 20, base.failures), fmt.count)
        self.timeout = steps("Timeout", named(waits, _time), base.timeout, "How long a caller waits")
        self.failures = steps("Failures to open", counts, base.failures, "How many in a row open the breaker")
        self.recovery = steps("Recovery time", named(pauses, _time), base.recovery, "How long it refuses all calls")
        self.stall = steps("Stall", named(stalls, _time), base.stall, "How long the server stands still")
        controls: list[Control[Any]] = [self.timeout, self.failures, self.recovery, self.stall]
        fig = plots.figure(6.0, 5.6)
        self._drawing = OutageDrawing(fig, base.duration)
        super().__init__(controls, Picture(fig, [self._drawing.artists]), self._note())
        self._add_run_button("Measure it with real servers, or stop that")

    def update(self) -> Iterator[str]:
        """Draws what was measured with these values, or is being measured, or else what is predicted."""
        scenario = self._chosen()
        self._may_draw(scenario)
        outage, how = self._outage(scenario)
        self._drawing.show(outage, how)
        self._picture.draw(1)
        yield _words(scenario, outage, how)

    def _chosen(self) -> Scenario:
        """Returns the scenario that the controls stand at; its length is always the same."""
        base, stall = self._base, self.stall.value
        return replace(
            base,
            timeout=self.timeout.value,
            failures=self.failures.value,
            recovery=self.recovery.value,
            stall=stall,
            after=base.duration - base.before - stall,
        )

    def _outage(self, scenario: Scenario) -> tuple[Outage, str]:
        if scenario == self._running and self._so_far is not None:
            return self._so_far, "measuring …"
        if scenario in self._measured:
            return self._measured[scenario], "measured"
        if scenario not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            with self.busy():
                self._known[scenario] = predicted(scenario)
        return self._known[scenario], "predicted"

    # running

    async def _run(self, chosen: Scenario) -> None:
        self._so_far = None
        await super()._run(chosen)

    def _on_progress(self, outage: Outage) -> None:
        now, self._so_far = time.monotonic(), outage
        seconds = f"{min(outage.elapsed, self._base.duration):.1f} of {self._base.duration:.1f} s"
        self._show_progress("Stop", seconds, outage.elapsed / self._base.duration)
        if now - self._drawn >= _FRAME:
            self._drawn = now
            self._changed()

    def _note(self) -> str:
        base = self._base
        return (
            f"{fmt.number(base.rate)} calls a second at random times (seed {base.seed}), none repeated, to a server with "
            f"{base.workers} workers and {_time(base.service)} a request. It stalls after {_time(base.before)}. "
            "Aftermath: how long after its return calls are still lost."
        )


def _words(scenario: Scenario, outage: Outage, how: str) -> str:
    """Returns the summary: what was set, what callers meet without and with a breaker, and what to do next."""
    without, guarded = outage.without, outage.guarded
    refused = guarded.count("refused")
    ways = (
        f"{how.capitalize()}, {_count(len(without.calls), 'call')}, a stall of {_time(scenario.stall)}, a timeout of "
        f"{_time(scenario.timeout)}: without a breaker callers wait {fmt.duration(without.waited)} in all, with one "
        f"{fmt.duration(guarded.waited)}. It opens after {_count(scenario.failures, 'failure')} in a row, refuses "
        f"{_count(refused, 'call')} at once, and lets one through after {_time(scenario.recovery)}, "
        f"{_count(len(guarded.probes), 'time')}."
    )
    return f"{ways} Press Run to measure it." if how == "predicted" else ways


def _count(number: int, what: str) -> str:
    return f"{fmt.count(number)} {what}{'' if number == 1 else 's'}"


def _time(seconds: float) -> str:
    return fmt.trimmed(fmt.duration(seconds))
