"""Ledger: what one execution sends and waits for, noted at the moment at which it happens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse

from skilllab.engine.execution import Execution
from skilllab.engine.http.template import Failure
from skilllab.errors import LimitExceededError
from skilllab.frozen import FrozenDict
from skilllab.outcome import ResourceUsage

_UNMEASURED = FrozenDict(
    cpu_time="requests share this process, where the part of one execution was not measured",
    memory_used="requests share this process, where the part of one execution was not measured",
)
_USUAL = ResourceUsage(None, None, 1, 0, _UNMEASURED)


class BrokenError(aiohttp.ClientConnectionError):
    """Raised in place of the errors after which aiohttp would send a request again unasked."""


class CountedRequest(ClientRequest):
    """A request that tells its ledger when it was sent."""

    ledger: Ledger | SharedLedger

    async def send(self, conn: Any) -> ClientResponse:
        response = await super().send(conn)
        self.ledger.note_sent()
        return response


class _Middleware:
    """What aiohttp calls around each sending of a request."""

    __slots__ = ()

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        request.ledger = self  # type: ignore[attr-defined]  # a CountedRequest
        try:
            return await handler(request)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise BrokenError(getattr(error, "strerror", None) or "the server closed it") from None


class Ledger(_Middleware):
    """The requests and waits of one execution, charged to its limits.

    A request counts from the moment that it is handed to a connection. timer: the max_duration of the execution, which
    stands still while it waits for its turn.
    """

    __slots__ = ("_allowed", "_closed", "_execution", "_left", "_since", "following", "redirects", "sent", "timer")
    follows_redirects = True

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._allowed = None if execution.limits is None else execution.limits.max_network_requests
        self._since: float | None = None
        self._left = 0.0
        self._closed = False
        self.sent = 0
        self.redirects = 0
        self.following = False
        self.timer: asyncio.Timeout | None = None

    def obstacle(self, why: str = "") -> Failure | None:
        """Returns the failure of a request that the budget does not allow; None when it may be sent."""
        if self._allowed is None or self.sent < self._allowed:
            return None
        message = (
            f"{self._execution.skill_id}: max_network_requests={self._allowed} allows no further request after "
            f"{self.sent}{why}: allow more, or call it less"
        )
        return Failure(
            LimitExceededError(message, limit="max_network_requests", allowed=self._allowed, used=self.sent + 1)
        )

    def note_sent(self) -> None:
        """Counts a request."""
        if not self._closed:
            self.sent += 1
            self.redirects += self.following

    def begin_wait(self) -> None:
        """Notes that the execution waits for a connection or a batch from now."""
        if self._closed or self._since is not None:
            return
        self._since = self._execution.clock()
        timer = self.timer
        if timer is not None and not timer.expired() and (when := timer.when()) is not None:
            self._left = when - asyncio.get_running_loop().time()
            timer.reschedule(None)

    def end_wait(self, _: float = 0.0) -> None:
        """Notes that it waits no longer."""
        if self._since is None:
            return
        self._execution.waited += self._execution.clock() - self._since
        self._since = None
        if not self._closed and self.timer is not None and not self.timer.expired():
            self.timer.reschedule(asyncio.get_running_loop().time() + self._left)

    def close(self) -> None:
        """Writes requests and waits into the execution; nothing is noted any more."""
        self._closed = True
        self.end_wait()
        if self.sent == 1 and self.redirects == 0:
            self._execution.usage = _USUAL
        else:
            self._execution.usage = ResourceUsage(None, None, self.sent, self.redirects, _UNMEASURED)


class SharedLedger(_Middleware):
    """The ledgers of executions that share requests: each is charged for all of them."""

    __slots__ = ("_ledgers", "following")
    follows_redirects = False

    def __init__(self, ledgers: Sequence[Ledger]) -> None:
        self._ledgers = ledgers
        self.following = False

    def obstacle(self, why: str = "") -> Failure | None:
        """Returns None: each execution was asked before it joined."""
        return None

    def note_sent(self) -> None:
        """Counts a request for each."""
        for ledger in self._ledgers:
            ledger.note_sent()

    def begin_wait(self) -> None:
        """Notes that all wait."""
        for ledger in self._ledgers:
            ledger.begin_wait()

    def end_wait(self) -> None:
        """Notes that all wait no longer."""
        for ledger in self._ledgers:
            ledger.end_wait()
