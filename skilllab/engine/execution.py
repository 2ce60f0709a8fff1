"""Execution: one execution under way. A runner is given one, and notes in it what it did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Literal, Protocol

from skilllab.frozen import FrozenDict
from skilllab.loading import LoadedSkill
from skilllab.model import ResourceLimits
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

    __slots__ = (  # reading a default that stands in the class takes longer than setting it here
        "allowed",
        "asked",
        "attempts",
        "began",
        "begin",
        "cached",
        "cancelling",
        "clock",
        "coroutine",
        "cpu_time",
        "deadline",
        "duration",
        "ended",
        "execution_id",
        "interruption",
        "interrupts",
        "isolation",
        "key",
        "layer",
        "left_behind",
        "limits",
        "longest_step",
        "on_block",
        "output",
        "params",
        "pending",
        "queued",
        "sink",
        "skill",
        "skill_id",
        "start",
        "task",
        "timeout",
        "unseen",
        "usage",
        "waited",
        "watched",
    )

    execution_id: str
    skill_id: str
    start: float  # seconds since the epoch
    begin: float  # seconds of the clock, as all that follow
    task: asyncio.Task[Any] | None
    cancelling: int
    skill: LoadedSkill
    params: dict[str, Any]
    limits: ResourceLimits | None
    clock: Callable[[], float]
    on_block: Callable[[Execution, float, str], object] | None
    layer: int | None
    isolation: str | None
    attempts: int
    began: float
    duration: float | None
    waited: float
    queued: float
    cpu_time: float  # seconds noted so far; `unseen` is the usage that says why they are not all
    unseen: ResourceUsage | None
    longest_step: float | None
    usage: ResourceUsage
    coroutine: Any
    pending: Any
    output: Any
    ended: bool  # whether `output` is there without anything to await
    cached: bool
    key: Any  # of the result cache, with the parameters that it was made of
    asked: Any
    timeout: float | None
    deadline: float | None
    watched: dict[Execution, float] | None
    left_behind: asyncio.Future[Any] | None
    interruption: Reason | None
    interrupts: int
    allowed: float | None  # the timeout that struck
    sink: Callable[[Any], Awaitable[None]] | None

    def __init__(self) -> None:
        self.layer = self.isolation = self.duration = self.longest_step = None
        self.limits = self.sink = self.unseen = self.left_behind = self.interruption = self.allowed = None
        self.timeout = self.deadline = self.watched = self.on_block = None
        self.usage = NOT_STARTED
        self.attempts = self.interrupts = 0
        self.cpu_time = self.waited = self.queued = 0.0
        self.ended = self.cached = False

    @classmethod
    def of(cls, execution_id: str, skill_id: str, start: float = 0.0, begin: float = 0.0) -> Execution:
        """Returns a new execution."""
        execution = cls()
        execution.execution_id, execution.skill_id = execution_id, skill_id
        execution.start, execution.begin = start, begin
        execution.task, execution.cancelling = None, 0
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

    isolation: what stands between skill and process, by name. limits: of skills that name none of their own, None without.
    unheld: tells which limits it cannot hold for a skill, and why; what it does not name it holds.
    `run` returns the output, raises an ExecutionError, and lets cancellation pass: it has ended, or set
    `execution.left_behind`, when it returns. `stream` yields the chunks of a streaming skill under the same rules.
    """

    @property
    def isolation(self) -> str: ...

    limits: ResourceLimits | None

    def unheld(self, skill: LoadedSkill, limits: ResourceLimits) -> Mapping[str, str]: ...

    async def run(self, execution: Execution) -> Any: ...

    def stream(self, execution: Execution) -> AsyncIterator[Any]: ...

    async def aclose(self) -> None: ...
