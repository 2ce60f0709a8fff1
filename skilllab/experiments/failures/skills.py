"""The skills of the experiments on failures: API skills of the demo server, and functions that fail when told."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import Any

from skilllab.define import SkillFunction, definition_of, skill
from skilllab.experiments.queries import finished
from skilllab.model import FunctionHandler, HttpHandler, SkillDefinition
from skilllab.registry import InMemorySkillRegistry

USER = "user-profile-v1"
_USER_INPUT = {"type": "object", "properties": {"user_id": {"type": "integer"}}, "required": ["user_id"]}


def user_skill(url: str, skill_id: str = USER, **handler: Any) -> SkillDefinition:
    """Returns the skill that asks the demo server at `url` for a user; further arguments are those of HttpHandler."""
    request = HttpHandler(**{"url": f"{url}/users/{{user_id}}", **handler})
    return SkillDefinition(id=skill_id, name=skill_id, layer=3, handler=request, input_schema=_USER_INPUT)


def registry_of(*skills: SkillDefinition | SkillFunction[..., Any]) -> InMemorySkillRegistry:
    """Returns a registry with these skills."""
    registry = InMemorySkillRegistry()
    for each in skills:
        finished(registry.register(definition_of(each)))
    return registry


@skill(id="moody-v1")
async def moody(mood: str) -> dict[str, int]:
    """Counts rows, unless its mood is slow (it never ends), wrong (it returns text) or broken (it raises)."""
    if mood == "slow":
        await asyncio.Event().wait()
    if mood == "broken":
        raise KeyError("rows")
    rows: Any = "many" if mood == "wrong" else 3
    return {"rows": rows}


@skill(id="stubborn-v1")
def stubborn(seconds: float) -> float:
    """Sleeps in its thread, where nothing can stop it."""
    time.sleep(seconds)
    return seconds


async def _lookup(seconds: float, orders: sqlite3.Connection) -> int:
    """Counts orders, and keeps its connection for a while."""
    rows: int = orders.execute("select count(*) from orders").fetchone()[0]
    await asyncio.sleep(seconds)
    return rows


lookup = SkillDefinition(
    id="lookup-v1",
    name="lookup",
    layer=1,
    handler=FunctionHandler(target=f"{__name__}:_lookup", function=_lookup, leases=("orders",)),
)
