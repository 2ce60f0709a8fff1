"""Workers that serve in order of arrival: a queue that really forms, to the exact schedule of the theory.

A request that finds a worker starts at once, the others wait. When a worker's service ends, the next starts at that very
moment, however late the event loop's timer was: lateness adds to single answers and never to the capacity. With one
worker the times are those of Lindley's recursion (1952), with several those of Kiefer and Wolfowitz (1955).
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from skilllab.demo.settings import Stall
from skilllab.demo.stalls import WorkingHours


class Timer(Protocol):
    """What `call_later` returns."""

    def cancel(self) -> None: ...


Clock = Callable[[], float]
CallLater = Callable[[float, Callable[[], None]], Timer]
"""Calls a function after so many seconds, as an event loop does."""


class Visit(NamedTuple):
    """When a request arrived, when a worker took it, and when its service was done: seconds of the server's clock."""

    arrived: float
    started: float
    done: float


class _Job:
    __slots__ = ("arrived", "done", "future", "left", "since", "started")

    def __init__(self, work: float, arrived: float, future: asyncio.Future[None]) -> None:
        self.left = work  # seconds of work that were left at `since`
        self.arrived = arrived
        self.started = self.since = self.done = math.inf
        self.future = future


class Service:
    """`workers` that serve one request each at a time (None: all at once), and stand still in stalls."""

    def __init__(self, workers: int | None, stall: Stall | None, clock: Clock, call_later: CallLater) -> None:
        self._workers = workers
        self._stall = stall
        self._clock = clock
        self._call_later = call_later
        self._hours = WorkingHours(stall, clock())
        self._waiting: deque[_Job] = deque()
        self._serving: list[tuple[float, int, _Job]] = []  # a heap: who is done first stands first
        self._number = 0
        self._timer: Timer | None = None
        self.max_waiting = 0

    @property
    def waiting(self) -> int:
        """Requests that no worker has taken yet."""
        return len(self._waiting)

    @property
    def stalled(self) -> bool:
        """Whether `stall` was called, and `resume` not since."""
        return self._hours.stopped

    async def serve(self, work: float) -> Visit:
        """Returns when `work` seconds of service are done; whoever is cancelled meanwhile keeps its worker till then."""
        now = self._clock()
        job = _Job(work, now, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._take(now)
        self._finish(now)
        self.max_waiting = max(self.max_waiting, len(self._waiting))
        self._arm()
        await job.future
        return Visit(job.arrived, job.started, job.done)

    def configure(self, workers: int | None, stall: Stall | None) -> None:
        """Goes on with so many workers and such stalls; what is being served keeps its worker and the work done so far."""
        now = self._clock()
        self._finish(now)
        self._workers = workers
        if stall != self._stall:
            self._stall = stall
            self._change(WorkingHours(stall, now, stopped=self.stalled), now)
        self._take(now)
        self._arm()

    def stall(self) -> None:
        """Stands still from now on, until `resume`."""
        self._stop(True)

    def resume(self) -> None:
        """Works again, where `stall` interrupted."""
        self._stop(False)

    def close(self) -> None:
        """Drops every request: whoever waits in `serve` is cancelled."""
        for job in [*self._waiting, *(job for _, _, job in self._serving)]:
            job.future.cancel()
        self._waiting.clear()
        self._serving.clear()
        self._arm()

    def _stop(self, stopped: bool) -> None:
        if stopped is not self.stalled:
            now = self._clock()
            self._finish(now)
            self._change(WorkingHours(self._stall, self._hours.origin, stopped=stopped), now)
            self._finish(now)
            self._arm()

    def _change(self, hours: WorkingHours, now: float) -> None:
        """Plans the end of everything that is being served anew, from the work that is left now."""
        for _, _, job in self._serving:
            if job.started < now:
                job.left -= self._hours.worked(job.since, now)
            else:
                job.started = hours.resumed(now)
            job.since = now
            job.done = hours.finish(now, job.left)
        self._hours = hours
        self._serving = [(job.done, number, job) for _, number, job in self._serving]
        heapq.heapify(self._serving)

    def _take(self, moment: float) -> None:
        """Gives free workers to those who wait."""
        while self._waiting and (self._workers is None or len(self._serving) < self._workers):
            job = self._waiting.popleft()
            job.started = job.since = self._hours.resumed(max(job.arrived, moment))
            job.done = self._hours.finish(job.started, job.left)
            self._number += 1
            heapq.heappush(self._serving, (job.done, self._number, job))

    def _finish(self, now: float) -> None:
        """Lets go whoever is done by now, and starts the next at the moment when that one was done."""
        while self._serving and self._serving[0][0] <= now:
            _, _, job = heapq.heappop(self._serving)
            if not job.future.done():
                job.future.set_result(None)
            self._take(job.done)

    def _due(self) -> None:
        self._finish(self._clock())
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._serving and self._serving[0][0] < math.inf:
            self._timer = self._call_later(max(0.0, self._serving[0][0] - self._clock()), self._due)
