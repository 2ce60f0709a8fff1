"""Kinds of failure: each made to happen, with its error, and with what it tells the circuit breaker of its skill."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from skilllab.demo import DemoServer, DemoSettings
from skilllab.engine import GuardOptions, HttpOptions, LayeredExecutionEngine
from skilllab.engine.guard import CircuitBreaker
from skilllab.errors import SkilllabError
from skilllab.experiments.failures.skills import USER, moody, registry_of, user_skill
from skilllab.experiments.failures.waiting import until
from skilllab.model import ResourceLimits
from skilllab.outcome import ExecutionResult
from skilllab.registry import InMemorySkillRegistry

if TYPE_CHECKING:
    import pandas as pd

_TOLD = {2: "counts against the skill", 0: "the skill works: counts from 0", 1: "says nothing"}
"""What a breaker with one failure makes of another error, by the number of failures afterwards."""
_MANY = 1000  # failures: no breaker opens while kinds are tried
_TIMEOUT = 0.02  # s that a caller waits for what never comes
_NEVER = 600.0  # s
_NO_DISK = ResourceLimits(max_disk=1 << 20)
_NO_REQUESTS = ResourceLimits(max_network_requests=0)


class Kind(NamedTuple):
    """One kind of failure: what happened, the error that came of it, and what it told the breaker of the skill."""

    what: str
    error: SkilllabError
    breaker: str


class _Case(NamedTuple):
    """How to make a failure happen. server: how the demo server is to behave. options: of the call."""

    what: str
    skill_id: str
    params: Mapping[str, Any]
    server: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}
    cancel: bool = False


_CASES = (
    _Case("nobody registered the skill", "user-profil-v1", {"user_id": 1}),
    _Case("a parameter has the wrong type", USER, {"user_id": "seven"}),
    _Case("a limit cannot be held", "moody-v1", {"mood": "fine"}, options={"resource_limits": _NO_DISK}),
    _Case("a secret is not set", "secret-v1", {"user_id": 1}),
    _Case("the host is not allowed", "elsewhere-v1", {"user_id": 1}),
    _Case("somebody cancelled it", "moody-v1", {"mood": "slow"}, cancel=True),
    _Case("the answer lacks a field", "age-v1", {"user_id": 1}),
    _Case("the skill raised", "moody-v1", {"mood": "broken"}),
    _Case("its output is not what it says", "moody-v1", {"mood": "wrong"}),
    _Case("the server says 404", USER, {"user_id": 99_999_999}),
    _Case("the server says 503", USER, {"user_id": 1}, {"error_rate": 1.0, "error_status": 503}),
    _Case("nobody listens there", "nobody-v1", {"user_id": 1}),
    _Case("no answer in time", USER, {"user_id": 1}, {"latency": _NEVER}, {"timeout": _TIMEOUT}),
    _Case("more requests than allowed", USER, {"user_id": 1}, options={"resource_limits": _NO_REQUESTS}),
)


async def kinds() -> list[Kind]:
    """Makes every kind of failure happen twice, for the second time to a breaker with one failure on its books."""
    async with DemoServer() as server:
        guards = GuardOptions(breaker_failures=_MANY)
        async with LayeredExecutionEngine(_skills(server.url), guards=guards, http=HttpOptions(retries=0)) as engine:
            return [await _tried(engine, server, case) for case in _CASES]


def table(found: list[Kind]) -> pd.DataFrame:
    """Returns one row a kind: what happened, the name of its error, what it tells the breaker."""
    import pandas as pd

    rows = [(kind.what, type(kind.error).__name__, kind.breaker) for kind in found]
    return pd.DataFrame(rows, columns=["what happened", "error", "what the breaker hears"])


def _skills(url: str) -> InMemorySkillRegistry:
    return registry_of(
        moody,
        user_skill(url),
        user_skill(url, "age-v1", response_path="profile.age"),
        user_skill(url, "secret-v1", headers={"X-Key": "{key}"}, secrets={"key": "SKILLLAB_NO_SUCH_KEY"}),
        user_skill(url, "elsewhere-v1", allowed_hosts=["api.example.org"]),
        user_skill("http://127.0.0.1:1", "nobody-v1"),
    )


async def _tried(engine: LayeredExecutionEngine, server: DemoServer, case: _Case) -> Kind:
    await server.configure(DemoSettings(**case.server))
    error = (await _failed(engine, case)).error
    assert error is not None  # every case fails: that is what it is for
    breaker = engine.breaker(case.skill_id)
    if breaker is None:
        return Kind(case.what, error, "there is none")
    _have_one_failure(breaker)
    await _failed(engine, case)
    return Kind(case.what, error, _TOLD[breaker.failures])


async def _failed(engine: LayeredExecutionEngine, case: _Case) -> ExecutionResult:
    call = asyncio.create_task(engine.execute(case.skill_id, case.params, **case.options))
    if case.cancel:

        async def running() -> bool:
            return any(execution.state == "running" for execution in engine.active)

        await until(running, _NEVER)
        engine.cancel(engine.active[0].execution_id)
    return await call


def _have_one_failure(breaker: CircuitBreaker) -> None:
    for worked in (True, False):
        breaker.report(breaker.admit(), worked)
