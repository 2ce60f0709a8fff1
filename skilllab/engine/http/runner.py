"""The runner of layer 3: requests to APIs over one pool of connections."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skilllab import settings
from skilllab.engine.execution import Execution
from skilllab.engine.guard import checked_count, checked_seconds
from skilllab.errors import EngineClosedError, HandlerNotRunnableError, InvalidValueError
from skilllab.loading import LoadedSkill
from skilllab.model import ResourceLimits
from skilllab.templates import checked_hosts

if TYPE_CHECKING:
    from skilllab.engine.http.calls import HttpCalls


_HELD = frozenset({"max_network_requests", "max_file_size", "max_duration"})


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How requests are sent. Sizes in bytes, times in seconds; a proxy is never taken from the environment.

    max_sockets: requests at once; further ones wait their turn. timeout: of one request, from its connection to the last
    byte of its answer. retries: times that a request which may be repeated is repeated. backoff: before the first
    repetition, twice as long before each later one, each 0.5 to 1.5 times that by chance. max_backoff: before any, also
    when a server asks for more. max_bytes: of an answer, decompressed, unless a limit (max_file_size) says otherwise.
    max_redirects: that one request follows. allowed_hosts: "host" or "host:port" that this engine may talk to at all; None
    leaves it to the skills. batch_wait: that a call waits for others to share a request with. keep_alive: that an idle
    connection is kept. cache_ttl: that the output of a cacheable skill is kept. None as timeout or cache_ttl is no end.
    """

    max_sockets: int = settings.HTTP_SOCKETS
    timeout: float | None = settings.HTTP_TIMEOUT
    retries: int = settings.HTTP_RETRIES
    backoff: float = settings.HTTP_BACKOFF
    max_backoff: float = settings.HTTP_MAX_BACKOFF
    max_bytes: int = settings.HTTP_MAX_BYTES
    max_redirects: int = settings.HTTP_REDIRECTS
    allowed_hosts: Sequence[str] | None = None
    batch_wait: float = settings.HTTP_BATCH_WAIT
    keep_alive: float = settings.HTTP_KEEP_ALIVE
    cache_ttl: float | None = settings.HTTP_RESULT_TTL

    def __post_init__(self) -> None:
        for name in ("max_sockets", "max_bytes"):
            checked_count(name, getattr(self, name))
        for name in ("retries", "max_redirects"):
            checked_count(name, getattr(self, name), least=0)
        for name in ("timeout", "backoff", "max_backoff", "batch_wait", "keep_alive", "cache_ttl"):
            if name == "batch_wait" and self.batch_wait == 0:
                continue  # shares a request only with calls of the same turn of the loop
            if checked_seconds(name, getattr(self, name)) is None and name not in ("timeout", "cache_ttl"):
                raise InvalidValueError(f"{name}=None must be a number of seconds")
        if self.allowed_hosts is not None:
            if isinstance(self.allowed_hosts, str):
                raise InvalidValueError(f"allowed_hosts={self.allowed_hosts!r} must be a list: write [...] around it")
            try:
                object.__setattr__(self, "allowed_hosts", checked_hosts(tuple(self.allowed_hosts)))
            except ValueError as error:
                raise InvalidValueError(f"allowed_hosts: {error}") from None


class HttpRunner:
    """Sends the request that a skill's template and the parameters make, and returns what its answer says.

    An answer of JSON is its value, or the part at the skill's response_path; of text, a text; without a body, None.
    Requests that may be repeated are, after connections that failed or broke, timeouts of one request, and statuses 408,
    425, 429, 500, 502, 503 and 504, but never beyond the execution's deadline. max_network_requests counts every request
    that is sent, repetitions and redirects among them. A skill with a batch shares requests between its calls: each is
    charged for those that it shares. sleep, random (0 to 1) and wall_clock (seconds since the epoch): for repetitions.
    environ: where secrets are.
    """

    isolation = "none"
    limits: ResourceLimits | None = None

    def __init__(
        self,
        options: HttpOptions = HttpOptions(),
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random.random,
        environ: Mapping[str, str] = os.environ,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._options = options
        self._sleep = sleep
        self._random = random
        self._environ = environ
        self._wall_clock = wall_clock
        self._calls: HttpCalls | None = None
        self._closed = False

    def unheld(self, skill: LoadedSkill, limits: ResourceLimits) -> Mapping[str, str]:
        """Returns the limits that cannot be held for a request, each with the reason."""
        return {name: "a request is sent from this process" for name in limits.asked() if name not in _HELD}

    def run(self, execution: Execution) -> Coroutine[Any, Any, Any]:
        """Returns the output.

        Raises what its request comes to: InvalidParametersError, SecretError, HostNotAllowedError, LimitExceededError,
        TransportError, HttpStatusError, InvalidResponseError, BatchError, EngineClosedError. No error holds a secret.
        """
        return (self._calls or self._opened()).run(execution)

    def stream(self, execution: Execution) -> AsyncIterator[Any]:
        """Raises HandlerNotRunnableError: an answer comes whole."""
        raise HandlerNotRunnableError(
            f"{execution.skill_id}: an http handler does not stream: leave streaming out, or write an async generator"
        )

    async def aclose(self) -> None:
        """Sends batches that wait, and closes every connection."""
        self._closed = True
        calls, self._calls = self._calls, None
        if calls is not None:
            await calls.aclose()

    def _opened(self) -> HttpCalls:
        if self._closed:
            raise EngineClosedError("the HTTP runner is closed: make a new engine")
        from skilllab.engine.http.calls import HttpCalls  # a third of a second to import, for those who call no API

        self._calls = HttpCalls(self._options, self._sleep, self._random, self._environ, self._wall_clock)
        return self._calls
