"""What a demo server counts and remembers."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import NamedTuple


class Served(NamedTuple):
    """One served request; times in seconds of the server's clock, which is time.monotonic for all processes of a machine.

    `started` and `done` are the schedule: waiting is started - arrived, service is done - started. `answered` is when the
    event loop came round to sending the answer; answered - done is the server's own lateness.
    """

    route: str
    status: int
    arrived: float
    started: float
    done: float
    answered: float


@dataclass(frozen=True, slots=True)
class DemoStatistics:
    """What a demo server has counted since it started.

    requests: answers by route and status; what fits no route is "other", who left while a large answer was sent is 499.
    in_flight: requests that came and are not answered yet, at the door, waiting or served; waiting: those that no worker
    has taken. connections: accepted since the start.
    """

    requests: dict[str, dict[int, int]]
    in_flight: int
    max_in_flight: int
    waiting: int
    max_waiting: int
    connections: int
    open_connections: int

    def count(self, route: str | None = None, status: int | None = None) -> int:
        """Returns how many requests were answered: of one route or of all, with one status or with any."""
        return sum(
            number
            for name, statuses in self.requests.items()
            for code, number in statuses.items()
            if route in (None, name) and status in (None, code)
        )


class Counters:
    """Counts requests and keeps the times of the last `log` that were served."""

    def __init__(self, log: int) -> None:
        self.in_flight = 0
        self.max_in_flight = 0
        self.connections = 0
        self.log: deque[Served] = deque(maxlen=log)
        self._requests: Counter[tuple[str, int]] = Counter()

    def resize(self, log: int) -> None:
        """Keeps the times of so many requests from now on."""
        if log != self.log.maxlen:
            self.log = deque(self.log, maxlen=log)

    def enter(self) -> None:
        """Counts a request that came."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def leave(self, route: str, status: int) -> None:
        """Counts a request that was answered."""
        self.in_flight -= 1
        self._requests[route, status] += 1

    def requests(self) -> dict[str, dict[int, int]]:
        """Returns the answers by route and status."""
        table: dict[str, dict[int, int]] = {}
        for (route, status), number in sorted(self._requests.items()):
            table.setdefault(route, {})[status] = number
        return table
