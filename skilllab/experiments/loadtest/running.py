"""load_test: runs a skill under load, in this event loop or in a process of its own, and says what it measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Literal

from skilllab import settings
from skilllab.engine import LayeredExecutionEngine
from skilllab.errors import InvalidValueError
from skilllab.experiments.loadtest.child import run_in_child
from skilllab.experiments.loadtest.generator import Ending, run
from skilllab.experiments.loadtest.records import Progress, Requests
from skilllab.experiments.loadtest.result import LoadTestResult
from skilllab.experiments.loadtest.scenario import Abort, Arrivals, Params, Scenario, Stage
from skilllab.model import ResourceLimits

_CONCURRENCY = 10  # the guide's
_DURATION = 30.0  # s, the guide's
_TELL = 0.25  # s between two calls of on_progress


async def load_test(
    engine: LayeredExecutionEngine,
    skill_id: str,
    params: Params | None = None,
    *,
    concurrency: int | None = None,
    rate: float | None = None,
    arrivals: Arrivals = "poisson",
    to: float | None = None,
    duration: float | None = None,
    count: int | None = None,
    stages: Sequence[Stage] | None = None,
    warmup: float = 0.0,
    max_in_flight: int = settings.MAX_IN_FLIGHT,
    cache: bool = False,
    timeout: float | Literal["inherit"] | None = "inherit",
    resource_limits: ResourceLimits | None = None,
    seed: int = 0,
    slo: str | None = None,
    abort_on: Abort | None = None,
    where: Literal["here", "process"] = "here",
    on_progress: Progress | None = None,
    stop: asyncio.Event | None = None,
) -> LoadTestResult:
    """Runs a skill under load and returns what it measured.

    Closed model (the guide's): `concurrency` workers, 10 unless given, of which each sends when its last request has
    ended. Open model: `rate` requests a second, whatever became of those before; `arrivals` and `to` as a Stage has them.
    stages: several in a row, in place of these and of the duration. params: of every request, or a list that goes round,
    or a function of the request's number. duration: seconds, 30 where neither it nor a count is given. count: requests.
    warmup: seconds kept apart. max_in_flight, cache, timeout, resource_limits, seed, slo, abort_on: as in Scenario.
    where: "process" runs it in a child. stop: ends it early. on_progress: told (seconds, requests) four times a second.
    Raises InvalidValueError before anything starts, SkillNotFoundError for an unknown skill, what a closed engine or another
    event loop raises, and at once what on_progress does; other failures of a request are counted by their kinds.
    """
    if where not in ("here", "process"):
        raise InvalidValueError(f'where={where!r} must be "here" or "process"')
    if stages is None:
        stages = (_stage(duration, count, rate, concurrency, arrivals, to),)
    elif (rate, concurrency, duration, to, arrivals) != (None, None, None, None, "poisson"):
        raise InvalidValueError("stages say rate, concurrency, arrivals and duration themselves: leave those out")
    scenario = Scenario(
        skill_id,
        {} if params is None else params,
        tuple(stages),
        warmup=warmup,
        count=count,
        max_in_flight=max_in_flight,
        cache=cache,
        timeout=timeout,
        resource_limits=resource_limits,
        seed=seed,
        slo=slo,
        abort=abort_on,
    )
    if where == "here":
        return await _run_here(engine, scenario, stop=stop, on_progress=on_progress)
    return await run_in_child(engine, scenario, stop=stop, on_progress=on_progress)


def _stage(
    duration: float | None,
    count: int | None,
    rate: float | None,
    concurrency: int | None,
    arrivals: Arrivals,
    to: float | None,
) -> Stage:
    if duration is None and count is None:
        duration = _DURATION
    if rate is None and concurrency is None:
        concurrency = _CONCURRENCY
    return Stage(duration, rate=rate, concurrency=concurrency, arrivals=arrivals, to=to)


async def _run_here(
    engine: LayeredExecutionEngine,
    scenario: Scenario,
    *,
    stop: asyncio.Event | None = None,
    on_progress: Progress | None = None,
) -> LoadTestResult:
    """Runs a scenario in this event loop; what on_progress raises ends the test at once and is raised here."""
    requests, started = Requests(), time.time()
    work = run(engine, scenario, requests, stop=stop)
    ending = await (work if on_progress is None else _told(work, on_progress, requests))
    return LoadTestResult(scenario, requests, ending, started)


async def _told(work: Coroutine[Any, Any, Ending], on_progress: Progress, requests: Requests) -> Ending:
    test, telling = asyncio.create_task(work), asyncio.create_task(_tell(on_progress, requests))
    try:
        await asyncio.wait((test, telling), return_when=asyncio.FIRST_COMPLETED)
        if telling.done():
            telling.result()
        return await test
    finally:
        test.cancel()
        telling.cancel()
        await asyncio.gather(test, telling, return_exceptions=True)


async def _tell(on_progress: Progress, requests: Requests) -> None:
    now = asyncio.get_running_loop().time
    begin = now()
    while True:
        await asyncio.sleep(_TELL)
        on_progress(now() - begin, requests)
