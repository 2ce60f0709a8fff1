"""Verdicts: the sentence for each limit, and when an error is none of a limit's."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from skilllab.engine.workers.rooms import Room
from skilllab.engine.workers.verdicts import _SHOWN, _WHAT, _WORDS, allowance, command_failure, ended, exceeded, failure
from skilllab.engine.workers.worker import End, Job
from skilllab.errors import ExecutionError, LimitExceededError, RemoteError, SkillFailedError, WorkerLostError
from skilllab.model import ResourceLimits
from skilllab.programs import worker as program
from skilllab.settings import WORKER_BACKSTOP_TASKS

MIB = 2**20
LIMITS = ResourceLimits(
    max_memory=64 * MIB,
    max_cpu_time=1.5,
    max_duration=0.25,
    max_file_size=10 * 2**10,
    max_processes=7,
    max_open_files=20,
)
DISK, OUTPUT = 8 * MIB, 3 * MIB


def job(limits: ResourceLimits = LIMITS, isolation: str = "bubblewrap") -> Job:
    room = Room(isolation=isolation, own_folder=True, disk=DISK)  # type: ignore[arg-type]
    return Job("tested", room, limits, b"", OUTPUT)


class FakeSeat:
    """What a seat knows of its group: whether memory or tasks ran out, its peak, and whether tasks are counted at all."""

    def __init__(self, memory: bool = False, tasks: bool | None = None, peak: int | None = None) -> None:
        self.memory = memory
        self.tasks = tasks
        self.peak = peak

    @property
    def counts_tasks(self) -> bool:
        return self.tasks is not None

    def out_of_memory(self) -> bool:
        return self.memory

    def out_of_tasks(self) -> bool:
        return bool(self.tasks)

    def memory_peak(self) -> int | None:
        return self.peak


def told(limit: str | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "OSError", "message": "[Errno 5] it failed", "limit": limit, "trace": "Traceback ...", **more}


def failed(job: Job, said: dict[str, Any], cause: Any = None, memory: int | None = None, seat: Any = None) -> Any:
    return failure(job, said, cause, memory, seat or FakeSeat())  # type: ignore[arg-type]


def of_command(job: Job, status: int, stderr: str, memory: int | None = None, seat: Any = None) -> Any:
    said = {"status": status, "stderr": stderr.encode()}
    return command_failure(job, said, memory, seat or FakeSeat())  # type: ignore[arg-type]


def of_end(end: End, limits: ResourceLimits = LIMITS, garbage: str = "", seat: Any = None) -> ExecutionError:
    worker = SimpleNamespace(job=job(limits), garbage=garbage)
    return ended(worker, seat or FakeSeat(), end, elapsed=0.3, cpu_time=1.6)  # type: ignore[arg-type]


# the sentence


@pytest.mark.parametrize(
    ("limit", "allowed", "used", "sentence"),
    [
        ("max_memory", 64 * MIB, 65 * MIB, "(memory above its resting size): 64.0 MiB allowed, 65.0 MiB used"),
        ("max_cpu_time", 1.5, 1.6, "(CPU time of all its processes): 1.50 s allowed, 1.60 s used"),
        ("max_duration", 0.25, 0.2512, "(run time): 250 ms allowed, 251 ms used"),
        ("max_file_size", 10240, 10240, "(size of one file): 10.0 KiB allowed, 10.0 KiB used"),
        ("max_disk", DISK, DISK, "(size of all its files together): 8.00 MiB allowed, 8.00 MiB used"),
        ("max_output", 100, 101, "(size of its output): 100 B allowed, 101 B used"),
        ("max_processes", 7, 7, "(processes and threads): 7 allowed, 7 used"),
        ("max_open_files", 1000, 1000, "(open files): 1,000 allowed, 1,000 used"),
        ("max_network_requests", 0, 0, "(network requests): 0 allowed, 0 used"),
    ],
)
def test_the_sentence_of_each_limit(limit: str, allowed: float, used: float, sentence: str) -> None:
    """It names the skill, the limit and what that is, the allowed and the used amount with units; the fields hold them too."""
    error = exceeded("tested", limit, allowed, used)
    assert str(error) == f"tested: stopped at {limit} {sentence}"
    assert (error.limit, error.allowed, error.used) == (limit, allowed, used)
    assert error.trips_breaker


def test_every_limit_has_a_sentence() -> None:
    """Each field of ResourceLimits, and the size of an output, has its words and its unit."""
    assert set(_SHOWN) == set(_WHAT) == {*ResourceLimits.model_fields, "max_output"}


def test_what_was_not_measured_is_said() -> None:
    """An unknown amount is no number; what the skill asked for stands at the end."""
    error = exceeded("tested", "max_memory", MIB, None, ", and it asked for more")
    assert str(error).endswith("1.00 MiB allowed, what it used was not measured, and it asked for more")
    assert error.used is None


# the end of a worker


@pytest.mark.parametrize(
    ("verdict", "limit", "allowed", "used"),
    [
        ({"reason": "max_duration"}, "max_duration", 0.25, 0.3),
        ({"reason": "max_cpu_time", "used": 1.55, "estimated": False}, "max_cpu_time", 1.5, 1.6),
        ({"reason": "max_cpu_time", "used": 9.0, "estimated": True}, "max_cpu_time", 1.5, 9.0),
        ({"reason": "max_memory", "used": 70 * MIB}, "max_memory", 64 * MIB, 70 * MIB),
    ],
)
def test_the_supervisors_verdict(verdict: dict[str, Any], limit: str, allowed: float, used: float) -> None:
    """What the supervisor ended a worker for is the limit, whatever else was the matter; of CPU times the larger counts."""
    error = of_end(End(9, 0.0, verdict), garbage="garbage", seat=FakeSeat(memory=True, peak=1))
    assert isinstance(error, LimitExceededError)
    assert (error.limit, error.allowed, error.used) == (limit, allowed, used)


def test_the_system_ended_it_for_want_of_memory() -> None:
    """Where the group counts a kill, memory is the limit, and the peak is what was used."""
    error = of_end(End(signal.SIGKILL, 0.0), seat=FakeSeat(memory=True, peak=64 * MIB))
    assert isinstance(error, LimitExceededError)
    assert (error.limit, error.allowed, error.used) == ("max_memory", 64 * MIB, 64 * MIB)


@pytest.mark.parametrize(
    ("end", "garbage", "words", "status"),
    [
        (
            End(None, 0.0, supervisor_lost=True),
            "",
            "the supervisor of its worker ended; the next call starts another",
            None,
        ),
        (End(None, 0.0), "", "its worker was ended from outside; another one takes its place", None),
        (End(9, 0.0), "what is no answer", "its worker sent what is no answer, so it was ended", None),
        (End(9, 0.0, {"reason": "killed"}), "", "its worker ended by signal 9", -9),
        (End(11, 0.0), "", "its worker ended by signal 11", -11),
        (End(3 << 8, 0.0), "", "its worker ended by itself, with exit code 3", 3),
        (End(0, 0.0), "", "its worker ended by itself, with exit code 0", 0),
        (End(program.BROKEN << 8, 0.0), "", "it closed the pipe of its worker", program.BROKEN),
    ],
)
def test_a_lost_worker(end: End, garbage: str, words: str, status: int | None) -> None:
    """Where no limit is the reason the worker is lost, and how it ended is said."""
    error = of_end(end, garbage=garbage)
    assert isinstance(error, WorkerLostError)
    assert str(error).startswith(f"tested: {words}")
    assert error.status == status


def test_a_worker_without_room_for_a_call() -> None:
    """A worker that ended because a call did not fit met its limit on memory, if it has one, and is lost if not."""
    end = End(program.OUT_OF_MEMORY << 8, 0.0)
    error = of_end(end)
    assert isinstance(error, LimitExceededError)
    assert (error.limit, error.allowed, error.used) == ("max_memory", 64 * MIB, None)
    assert isinstance(of_end(end, ResourceLimits()), WorkerLostError)


# a failure that the worker tells


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [
        ("max_file_size", 10 * 2**10),
        ("max_disk", DISK),
        ("max_open_files", 20),
        ("max_processes", 7),
        ("max_network_requests", 0),
    ],
)
def test_a_hint_at_a_limit_that_was_set(limit: str, allowed: float) -> None:
    """An error that a limit brings about is told as the limit, all of which was used, and the skill's own error is its cause."""
    cause = OSError(28, "No space left on device")
    error = failed(job(), told(limit), cause)
    assert isinstance(error, LimitExceededError)
    assert (error.limit, error.allowed, error.used) == (limit, allowed, allowed)
    assert str(error).endswith(", and it asked for more")
    assert error.__cause__ is cause


