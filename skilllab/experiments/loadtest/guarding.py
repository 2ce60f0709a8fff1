"""The guard: looks at the last seconds of a running test and says when it has to end."""

from __future__ import annotations

from skilllab import format as fmt
from skilllab.experiments.loadtest.metrics import value
from skilllab.experiments.loadtest.records import Requests
from skilllab.experiments.loadtest.scenario import Scenario
from skilllab.experiments.loadtest.slo import parse_slo


class Guard:
    """Says why a test has to end early; "" while it may go on."""

    def __init__(self, scenario: Scenario) -> None:
        assert scenario.abort is not None
        self._abort = scenario.abort
        self._conditions = () if scenario.slo is None else parse_slo(scenario.slo)
        self._seen = 0  # rows before it ended too long ago
        self._held = 0.0  # seconds of the test when the SLO held last

    def look(self, requests: Requests, now: float) -> str:
        """Looks at the requests that ended in the last window, `now` seconds from the begin of the test."""
        abort = self._abort
        recent = requests.columns(self._seen)
        old = int(recent.end.searchsorted(now - abort.window))
        self._seen += old
        recent = recent.where(recent.end > now - abort.window)
        if len(recent.ok) < abort.least:
            return ""
        seconds = min(now, abort.window)
        failed = 1 - float(recent.ok.mean())
        if abort.errors is not None and failed >= abort.errors:
            kind, count = next(iter(recent.errors().items()))
            return (
                f"{fmt.ratio(failed)} of the requests in the last {fmt.duration(seconds)} failed "
                f"({kind}: {fmt.count(count)}), and the guard ends at {fmt.ratio(abort.errors)}"
            )
        broken = [each for each in self._conditions if not each.holds(value(each, recent, seconds))]
        if not broken or now <= abort.window:
            self._held = now
        if abort.broken is None or now - self._held < abort.broken:
            return ""
        lasted = fmt.duration(now - self._held)
        return f"{broken[0]} has been broken for {lasted}, and the guard ends after {fmt.duration(abort.broken)}"
