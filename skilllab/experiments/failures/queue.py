"""The demo server without a network: its queue and its draws, called in this event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from skilllab.demo.door import Door
from skilllab.demo.service import Service
from skilllab.demo.settings import DemoSettings
from skilllab.engine import Execution, GuardOptions, LayeredExecutionEngine
from skilllab.experiments.failures.skills import user_skill
from skilllab.loading import LoadedSkill, load
from skilllab.model import ResourceLimits
from skilllab.outcome import ResourceUsage


class QueueTarget:
    """What a demo server with these settings would do to calls, in the time of the event loop."""

    def __init__(self, settings: DemoSettings, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._door = Door(settings, loop.time())
        self._service = Service(settings.workers, settings.stall, loop.time, loop.call_later)
        self._served = 0
        self._work: set[asyncio.Task[None]] = set()

    def engine(self, guards: GuardOptions) -> LayeredExecutionEngine:
        """Returns an engine whose HTTP skills go to this queue."""
        runners, clock = {"http": _QueueRunner(self)}, self._loop.time
        return LayeredExecutionEngine(_Loaded(), guards=guards, runners=runners, clock=clock, wall_clock=clock)

    async def stall(self) -> None:
        """Serves nothing from now on."""
        self._service.stall()

    async def resume(self) -> None:
        """Serves again."""
        self._service.resume()

    async def served(self) -> int:
        """Returns how many requests were served so far, those that nobody waited for included."""
        return self._served

    async def visit(self) -> None:
        """Returns when a request that comes now would be answered; whoever leaves earlier stays in the queue."""
        work = self._loop.create_task(self._serve())
        self._work.add(work)
        work.add_done_callback(self._work.discard)
        await asyncio.shield(work)

    async def _serve(self) -> None:
        await self._service.serve(self._door.service_time("user"))
        self._served += 1


class _Loaded:
    """Finds the one skill, loaded in this thread: in virtual time nobody waits for another one."""

    changes = 0

    def __init__(self) -> None:
        self._skill = load(user_skill("http://queue"), 0)

    def revision(self, skill_id: str) -> int:
        return self._skill.revision

    async def load(self, skill_id: str) -> LoadedSkill:
        return self._skill


class _QueueRunner:
    """Sends executions to a QueueTarget."""

    isolation = "none"
    limits: ResourceLimits | None = None

    def __init__(self, target: QueueTarget) -> None:
        self._target = target

    def unheld(self, skill: LoadedSkill, limits: ResourceLimits) -> dict[str, str]:
        return dict.fromkeys(limits.asked(), "a queue holds none")

    async def run(self, execution: Execution) -> Any:
        execution.usage = ResourceUsage()
        await self._target.visit()
        return {}

    async def stream(self, execution: Execution) -> AsyncIterator[Any]:
        yield await self.run(execution)

    async def aclose(self) -> None:
        """Has nothing to close."""
