"""The demo API as an aiohttp application: door, queue, answer, count."""

from __future__ import annotations

import asyncio
import functools
import math

from aiohttp import web
from aiohttp.typedefs import Handler

from skilllab.demo.answers import Answer, problem, send
from skilllab.demo.content import Content
from skilllab.demo.counters import Counters, DemoStatistics, Served
from skilllab.demo.door import Door
from skilllab.demo.routes import TABLE, Route
from skilllab.demo.service import CallLater, Clock, Service
from skilllab.demo.settings import DemoSettings

_NO_ROUTE = "other"
_LEFT = 499  # what web servers log for a client that did not wait


class Api:
    """One running API: its settings, its queue and its counters."""

    def __init__(self, settings: DemoSettings, clock: Clock, call_later: CallLater) -> None:
        self.settings = settings
        self.counters = Counters(settings.log)
        self.service = Service(settings.workers, settings.stall, clock, call_later)
        self._clock = clock
        self._content = Content(settings.seed)
        self._door = Door(settings, clock())

    def application(self) -> web.Application:
        """Returns the application that serves every route of the table."""
        app = web.Application(middlewares=[self._count])
        for name, (method, path, route) in TABLE.items():
            handler = functools.partial(self._serve, name, route)
            resource = app.router.add_resource(path, name=name)
            resource.add_route(method, handler)
            if method == "GET":
                resource.add_route("HEAD", handler)
        return app

    def configure(self, settings: DemoSettings) -> None:
        """Goes on with other settings; requests that are in already keep the service times that they drew."""
        if settings.seed != self.settings.seed:
            self._content = Content(settings.seed)
        self._door.configure(settings, self._clock())
        self.service.configure(settings.workers, settings.stall)
        self.counters.resize(settings.log)
        self.settings = settings

    def statistics(self, open_connections: int) -> DemoStatistics:
        """Returns what was counted so far."""
        return DemoStatistics(
            requests=self.counters.requests(),
            in_flight=self.counters.in_flight,
            max_in_flight=self.counters.max_in_flight,
            waiting=self.service.waiting,
            max_waiting=self.service.max_waiting,
            connections=self.counters.connections,
            open_connections=open_connections,
        )

    async def _serve(self, name: str, route: Route, request: web.Request) -> web.StreamResponse:
        wait = self._door.refuse(self._clock())
        if wait:
            # the header knows whole seconds only
            header = {"Retry-After": str(math.ceil(wait))}
            refused = Answer(429, {"error": "too many requests", "retry_after": wait}, header)
            return await send(request, refused, gzip=False)
        settings = self.settings
        answer = await route(request, self._content, settings)
        work = self._door.service_time(name) * (1 + settings.batch_item_share * answer.items)
        if self._door.fails(name):
            answer = problem(settings.error_status, "this request was drawn to fail")
        visit = await self.service.serve(work)
        self.counters.log.append(Served(name, answer.status, *visit, self._clock()))
        return await send(request, answer, gzip=settings.gzip)

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        name = (resource.name if resource is not None else None) or _NO_ROUTE
        status = 500
        self.counters.enter()
        try:
            response = await handler(request)
            status = response.status
        except web.HTTPException as error:
            status = error.status
            headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            response = await send(request, problem(status, error.text or error.reason, **headers), gzip=False)
        except (ConnectionError, asyncio.CancelledError):
            status = _LEFT
            raise
        finally:
            self.counters.leave(name, status)
        return response
