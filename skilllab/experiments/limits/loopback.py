"""A door on this machine: a port that anybody can connect to who can reach it, and a count of who did."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self


class Door:
    """Listens on a free port of 127.0.0.1 for as long as a `with` block lasts. The system answers; nobody serves."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self._visits = 0
        self.port: int = self._socket.getsockname()[1]

    @property
    def visits(self) -> int:
        """How many connections were made, those included that are closed again."""
        while True:
            try:
                self._socket.accept()[0].close()
            except BlockingIOError:
                return self._visits
            self._visits += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
