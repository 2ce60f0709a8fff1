"""Worker: one worker process as the engine sees it, what it is for, what it answers and how it ends."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from cachetools import cachedmethod

from skilllab.engine.workers.channel import Channel
from skilllab.engine.workers.rooms import Room
from skilllab.frozen import FrozenDict
from skilllab.model import ResourceLimits
from skilllab.programs import tree, wire
from skilllab.settings import WORKER_BACKSTOP_TASKS

if TYPE_CHECKING:
    from skilllab.engine.workers.seats import Seat

_ANSWERS = {
    wire.LOAD: frozenset({wire.READY, wire.FAILED}),
    wire.CALL: frozenset({wire.DONE, wire.FAILED}),
    wire.STREAM: frozenset({wire.CHUNK, wire.DONE, wire.FAILED}),
    wire.NEXT: frozenset({wire.CHUNK, wire.DONE, wire.FAILED}),
    wire.STOP: frozenset({wire.DONE, wire.FAILED}),
}
_NO_VERDICT: Mapping[str, Any] = FrozenDict()
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What a worker is forked for: one skill at one revision, within limits, in a room.

    load: what the worker is told first, as bytes: a line of JSON and the skill. max_output: bytes of an answer.
    more_tasks: processes and threads that may come on top of the worker at rest.
    """

    skill_id: str
    room: Room
    limits: ResourceLimits
    load: bytes
    max_output: int
    more_tasks: int = WORKER_BACKSTOP_TASKS


MOST_JOBS = 1000
made_once = cachedmethod(
    lambda runner: runner.jobs, key=lambda _, skill, limits: (skill.definition.id, skill.revision, limits)
)
"""Keeps the jobs of a runner in its `jobs`, so that a call finds the workers that were forked for those before it."""


class Answer(NamedTuple):
    """What a worker answered: kind of frame, body, seconds that it took, CPU seconds with processes that it waited for.

    with_processes: whether there were such; left: whether there are others, of which nothing is known. elapsed is told by
    the worker, so that no pause of this loop counts; one that lies of it is ended by the supervisor all the same.
    """

    kind: int
    body: bytes
    elapsed: float
    cpu_time: float
    with_processes: bool
    left: bool = False


class End(NamedTuple):
    """How a worker ended: exit status (None when it is not known), CPU seconds of its life, and the supervisor's verdict."""

    status: int | None
    cpu_time: float
    verdict: Mapping[str, Any] = _NO_VERDICT
    supervisor_lost: bool = False


class Worker:
    """A worker process, from its fork to its end.

    ended: a future of its End. pid: as seen from here, 0 until it is born. resting: bytes in memory before its first call,
    held: after its last. cpu_before, cpu_life: seconds that it, and it with its processes, had spent when a call began.
    """

    def __init__(self, job: Job, seat: Seat, loop: asyncio.AbstractEventLoop) -> None:
        self.job = job
        self.number = next(_numbers)
        self.seat = seat
        self.pid = 0
        self.resting = self.held = 0
        self.calls = 0
        self.garbage = ""
        self.born: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[End] = loop.create_future()
        self._loop = loop
        self._expected: frozenset[int] = frozenset()
        self._waiter: asyncio.Future[Answer | End] | None = None
        self._others = 0.0
        self.cpu_before = self.cpu_life = 0.0
        self._status = self._clear = -1
        ours, self.theirs = wire.pair("stream")
        self._channel = Channel(loop, ours, job.max_output + 2**18, self._on_frame, self._on_garbage)

    @property
    def alive(self) -> bool:
        """Whether it can take a call."""
        return not self.ended.done() and not self.garbage

    def send(self, kind: int, body: bytes = b"") -> asyncio.Future[Answer | End]:
        """Sends it a frame and returns the future of its answer, or of its end."""
        waiter: asyncio.Future[Answer | End] = self._loop.create_future()
        if self.ended.done():
            waiter.set_result(self.ended.result())
            return waiter
        self._waiter, self._expected = waiter, _ANSWERS[kind]
        self._channel.send(kind, self.calls, body)
        return waiter

    def begin(self, deadline: float, cpu_limit: float) -> None:
        """Begins a call: its memory and CPU time are counted from here on, and it is watched.

        deadline: seconds of time.monotonic at which it is ended; cpu_limit: seconds that its tree may spend.
        """
        self.calls += 1
        self.cpu_before = tree.cpu_time(self.pid)
        self.cpu_life = self.cpu_before + self._others
        if self._clear >= 0:
            try:
                os.pwrite(self._clear, b"5", 0)  # the peak of the memory begins anew (proc(5))
            except OSError:
                self._forget_memory()
        self.seat.begin()
        self.seat.supervision.begin(self.seat.number, deadline, self.cpu_before, cpu_limit)

    def rest(self) -> None:
        """Ends the call."""
        self.seat.supervision.end(self.seat.number)

    def memory(self) -> tuple[int, int] | None:
        """Returns the most bytes in memory since the call began, and the bytes now; None where that is not known."""
        if self._status < 0:
            return None
        try:
            text = os.pread(self._status, 4096, 0)
            return _kib(text, b"VmHWM:"), _kib(text, b"VmRSS:")
        except (OSError, ValueError):
            return None

    def kill(self) -> None:
        """Ends it, with everything that it started; `ended` tells when that is done."""
        self.seat.supervision.say({"do": "kill", "seat": self.seat.number, "worker": self.number})

    def is_born(self, pid: int) -> None:
        """Notes its process."""
        self.pid = pid
        try:
            self._status = os.open(f"/proc/{pid}/status", os.O_RDONLY)
            self._clear = os.open(f"/proc/{pid}/clear_refs", os.O_WRONLY)
        except OSError:
            self._forget_memory()
        if not self.born.done():
            self.born.set_result(None)

    def over(self, end: End) -> None:
        """Notes its end; whoever waits for an answer gets that instead."""
        if self.ended.done():
            return
        if not self.garbage:
            self._channel.drain()
        self._channel.close()
        self._forget_memory()
        self.theirs.close()
        self.ended.set_result(end)
        if not self.born.done():
            self.born.set_result(None)
        self._answer(end)

    def _on_frame(self, frame: wire.Frame, body: bytes) -> None:
        if self._waiter is None or frame.number != self.calls or frame.kind not in self._expected:
            self._on_garbage("an answer that nobody asked for")
            return
        if not all(0 <= seconds < math.inf for seconds in (frame.elapsed, frame.own, frame.others)):
            self._on_garbage("times that cannot be")
            return
        if frame.kind != wire.CHUNK:
            self._others += frame.others
        # What it says is exact and what is seen from outside may be a tick late; it cannot have spent less than was seen.
        own = max(frame.own, tree.cpu_time(self.pid) - self.cpu_before)
        self._answer(Answer(frame.kind, body, frame.elapsed, own + frame.others, frame.others > 0, frame.left))

    def _on_garbage(self, what: str) -> None:
        self.garbage = what
        self.kill()

    def _answer(self, answer: Answer | End) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(answer)

    def _forget_memory(self) -> None:
        for descriptor in (self._status, self._clear):
            if descriptor >= 0:
                os.close(descriptor)
        self._status = self._clear = -1


def _kib(text: bytes, name: bytes) -> int:
    begin = text.index(name) + len(name)
    return int(text[begin : text.index(b"kB", begin)]) * 1024
