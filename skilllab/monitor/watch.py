"""Watch: looks at rules again and again, and tells once when one is broken for long enough, and once when it holds again."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from skilllab.errors import InvalidValueError
from skilllab.monitor.rules import Rule

if TYPE_CHECKING:
    from skilllab.monitor.monitor import PerformanceMonitor

_KEPT = 1000  # alerts
_log = logging.getLogger("skilllab.monitor")


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule began to be broken, "firing", or no longer is, "cleared".

    skill_id: the skill that it is about, None for all together and for a rule that names several. values: what was measured,
    one for each condition, None where there was nothing to measure. time: seconds since the epoch. lasted: seconds that it
    has been broken.
    """

    rule: str
    skill_id: str | None
    state: Literal["firing", "cleared"]
    values: tuple[float | None, ...]
    time: float
    lasted: float
    text: str = ""

    def __str__(self) -> str:
        return f"{self.state}: {self.text}"


@dataclass(slots=True)
class _State:
    """Since when a rule is broken, and whether that was told."""

    since: float
    firing: bool = False


class Watch:
    """Rules that a monitor looks at; `alerts` are the last of them, `firing` those that are not cleared, by rule and skill."""

    def __init__(
        self,
        monitor: PerformanceMonitor,
        interval: float,
        rules: Iterable[str],
        on_alert: Callable[[Alert], object] | None,
        on_report: Callable[[Any], object] | None,
        clock: Callable[[], float],
        on_close: Callable[[Watch], object] | None = None,
    ) -> None:
        if isinstance(rules, str):
            raise InvalidValueError(f"rules={rules!r} must be several texts: put it in a list")
        self.rules = tuple(Rule.of(rule) for rule in rules)
        for name, callback in (("on_alert", on_alert), ("on_report", on_report)):
            if callback is not None and (not callable(callback) or inspect.iscoroutinefunction(callback)):
                raise InvalidValueError(
                    f"{name}={callback!r} must be a plain function; for longer work, let it start a task"
                )
        self.interval = interval
        self.alerts: deque[Alert] = deque(maxlen=_KEPT)
        self._monitor, self._clock = monitor, clock
        self._on_alert, self._on_report, self._on_close = on_alert, on_report, on_close
        self._states: dict[tuple[Rule, str | None], _State] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def firing(self) -> tuple[tuple[str, str | None], ...]:
        """The rules that are broken and were told, each with its skill."""
        return tuple((rule.text, skill_id) for (rule, skill_id), state in self._states.items() if state.firing)

    def start(self) -> None:
        """Looks every `interval` seconds from now on, on the running event loop."""
        loop = asyncio.get_running_loop()
        self._plan(loop, loop.time() + self.interval)

    def close(self) -> None:
        """Ends it; what fires stays told."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._on_close is not None:
            self._on_close(self)

    def look(self) -> None:
        """Looks at every rule now."""
        now = self._clock()
        with self._monitor.reading() as book:
            skill_ids = tuple(book.tallies)
            looks = [self._look(rule, each, now) for rule in self.rules for each in rule.about(skill_ids)]
        for alert in filter(None, looks):  # what is told may wait for whoever waits for the lock
            self.alerts.append(alert)
            if self._on_alert is not None:
                self._tell(self._on_alert, alert)
        if self._on_report is not None:
            self._tell(self._on_report, self._monitor.get_performance_report(window=True))

    def _plan(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._timer = loop.call_at(due, self._wake, loop, due)

    def _wake(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._plan(loop, max(due, loop.time() - self.interval) + self.interval)  # before what may fail
        try:
            self.look()
        except Exception:  # noqa: BLE001 - whatever it was, the next look may do
            _log.exception("a look at the rules failed; the watch goes on")

    def _look(self, rule: Rule, skill_id: str | None, now: float) -> Alert | None:
        state = self._states.get((rule, skill_id))
        values = rule.values(self._monitor, skill_id)
        if rule.broken(values):
            if state is None:
                state = self._states[rule, skill_id] = _State(since=now)
            if not state.firing and now - state.since >= rule.lasting:
                state.firing = True
                return self._alert(rule, skill_id, "firing", values, now, now - state.since)
        elif state is not None and not rule.undecided(values, self._monitor, skill_id):
            del self._states[rule, skill_id]
            if state.firing:
                return self._alert(rule, skill_id, "cleared", values, now, now - state.since)
        return None

    def _alert(
        self,
        rule: Rule,
        skill_id: str | None,
        state: Literal["firing", "cleared"],
        values: tuple[float | None, ...],
        now: float,
        lasted: float,
    ) -> Alert:
        whose = f" ({skill_id})" if rule.for_each else ""
        text = f"{rule.text}{whose}: {rule.show(values, self._monitor, skill_id)}"
        return Alert(rule.text, skill_id, state, values, now, lasted, text)

    def _tell(self, callback: Callable[[Any], object], what: Any) -> None:
        try:
            callback(what)
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 - a callback's failure is not the watch's
            _log.exception("a callback of a watch failed; the watch goes on")
