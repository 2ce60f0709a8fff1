"""By how much memory grows with the number of executions."""

from __future__ import annotations

import gc
import sys
from typing import Any

from skilllab.engine import Execution, LayeredExecutionEngine
from skilllab.model import SkillDefinition
from skilllab.registry import InMemorySkillRegistry
from skilllab.testing import FakeRunner

PLAIN = SkillDefinition(id="fake", name="fake", layer=1, handler="textwrap:dedent")


async def grown(calls: int, kinds: tuple[str, ...] = ("fake", "kept", "fails")) -> list[int]:
    """Returns by how much the number of objects and of memory blocks grew over the calls, listened to, cycles not freed."""
    registry = InMemorySkillRegistry()
    for name in kinds:
        await registry.register(PLAIN.model_copy(update={"id": name, "name": name, "cacheable": name == "kept"}))

    def answer(skill_id: str, params: dict[str, Any]) -> None:
        if skill_id == "fails":
            raise ValueError("no")

    class Forgetful(FakeRunner):
        async def run(self, execution: Execution) -> Any:
            self.calls.clear()
            return await super().run(execution)

    async with LayeredExecutionEngine(registry, runners={"function": Forgetful(answer)}) as engine:
        engine.on("execution-complete", lambda _: None)

        async def some(number: int) -> None:
            for _ in range(number // len(kinds)):
                for name in kinds:
                    await engine.execute(name, {"x": 1})

        await some(3000)
        gc.collect()
        gc.disable()
        try:
            before = (len(gc.get_objects()), sys.getallocatedblocks())
            await some(calls)
            after = (len(gc.get_objects()), sys.getallocatedblocks())
        finally:
            gc.enable()
    return [now - then for then, now in zip(before, after, strict=True)]
