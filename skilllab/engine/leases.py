"""Leases: the connections of one execution, from the pools of its engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any

from skilllab.engine.execution import Execution
from skilllab.engine.pools import ConnectionPool
from skilllab.errors import LeaseError


class Leases:
    """Leases a connection from the pool of each name for the time of an execution: `async with` gives them by name.

    They are leased in the order of their names, so that no two executions wait crosswise for what the other has, and go
    back in reverse; where the execution leaves work behind, when that ends. What it waits for them is time it waited.
    Raises LeaseError, which names skill and pool, when there is no such pool or it gives none.
    """

    __slots__ = ("_execution", "_names", "_pools", "_stack")

    def __init__(self, pools: Mapping[str, ConnectionPool], execution: Execution, names: Iterable[str]) -> None:
        self._pools = pools
        self._execution = execution
        self._names = sorted(set(names))
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> dict[str, Any]:
        if not self._names:
            return {}
        begin = self._execution.clock()
        try:
            return {name: await self._lease(name) for name in self._names}
        except BaseException:
            await self._stack.aclose()
            raise
        finally:
            self._execution.waited += self._execution.clock() - begin

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        left = self._execution.left_behind
        if not self._names:
            return
        if left is None:
            await self._stack.__aexit__(kind, error, traceback)
        else:
            self._execution.left_behind = asyncio.get_running_loop().create_task(self._release_after(left))

    async def _lease(self, name: str) -> Any:
        skill_id, pool = self._execution.skill_id, self._pools.get(name)
        if pool is None:
            known = f"there are {', '.join(sorted(self._pools))}" if self._pools else "it has none"
            raise LeaseError(
                f"{skill_id}: no pool of the engine is called {name!r}: {known}; "
                f"give it one with FunctionOptions(pools={{{name!r}: ConnectionPool(...)}})"
            )
        try:
            return await self._stack.enter_async_context(pool.lease())
        except LeaseError as error:
            raise LeaseError(f"{skill_id}: pool {name!r}: {error}") from (error.__cause__ or error)

    async def _release_after(self, left: asyncio.Future[Any]) -> None:
        """Gives the connections back, as after a failure, once what was left behind has ended."""
        await asyncio.wait((left,))
        await self._stack.__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)
