"""Coalescing: concurrent calls of one skill share a call of its batch function."""

from __future__ import annotations

import asyncio
import contextvars
import copy
from collections.abc import Awaitable, Callable
from typing import Any

from skilllab.engine.batching import RequestBatcher
from skilllab.engine.execution import Execution
from skilllab.engine.stepping import LEFT_BEHIND, skill_failure, unmeasured
from skilllab.errors import BatchError, ExecutionError

SHARED = unmeasured("the skill ran in a batch with others, whose CPU time has no parts")


class _Batch:
    """A batch under way. ended: a future that ends with its work. callers: how many still wait for it."""

    __slots__ = ("callers", "ended", "execution")

    def __init__(self, execution: Execution, callers: int) -> None:
        self.execution = execution
        self.callers = callers
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self, _: object = None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class _Call:
    """One execution that waits for its answer. begun: whether its batch has started. batch: None until that runs."""

    __slots__ = ("batch", "begun", "execution")

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.begun = False
        self.batch: _Batch | None = None

    def begin(self, waited: float) -> None:
        """Notes the seconds that it waited for its batch."""
        self.begun = True
        self.execution.waited += waited

    def note(self, shared: Execution) -> None:
        """Notes what is known of the batch."""
        self.execution.usage = SHARED
        self.execution.waited += shared.waited
        self.execution.longest_step = shared.longest_step

    def leave(self, waited: float) -> None:
        """Leaves the batch to the others; what runs for this one as well runs on, and keeps its place until it ends."""
        if not self.begun:
            self.execution.waited += waited
        if self.batch is None or self.batch.ended.done():
            return
        self.batch.callers -= 1
        if not self.batch.callers:
            self.batch.execution.interrupts = 2  # its task is being cancelled, and nobody waits for it to clean up
        self.execution.left_behind = self.batch.ended
        self.execution.usage = LEFT_BEHIND


class Coalescer:
    """Runs executions in batches, those of each revision of a skill apart.

    run: runs the batch function of an execution's skill with a list of parameters, and returns its list of answers.
    max_size: executions of a batch. max_wait: seconds that one waits for others. A batch runs in the context in which the
    coalescer was made, since it is of no single caller.
    """

    def __init__(self, run: Callable[[Execution, list[Any]], Awaitable[Any]], max_size: int, max_wait: float) -> None:
        self._run = run
        self._max_size = max_size
        self._max_wait = max_wait
        self._context = contextvars.copy_context()
        self._batchers: dict[tuple[str, int], RequestBatcher[_Call, Any]] = {}
        self._users: dict[tuple[str, int], int] = {}

    def __len__(self) -> int:
        """Skills that wait for a batch, or for its answers, at the moment."""
        return len(self._batchers)

    async def output(self, execution: Execution) -> Any:
        """Returns the answer of the batch function to one execution; raises the error that is its answer."""
        key = (execution.skill_id, execution.skill.revision)
        batcher = self._batchers.get(key)
        if batcher is None:
            batcher = self._batchers[key] = self._context.run(self._batcher, execution)
        self._users[key] = self._users.get(key, 0) + 1
        call, begin = _Call(execution), execution.clock()
        try:
            return await batcher.submit(call, started=call.begin)
        except asyncio.CancelledError:
            call.leave(execution.clock() - begin)
            raise
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._batchers[key]
            del call

    async def aclose(self) -> None:
        """Sends what waits, and waits for every batch."""
        for batcher in tuple(self._batchers.values()):
            await batcher.aclose()

    def _batcher(self, execution: Execution) -> RequestBatcher[_Call, Any]:
        return RequestBatcher(self._process, max_size=self._max_size, max_wait=self._max_wait, clock=execution.clock)

    async def _process(self, calls: list[_Call]) -> list[Any]:
        batch = _Batch(_shared_execution(calls[0].execution), len(calls))
        for call in calls:
            call.batch = batch
        shared = batch.execution
        try:
            answers = await self._run(shared, [call.execution.params for call in calls])
            return _checked(shared.skill_id, answers, len(calls))
        except ExecutionError as error:
            return [_own(error) for _ in calls]
        finally:
            for call in calls:
                call.note(shared)
            if shared.left_behind is None:
                batch.end()
            else:
                shared.left_behind.add_done_callback(batch.end)


def _shared_execution(first: Execution) -> Execution:
    """Returns the execution of a whole batch, which reports in the name of its first."""
    shared = Execution.of(first.execution_id, first.skill_id, first.start, first.clock())
    shared.skill, shared.clock, shared.on_block = first.skill, first.clock, first.on_block
    shared.params, shared.limits = {}, None
    task = asyncio.current_task()
    assert task is not None  # a batch has a task of its own
    shared.task, shared.cancelling = task, 0
    return shared


def _checked(skill_id: str, answers: Any, items: int) -> list[Any]:
    """Returns the answers, those that are errors as the skill's failures; raises BatchError when they are not one each."""
    if not isinstance(answers, list | tuple):
        raise BatchError(
            f"{skill_id}: its batch function returned {type(answers).__qualname__} for {items} parameter objects: "
            "return a list with one answer for each"
        )
    if len(answers) != items:
        raise BatchError(
            f"{skill_id}: its batch function returned {len(answers)} answers for {items} parameter objects: "
            "return one for each, in order"
        )
    return [_failure(skill_id, answer) if isinstance(answer, BaseException) else answer for answer in answers]


def _failure(skill_id: str, error: BaseException) -> ExecutionError:
    failure = skill_failure(skill_id, error)
    failure.__cause__ = error
    return failure


def _own(error: ExecutionError) -> ExecutionError:
    """Returns an equal error, since each caller raises one of its own."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own
