"""Verdicts: which limit stopped a skill, how much was allowed and how much was used."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from skilllab import format as fmt
from skilllab.engine.workers.seats import Seat
from skilllab.engine.workers.worker import End, Job, Worker
from skilllab.errors import ExecutionError, LimitExceededError, RemoteError, SkillFailedError, WorkerLostError
from skilllab.programs import worker as program
from skilllab.settings import WORKER_BACKSTOP_TASKS

_SHOWN: dict[str, Callable[[float | None], str]] = {
    "max_memory": fmt.size,
    "max_cpu_time": fmt.duration,
    "max_duration": fmt.duration,
    "max_file_size": fmt.size,
    "max_disk": fmt.size,
    "max_output": fmt.size,
    "max_processes": fmt.number,
    "max_open_files": fmt.number,
    "max_network_requests": fmt.number,
}
_SAMPLED = ", as far as samples tell: it started processes that nobody waits for"
_WHAT = {
    "max_memory": "memory above its resting size",
    "max_cpu_time": "CPU time of all its processes",
    "max_duration": "run time",
    "max_file_size": "size of one file",
    "max_disk": "size of all its files together",
    "max_output": "size of its output",
    "max_processes": "processes and threads",
    "max_open_files": "open files",
    "max_network_requests": "network requests",
}


def exceeded(
    skill_id: str, limit: str, allowed: float | None, used: float | None, asked: str = ""
) -> LimitExceededError:
    """Returns the error that names the limit, the allowed and the used amount. asked: what it wanted beyond."""
    allowed = allowed or 0
    show = _SHOWN[limit]
    spent = "what it used was not measured" if used is None else f"{show(used)} used"
    message = f"{skill_id}: stopped at {limit} ({_WHAT[limit]}): {show(allowed)} allowed, {spent}{asked}"
    return LimitExceededError(message, limit=limit, allowed=allowed, used=used)


def ended(worker: Worker, seat: Seat, end: End, elapsed: float, cpu_time: float) -> ExecutionError:
    """Returns why a call has no answer but the end of its worker."""
    job, limits, reason = worker.job, worker.job.limits, end.verdict.get("reason")
    skill_id = job.skill_id
    if reason == "max_duration":
        return exceeded(skill_id, reason, limits.max_duration, elapsed)
    if reason == "max_cpu_time":
        how = _SAMPLED if end.verdict["estimated"] else ""
        return exceeded(skill_id, reason, limits.max_cpu_time, max(cpu_time, end.verdict["used"]), how)
    if reason == "max_memory":
        return exceeded(skill_id, reason, limits.max_memory, end.verdict["used"])
    no_room = end.status is not None and _exit_code(end.status) == program.OUT_OF_MEMORY
    if limits.max_memory is not None and (seat.out_of_memory() or no_room):
        return exceeded(skill_id, "max_memory", limits.max_memory, seat.memory_peak())
    if end.supervisor_lost:
        return WorkerLostError(f"{skill_id}: the supervisor of its worker ended; the next call starts another")
    if worker.garbage:
        return WorkerLostError(
            f"{skill_id}: its worker sent {worker.garbage}, so it was ended; another one takes its place"
        )
    status = None if end.status is None else _exit_code(end.status)
    return WorkerLostError(f"{skill_id}: {_how(status)}; another one takes its place", status=status)


def failure(
    job: Job, told: dict[str, Any], cause: BaseException | None, memory_used: int | None, seat: Seat
) -> ExecutionError:
    """Returns the error for what a worker tells of a failed call: a limit that struck, or the skill's own error."""
    hint = told["limit"]
    allowed = None if hint is None else allowance(job, hint, seat)
    if hint is not None and allowed is not None:
        if hint == "max_output":
            return exceeded(job.skill_id, hint, allowed, told["used"])
        used = memory_used if hint == "max_memory" else told.get("used", allowed)
        return _caused(exceeded(job.skill_id, hint, allowed, used, ", and it asked for more"), told, cause)
    text = f"{told['type']}{': ' if told['message'] else ''}{told['message']}"
    return _caused(SkillFailedError(f"{job.skill_id}: {text}"), told, cause)


def allowance(job: Job, limit: str, seat: Seat) -> float | None:
    """Returns what the job may have of a resource whose want an error speaks of; None where no limit can be the reason."""
    inside = job.room.isolation == "bubblewrap"
    if limit == "max_output":
        return job.max_output
    if limit == "max_disk":
        return job.room.disk if inside else None
    if limit == "max_network_requests":
        return 0 if inside else None
    value: float | None = getattr(job.limits, limit)
    if limit == "max_processes" and seat.counts_tasks:  # the same error number has other reasons
        return (value or WORKER_BACKSTOP_TASKS) if seat.out_of_tasks() else None
    return value


def _caused(error: ExecutionError, told: dict[str, Any], cause: BaseException | None) -> ExecutionError:
    error.__cause__ = cause or (RemoteError(told["trace"]) if told.get("trace") else None)
    return error


def _exit_code(status: int) -> int:
    return os.waitstatus_to_exitcode(status)


def _how(status: int | None) -> str:
    if status == program.OUT_OF_MEMORY:
        return "its worker had no memory left for the call"
    if status == program.BROKEN:
        return "it closed the pipe of its worker"
    if status is None:
        return "its worker was ended from outside"
    if status < 0:
        return f"its worker ended by signal {-status}"
    return f"its worker ended by itself, with exit code {status}"


_WORDS = (
    ("File too large", "max_file_size"),
    ("No space left on device", "max_disk"),
    ("Too many open files", "max_open_files"),
    ("Cannot allocate memory", "max_memory"),
    ("cannot allocate", "max_memory"),
    ("failed to map segment", "max_memory"),
    ("MemoryError", "max_memory"),
    ("memory exhausted", "max_memory"),
    ("Resource temporarily unavailable", "max_processes"),
    ("Cannot fork", "max_processes"),
    ("Network is unreachable", "max_network_requests"),
    ("Temporary failure in name resolution", "max_network_requests"),
    ("Could not resolve host", "max_network_requests"),
    ("unable to resolve host address", "max_network_requests"),
)
"""What programs say when the system refuses them something, mostly texts of strerror(3), in the language of sandboxes."""
_XFSZ = 25


def command_failure(job: Job, said: dict[str, Any], memory_used: int | None, seat: Seat) -> ExecutionError:
    """Returns the error for a program that ended with another exit status than it may."""
    status, words = said["status"], said["stderr"].decode(errors="replace").strip()
    last = words[-300:]
    hint = "max_file_size" if status in (-_XFSZ, 128 + _XFSZ) else None
    hint = hint or next((limit for text, limit in _WORDS if text in last), None)
    how = f"ended by signal {-status}" if status < 0 else f"ended with exit code {status}"
    allowed = None if hint is None else allowance(job, hint, seat)
    if hint is not None and allowed is not None:
        used = memory_used if hint == "max_memory" else allowed
        return exceeded(job.skill_id, hint, allowed, used, f", and it asked for more: {last or how}")
    return SkillFailedError(f"{job.skill_id}: it {how}{': ' if last else ''}{last}")
