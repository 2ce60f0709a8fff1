"""Interruptions: how an execution ends before its skill does, and how its task gets back its own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from itertools import takewhile

from skilllab import format as fmt
from skilllab import settings
from skilllab.engine.execution import Execution, Reason
from skilllab.errors import ExecutionCancelledError, ExecutionError, ExecutionTimeoutError

_MANY = 64  # queues: callers who hand on what is left of their own time have a timeout each


class Interruptions:
    """Ends executions: at their deadline, by one timer for all of them, or when asked to.

    Those with one timeout expire in the order in which they came. An interrupted execution has CANCEL_GRACE seconds to
    clean up; then it is cancelled once more, and a runner may leave behind what still goes on.
    """

    __slots__ = ("_clock", "_loop", "_many", "_next", "_queues", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self._loop = loop
        self._clock = clock
        # By timeout, each in order of deadline; who is late has a queue of its own, by its deadline, negative.
        self._queues: dict[float, dict[Execution, float]] = {}
        self._many = _MANY
        self._next = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def attach(self, execution: Execution, timeout: float | None) -> None:
        """Watches the deadline of an execution, or another one when its skill has been loaded meanwhile.

        timeout: None is no deadline; infinity none while the skill is being loaded.
        """
        if execution.timeout is None:
            if timeout is not None:
                self.watch(execution, execution.begin, timeout)
        else:
            self._watch_again(execution, timeout)

    def watch(self, execution: Execution, since: float, timeout: float, *, late: bool = False) -> None:
        """Expires the execution `timeout` seconds after `since`, unless it is forgotten before.

        late: others with this timeout, who came after `since`, may be watched already.
        """
        deadline = execution.deadline = since + timeout
        execution.timeout = timeout
        name = -deadline if late else timeout
        queue = self._queues.get(name)
        if queue is None:
            if len(self._queues) >= self._many:
                self._drop_empty()
            queue = self._queues[name] = {}
        queue[execution] = deadline
        execution.watched = queue
        if deadline < self._next:
            self._arm(deadline)

    def forget(self, execution: Execution) -> None:
        """Stops watching the execution."""
        if execution.watched is not None:
            execution.watched.pop(execution, None)

    def reap(self) -> None:
        """Expires what is due and sets the timer for the next."""
        now, self._next = self._clock(), math.inf
        due = [
            execution
            for queue in self._queues.values()
            for execution, _ in takewhile(lambda item: item[1] <= now, queue.items())
        ]
        for execution in due:
            self.forget(execution)
            if execution.interruption is None:
                self.interrupt(execution, "timeout")
            else:
                self._cancel(execution)
        self._drop_empty()
        following = min((next(iter(queue.values())) for queue in self._queues.values()), default=math.inf)
        if following < math.inf:
            self._arm(following)

    def close(self) -> None:
        """Stops the timer."""
        self._queues.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._next = None, math.inf

    def interrupt(self, execution: Execution, reason: Reason) -> None:
        """Cancels the execution's task for this reason, which its result will tell; the first reason counts."""
        if execution.interruption is None:
            execution.interruption = reason
            execution.allowed = execution.timeout
            self.forget(execution)
            self._cancel(execution)
            self.watch(execution, self._clock(), settings.CANCEL_GRACE)

    def _watch_again(self, execution: Execution, timeout: float | None) -> None:
        """Changes the timeout of an execution whose skill has been loaded meanwhile."""
        if execution.interruption is None and timeout != execution.timeout:
            self.forget(execution)
            execution.timeout = execution.deadline = None
            if timeout is not None:
                self.watch(execution, execution.begin, timeout, late=True)

    def _drop_empty(self) -> None:
        self._queues = {name: queue for name, queue in self._queues.items() if queue}
        self._many = max(_MANY, 2 * len(self._queues))

    def _cancel(self, execution: Execution) -> None:
        execution.interrupts += 1
        if execution.task is not None:
            execution.task.cancel()

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - self._clock()), self.reap)


def take_back(execution: Execution) -> bool:
    """Takes back the engine's own cancellations of the task; returns whether somebody else cancelled it as well."""
    task = execution.task
    if task is None:
        return False
    asked = task.cancelling() - execution.cancelling  # fewer than were sent if the skill took one back itself
    for _ in range(min(asked, execution.interrupts)):
        task.uncancel()
    return asked > execution.interrupts


def undisturbed(execution: Execution) -> bool:
    """Returns whether nobody told the execution's task to stop."""
    task = execution.task
    return not execution.interrupts and (task is None or task.cancelling() <= execution.cancelling)


async def absorb(execution: Execution) -> None:
    """Meets a cancellation that the skill did not let pass: the engine's, so that the caller does not meet it later.

    Raises CancelledError when the caller was cancelled as well: no skill keeps that from it.
    """
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        if take_back(execution):
            raise
    else:
        if take_back(execution):
            raise asyncio.CancelledError


def interruption_error(execution: Execution) -> ExecutionError:
    """Returns the error that says why the execution was ended, and where its time went."""
    name = execution.skill_id
    if execution.interruption == "cancel":
        return ExecutionCancelledError(f"{name}: cancelled while {'running' if execution.isolation else 'waiting'}")
    if execution.interruption == "close":
        return ExecutionCancelledError(f"{name}: cancelled, since the engine was closed and its grace was over")
    waited, ran = execution.queued + execution.waited, execution.duration
    if ran is None:  # a shared run goes on without this caller
        stage, spent = ("run", "it is still running") if execution.isolation else ("queue", "it never had a place")
    else:
        stage, spent = "queue" if ran < waited else "run", f"it ran for {fmt.duration(ran)}"
        if waited > 0:
            spent += f" and waited {fmt.duration(waited)} for its turn"
    timeout = execution.allowed or 0.0
    return ExecutionTimeoutError(
        f"{name}: no answer within {fmt.duration(timeout)}; {spent}. Give it more time, or ask why it takes so long",
        timeout=timeout,
        stage=stage,
    )
