"""The limit matrix: every limit against a skill that wants more, in every way to run it: enforced, refused, or ignored."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from skilllab import format as fmt
from skilllab.engine import LayeredExecutionEngine
from skilllab.engine.workers.machine import ISOLATIONS, Isolation
from skilllab.errors import InvalidValueError, IsolationError, LimitExceededError, LimitNotEnforceableError
from skilllab.experiments.limits.loopback import Door
from skilllab.experiments.limits.misbehaviours import MISBEHAVIOURS
from skilllab.experiments.limits.ways import KINDS, NETWORK, engine_for, here, limits_of, parameters, skill_id
from skilllab.outcome import ExecutionResult

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

OUTCOMES = ("enforced", "refused", "ignored")

_NO_NETWORK = ("Connection refused", "Network is unreachable")
"""What is said where there is no network: a server listens, and the way to it is not there."""
_REASON = re.compile(r"^.* cannot be held: |; FunctionOptions.*|\. The skill did not start.*", re.DOTALL)
"""What stands around the reason of a refusal."""

Progress = Callable[[int, int], object]


class Cell(NamedTuple):
    """One limit in one way to run a skill: what became of it, and in words what happened."""

    limit: str
    isolation: str
    kind: str
    outcome: str
    words: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """What became of every limit in every way to run a skill."""

    cells: tuple[Cell, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many cells were enforced, refused and ignored."""
        return {outcome: sum(cell.outcome == outcome for cell in self.cells) for outcome in OUTCOMES}

    @property
    def reasons(self) -> dict[str, tuple[str, ...]]:
        """Why calls were refused: each reason with the limits that it is for."""
        found: dict[str, dict[str, None]] = {}
        for cell in self.cells:
            if cell.outcome == "refused":
                found.setdefault(cell.words, {})[cell.limit] = None
        return {reason: tuple(limits) for reason, limits in found.items()}

    @property
    def finding(self) -> str:
        """What it comes to, in one line."""
        counts = {outcome: fmt.count(count) for outcome, count in self.counts.items()}
        ignored = counts["ignored"] if self.counts["ignored"] else "none"
        total = fmt.count(len(self.cells))
        return f"{counts['enforced']} of {total} enforced, {counts['refused']} refused, {ignored} ignored"

    def frame(self) -> pd.DataFrame:
        """Returns one row a cell: limit, isolation, kind, outcome, words."""
        import pandas as pd

        return pd.DataFrame(self.cells, columns=list(Cell._fields))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws a table of outcomes: limits from the top, isolations and kinds from the left."""
        from skilllab.experiments.limits.drawing import draw_matrix

        return draw_matrix(self, ax)

    def __str__(self) -> str:
        refused = "; ".join(f"{', '.join(limits)}: {reason}" for reason, limits in self.reasons.items())
        ignored = "; ".join(
            f"{cell.limit} of a {cell.kind} with isolation {cell.isolation}: {cell.words}"
            for cell in self.cells
            if cell.outcome == "ignored"
        )
        parts = (self.finding, refused and f"Refused: {refused}", ignored and f"Ignored: {ignored}")
        return ". ".join(part for part in parts if part) + "."


async def matrix(
    isolations: Sequence[Isolation] | None = None,
    *,
    limits: Iterable[str] = tuple(MISBEHAVIOURS),
    kinds: Sequence[str] = KINDS,
    on_progress: Progress | None = None,
) -> Matrix:
    """Runs a skill that wants more than allowed for every limit, isolation and kind, each in a real engine.

    isolations: those of this machine when None. on_progress: called with (cells done, cells in all).
    "enforced": the error names the limit; for the network, the call failed and the server here was not reached. "refused":
    the call did not start, with the reason. "ignored" is everything else. Raises InvalidValueError for an unknown name.
    """
    where = here() if isolations is None else tuple(isolations)
    asked = tuple(limits)
    for name, values, known in (
        ("isolations", where, ISOLATIONS),
        ("limits", asked, tuple(MISBEHAVIOURS)),
        ("kinds", kinds, KINDS),
    ):
        wrong = [value for value in values if value not in known]
        if wrong:
            raise InvalidValueError(f"{name}(={wrong[0]!r}) must be among {', '.join(known)}")
    found: dict[tuple[str, str, str], Cell] = {}

    async def tried(isolation: Isolation, some: Sequence[str]) -> None:
        with Door() as at:
            async with engine_for(isolation, asked, some) as engine:
                for limit, kind in itertools.product(asked, some):
                    outcome, words = await _outcome(engine, limit, kind, at)
                    found[limit, isolation, kind] = Cell(limit, isolation, kind, outcome, words)
                    if on_progress is not None:
                        on_progress(len(found), len(where) * len(asked) * len(kinds))

    for isolation in where:
        async with asyncio.TaskGroup() as group:  # two engines: one keeps its workers, the other does not
            for fresh in (False, True):
                group.create_task(tried(isolation, [kind for kind in kinds if (kind == "fresh script") == fresh]))
    return Matrix(tuple(found[place] for place in itertools.product(asked, where, kinds)))


async def _outcome(engine: LayeredExecutionEngine, limit: str, kind: str, at: Door) -> tuple[str, str]:
    misbehaviour, before = MISBEHAVIOURS[limit], at.visits
    result = await engine.execute(
        skill_id(limit, kind), parameters(misbehaviour, at.port), resource_limits=limits_of(misbehaviour)
    )
    return judged(result, limit, reached=at.visits > before)


def judged(result: ExecutionResult, limit: str, *, reached: bool = False) -> tuple[str, str]:
    """Returns the outcome of a call that wanted more than `limit` allows, and its words. reached: whether a server was."""
    error = result.error
    if error is None:
        return "ignored", f"it got what it wanted: {result.output!r}"
    words = str(error).removeprefix(f"{result.metadata.skill_id}: ")
    if isinstance(error, LimitNotEnforceableError | IsolationError):
        return "refused", _REASON.sub("", words)
    named = isinstance(error, LimitExceededError) and error.limit == limit
    if limit == NETWORK:
        named = not reached and (named or any(text in words for text in _NO_NETWORK))
    return ("enforced" if named else "ignored"), words