@pytest.mark.parametrize("used", [None, 60 * MIB])
def test_a_hint_at_memory_tells_what_was_measured(used: int | None) -> None:
    """Of memory what was measured is told, for a single large demand fails before it is used."""
    error = failed(job(), told("max_memory"), memory=used)
    assert (error.limit, error.allowed, error.used) == ("max_memory", 64 * MIB, used)


@pytest.mark.parametrize("isolation", ["bubblewrap", "process"])
def test_an_output_that_is_too_large(isolation: str) -> None:
    """The bound of an output is always there, and how large it was is known."""
    error = failed(job(isolation=isolation), told("max_output", used=OUTPUT + 1, trace=""))
    assert (error.limit, error.allowed, error.used) == ("max_output", OUTPUT, OUTPUT + 1)
    assert error.__cause__ is None


@pytest.mark.parametrize("limit", ["max_memory", "max_file_size", "max_open_files", "max_processes"])
def test_a_hint_without_a_limit_is_a_plain_failure(limit: str) -> None:
    """Where nobody set the limit, the error is the skill's own."""
    error = failed(job(ResourceLimits()), told(limit))
    assert type(error) is SkillFailedError
    assert str(error) == "tested: OSError: [Errno 5] it failed"


@pytest.mark.parametrize("limit", ["max_disk", "max_network_requests"])
def test_a_hint_that_only_a_sandbox_explains(limit: str) -> None:
    """Outside of a sandbox a full disk and a missing network are the machine's."""
    assert type(failed(job(isolation="process"), told(limit))) is SkillFailedError
    assert isinstance(failed(job(ResourceLimits()), told(limit)), LimitExceededError)


