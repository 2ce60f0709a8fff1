"""Threads: plain functions in a few threads of their own, where each is either waited for or given up."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from queue import SimpleQueue
from typing import Any

State = Enum("State", ["WAITING", "RUNNING", "ENDED", "DROPPED", "GIVEN_UP"])
_Inbox = SimpleQueue["Job | None"]


class Job:
    """One call of a function in a thread.

    done: a future that ends with it, on the loop of who asked. waited: seconds until a thread was free. cpu_time: seconds
    that its thread spent on it. output, error: how it ended. after: called in the thread with the output when the job was
    given up while it ran.
    """

    __slots__ = (
        "after",
        "args",
        "clock",
        "context",
        "cpu_time",
        "done",
        "error",
        "function",
        "loop",
        "output",
        "since",
        "state",
        "waited",
    )

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        context: contextvars.Context,
        clock: Callable[[], float],
        after: Callable[[Any], object] | None,
    ) -> None:
        self.function: Callable[..., Any] | None = function
        self.args = args
        self.context: contextvars.Context | None = context
        self.clock = clock
        self.after = after
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()
        self.since = clock()
        self.state = State.WAITING
        self.waited = self.cpu_time = 0.0
        self.output: Any = None
        self.error: BaseException | None = None

    @property
    def began(self) -> bool:
        """Whether its function began."""
        return self.state not in (State.WAITING, State.DROPPED)

    def take(self) -> Any:
        """Returns what the function returned, or raises its error."""
        if self.error is None:
            return self.output
        error, self.error = self.error, None
        try:
            raise error
        finally:
            del error  # its traceback holds this frame, which must not hold it in turn


class Threads:
    """At most `max_threads` threads, started when needed and kept; they are daemons, so that none holds up the exit.

    name: what the threads are called. cpu_clock: seconds that the current thread spent on a processor. A function runs in
    a copy of its caller's context; further ones wait their turn, first come first served.
    """

    def __init__(self, max_threads: int, name: str, cpu_clock: Callable[[], float] = time.thread_time) -> None:
        self._max_threads = max_threads
        self._name = name
        self._cpu_clock = cpu_clock
        self._lock = threading.Lock()  # guards what threads and loop share: the three below, and the state of jobs
        self._waiting: OrderedDict[Job, None] = OrderedDict()
        self._idle: list[_Inbox] = []
        self._threads = 0
        self._started = 0
        self._wanted: set[Job] = set()  # jobs that somebody waits for
        self._given_up: set[Job] = set()
        self._closing = False
        self._quiet = asyncio.Event()

    @property
    def abandoned(self) -> int:
        """Functions that run on although nobody waits for them any more; each keeps its thread."""
        return len(self._given_up)

    def submit(
        self,
        function: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
        clock: Callable[[], float] = time.perf_counter,
        after: Callable[[Any], object] | None = None,
    ) -> Job:
        """Returns the job, whose `done` is to be awaited; give it up when that is cancelled."""
        job = Job(function, args, context or contextvars.copy_context(), clock, after)
        self._wanted.add(job)
        with self._lock:
            if self._idle:
                inbox = self._idle.pop()
            else:
                self._waiting[job] = None
                if self._threads < self._max_threads:
                    self._threads += 1
                    # Not here: a thread that starts within a step would be taken for one of the skill's.
                    job.loop.call_soon(self._start_thread)
                return job
        inbox.put(job)
        return job

    def give_up(self, job: Job) -> bool:
        """Gives up a job that nobody waits for any more; returns whether its function runs on.

        One that has not begun never begins. One that runs on keeps its thread until it ends, and gets a new `done`.
        """
        self._no_longer_wanted(job)
        with self._lock:
            if job.state is State.WAITING:
                job.state = State.DROPPED
                job.waited = job.clock() - job.since
                self._waiting.pop(job, None)
            elif job.state is State.RUNNING:
                job.state = State.GIVEN_UP
        if job.state is not State.GIVEN_UP:
            return False
        job.done = job.loop.create_future()
        self._given_up.add(job)
        return True

    async def call(self, function: Callable[..., Any], *args: Any, after: Callable[[Any], object] | None = None) -> Any:
        """Returns what the function returns, or raises its error; gives it up when cancelled.

        after: called in a thread with what the function returns when nobody is there to take it.
        """
        job = self.submit(function, *args, after=after)
        try:
            await job.done
            return job.take()
        except asyncio.CancelledError:
            if not self.give_up(job) and after is not None and job.state is State.ENDED and job.error is None:
                self._no_longer_wanted(self.submit(after, job.output))
            raise
        finally:
            del job

    async def aclose(self) -> None:
        """Waits for every function that somebody waits for, but for none that was given up, and ends the threads."""
        self._closing = True
        while self._wanted:
            self._quiet.clear()
            await self._quiet.wait()
        with self._lock:
            idle, self._idle = self._idle, []
        for inbox in idle:
            inbox.put(None)

    def _start_thread(self) -> None:
        self._started += 1
        thread = threading.Thread(
            target=self._work, args=(SimpleQueue(),), name=f"{self._name}-{self._started}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # the system has no thread left; those there are serve all who wait
            with self._lock:
                self._threads -= 1
                lost = [] if self._threads else list(self._waiting)
                for job in lost:
                    del self._waiting[job]
                    job.state, job.error = State.ENDED, RuntimeError(str(error))
            for job in lost:
                self._finish(job)

    def _work(self, inbox: _Inbox) -> None:
        """What a thread does: one job after another, until there is none and `aclose` sends it home."""
        job, stays = self._next(inbox)
        while stays:
            if job is None:
                job = inbox.get()
                if job is None:
                    break
            ran = self._run(job)
            last = job
            job, stays = self._next(inbox)  # before it tells: who hears it finds the thread idle
            if ran:
                self._tell(last)
            del last  # while it waits for the next, nothing of the last is kept
        with self._lock:
            self._threads -= 1

    def _next(self, inbox: _Inbox) -> tuple[Job | None, bool]:
        """Returns the job that waits longest, None when the thread is idle from now on; and whether it is to stay."""
        with self._lock:
            if self._waiting:
                return self._waiting.popitem(last=False)[0], True
            if not self._closing:
                self._idle.append(inbox)
            return None, not self._closing

    def _run(self, job: Job) -> bool:
        """Runs the job, unless it was dropped."""
        with self._lock:
            if job.state is State.DROPPED:
                return False
            job.state = State.RUNNING
            job.waited = job.clock() - job.since
        begin = self._cpu_clock()
        assert job.function is not None
        assert job.context is not None
        job.output, job.error = job.context.run(_outcome, job.function, job.args)
        job.cpu_time = self._cpu_clock() - begin
        with self._lock:
            given_up = job.state is State.GIVEN_UP
            job.state = State.ENDED
        if given_up and job.after is not None and job.error is None:
            job.context.run(_outcome, job.after, (job.output,))
        job.function = job.context = None
        job.args = ()
        return True

    def _tell(self, job: Job) -> None:
        try:
            job.loop.call_soon_threadsafe(self._finish, job)
        except RuntimeError:
            return  # the loop is closed, and with it went everybody who could have waited

    def _finish(self, job: Job) -> None:
        """Tells who waits that the job has ended; on the loop."""
        self._given_up.discard(job)
        self._no_longer_wanted(job)
        if not job.done.done():
            job.done.set_result(None)

    def _no_longer_wanted(self, job: Job) -> None:
        self._wanted.discard(job)
        if self._closing and not self._wanted:
            self._quiet.set()


def _outcome(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    """Returns output and error; no variable keeps the error, whose traceback holds this frame."""
    try:
        return function(*args), None
    except BaseException as error:  # noqa: BLE001 - it is raised again where it is awaited
        return None, error
