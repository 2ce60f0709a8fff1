"""HttpCalls: from an execution to its output. Render, send, read; again after a failure; together where a skill can."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakSet

from skilllab import format as fmt
from skilllab.engine.execution import Execution
from skilllab.engine.http.batch import HttpSharing
from skilllab.engine.http.exchange import Wire
from skilllab.engine.http.ledger import Ledger
from skilllab.engine.http.outcome import output_of
from skilllab.engine.http.retry import retried, told
from skilllab.engine.http.runner import HttpOptions
from skilllab.engine.http.template import Failure, Request, RequestTemplate
from skilllab.errors import HandlerNotRunnableError, LimitExceededError
from skilllab.loading import LoadedSkill
from skilllab.model import HttpHandler

_KEPT = 2000  # templates, a few KiB each


class _Ready(NamedTuple):
    """A skill at one revision, with what was made of it."""

    skill: LoadedSkill
    template: RequestTemplate
    sharing: HttpSharing | None


class HttpCalls:
    """What an HttpRunner does, on one event loop; see there."""

    def __init__(
        self,
        options: HttpOptions,
        sleep: Callable[[float], Awaitable[None]],
        random: Callable[[], float],
        environ: Mapping[str, str],
        wall_clock: Callable[[], float],
    ) -> None:
        self._options = options
        self._sleep = sleep
        self._random = random
        self._environ = environ
        self._wire = Wire(options, wall_clock)
        self._skills: dict[str, _Ready] = {}
        self._sharings: WeakSet[HttpSharing] = WeakSet()

    async def run(self, execution: Execution) -> Any:
        """Returns the output, or raises the error: here and nowhere below, where frames hold secrets."""
        ledger = Ledger(execution)
        execution.attempts = 1
        limits = execution.limits
        try:
            if limits is None or limits.max_duration is None:
                outcome = await self._outcome(execution, ledger)
            else:
                outcome = await self._in_time(execution, ledger, limits.max_duration)
        finally:
            ledger.close()
        if type(outcome) is not Failure:
            return outcome
        try:
            raise outcome.error
        finally:
            del outcome  # the error's traceback holds this frame: it must not hold the error in turn

    async def aclose(self) -> None:
        """Sends what waits for a batch and closes the connections."""
        for sharing in list(self._sharings):
            await sharing.aclose()
        await self._wire.aclose()

    async def _in_time(self, execution: Execution, ledger: Ledger, seconds: float) -> Any:
        try:
            async with asyncio.timeout(seconds) as ledger.timer:
                return await self._outcome(execution, ledger)
        except TimeoutError:
            message = f"{execution.skill_id}: it ran longer than max_duration={seconds}: allow more, or ask for less"
        return Failure(LimitExceededError(message, limit="max_duration", allowed=seconds, used=seconds))

    async def _outcome(self, execution: Execution, ledger: Ledger) -> Any:
        """Returns the output, or the Failure of the last try."""
        skill, limits = execution.skill, execution.limits
        ready = self._skills.get(execution.skill_id)
        if ready is None or ready.skill is not skill:
            ready = self._prepared(skill)
        _, template, sharing = ready
        allowed = self._options.max_bytes if limits is None or limits.max_file_size is None else limits.max_file_size
        attempt: Callable[[], Awaitable[Any]]
        if sharing is None:
            request = template.render(execution.params, self._environ)
            if type(request) is Failure:
                return request
            attempt = partial(self._sent, request, ledger, allowed)
        else:
            attempt = partial(sharing.call, execution, ledger, allowed)
        outcome = await attempt()
        if type(outcome) is not Failure or not outcome.again or not self._options.retries:
            return outcome
        if not template.idempotent:
            return told(
                outcome, "not repeated, as it may have had its effect: say idempotent=True where that does no harm"
            )
        return await self._repeated(execution, ledger, outcome, attempt)

    async def _sent(self, request: Request, ledger: Ledger, allowed: int) -> Any:
        answer = await self._wire.exchange(request, ledger, allowed)
        return answer if type(answer) is Failure else output_of(request, answer)

    def _prepared(self, skill: LoadedSkill) -> _Ready:
        skill_id = skill.definition.id
        if not isinstance(skill.definition.handler, HttpHandler):
            raise HandlerNotRunnableError(f"{skill_id}: its handler is no request; give it to the runner of its kind")
        options = self._options
        hosts = None if options.allowed_hosts is None else tuple(options.allowed_hosts)
        template = RequestTemplate(skill.definition, hosts)
        sharing = None
        if template.batch is not None:
            sharing = HttpSharing(template, self._wire, options.batch_wait, self._random, self._environ)
            self._sharings.add(sharing)
        if skill_id not in self._skills and len(self._skills) >= _KEPT:
            del self._skills[next(iter(self._skills))]
        ready = self._skills[skill_id] = _Ready(skill, template, sharing)
        return ready

    # after a failure

    async def _repeated(
        self, execution: Execution, ledger: Ledger, first: Failure, attempt: Callable[[], Awaitable[Any]]
    ) -> Any:
        async def again() -> Any:
            execution.attempts += 1
            return await attempt()

        return await retried(
            first,
            again,
            retries=self._options.retries,
            delay=self._delay,
            obstacle=partial(self._obstacle, execution, ledger),
            sleep=self._sleep,
        )

    def _delay(self, number: int, failure: Failure) -> float:
        """Returns the seconds before a repetition, by its number from 1."""
        if failure.wait is not None:
            return failure.wait
        if failure.stale and number == 1:
            return 0.0
        chance = self._random() if failure.chance is None else failure.chance
        delay: float = self._options.backoff * 2.0 ** min(number - 1, 60) * (0.5 + chance)
        return min(self._options.max_backoff, delay)

    def _obstacle(self, execution: Execution, ledger: Ledger, failure: Failure, delay: float) -> Failure | None:
        """Returns the failure with which it ends before a repetition that budget, deadline or patience do not allow."""
        over = ledger.obstacle(f", the last of which failed ({failure.error})")
        if over is not None:
            return over
        if delay > self._options.max_backoff:
            return told(
                failure,
                f"not repeated, as it shall wait {fmt.duration(delay)} and max_backoff is "
                f"{fmt.duration(self._options.max_backoff)}",
            )
        left = None if execution.deadline is None else execution.deadline - execution.clock()
        if left is not None and delay >= left:
            return told(
                failure,
                f"not repeated after {execution.attempts} of {self._options.retries + 1} attempts, as the next one is due in "
                f"{fmt.duration(delay)} and the deadline in {fmt.duration(max(0.0, left))}",
            )
        return None