@pytest.mark.parametrize(
    ("limits", "tasks", "allowed"),
    [
        (LIMITS, None, 7),
        (LIMITS, True, 7),
        (LIMITS, False, None),
        (ResourceLimits(), None, None),
        (ResourceLimits(), True, WORKER_BACKSTOP_TASKS),
        (ResourceLimits(), False, None),
    ],
)
def test_a_hint_at_processes_is_checked_where_they_are_counted(
    limits: ResourceLimits, tasks: bool | None, allowed: int | None
) -> None:
    """The error has other reasons: where a group counts refusals it decides, elsewhere whether the limit was set."""
    seat: Any = FakeSeat(tasks=tasks)
    assert allowance(job(limits), "max_processes", seat) == allowed
    error = failed(job(limits), told("max_processes"), seat=seat)
    assert isinstance(error, LimitExceededError if allowed else SkillFailedError)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"type": "ValueError", "message": "bad"}, "tested: ValueError: bad"),
        ({"type": "KeyboardInterrupt", "message": ""}, "tested: KeyboardInterrupt"),
    ],
)
def test_a_plain_failure(said: dict[str, Any], words: str) -> None:
    """The type and the text of an error are told; its trace is the cause where the error itself could not travel."""
    error = failed(job(), told(**said))
    assert (type(error), str(error)) == (SkillFailedError, words)
    assert isinstance(error.__cause__, RemoteError)
    assert str(error.__cause__) == "in a worker process:\nTraceback ..."
    cause = ValueError("bad")
    assert failed(job(), told(**said), cause).__cause__ is cause
    assert failed(job(), told(**said, trace="")).__cause__ is None


# commands


