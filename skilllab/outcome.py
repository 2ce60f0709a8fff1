"""What runs produce: results, their metadata, and events; tuples with names, since every execution makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from skilllab.errors import SkilllabError
from skilllab.frozen import FrozenDict


class ResourceUsage(NamedTuple):
    """What one execution used; None where it was not measured, with the reason in `unmeasured`.

    cpu_time: seconds. memory_used: bytes. network_requests: requests sent, retries and redirects among them.
    """

    cpu_time: float | None = None
    memory_used: int | None = None
    network_requests: int | None = None
    redirects: int | None = None
    unmeasured: Mapping[str, str] = FrozenDict()


class ExecutionMetadata(NamedTuple):
    """How one execution went.

    start: seconds since the epoch. duration: seconds the skill itself ran, None when it did not run for this call (a
    refused call is no fast one in any mean, and neither is a cached answer). queue_time: seconds it waited for a free
    place, thread, connection or batch. overhead: seconds of all the rest, from the call to its result.
    layer: None when the skill is unknown. isolation: what stood between skill and process, None when it did not start.
    attempts: how often it was tried. cached: whether the output came from the result cache, or from an equal call that
    was under way. longest_step: seconds that it held up the event loop at most, None when it did not run there.
    """

    execution_id: str
    skill_id: str
    layer: int | None
    isolation: str | None
    start: float
    duration: float | None
    queue_time: float
    overhead: float
    attempts: int
    cached: bool
    longest_step: float | None
    resource_usage: ResourceUsage


class ExecutionResult(NamedTuple):
    """The outcome of one execution: `output` when it succeeded, a typed `error` when it did not."""

    output: Any
    error: SkilllabError | None
    metadata: ExecutionMetadata

    @property
    def success(self) -> bool:
        """True when the skill ran to its end and its output was accepted."""
        return self.error is None


class ExecutionEvent(NamedTuple):
    """An execution was accepted ("execution-start", without a result) or ended ("execution-complete", with it).

    Each start has one complete with the same execution_id, whatever happens in between. time: seconds since the epoch.
    """

    name: Literal["execution-start", "execution-complete"]
    execution_id: str
    skill_id: str
    time: float
    result: ExecutionResult | None = None


class BreakerEvent(NamedTuple):
    """The circuit breaker of a skill changed its state. time: seconds since the epoch."""

    name: Literal["breaker-change"]
    skill_id: str
    time: float
    before: str
    after: str


class LoopBlockedEvent(NamedTuple):
    """One step of a skill held up the event loop for `seconds`; `where` is the file and line at which the step ended."""

    name: Literal["loop-blocked"]
    execution_id: str
    skill_id: str
    time: float
    seconds: float
    where: str


Event = ExecutionEvent | BreakerEvent | LoopBlockedEvent
EVENT_NAMES = ("execution-start", "execution-complete", "breaker-change", "loop-blocked")
