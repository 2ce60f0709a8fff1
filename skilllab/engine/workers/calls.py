"""Calls: one execution on a worker, measured from outside, and the word that says how it ended."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from skilllab.engine.execution import Execution
from skilllab.engine.workers.seats import Seat, Seats
from skilllab.engine.workers.verdicts import ended, exceeded
from skilllab.engine.workers.worker import Answer, End, Job, Worker
from skilllab.errors import ExecutionError, SkillFailedError
from skilllab.frozen import FrozenDict
from skilllab.outcome import ResourceUsage
from skilllab.programs import wire

_NETWORK = ("network_requests", "redirects")
_UNCOUNTED = FrozenDict(dict.fromkeys(_NETWORK, "requests are counted in layer 3 only"))
_NO_MEMORY = "the system does not tell what this process held"
_WITH_OTHERS = "it started processes of its own, whose memory was not measured"
_NOT_WAITED_FOR = "it started processes and did not wait for them, so that their CPU time is not known"
_COARSE = 0.02  # s by which a group may count more than a worker tells, since it counts its start and its end as well
_TO_CLOSE = 0.5  # s that a stream may take to close when its reader has left
_GROWTH = 4  # a worker that holds on to more than this part of its memory limit is renewed

Read = Callable[[Answer, ResourceUsage, Seat], Any]
"""Returns the output in an answer, or raises the ExecutionError that it tells of; given what the call used, and where."""


async def call(seats: Seats, execution: Execution, job: Job, body: bytes, read: Read, once: bool) -> Any:
    """Returns the output of one call. once: the worker is renewed after it, whatever happens.

    Raises what `read` raises, LimitExceededError for the limit that ended it, WorkerLostError, and what keeps a worker
    from starting. Whatever ends the call ends its work: when this returns nothing of it runs.
    """
    seat, worker = await _seated(seats, execution, job)
    keep = False
    begin = _begin(worker, job)
    try:
        answer = await worker.send(wire.CALL, body)
        output = _taken(execution, seat, worker, answer, begin, read)
        keep = not once and not _has_grown(worker)
        return output
    except SkillFailedError:  # its own error is no reason to take its worker away
        keep = not once and not _has_grown(worker)
        raise
    except asyncio.CancelledError:
        await _ended(execution, worker)
        raise
    finally:
        _leave(seats, seat, worker, job, keep)


async def stream(seats: Seats, execution: Execution, job: Job, body: bytes, read: Read) -> AsyncGenerator[Any, None]:
    """Yields the chunks of one call, each made when it is asked for; the time that the reader takes is not counted.

    Raises what `call` raises. Who stops reading early has the worker close what makes the chunks, and a worker that
    takes long for that is ended.
    """
    seat, worker = await _seated(seats, execution, job)
    keep = False
    begin = _begin(worker, job)
    allowed = job.limits.max_duration
    try:
        asked = worker.send(wire.STREAM, body)
        while True:
            answer = await asked
            if isinstance(answer, End) or answer.kind != wire.CHUNK:
                _taken(
                    execution,
                    seat,
                    worker,
                    answer,
                    begin,
                    lambda *last: read(*last) if last[0].kind == wire.FAILED else None,
                )
                keep = not _has_grown(worker)
                return
            paused = time.monotonic()
            supervision = seat.supervision
            supervision.begin(seat.number, math.inf, worker.cpu_before, math.inf)
            kind = wire.NEXT
            try:
                yield read(answer, execution.usage, seat)
            except GeneratorExit:
                kind = wire.STOP
            begin += time.monotonic() - paused
            deadline = math.inf if allowed is None else begin + allowed
            supervision.begin(seat.number, deadline, worker.cpu_before, job.limits.max_cpu_time or math.inf)
            asked = worker.send(kind)
            if kind == wire.STOP and not (await asyncio.wait([asked], timeout=_TO_CLOSE))[0]:
                raise GeneratorExit
    except SkillFailedError:
        keep = not _has_grown(worker)
        raise
    except (asyncio.CancelledError, GeneratorExit):
        await _ended(execution, worker)
        raise
    finally:
        _leave(seats, seat, worker, job, keep)


async def _seated(seats: Seats, execution: Execution, job: Job) -> tuple[Seat, Worker]:
    """Returns a seat with a worker for the job; the wait for it is no time of the skill."""
    seat = seats.take(job)
    if seat is not None and seat.worker is not None:
        execution.isolation = job.room.isolation
        return seat, seat.worker
    begin = execution.clock()
    try:
        seat = await seats.acquire(job)
        try:
            worker = await seat.prepare(job)
        except BaseException:
            seats.give_back(seat)
            raise
    finally:
        execution.waited += execution.clock() - begin
    execution.isolation = job.room.isolation
    return seat, worker


def _begin(worker: Worker, job: Job) -> float:
    begin = time.monotonic()
    limits = job.limits
    deadline = math.inf if limits.max_duration is None else begin + limits.max_duration
    worker.begin(deadline, math.inf if limits.max_cpu_time is None else limits.max_cpu_time)
    return begin


def _taken(execution: Execution, seat: Seat, worker: Worker, answer: Answer | End, begin: float, read: Read) -> Any:
    """Returns the output in an answer, or raises why there is none; notes what the call used."""
    elapsed = time.monotonic() - begin
    worker.rest()
    limits, skill_id = worker.job.limits, execution.skill_id
    if isinstance(answer, End):
        used = max(0.0, answer.cpu_time - worker.cpu_life)
        if answer.verdict.get("reason") == "max_cpu_time":
            used = max(used, answer.verdict["used"])
        execution.usage = ResourceUsage(used or None, None, None, None, _lost_usage(used))
        raise ended(worker, seat, answer, elapsed, used)
    cpu_time = _cpu_time(seat, answer)
    execution.usage = _usage(worker, answer, cpu_time, worker.memory())
    for name, allowed, spent in (
        ("max_cpu_time", limits.max_cpu_time, answer.cpu_time if cpu_time is None else cpu_time),
        ("max_duration", limits.max_duration, answer.elapsed),
    ):
        if allowed is not None and spent > allowed:
            raise exceeded(skill_id, name, allowed, spent)
    try:
        return read(answer, execution.usage, seat)
    except ExecutionError:
        if seat.out_of_memory():  # the system has ended something that the skill had started
            raise exceeded(skill_id, "max_memory", limits.max_memory, seat.memory_peak()) from None
        raise


def _cpu_time(seat: Seat, answer: Answer) -> float | None:
    """Returns the CPU seconds of a call: what its worker tells, or its group where that has counted more."""
    counted = seat.cpu_time()
    if counted is None:
        return None if answer.left else answer.cpu_time
    return counted if answer.left or counted - answer.cpu_time > _COARSE else answer.cpu_time


def _usage(worker: Worker, answer: Answer, cpu_time: float | None, memory: tuple[int, int] | None) -> ResourceUsage:
    requests = 0 if worker.job.room.isolation == "bubblewrap" else None  # where there is no network there are none
    unmeasured = {} if requests == 0 else dict(_UNCOUNTED)
    used = None
    if memory is None:
        unmeasured["memory_used"] = _NO_MEMORY
    elif answer.with_processes or answer.left:
        unmeasured["memory_used"] = _WITH_OTHERS
    else:
        used = max(0, memory[0] - worker.resting)
    if memory is not None:
        worker.held = memory[1]
    if cpu_time is None:
        unmeasured["cpu_time"] = _NOT_WAITED_FOR
    return ResourceUsage(cpu_time, used, requests, requests, FrozenDict(unmeasured))


def _lost_usage(cpu_time: float) -> FrozenDict:
    names = ("memory_used", *_NETWORK) if cpu_time else ("cpu_time", "memory_used", *_NETWORK)
    return FrozenDict(dict.fromkeys(names, "its worker ended before it could be asked"))


def _has_grown(worker: Worker) -> bool:
    limit = worker.job.limits.max_memory
    return limit is not None and worker.held - worker.resting > limit / _GROWTH


async def _ended(execution: Execution, worker: Worker) -> None:
    """Ends the work of a call that nobody waits for any more, and returns when nothing of it is left."""
    worker.kill()
    try:
        await asyncio.shield(worker.ended)
    except asyncio.CancelledError:
        if not worker.ended.done():
            execution.left_behind = worker.ended


def _leave(seats: Seats, seat: Seat, worker: Worker, job: Job, keep: bool) -> None:
    worker.rest()
    if keep and worker.alive:
        seats.give_back(seat)
    else:
        seats.renew(seat, job)
