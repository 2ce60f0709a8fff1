"""Seats: a few places for workers; a call waits for one, and a worker is only ever one skill's."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, NamedTuple

from skilllab.engine.workers.rooms import Room
from skilllab.engine.workers.supervision import Supervision
from skilllab.engine.workers.worker import End, Job, Worker
from skilllab.errors import ExecutionError, HandlerNotRunnableError, IsolationError, WorkerLostError
from skilllab.programs import wire
from skilllab.programs.cgroups import Cgroup, Counter
from skilllab.settings import WORKER_BACKSTOP_TASKS, WORKER_START

_log = logging.getLogger("skilllab")


class Seat:
    """A place for one instance and its worker. Who has taken the seat is alone on it. on_end: told when a worker ended."""

    def __init__(self, supervision: Supervision, on_end: Callable[[Seat], object]) -> None:
        self.supervision = supervision
        self._on_end = on_end
        self.number = supervision.sit(self)
        self.room: Room | None = None
        self.worker: Worker | None = None
        self.resting = 0
        self.cgroup: Cgroup | None = None
        self.replaced = 0
        self._counts: dict[str, float] = {}
        self._counters: dict[str, Counter] = {}
        self._why = ""
        self._lost: asyncio.Future[None] | None = None

    async def prepare(self, job: Job) -> Worker:
        """Returns a worker for the job on this seat: the one that is there if it is the job's, else a new one.

        Raises IsolationError, HandlerNotRunnableError or WorkerLostError when that cannot be made.
        """
        worker = self.worker
        if worker is not None and worker.alive and worker.job is job:
            return worker
        await self.clear()
        if self.room != job.room:
            await self.leave()
        used = self.room is not None
        try:
            return await self._fork(job)
        except WorkerLostError:
            await _to_the_end(self.clear())
            if not used or self.room is not None:
                raise
        except BaseException:
            await _to_the_end(self.clear())
            raise
        return await self._fork(job)  # its instance was lost just now: a new one is tried once

    async def clear(self) -> None:
        """Ends the worker, if there is one, and waits until nothing of it is left."""
        worker = self.worker
        if worker is None:
            return
        if not worker.ended.done():
            worker.kill()
            await asyncio.wait([worker.ended], timeout=WORKER_START)
            worker.over(End(None, 0.0))  # if nothing was heard of it in all that time
        self.worker = None
        self.replaced += 1

    async def leave(self) -> None:
        """Ends the instance and waits until it is gone."""
        if self.room is None:
            return
        lost = self._lost
        self.supervision.say({"do": "close", "seat": self.number})
        if lost is not None:
            await asyncio.wait([lost], timeout=WORKER_START)
        self._vacate()

    def hear(self, said: dict[str, Any] | None) -> None:
        """Takes what the supervisor says of this seat; None: the supervisor is lost, and every instance with it."""
        worker = self.worker
        if said is None or said["is"] == "lost":
            self._why = self._why or ("the supervisor of its worker ended" if said is None else said["why"])
            if worker is not None:
                verdict = {} if said is None or said["worker"] != worker.number else said["verdict"]
                worker.over(End(None, 0.0, verdict, supervisor_lost=said is None))
            self._vacate()
        elif said["is"] == "failed":
            self._why = f"import:{said['why']}"
        elif worker is not None and said["worker"] == worker.number:
            if said["is"] == "born":
                worker.is_born(said["pid"])
                return
            worker.over(End(said["status"], said["cpu"], said["verdict"]))
        if said is not None and worker is not None and worker.ended.done():
            self._on_end(self)

    @property
    def counts_tasks(self) -> bool:
        """Whether a control group counts the processes and threads on this seat."""
        return "pids" in self._counters

    def out_of_memory(self) -> bool:
        """Tells whether the system has killed something on this seat for want of memory since the call began."""
        return self._count("memory") > self._counts.get("memory", 0)

    def out_of_tasks(self) -> bool:
        """Tells whether the group has refused a process or thread on this seat since the call began."""
        return self._count("pids") > self._counts.get("pids", 0)

    def cpu_time(self) -> float | None:
        """Returns the CPU seconds that the group has counted since the call began; None where no group counts them."""
        return self._count("cpu") - self._counts["cpu"] if "cpu" in self._counts else None

    def begin(self) -> None:
        """Notes what the group has counted so far: a call has begun, and what comes on top is its own."""
        for controller in self._counters:
            self._counts[controller] = self._count(controller)

    def _count(self, controller: str) -> float:
        counter = self._counters.get(controller)
        return 0 if counter is None else counter.read()

    def memory_peak(self) -> int | None:
        """Returns the most bytes above its resting size that the seat has used since its worker began."""
        peak = None if self.cgroup is None else self.cgroup.peak()
        return None if peak is None else max(0, peak - self.resting)

    def _vacate(self) -> None:
        self.room = self.cgroup = None
        self._counts = {}
        for counter in self._counters.values():
            counter.close()
        self._counters = {}
        lost, self._lost = self._lost, None
        if lost is not None and not lost.done():
            lost.set_result(None)

    def _open(self, room: Room) -> None:
        self.room, self._why = room, ""
        self._lost = asyncio.get_running_loop().create_future()
        try:
            self.cgroup = self.supervision.open(self.number, room)
        except BaseException:
            self._vacate()
            raise

    async def _fork(self, job: Job) -> Worker:
        used = self.room is not None
        if not used:
            self._open(job.room)
        worker = self.worker = Worker(job, self, asyncio.get_running_loop())
        with_tree = job.limits.max_memory if self.cgroup is None or "memory" not in self.cgroup.folders else None
        self._bound(None, None)
        fork = {"do": "fork", "seat": self.number, "worker": worker.number, "memory": with_tree}
        self.supervision.say(fork, (worker.theirs.fileno(),))
        worker.theirs.close()
        if self.room is None:  # the supervisor was lost before it could hear of this worker
            worker.over(End(None, 0.0, supervisor_lost=True))
        ready = worker.send(wire.LOAD, job.load)
        try:
            async with asyncio.timeout(WORKER_START):
                answer = await ready
                await worker.born
        except TimeoutError:
            raise WorkerLostError(
                f"{job.skill_id}: its worker said nothing for {WORKER_START:g} s while it started"
            ) from None
        if isinstance(answer, End) or worker.ended.done():
            raise self._unstarted(job, worker, used)
        if answer.kind == wire.FAILED:
            told = json.loads(answer.body)
            raise HandlerNotRunnableError(
                f"{job.skill_id}: it cannot be loaded in a worker: {told['type']}: {told['message']}"
            )
        memory = worker.memory()
        worker.resting = memory[1] if memory else 0
        self._bound(job.limits.max_memory, job.more_tasks)
        if self.cgroup is not None and not self._counters:
            with suppress(FileNotFoundError):  # the instance was lost just now, which the call will be told
                self._counters = self.cgroup.counters()
        return worker

    def _bound(self, memory: int | None, tasks: int | None) -> None:
        """Bounds the group of this seat beyond what it has now; None takes the bound on memory away."""
        if self.cgroup is None:
            return
        try:
            if "memory" in self.cgroup.folders:
                self.resting = self.cgroup.hold_memory(memory)
            if "pids" in self.cgroup.folders:
                self.cgroup.hold_tasks(WORKER_BACKSTOP_TASKS if tasks is None else tasks)
        except FileNotFoundError:
            return  # the supervisor makes it just now, or could not, which it tells

    def _unstarted(self, job: Job, worker: Worker, used: bool) -> ExecutionError:
        if self._why.startswith("import:"):
            return HandlerNotRunnableError(f"{job.skill_id}: {self._why.removeprefix('import:')}; is it installed?")
        end = worker.ended.result()
        if end.supervisor_lost:
            return WorkerLostError(f"{job.skill_id}: the supervisor of its worker ended; the next call starts another")
        if not worker.pid and self._why and not used:
            return IsolationError(f"{job.skill_id}: its sandbox could not be started: {self._why}")
        return WorkerLostError(f"{job.skill_id}: its worker ended while it started (status {end.status})")


class WorkerStatistics(NamedTuple):
    """Workers at one moment: places, of which busy, and ready for a call; and how many were replaced so far."""

    places: int
    busy: int
    ready: int
    replaced: int


class Seats:
    """At most `most` seats, made when needed. Calls wait for one in the order in which they came."""

    def __init__(self, supervision: Supervision, most: int) -> None:
        self._supervision = supervision
        self._most = most
        self._seats: list[Seat] = []
        self._idle: list[Seat] = []
        self._waiting: deque[asyncio.Future[Seat]] = deque()
        self._renewals: set[asyncio.Task[None]] = set()

    def take(self, job: Job) -> Seat | None:
        """Returns an idle seat whose worker is the job's, None when there is none."""
        idle = self._idle
        for at in range(len(idle) - 1, -1, -1):
            worker = idle[at].worker
            if worker is not None and worker.job is job and worker.alive:
                return idle.pop(at)
        return None

    async def acquire(self, job: Job) -> Seat:
        """Returns a seat for the job, on which it must still be prepared, when there is one.

        Taken are, in this order: one with its worker, one with its room, a new one, the one that was idle longest.
        """
        seat = self.take(job)
        if seat is not None:
            return seat
        for at, each in enumerate(self._idle):
            if each.room == job.room or each.room is None:
                return self._idle.pop(at)
        if len(self._seats) < self._most:
            seat = Seat(self._supervision, self._renew_idle)
            self._seats.append(seat)
            return seat
        if self._idle:
            return self._idle.pop(0)
        waiter: asyncio.Future[Seat] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.give_back(waiter.result())
            raise

    def give_back(self, seat: Seat) -> None:
        """Makes the seat free for who waits."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(seat)
                return
        self._idle.append(seat)

    def renew(self, seat: Seat, job: Job) -> None:
        """Gives the seat back with another worker: for who waits, or for the same job as soon as it is there."""

        async def renewed() -> None:
            try:
                await seat.clear()
                if all(waiter.done() for waiter in self._waiting):
                    await seat.prepare(job)
            except ExecutionError as error:  # who comes next meets the same, and is told
                _log.debug("a worker for %s could not be renewed: %s", job.skill_id, error)
            finally:
                self.give_back(seat)

        self._later(renewed())

    def _renew_idle(self, seat: Seat) -> None:
        """Renews a worker that was lost while it waited for a call."""
        if seat in self._idle and seat.worker is not None:
            self._idle.remove(seat)
            self.renew(seat, seat.worker.job)

    async def aclose(self) -> None:
        """Ends every instance; nobody may hold a seat any more."""
        while self._renewals:
            await asyncio.gather(*self._renewals)
        self._idle.clear()
        for seat in self._seats:
            await seat.clear()
            await seat.leave()
            self._supervision.rise(seat.number)
        self._seats.clear()

    def statistics(self) -> WorkerStatistics:
        """Returns how many workers there may be, how many are at work or being made, and how many wait for a call."""
        ready = sum(1 for seat in self._idle if seat.worker is not None and seat.worker.alive)
        replaced = sum(seat.replaced for seat in self._seats)
        return WorkerStatistics(self._most, len(self._seats) - len(self._idle), ready, replaced)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._renewals.add(task)
        task.add_done_callback(self._renewals.discard)


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Awaits work that must not be left half done, also when the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=1.0)
        raise
