"""Channel: frames to and from a worker over a socket that never makes the event loop wait."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable

from skilllab.programs import wire

_READ = 1 << 16
_MOST_READ = 1 << 22


class Channel:
    """The engine's end of a worker's socket.

    on_frame: told each frame and its body. on_garbage: told what came that is none, or more than `max_body` bytes.
    Nothing comes after that. That the other end was closed is not told: who else holds it cannot be known.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        max_body: int,
        on_frame: Callable[[wire.Frame, bytes], object],
        on_garbage: Callable[[str], object],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._descriptor = sock.fileno()
        self._max_body = max_body
        self._on_frame = on_frame
        self._on_garbage = on_garbage
        self._read = bytearray()
        self._unsent: deque[memoryview] = deque()
        self._open = True
        sock.setblocking(False)
        loop.add_reader(self._descriptor, self._readable)

    def send(self, kind: int, number: int, body: bytes) -> None:
        """Sends a frame, at once as far as it fits and the rest when there is room."""
        data = wire.head(wire.Frame(kind, number, len(body))) + body
        try:
            sent = 0 if self._unsent else self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the worker has ended, which the supervisor tells
        if sent < len(data):
            if not self._unsent:
                self._loop.add_writer(self._descriptor, self._writable)
            self._unsent.append(memoryview(data)[sent:])

    def drain(self) -> None:
        """Takes what has come already; the worker has ended, and may have answered before."""
        while self._open and self._readable():
            continue

    def close(self) -> None:
        """Closes this end; nothing is told any more."""
        if self._open:
            self._open = False
            if not self._loop.is_closed():
                self._loop.remove_reader(self._descriptor)
                self._loop.remove_writer(self._descriptor)
            self._sock.close()

    def _writable(self) -> None:
        try:
            rest = self._unsent[0][self._sock.send(self._unsent[0]) :]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()  # as above
            rest = memoryview(b"")
        if rest:
            self._unsent[0] = rest
        elif self._unsent:
            self._unsent.popleft()
        if not self._unsent:
            self._loop.remove_writer(self._descriptor)

    def _readable(self) -> bool:
        """Takes a part of what has come; returns whether there may be more."""
        try:
            data = self._sock.recv(_READ if len(self._read) < _READ else _MOST_READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._descriptor)
            return False
        if not self._read and len(data) >= wire.HEADER_SIZE:  # most answers come whole
            frame = wire.parse_head(data)
            if frame is not None and frame.size == len(data) - wire.HEADER_SIZE <= self._max_body:
                self._on_frame(frame, data[wire.HEADER_SIZE :])
                return True
        self._read += data
        return self._take()

    def _take(self) -> bool:
        while self._open and len(self._read) >= wire.HEADER_SIZE:
            frame = wire.parse_head(self._read)
            if frame is None or frame.size > self._max_body:
                why = "what is no answer" if frame is None else f"an answer of {frame.size} bytes"
                self._loop.remove_reader(self._descriptor)
                self._on_garbage(why)
                return False
            end = wire.HEADER_SIZE + frame.size
            if len(self._read) < end:
                return True
            body = bytes(memoryview(self._read)[wire.HEADER_SIZE : end])
            del self._read[:end]
            self._on_frame(frame, body)
        return True
