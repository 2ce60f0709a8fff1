"""The guard: looks at the last seconds of a running test and says when it has to end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from skilllab import format as fmt
from skilllab.conditions import Condition
from skilllab.experiments.loadtest.metrics import answers, metric
from skilllab.experiments.loadtest.records import Columns, Requests
from skilllab.experiments.loadtest.scenario import Scenario
from skilllab.experiments.loadtest.slo import parse_slo
from skilllab.stats import Array


class _Window(NamedTuple):
    """The last `seconds` of a test: what ended in them, the responses with what was dropped, and what is under way."""

    seconds: float
    ended: Columns
    response: Array  # inf: failed or dropped
    under_way: Array  # seconds since each was due


class Guard:
    """Says why a test has to end early; "" while it may go on."""

    def __init__(self, scenario: Scenario) -> None:
        assert scenario.abort is not None
        self._abort = scenario.abort
        self._conditions = () if scenario.slo is None else parse_slo(scenario.slo)
        self._seen = self._dropped = 0  # rows before it ended, and what was dropped before, too long ago
        self._held = 0.0  # seconds of the test when the SLO was last not known to be broken

    def look(self, requests: Requests, now: float, under_way: Sequence[float] = ()) -> str:
        """Looks at what ended in the last window, and at what has no end, `now` seconds from the begin of the test.

        under_way: intended starts (s) of the requests without an end. One that is under way for longer than the bound of a
        latency is over it, so that a target that hangs is seen to hang.
        """
        window = self._window(requests, now, under_way)
        return self._failing(window) or self._broken(window, now)

    def _window(self, requests: Requests, now: float, under_way: Sequence[float]) -> _Window:
        since = now - self._abort.window
        recent = requests.columns(self._seen)
        self._seen += int(recent.end.searchsorted(since))
        recent = recent.where(recent.end > since)
        dropped, _, _ = requests.lost("dropped", self._dropped)
        old = int(dropped.searchsorted(since, side="right"))
        self._dropped += old
        response = answers(recent, dropped[old:]).response
        return _Window(min(now, self._abort.window), recent, response, now - np.array(under_way, dtype=np.float64))

    def _failing(self, window: _Window) -> str:
        most, failed = self._abort.errors, np.isinf(window.response)
        if most is None or len(failed) < self._abort.least or failed.mean() < most:
            return ""
        kinds = {**window.ended.errors(), "dropped": len(failed) - len(window.ended.ok)}
        kind = max(kinds, key=lambda each: kinds[each])
        return (
            f"{fmt.ratio(float(failed.mean()))} of the requests in the last {fmt.duration(window.seconds)} failed "
            f"({kind}: {fmt.count(kinds[kind])}), and the guard ends at {fmt.ratio(most)}"
        )

    def _broken(self, window: _Window, now: float) -> str:
        abort = self._abort
        broken = [each for each in self._conditions if self._breaks(each, window)]
        if not broken or now <= abort.window:
            self._held = now
        if abort.broken is None or now - self._held < abort.broken:
            return ""
        lasted = fmt.duration(now - self._held)
        return f"{broken[0]} has been broken for {lasted}, and the guard ends after {fmt.duration(abort.broken)}"

    def _breaks(self, condition: Condition, window: _Window) -> bool:
        """Tells whether a condition is known to be broken in the window: not by fewer than `least` requests."""
        if condition.metric == "rate":
            known = len(window.response) + len(window.under_way)
            return known >= self._abort.least and not condition.holds(float(window.ended.ok.sum()) / window.seconds)
        late = int((window.under_way > condition.bound).sum()) if condition.kind == "duration" else 0
        response = np.concatenate((window.response, np.full(late, np.inf)))
        return len(response) >= self._abort.least and not condition.holds(metric(condition, response))