@pytest.mark.parametrize("status", [-25, 153])
def test_a_program_that_the_file_size_ended(status: int) -> None:
    """The signal for a file that is too large, or a shell's code for it, is that limit."""
    error = of_command(job(), status, "")
    assert (error.limit, error.allowed, error.used) == ("max_file_size", 10 * 2**10, 10 * 2**10)
    how = "ended by signal 25" if status < 0 else "ended with exit code 153"
    assert str(error).endswith(f"10.0 KiB allowed, 10.0 KiB used, and it asked for more: {how}")


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        ("cat: write error: File too large", "max_file_size"),
        ("dd: error writing 'x': No space left on device", "max_disk"),
        ("sort: open failed: Too many open files", "max_open_files"),
        ("tail: Cannot allocate memory", "max_memory"),
        ("xmalloc: cannot allocate 1000 bytes", "max_memory"),
        ("error while loading shared libraries: libc.so.6: failed to map segment from shared object", "max_memory"),
        ("Traceback (most recent call last):\nMemoryError", "max_memory"),
        ("sort: memory exhausted", "max_memory"),
        ("bash: fork: retry: Resource temporarily unavailable", "max_processes"),
        ("sh: 1: Cannot fork", "max_processes"),
        ("ping: connect: Network is unreachable", "max_network_requests"),
        ("ping: a.example: Temporary failure in name resolution", "max_network_requests"),
        ("curl: (6) Could not resolve host: a.example", "max_network_requests"),
        ("wget: unable to resolve host address ‘a.example’", "max_network_requests"),
    ],
)
def test_the_words_of_a_program(words: str, limit: str) -> None:
    """What programs write when the system refuses them something is told as its limit, with their last words."""
    error = of_command(job(), 1, f"{words}\n", memory=5 * MIB)
    assert isinstance(error, LimitExceededError)
    assert error.limit == limit
    assert str(error).endswith(f"and it asked for more: {words}")
    assert any(text in words for text, _ in _WORDS)
    if limit == "max_memory":
        assert error.used == 5 * MIB


@pytest.mark.parametrize("limit", ["max_file_size", "max_open_files", "max_memory", "max_processes"])
def test_words_without_a_limit_are_a_plain_failure(limit: str) -> None:
    """Where the limit was not set, what the program says is its own failure."""
    for text in (text for text, name in _WORDS if name == limit):
        error = of_command(job(ResourceLimits()), 1, text)
        assert (type(error), str(error)) == (SkillFailedError, f"tested: it ended with exit code 1: {text}")
    assert type(of_command(job(ResourceLimits()), -25, "")) is SkillFailedError


@pytest.mark.parametrize("limit", ["max_disk", "max_network_requests"])
def test_words_that_only_a_sandbox_explains(limit: str) -> None:
    """Outside of a sandbox they are the machine's."""
    for text in (text for text, name in _WORDS if name == limit):
        assert type(of_command(job(isolation="process"), 1, text)) is SkillFailedError


@pytest.mark.parametrize("tasks", [True, False])
def test_words_about_processes_are_checked_where_they_are_counted(tasks: bool) -> None:
    """A program that finds a file locked says the same: the group's count decides."""
    error = of_command(job(), 1, "flock: Resource temporarily unavailable", seat=FakeSeat(tasks=tasks))
    assert isinstance(error, LimitExceededError if tasks else SkillFailedError)


@pytest.mark.parametrize(
    ("status", "stderr", "words"),
    [
        (1, "", "it ended with exit code 1"),
        (2, "grep: x: No such file\n", "it ended with exit code 2: grep: x: No such file"),
        (-9, "", "it ended by signal 9"),
        (-11, "dumped", "it ended by signal 11: dumped"),
        (0, "odd", "it ended with exit code 0: odd"),
        (1, "ä€", "it ended with exit code 1: ä€"),
    ],
)
def test_a_program_that_failed(status: int, stderr: str, words: str) -> None:
    """How it ended is told, and what it wrote to standard error."""
    error = of_command(job(), status, stderr)
    assert (type(error), str(error)) == (SkillFailedError, f"tested: {words}")


def test_last_words_are_cut_from_the_front() -> None:
    """Only the end of standard error is told, and only there a limit is looked for; bytes that are no text do no harm."""
    error = of_command(job(), 1, "No space left on device\n" + "x" * 400)
    assert (type(error), str(error)) == (SkillFailedError, f"tested: it ended with exit code 1: {'x' * 300}")
    said = {"status": 1, "stderr": b"\xff\xfe bad"}
    assert str(command_failure(job(), said, None, FakeSeat())).endswith("\ufffd\ufffd bad")  # type: ignore[arg-type]
