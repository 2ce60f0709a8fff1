"""RequestBatcher: many callers share one call."""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from skilllab.engine.bulk import async_form, require_count, require_seconds
from skilllab.errors import BatchError, EngineClosedError, WrongLoopError
from skilllab.settings import BATCH_SIZE, BATCH_WAIT

__all__ = ["BatchStatistics", "RequestBatcher"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Timer(Protocol):
    """What starts a timer: `asyncio`'s call_later, or a fake. What it returns has `cancel()`."""

    def __call__(self, delay: float, callback: Callable[[], object], /) -> Any: ...


class BatchStatistics(NamedTuple):
    """What a RequestBatcher did so far.

    batches, items: sent. mean_size: items a batch, None before the first. longest_wait: seconds that an item waited for
    its batch at most. waiting: items whose batch has not gone yet. running: batches under way.
    """

    batches: int
    items: int
    mean_size: float | None
    longest_wait: float
    waiting: int
    running: int


class _Batch:
    """A batch under way: its task, and how many of its callers still wait for it."""

    __slots__ = ("callers", "task")

    def __init__(self, task: asyncio.Task[None], callers: int) -> None:
        self.task = task
        self.callers = callers


class _Call(Generic[Item, Answer]):
    """One item with the caller that waits for its answer."""

    __slots__ = ("batch", "future", "item", "number", "since", "started")

    def __init__(
        self,
        number: int,
        item: Item,
        future: asyncio.Future[Answer],
        since: float,
        started: Callable[[float], object] | None,
    ) -> None:
        self.number = number
        self.item = item
        self.future = future
        self.since = since
        self.started = started
        self.batch: _Batch | None = None

    def answer(self, answer: Answer | BaseException) -> None:
        """Ends the waiting with an answer, or with an error when the answer is one."""
        if self.future.done():
            return
        if not isinstance(answer, BaseException):
            self.future.set_result(answer)
            return
        if not isinstance(answer, Exception) or isinstance(answer, StopIteration):
            # In a caller's hands it would be its own cancellation, the end of the program, or no error at all.
            error = BatchError(f"the batch function ended with {answer!r}, which says nothing about its items")
            error.__cause__, answer = answer, error
        self.future.set_exception(answer)
        self.future.exception()  # read, so that the error of a caller that leaves now is not reported as never retrieved


class RequestBatcher(Generic[Item, Answer]):
    """Collects the items of many callers and hands them to one call of `process_batch`.

    process_batch: gets the items in a list and returns a list with one answer for each; async, or plain and then run in
    a thread. An Exception in that list fails its item alone; one that is raised fails every item of the batch. It runs in
    the context in which the batcher was made, since a batch is of no single caller. max_size: items a batch. max_wait:
    seconds after its first item that a batch goes although it is not full; 0 takes together what is submitted in the same
    turn of the loop, None waits until it is full or flushed. max_concurrent: batches under way at once, None for any
    number; while all are, waiting items join the next batch. clock: seconds that only grow. timer: starts a timer, by
    default the loop's `call_later`. A batcher belongs to the event loop that first used it.
    """

    def __init__(
        self,
        process_batch: Callable[[list[Item]], Any],
        *,
        max_size: int = BATCH_SIZE,
        max_wait: float | None = BATCH_WAIT,
        max_concurrent: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        timer: Timer | None = None,
    ) -> None:
        require_count("max_size", max_size)
        if max_concurrent is not None:
            require_count("max_concurrent", max_concurrent)
        if max_wait is not None:
            require_seconds("max_wait", max_wait)
        self._process = async_form(process_batch)
        self._max_size = max_size
        self._max_wait = max_wait
        self._max_concurrent = math.inf if max_concurrent is None else max_concurrent
        self._clock = clock
        self._timer = timer
        self._context = contextvars.copy_context()
        self._loop: Any = None  # the event loop, once used
        self._waiting: OrderedDict[int, _Call[Item, Answer]] = OrderedDict()
        self._running: set[asyncio.Task[None]] = set()
        self._alarm: Any = None
        self._submitted = 0
        self._due = 0  # calls up to this number no longer wait for company
        self._closed = False
        self._batches = self._items = 0
        self._longest_wait = 0.0

    async def submit(self, item: Item, *, started: Callable[[float], object] | None = None) -> Answer:
        """Returns the answer to one item, or raises its error.

        started: called with the seconds that the item waited, when its batch starts. A caller that is cancelled leaves
        the others served; its item is taken out while the batch has not started, and a batch that nobody waits for any
        more is cancelled. Raises BatchError when the answers do not match the items, EngineClosedError after `aclose`,
        WrongLoopError on another event loop.
        """
        loop = self._own_loop()
        if self._closed:
            raise EngineClosedError("the batcher is closed: make a new one")
        self._submitted += 1
        call: _Call[Item, Answer] = _Call(self._submitted, item, loop.create_future(), self._clock(), started)
        self._waiting[call.number] = call
        if len(self._waiting) >= self._max_size:
            self._send()
        elif len(self._waiting) == 1:
            self._set_alarm()
        try:
            return await call.future
        except asyncio.CancelledError:
            self._leave(call)
            raise
        finally:
            del call  # an error's traceback holds this frame: it must not hold the error in turn

    def flush(self) -> None:
        """Sends the items that wait now, full batch or not; with max_concurrent, as soon as there is room."""
        self._own_loop()
        self._due = self._submitted
        self._send()

    async def aclose(self) -> None:
        """Refuses further items, sends those that wait, and waits for every batch; to be called from no batch."""
        self._own_loop()
        self._closed = True
        self.flush()
        while self._running:
            await asyncio.wait(self._running)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def statistics(self) -> BatchStatistics:
        """Returns a snapshot of the counters."""
        mean, waiting = self._items / self._batches if self._batches else None, len(self._waiting)
        return BatchStatistics(self._batches, self._items, mean, self._longest_wait, waiting, len(self._running))

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise WrongLoopError("the batcher is used outside an event loop: call it from a coroutine") from None
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise WrongLoopError("the batcher belongs to the event loop that first used it: make one for this loop")
        return loop

    def _send(self) -> None:
        """Starts the batches that are full or due, as many as there is room for."""
        sent = False
        while self._waiting and len(self._running) < self._max_concurrent:
            if len(self._waiting) < self._max_size and not self._is_due(next(iter(self._waiting.values()))):
                break
            taken = [self._waiting.popitem(last=False)[1] for _ in range(min(self._max_size, len(self._waiting)))]
            self._start([call for call in taken if not call.future.done()])  # done: cancelled in this turn of the loop
            sent = True
        if sent:
            self._set_alarm()

    def _is_due(self, call: _Call[Item, Answer]) -> bool:
        if call.number <= self._due:
            return True
        return self._max_wait is not None and self._clock() - call.since >= self._max_wait

    def _start(self, calls: list[_Call[Item, Answer]]) -> None:
        now = self._clock()
        calls = [call for call in calls if self._told(call, now - call.since)]
        if not calls:
            return
        task = self._loop.create_task(self._run(calls), context=self._context.copy())
        batch = _Batch(task, len(calls))
        for call in calls:
            call.batch = batch
            self._longest_wait = max(self._longest_wait, now - call.since)
        self._batches += 1
        self._items += len(calls)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _told(self, call: _Call[Item, Answer], waited: float) -> bool:
        """Tells the caller that its batch starts; False when that raised, which fails this caller alone."""
        if call.started is not None:
            try:
                call.started(waited)
            except Exception as error:  # noqa: BLE001 - foreign code: the error belongs to the caller that brought it
                call.answer(error)
                return False
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._send()

    def _set_alarm(self) -> None:
        """Sets the alarm for the first item that waits."""
        self._clear_alarm()
        if not self._waiting or self._max_wait is None:
            return
        first = next(iter(self._waiting.values()))
        if first.number > self._due:
            timer = self._timer or self._loop.call_later
            self._alarm = timer(max(0.0, self._max_wait - (self._clock() - first.since)), self._time_is_up)

    def _clear_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _time_is_up(self) -> None:
        self._alarm = None
        if self._waiting:
            self._due = max(self._due, next(iter(self._waiting)))
            self._send()

    def _leave(self, call: _Call[Item, Answer]) -> None:
        """Takes a cancelled caller out of the queue, or out of its batch."""
        if call.batch is not None:
            call.batch.callers -= 1
            if not call.batch.callers:
                call.batch.task.cancel()
        elif self._waiting.pop(call.number, None) is not None and not self._waiting:
            self._clear_alarm()

    async def _run(self, calls: list[_Call[Item, Answer]]) -> None:
        try:
            answers = await self._process([call.item for call in calls])
            _give(calls, _checked(answers, len(calls)))
        except Exception as error:  # noqa: BLE001 - whatever the batch function raised belongs to its callers
            _give(calls, [error] * len(calls))
        except (asyncio.CancelledError, SystemExit) as error:
            # Not because all callers left, for then nobody listens; raised as it is it would cancel or end the callers.
            _give(calls, [error] * len(calls))
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            del calls  # an error's traceback holds this frame: it must not hold the error in turn


def _give(calls: list[_Call[Any, Any]], answers: Sequence[Any]) -> None:
    for call, answer in zip(calls, answers, strict=True):
        call.answer(answer)


def _checked(answers: Any, items: int) -> Sequence[Any]:
    """Returns the answers of a batch; raises BatchError when they are not one for each item."""
    if not isinstance(answers, list | tuple):
        kind = type(answers).__qualname__
        raise BatchError(f"the batch function returned {kind} for {items} items: return a list of answers")
    if len(answers) != items:
        raise BatchError(
            f"the batch function returned {len(answers)} answers for {items} items: return one for each, in order"
        )
    return answers
