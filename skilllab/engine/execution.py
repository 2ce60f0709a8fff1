"""Execution: one execution under way. A runner is given one, and notes in it what it did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal, Protocol

from skilllab.loading import LoadedSkill
from skilllab.model import FrozenDict, ResourceLimits
from skilllab.outcome import ResourceUsage

Reason = Literal["timeout", "cancel", "close"]

NOT_STARTED = ResourceUsage(
    unmeasured=FrozenDict(
        dict.fromkeys(
            ("cpu_time", "memory_used", "network_requests", "redirects"), "the skill did not run for this call"
        )
    )
)


class Execution:
    """One execution while it runs.

    Given to a runner: execution_id; skill; params (the skill's own copy); limits, all of which the runner enforces;
    deadline, in seconds of `clock`, None without; `block(seconds, where)`, to be told of a step that held up the loop.
    Noted by a runner: isolation, usage (ResourceUsage); attempts, if more than one; waited, seconds for a thread, a
    connection or a batch, which are no time of the skill; longest_step, in seconds; and `left_behind`, a future that
    ends when work ends that could not be stopped: the execution keeps its place until then.
    """

    # Defaults stand in the class, so that making one of them sets six attributes, not thirty.
    skill: LoadedSkill
    params: dict[str, Any]
    limits: ResourceLimits | None = None
    clock: Callable[[], float]
    task: asyncio.Task[Any] | None = None
    cancelling = 0
    layer: int | None = None
    isolation: str | None = None
    usage = NOT_STARTED
    attempts = 0
    cpu_time = 0.0  # seconds noted so far; `unseen` is the usage that says why they are not all
    unseen: ResourceUsage | None = None
    coroutine: Any = None
    pending: Any = None
    output: Any = None
    ended = False  # whether `output` is there without anything to await
    waited = 0.0
    queued = 0.0
    began = 0.0
    duration: float | None = None
    cached = False
    key: Any = None  # of the result cache, with the parameters that it was made of
    asked: Any = None
    deadline: float | None = None
    timeout: float | None = None
    watched: dict[Execution, float] | None = None
    longest_step: float | None = None
    left_behind: asyncio.Future[Any] | None = None
    interruption: Reason | None = None
    interrupts = 0
    allowed: float | None = None  # the timeout that struck
    sink: Callable[[Any], Awaitable[None]] | None = None
    on_block: Callable[[Execution, float, str], object] | None = None

    execution_id: str
    skill_id: str
    start = 0.0
    begin = 0.0

    @classmethod
    def of(cls, execution_id: str, skill_id: str, start: float = 0.0, begin: float = 0.0) -> Execution:
        """Returns a new execution."""
        execution = cls()
        execution.execution_id, execution.skill_id = execution_id, skill_id
        execution.start, execution.begin = start, begin
        return execution

    def take_over(self, other: Execution) -> None:
        """Makes what was noted of the other execution, which ran in its stead, its own."""
        for name in ("attempts", "duration", "isolation", "longest_step", "queued", "usage", "waited"):
            setattr(self, name, getattr(other, name))

    def block(self, seconds: float, where: str) -> None:
        """Reports a step that held up the event loop for `seconds` and ended at `where`."""
        if self.on_block is not None:
            self.on_block(self, seconds, where)


class Runner(Protocol):
    """Runs one kind of handler.

    isolation: what stands between skill and process, by name. enforces: the fields of ResourceLimits that it can hold.
    `run` returns the output, raises an ExecutionError, and lets cancellation pass: it has ended, or set
    `execution.left_behind`, when it returns. `stream` yields the chunks of a streaming skill under the same rules.
    """

    isolation: str
    enforces: frozenset[str]

    async def run(self, execution: Execution) -> Any: ...

    def stream(self, execution: Execution) -> AsyncIterator[Any]: ...

    async def aclose(self) -> None: ...
