"""Wire: sends requests over one pool of connections, and counts every one that leaves."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
from aiohttp import hdrs
from multidict import CIMultiDict
from yarl import URL

from skilllab.engine.guard import ConcurrencyLimit
from skilllab.engine.http.answer import Answer, TooLargeError, UnreadableError, in_one_line, read_body, retry_after
from skilllab.engine.http.ledger import CountedRequest, Ledger, SharedLedger
from skilllab.engine.http.outcome import bad_status, too_large, unreachable, unreadable
from skilllab.engine.http.template import Failure, Request
from skilllab.errors import EngineClosedError, QueueFullError

if TYPE_CHECKING:
    from skilllab.engine.http.runner import HttpOptions

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ERROR_BYTES = 2**16  # of the body of an error, which is read for its first words; a longer one has none
_LARGE = 2**20  # aiohttp writes a body of more bytes at once and warns


class _Redirect(NamedTuple):
    status: int
    location: str


class _Hop(NamedTuple):
    """What a redirect makes of a request, to be sent next."""

    method: str
    url: URL
    headers: CIMultiDict[str]
    data: bytes | None

    def __repr__(self) -> str:
        return "<hop>"  # its parts hold secrets


class Wire:
    """One aiohttp session. It takes no cookie, no proxy and no credentials from anywhere, and follows no redirect alone.

    wall_clock: seconds since the epoch, for dates in Retry-After.
    """

    def __init__(self, options: HttpOptions, wall_clock: Callable[[], float] = time.time) -> None:
        self._options = options
        self._wall_clock = wall_clock
        self._places = ConcurrencyLimit(options.max_sockets, name="connections to APIs")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=options.max_sockets, keepalive_timeout=options.keep_alive),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={hdrs.ACCEPT_ENCODING: "gzip, deflate"},
            timeout=aiohttp.ClientTimeout(total=options.timeout),
            request_class=CountedRequest,
            auto_decompress=False,  # aiohttp takes a gzip that ends too early for a whole one
            trust_env=False,
        )

    async def exchange(self, request: Request, ledger: Ledger | SharedLedger, limit: int) -> Answer | Failure:
        """Sends a request, follows its redirects, and returns the answer.

        ledger: what the request is charged to. limit: bytes that the body may have. A failure says whether another try
        may do better.
        """
        hop: Request | _Hop = request
        redirects = 0
        ledger.following = False
        while True:
            obstacle = ledger.obstacle()
            if obstacle is not None:
                return obstacle
            outcome = await self._send(request, hop, ledger, limit)
            if type(outcome) is Answer:
                return outcome if outcome.status < 400 else self._bad_status(request, outcome)
            if not isinstance(outcome, _Redirect):
                return outcome
            redirects += 1
            following = self._follow(request, hop, outcome, redirects, ledger)
            if isinstance(following, Failure):
                return following
            hop = following
            ledger.following = True

    def _bad_status(self, request: Request, answer: Answer) -> Failure:
        return bad_status(request, answer.status, in_one_line(answer), retry_after(answer.headers, self._wall_clock()))

    async def aclose(self) -> None:
        """Closes every connection."""
        await self._session.close()
        await asyncio.sleep(0)  # transports close in the next turn of the loop

    async def _send(
        self, request: Request, hop: Request | _Hop, ledger: Ledger | SharedLedger, limit: int
    ) -> Answer | _Redirect | Failure:
        places = self._places
        if places.free > 0:
            places.free -= 1
        else:
            ledger.begin_wait()
            try:
                await places.acquire()
            except QueueFullError as full:
                return Failure(full.with_traceback(None))
            finally:
                ledger.end_wait()
        response: aiohttp.ClientResponse | None = None
        try:
            data = hop.data if hop.data is None or len(hop.data) < _LARGE else io.BytesIO(hop.data)
            response = await self._session.request(
                hop.method, hop.url, headers=hop.headers, data=data, allow_redirects=False, middlewares=(ledger,)
            )
            status, headers = response.status, response.headers
            if status in _REDIRECTS and hdrs.LOCATION in headers:
                return _Redirect(status, headers[hdrs.LOCATION])
            if status >= 400:
                return Answer(status, headers, await _start_of_body(response))
            body = await read_body(response, limit)
            request.template.answered = True
            return Answer(status, headers, body)
        except TooLargeError as caught:
            return too_large(request, caught.seen, limit)
        except UnreadableError as caught:
            return unreadable(request, str(caught))
        except (aiohttp.ClientError, OSError, RuntimeError) as caught:
            if self._session.closed:
                return Failure(EngineClosedError(f"{request.template.skill_id}: the engine was closed"))
            return unreachable(request, caught, self._options.timeout, answering=response is not None)
        finally:
            if response is not None:
                response.release()  # closes the connection unless the whole body was read
            places.release()

    def _follow(
        self, request: Request, hop: Request | _Hop, redirect: _Redirect, count: int, ledger: Ledger | SharedLedger
    ) -> _Hop | Failure:
        """Returns what a redirect asks to send, without what is not for its host; a failure when it may not be sent."""
        if not ledger.follows_redirects:
            return unreadable(request, f"it is a redirect ({redirect.status}), which no batch follows: mend the URL")
        if count > self._options.max_redirects:
            return unreadable(request, f"it is a redirect, after {self._options.max_redirects} others")
        try:
            target = hop.url.join(URL(redirect.location)).with_fragment(None)
            if target.raw_user is not None or target.raw_password is not None:
                target = target.with_user(None)  # a server gives no credentials
        except ValueError:
            return unreadable(request, f"it redirects ({redirect.status}) to what is no URL")
        if target.scheme not in ("http", "https") or not target.raw_host:
            return unreadable(request, f"it redirects ({redirect.status}) to what is no web address")
        if not request.template.hosts.allow(target):
            return request.template.forbidden(target, f"its redirect ({redirect.status})", request.scrub)
        return self._redirected(request, hop, target, redirect.status)

    def _redirected(self, request: Request, hop: Request | _Hop, target: URL, status: int) -> _Hop | Failure:
        method, headers, data = hop.method, hop.headers.copy(), hop.data
        if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
            method, data = "GET", None
            headers.popall(hdrs.CONTENT_TYPE, None)
        if target.origin() != hop.url.origin():
            for name in request.template.private_headers():
                headers.popall(name, None)
            if (data is not None and request.template.secret_body()) or request.reveals(str(target)):
                return request.template.forbidden(target, "with its secret, its redirect", request.scrub)
        return _Hop(method, target, headers, data)


async def _start_of_body(response: aiohttp.ClientResponse) -> bytes:
    """Returns what can be had of the body of an error: the status says more than a body that cannot be read."""
    try:
        return await read_body(response, _ERROR_BYTES)
    except (TooLargeError, UnreadableError, aiohttp.ClientError, OSError, RuntimeError):
        return b""
