"""What every bench script shares: two sides interleaved in one process, a ratio with its interval, a goal, a verdict."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt

from skilllab import format as fmt
from skilllab.stats import interleave, paired_bootstrap

Sense = Literal["at most", "at least"]


@dataclass(frozen=True, slots=True)
class Row:
    """One goal: `ratio` is ours to the peer's ("at most") or the peer's to ours ("at least")."""

    what: str
    peer: str
    ratio: float
    low: float
    high: float
    sense: Sense
    goal: float
    note: str = ""
    show: Callable[[float], str] = fmt.number

    @property
    def met(self) -> bool:
        """Whether the measured ratio is on the right side of the goal."""
        return self.ratio <= self.goal if self.sense == "at most" else self.ratio >= self.goal

    def __str__(self) -> str:
        measured = f"{self.show(self.ratio)} ({fmt.interval(self.low, self.high, self.show)})"
        verdict = "met" if self.met else "MISSED"
        goal = f"{self.sense} {self.show(self.goal)}"
        return f"{verdict:7}{self.what:58} {self.peer:36} {measured:32} {goal:16} {self.note}".rstrip()


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine that never waits, without an event loop, and returns its result."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("the coroutine waited for something: measure it in an event loop")


def compare(
    what: str,
    ours: Callable[[], object],
    peer: str,
    theirs: Callable[[], object],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    rounds: int = 60,
    ours_does: int = 1,
    theirs_does: int = 1,
    note: str = "",
) -> Row:
    """Times both sides in random order in every round and returns the median ratio with its 95 % interval.

    `ours_does` and `theirs_does` are the operations of one call, where the two differ: the ratio is of one operation.
    """
    times = interleave({"ours": ours, "theirs": theirs}, rounds)
    return row(what, peer, times["ours"] / ours_does, times["theirs"] / theirs_does, at_most, at_least, note)


def row(
    what: str,
    peer: str,
    ours: npt.ArrayLike,
    theirs: npt.ArrayLike,
    at_most: float | None = None,
    at_least: float | None = None,
    note: str = "",
) -> Row:
    """Returns the row of two columns of seconds from the same rounds; exactly one goal is given."""
    if at_most is not None:
        found = paired_bootstrap(theirs, ours)
        return Row(what, peer, found.ratio, found.low, found.high, "at most", at_most, note)
    if at_least is None:
        raise ValueError("a goal is missing: give at_most or at_least")
    found = paired_bootstrap(ours, theirs)
    return Row(what, peer, found.ratio, found.low, found.high, "at least", at_least, note)


def report(rows: list[Row], remarks: list[str] | tuple[str, ...] = ()) -> None:
    """Prints the rows and ends the process: 1 when a goal was missed."""
    for line in (*rows, *remarks):
        print(line, flush=True)
    sys.exit(0 if all(row.met for row in rows) else 1)
