"""The channel: frames to and from a worker, without making the event loop wait."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from skilllab.engine.workers.channel import Channel
from skilllab.programs import wire
from skilllab.programs.wire import CALL, CHUNK, DONE, NEXT, Frame

MOST = 1 << 20


class Ends:
    """A channel and the worker's end of its socket; `heard` is what the channel tells."""

    def __init__(self, most: int) -> None:
        self.loop = asyncio.get_running_loop()
        ours, self.other = wire.pair("stream")
        self.other.setblocking(False)
        self.descriptor = ours.fileno()
        self.heard: list[tuple[int, int, bytes] | str] = []
        self.on_frame: Callable[[], object] = lambda: None
        self.channel = Channel(self.loop, ours, most, self._frame, self.heard.append)

    def _frame(self, frame: Frame, body: bytes) -> None:
        assert frame.size == len(body)
        assert type(body) is bytes
        self.heard.append((frame.kind, frame.number, body))
        self.on_frame()

    async def until(self, count: int) -> list[Any]:
        """Waits until so much was heard."""
        async with asyncio.timeout(10):
            while len(self.heard) < count:
                await turns(1)
        return self.heard

    async def read(self, size: int) -> bytes:
        data = b""
        async with asyncio.timeout(10):
            while len(data) < size:
                data += await self.loop.sock_recv(self.other, size - len(data))
        return data

    def watched(self) -> bool:
        """Whether the loop still looks for what comes; it does not any more after this."""
        return self.loop.remove_reader(self.descriptor)


def with_ends(work: Callable[[Ends], Awaitable[None]], most: int = MOST) -> None:
    async def run() -> None:
        ends = Ends(most)
        try:
            await work(ends)
        finally:
            ends.channel.close()
            ends.other.close()

    asyncio.run(run())


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def frame(number: int, body: bytes, kind: int = DONE) -> bytes:
    return wire.head(wire.Frame(kind, number, len(body))) + body


@pytest.mark.parametrize("body", [b"", b"answer", b"x" * MOST])
def test_a_frame_is_told(body: bytes) -> None:
    """A frame that comes is told with its body, an empty one and the largest included."""

    async def work(ends: Ends) -> None:
        await ends.loop.sock_sendall(ends.other, frame(3, body))
        assert await ends.until(1) == [(DONE, 3, body)]

    with_ends(work)


def test_frames_that_come_together_are_told_one_by_one() -> None:
    """Several frames in one read, the last of them in part, are told in order, the last when the rest is there."""

    async def work(ends: Ends) -> None:
        data = frame(1, b"one") + frame(2, b"") + frame(3, b"three", CHUNK) + frame(4, b"four")
        ends.other.send(data[:-2])
        assert await ends.until(3) == [(DONE, 1, b"one"), (DONE, 2, b""), (CHUNK, 3, b"three")]
        await turns()
        assert len(ends.heard) == 3
        ends.other.send(data[-2:])
        assert (await ends.until(4))[-1] == (DONE, 4, b"four")

    with_ends(work)


@pytest.mark.parametrize("size", [1, 7, wire.HEADER_SIZE, wire.HEADER_SIZE + 1])
def test_a_frame_in_parts_is_one_frame(size: int) -> None:
    """Wherever frames are cut, in the head or in the body, they are told whole."""

    async def work(ends: Ends) -> None:
        data = frame(1, b"one") + frame(2, b"other body")
        for at in range(0, len(data), size):
            ends.other.send(data[at : at + size])
            await turns(2)
        assert await ends.until(2) == [(DONE, 1, b"one"), (DONE, 2, b"other body")]

    with_ends(work)


@pytest.mark.parametrize("before", [b"", frame(1, b"good")])
def test_what_is_no_frame_is_told_once(before: bytes) -> None:
    """Garbage is told after the frames that came before it; whatever follows is not looked at."""

    async def work(ends: Ends) -> None:
        ends.other.send(before + b"x" * wire.HEADER_SIZE)
        heard = await ends.until(1 + bool(before))
        assert heard[-1] == "what is no answer"
        ends.other.send(frame(2, b"good") * 3)
        await turns()
        assert len(heard) == 1 + bool(before)
        assert not ends.watched()

    with_ends(work)


def test_less_than_a_head_is_not_garbage_yet() -> None:
    """Until a whole head is there nothing is told, whatever it is."""

    async def work(ends: Ends) -> None:
        ends.other.send(b"x" * (wire.HEADER_SIZE - 1))
        await turns()
        assert ends.heard == []
        ends.other.send(b"x")
        assert await ends.until(1) == ["what is no answer"]

    with_ends(work)


