"""Retries: what happens after a first failure. Who succeeds at once never comes here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tenacity import AsyncRetrying, RetryCallState

from skilllab.engine.http.template import Failure

Sleep = Callable[[float], Awaitable[None]]


async def retried(
    first: Failure,
    again: Callable[[], Awaitable[Any]],
    *,
    retries: int,
    delay: Callable[[int, Failure], float],
    obstacle: Callable[[Failure, float], Failure | None],
    sleep: Sleep,
) -> Any:
    """Calls `again` until it returns no Failure that another try may mend, at most `retries` times; returns the last outcome.

    delay: seconds before a retry, by its number from 1 and what failed. obstacle: asked before each with what failed and
    the delay; the failure that it returns is the outcome, and nobody sleeps. sleep: waits.
    """
    outcomes = [first]  # known already: the first "try" of the loop only hands it over
    stopped: list[Failure] = []

    async def attempt() -> Any:
        return outcomes.pop() if outcomes else await again()

    def wait(state: RetryCallState) -> float:
        failure = _failed(state)
        return 0.0 if failure is None else delay(state.attempt_number, failure)

    def stop(state: RetryCallState) -> bool:
        failure = _failed(state)
        assert failure is not None, "the loop asks after failures only"
        if state.attempt_number > retries:
            stopped.append(told(failure, f"after {state.attempt_number} attempts"))
        elif (barrier := obstacle(failure, state.upcoming_sleep)) is not None:
            stopped.append(barrier)
        return bool(stopped)

    def worth_another(state: RetryCallState) -> bool:
        failure = _failed(state)
        return failure is not None and failure.again

    loop = AsyncRetrying(
        sleep=sleep, wait=wait, stop=stop, retry=worth_another, retry_error_callback=lambda _: stopped[0]
    )
    return await loop(attempt)


def told(failure: Failure, note: str) -> Failure:
    """Returns the failure with a note at the end of its error's message."""
    error = failure.error
    error.args = (f"{error.args[0]}; {note}", *error.args[1:])
    return failure


def _failed(state: RetryCallState) -> Failure | None:
    """Returns the Failure that the last attempt gave; None for an output, and for what was raised."""
    outcome = None if state.outcome is None or state.outcome.failed else state.outcome.result()
    return outcome if isinstance(outcome, Failure) else None
