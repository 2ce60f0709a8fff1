"""Where the requests of a skill may go."""

from __future__ import annotations

from collections.abc import Iterable

from yarl import URL

Place = tuple[str, int | None]


class Hosts:
    """The hosts that both a skill and its engine allow.

    own: URLs of the skill, whose host and port are allowed when it names no hosts. skill, engine: "host" (any port) or
    "host:port"; None for the engine allows all that the skill does.
    """

    __slots__ = ("_engine", "_skill")

    def __init__(self, own: Iterable[URL], skill: tuple[str, ...] | None, engine: tuple[str, ...] | None) -> None:
        self._skill = frozenset(map(place_of, own)) if skill is None else _places(skill)
        self._engine = None if engine is None else _places(engine)

    def allow(self, url: URL) -> bool:
        """Returns whether a request may go there."""
        place = place_of(url)
        return _holds(self._skill, place) and (self._engine is None or _holds(self._engine, place))

    def __str__(self) -> str:
        names = ", ".join(sorted(host_text(place) for place in self._skill)) or "none"
        return f"{names}{'' if self._engine is None else ', as far as the engine allows them'}"


def place_of(url: URL) -> Place:
    """Returns host and port of a URL."""
    return url.raw_host or "", url.port


def host_text(place: Place) -> str:
    """Returns "host:port" for messages."""
    host, port = place
    return f"[{host}]:{port}" if ":" in host and port else f"{host}:{port}" if port else host


def _holds(places: frozenset[Place], place: Place) -> bool:
    return place in places or (place[0], None) in places


def _places(hosts: Iterable[str]) -> frozenset[Place]:
    urls = ((host, URL(f"http://{host}")) for host in hosts)
    return frozenset((url.raw_host or "", url.explicit_port if _has_port(host) else None) for host, url in urls)


def _has_port(host: str) -> bool:
    return host.rpartition("]")[2].count(":") == 1
