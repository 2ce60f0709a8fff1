"""Timelines: what callers met while a server failed, and what their breaker did."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skilllab import format as fmt
from skilllab.stats import Array

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_IN_A_ROW = 10  # answered calls that end an aftermath: one late call of an ordinary day is none of it
OUTCOMES = ("answered", "failed", "refused")


class Call(NamedTuple):
    """One call, its times in seconds: when it was due and was sent, from the begin of the run; its end counts from `due`.

    outcome: "answered"; "failed" after it was sent; or "refused" by the breaker without being sent.
    """

    due: float
    sent: float
    latency: float
    outcome: str

    @property
    def let_through(self) -> bool:
        """True when no breaker refused it."""
        return self.outcome != "refused"


class Change(NamedTuple):
    """A breaker changed its state, `at` seconds from the begin of the run."""

    at: float
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """One way through an outage.

    calls: those that have ended, in the order in which they were due. changes: of the breaker, none without one.
    stalled: when the server stood still, from and to, in seconds from the begin. served: requests that it worked off.
    """

    calls: tuple[Call, ...]
    changes: tuple[Change, ...]
    stalled: tuple[float, float]
    served: int = 0

    @property
    def waited(self) -> float:
        """Seconds that all callers waited together."""
        return sum(call.latency for call in self.calls)

    @property
    def in_vain(self) -> int:
        """Requests that the server worked off although nobody waited for them any more."""
        return max(0, self.served - self.count("answered"))

    @property
    def aftermath(self) -> float:
        """Seconds after the server was back in which calls came that it did not answer, until it answers ten in a row."""
        back = last = self.stalled[1]
        in_a_row = 0
        for call in self.calls:
            if call.due > back and in_a_row < _IN_A_ROW:
                in_a_row = in_a_row + 1 if call.outcome == "answered" else 0
                last = last if in_a_row else call.due
        return last - back

    @property
    def probes(self) -> tuple[int, ...]:
        """How many calls were let through each time that the breaker tried: one, if it keeps its word.

        Counted from the moment when it opened to the moment when it was no longer half open.
        """
        counts, opened = [], 0.0
        for change in self.changes:
            if change.before == "half-open":
                counts.append(sum(call.let_through and opened < call.sent <= change.at for call in self.calls))
            if change.after == "open":
                opened = change.at
        return tuple(counts)

    def count(self, outcome: str) -> int:
        """Returns how many calls ended so."""
        return sum(call.outcome == outcome for call in self.calls)

    def column(self, field: str, outcome: str | None = None) -> Array:
        """Returns a field of all calls, or of those that ended so, as an array."""
        return np.array([getattr(call, field) for call in self.calls if outcome in (None, call.outcome)], dtype=float)

    def states(self, until: float) -> list[tuple[str, float, float]]:
        """Returns the states of the breaker one after another: name, from, to (s); closed all the time without one."""
        ends = [change.at for change in self.changes] + [max(until, *(change.at for change in self.changes), 0.0)]
        names = ["closed", *(change.after for change in self.changes)]
        return list(zip(names, [0.0, *ends], ends, strict=False))

    def frame(self) -> pd.DataFrame:
        """Returns one row a call: due, sent, latency (s), outcome."""
        import pandas as pd

        return pd.DataFrame(self.calls, columns=list(Call._fields))


@dataclass(frozen=True, slots=True)
class Outage:
    """The same calls through the same outage twice: `without` a breaker and `guarded` by one, until `elapsed` seconds."""

    elapsed: float
    without: Timeline
    guarded: Timeline

    @property
    def saved(self) -> float:
        """Share of the waiting that the breaker spared."""
        return 1 - self.guarded.waited / self.without.waited if self.without.waited else 0.0

    def frame(self) -> pd.DataFrame:
        """Returns one row a call of both ways: breaker, due, sent, latency (s), outcome."""
        import pandas as pd

        both = {"without": self.without.frame(), "guarded": self.guarded.frame()}
        return pd.concat(both, names=["breaker"]).reset_index("breaker").reset_index(drop=True)

    def plot(self) -> Figure:
        """Returns a figure: the latency of each call over time, without and with the breaker, and the breaker's states."""
        from skilllab import plots
        from skilllab.experiments.failures.drawing import OutageDrawing

        fig = plots.figure(8, 7)
        OutageDrawing(fig, self.elapsed).show(self)
        return fig

    def __str__(self) -> str:
        ways = {"without a breaker": self.without, "with it": self.guarded}
        return "; ".join(f"{name} {_words(way)}" for name, way in ways.items())


def spread(values: Iterable[float], show: Callable[[float | None], str]) -> str:
    """Returns the range of what some runs gave, as text; one value where all of them read alike."""
    found = sorted(values)
    alike = show(found[0]) == show(found[-1])
    return show(found[0]) if alike else fmt.interval(found[0], found[-1], show)


def _words(way: Timeline) -> str:
    counts = ", ".join(f"{fmt.count(way.count(outcome))} {outcome}" for outcome in OUTCOMES if way.count(outcome))
    return (
        f"{fmt.count(len(way.calls))} callers wait {fmt.duration(way.waited)} ({counts}), and calls are lost until "
        f"{fmt.duration(way.aftermath, 2)} after the server is back"
    )
