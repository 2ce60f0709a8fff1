"""What a request meets before it is served: the rate limit, and the draws of its service time and of its error."""

from __future__ import annotations

import random

from skilllab.demo.settings import DemoSettings, RateLimit

_ROUNDING = 1e-9  # of a token: who waited as long as told must find one


class TokenBucket:
    """Holds at most `burst` tokens, `rate` new ones a second; it is full at first."""

    def __init__(self, limit: RateLimit, now: float) -> None:
        self._limit = limit
        self._tokens = float(limit.burst)
        self._at = now

    def take(self, now: float) -> float:
        """Takes a token and returns 0, or returns in how many seconds there will be one."""
        self._tokens = min(float(self._limit.burst), self._tokens + (now - self._at) * self._limit.rate)
        self._at = now
        if self._tokens >= 1 - _ROUNDING:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._limit.rate


class Door:
    """Draws from seeded streams, one for each route and purpose, so that no route disturbs another's."""

    def __init__(self, settings: DemoSettings, now: float) -> None:
        self._settings = settings
        self._streams: dict[tuple[str, str], random.Random] = {}
        self._bucket = TokenBucket(settings.rate_limit, now) if settings.rate_limit else None

    def configure(self, settings: DemoSettings, now: float) -> None:
        """Goes on with other settings; streams begin anew with another seed, the bucket is full with another limit."""
        if settings.seed != self._settings.seed:
            self._streams.clear()
        if settings.rate_limit != self._settings.rate_limit:
            self._bucket = TokenBucket(settings.rate_limit, now) if settings.rate_limit else None
        self._settings = settings

    def refuse(self, now: float) -> float:
        """Returns 0 for a request that may come in, else in how many seconds the next may."""
        return self._bucket.take(now) if self._bucket else 0.0

    def service_time(self, route: str) -> float:
        """Draws how many seconds the next service of the route takes."""
        u = self._draw(route, "latency")
        latency = self._settings.latency_of(route)
        return latency.at(u) if latency else 0.0

    def fails(self, route: str) -> bool:
        """Draws whether the next service of the route ends in an error."""
        return self._draw(route, "error") < self._settings.error_rate

    def _draw(self, route: str, purpose: str) -> float:
        stream = self._streams.get((route, purpose))
        if stream is None:
            stream = self._streams[route, purpose] = random.Random(f"{self._settings.seed} {route} {purpose}")
        return stream.random()