@pytest.mark.parametrize("sent", [0, 10, 101])
def test_a_body_that_is_too_large_is_told_before_it_is_read(sent: int) -> None:
    """A head that announces more than allowed is enough, however much of the body is there."""

    async def work(ends: Ends) -> None:
        ends.other.send(wire.head(wire.Frame(DONE, 1, 101)) + b"x" * sent)
        assert await ends.until(1) == ["an answer of 101 bytes"]
        await turns()
        assert len(ends.heard) == 1

    with_ends(work, most=100)


def test_a_body_as_large_as_allowed() -> None:
    """Exactly as many bytes as allowed are no garbage."""

    async def work(ends: Ends) -> None:
        ends.other.send(frame(1, b"x" * 100))
        assert await ends.until(1) == [(DONE, 1, b"x" * 100)]

    with_ends(work, most=100)


def test_what_is_sent_arrives() -> None:
    """A frame is on its way at once, without a turn of the loop."""

    async def work(ends: Ends) -> None:
        ends.channel.send(CALL, 5, b"body")
        assert ends.other.recv(100) == frame(5, b"body", CALL)

    with_ends(work)


def test_more_than_fits_arrives_in_order() -> None:
    """What is larger than the socket's buffer goes as there is room, and what is sent meanwhile comes after it."""
    large = os.urandom(1 << 10) * (3 << 10)
    expected = frame(1, large, CALL) + frame(2, b"small", NEXT) + frame(3, large, CALL)

    async def work(ends: Ends) -> None:
        ends.channel.send(CALL, 1, large)
        ends.channel.send(NEXT, 2, b"small")
        await turns()
        ends.channel.send(CALL, 3, large)
        assert await ends.read(len(expected)) == expected
        await turns()
        assert not ends.loop.remove_writer(ends.descriptor)  # nothing is left to write
        ends.channel.send(CALL, 4, b"")
        assert ends.other.recv(100) == frame(4, b"", CALL)

    with_ends(work)


def test_both_directions_at_once() -> None:
    """A large answer comes while a large call is still on its way."""
    large = b"x" * MOST

    async def work(ends: Ends) -> None:
        ends.channel.send(CALL, 1, large)
        await ends.loop.sock_sendall(ends.other, frame(9, large))
        assert await ends.until(1) == [(DONE, 9, large)]
        assert await ends.read(wire.HEADER_SIZE + MOST) == frame(1, large, CALL)

    with_ends(work)


def test_a_closed_peer_is_told_by_others() -> None:
    """What came before the end is told, the end is not, and the loop looks no more; sending is no error."""

    async def work(ends: Ends) -> None:
        ends.other.send(frame(1, b"last") + frame(2, b"half")[:-1])
        ends.other.close()
        assert await ends.until(1) == [(DONE, 1, b"last")]
        await turns()
        assert not ends.watched()
        ends.channel.send(CALL, 2, b"x" * MOST)
        ends.channel.send(CALL, 3, b"")
        await turns()
        assert not ends.loop.remove_writer(ends.descriptor)
        assert len(ends.heard) == 1

    with_ends(work)


def test_a_peer_that_closes_while_something_is_left_to_send() -> None:
    """What cannot be sent any more is dropped, and the loop does not try for ever."""

    async def work(ends: Ends) -> None:
        ends.channel.send(CALL, 1, b"x" * (4 * MOST))
        ends.other.recv(1000)
        ends.other.close()
        async with asyncio.timeout(10):
            while ends.channel._unsent:
                await turns(1)
        assert not ends.loop.remove_writer(ends.descriptor)
        assert ends.heard == []

    with_ends(work)


def test_nothing_is_told_after_closing() -> None:
    """A closed channel tells nothing that was on its way, sends nothing, and may be closed again."""

    async def work(ends: Ends) -> None:
        ends.other.send(frame(1, b"late"))
        ends.channel.close()
        await turns()
        assert ends.heard == []
        with pytest.raises(ConnectionResetError):  # as the system tells that something was not read
            ends.other.recv(1)
        ends.channel.send(CALL, 1, b"")
        ends.channel.close()

    with_ends(work)


def test_closing_while_frames_are_told() -> None:
    """Who closes the channel on a frame hears none of those that came with it."""

    async def work(ends: Ends) -> None:
        ends.on_frame = ends.channel.close
        ends.other.send(frame(1, b"one") + frame(2, b"two") + b"x" * wire.HEADER_SIZE)
        await ends.until(1)
        await turns()
        assert ends.heard == [(DONE, 1, b"one")]

    with_ends(work)


def test_closing_after_the_loop() -> None:
    """A channel that outlives its loop can still be closed."""
    made: list[Channel] = []
    other: list[socket.socket] = []

    async def run() -> None:
        ends = Ends(MOST)
        made.append(ends.channel)
        other.append(ends.other)

    asyncio.run(run())
    made[0].close()
    assert other[0].recv(1) == b""
    other[0].close()
