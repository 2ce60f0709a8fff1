"""What processes say to each other: frames on a stream, messages with descriptors."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.programs import wire

LARGE = 3 << 20
MESSAGE = 1 << 20


class Dribble:
    """A socket that gives at most so many bytes at once, and then the end of the stream."""

    def __init__(self, data: bytes, sizes: Iterator[int]) -> None:
        self.data = data
        self.sizes = sizes

    def recv(self, size: int) -> bytes:
        assert size > 0
        most = min(size, next(self.sizes))
        data, self.data = self.data[:most], self.data[most:]
        return data


def cycle(*sizes: int) -> Iterator[int]:
    while True:
        yield from sizes


@pytest.fixture
def stream() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = wire.pair("stream")
    with one, other:
        yield one, other


@pytest.fixture
def messages() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = wire.pair("message")
    with one, other:
        yield one, other


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_a_head_reads_back(form: Callable[[bytes], bytes]) -> None:
    """Kind, number, size and CPU time come back as they were, from bytes of any form and whatever follows."""
    data = form(wire.head(wire.Frame(wire.CHUNK, 2**32 - 1, 2**40, 1.25, 0.5)) + b"more")
    assert wire.parse_head(data) == wire.Frame(wire.CHUNK, 2**32 - 1, 2**40, 1.25, 0.5)
    assert len(wire.head(wire.Frame(wire.CALL, 0, 0))) == wire.HEADER_SIZE


def test_what_is_no_head_is_none() -> None:
    """Bytes that do not begin as a head does are no frame."""
    assert wire.parse_head(b"HTTP/1.1 200 OK\r\n" * 3) is None


@pytest.mark.parametrize("body", [b"", b"x", b"x" * ((1 << 16) - 1), b"x" * (1 << 16)])
def test_a_frame_arrives(stream: tuple[socket.socket, socket.socket], body: bytes) -> None:
    """What is sent as a frame is received as that frame, an empty body and one that goes in two pieces included."""
    wire.send_frame(stream[0], wire.DONE, 7, body, 0.5)
    assert wire.receive_frame(stream[1]) == (wire.Frame(wire.DONE, 7, len(body), 0.5), body)


def test_a_large_frame_arrives(stream: tuple[socket.socket, socket.socket]) -> None:
    """A body larger than the buffer of the socket is sent and received in parts, and the next frame is apart from it."""
    body = os.urandom(1 << 10) * (LARGE >> 10)

    def send() -> None:
        wire.send_frame(stream[0], wire.DONE, 1, body)
        wire.send_frame(stream[0], wire.DONE, 2, b"next")

    sender = threading.Thread(target=send)
    sender.start()
    frames = [wire.receive_frame(stream[1]) for _ in range(2)]
    sender.join(10)
    assert frames == [(wire.Frame(wire.DONE, 1, LARGE), body), (wire.Frame(wire.DONE, 2, 4), b"next")]


@given(st.lists(st.binary(max_size=100), max_size=5), st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_frames_arrive_however_they_are_split(bodies: list[bytes], sizes: list[int]) -> None:
    """The same frames come out wherever the stream is cut, and then its end."""
    data = b"".join(wire.head(wire.Frame(wire.CALL, n, len(body))) + body for n, body in enumerate(bodies))
    sock = Dribble(data, cycle(*sizes))
    received = [wire.receive_frame(sock) for _ in bodies]  # type: ignore[arg-type]
    assert received == [(wire.Frame(wire.CALL, n, len(body)), body) for n, body in enumerate(bodies)]
    with pytest.raises(EOFError):
        wire.receive_frame(sock)  # type: ignore[arg-type]


@pytest.mark.parametrize("kept", [0, 1, wire.HEADER_SIZE - 1, wire.HEADER_SIZE, wire.HEADER_SIZE + 2])
def test_a_closed_end_is_the_end(stream: tuple[socket.socket, socket.socket], kept: int) -> None:
    """A stream that ends before a frame, within its head or within its body raises EOFError."""
    stream[0].sendall((wire.head(wire.Frame(wire.CALL, 1, 5)) + b"hello")[:kept])
    stream[0].close()
    with pytest.raises(EOFError):
        wire.receive_frame(stream[1])


def test_what_is_no_frame_ends_the_stream(stream: tuple[socket.socket, socket.socket]) -> None:
    """Bytes that are no frame raise EOFError: nobody could tell where the next one begins."""
    stream[0].sendall(b"x" * wire.HEADER_SIZE)
    with pytest.raises(EOFError, match="no frame"):
        wire.receive_frame(stream[1])


def test_messages_stay_apart(messages: tuple[socket.socket, socket.socket]) -> None:
    """Each message is received as it was sent, in order, and None follows when the other end is closed."""
    said = [{"is": "warm"}, {}, {"do": "fork", "text": "ä\udcff\0", "list": [1, None, 2.5]}]
    for each in said:
        wire.send_message(messages[0], each)
    assert [wire.receive_message(messages[1]) for _ in said] == [wire.Message(each) for each in said]
    messages[0].close()
    assert wire.receive_message(messages[1]) is None


def test_descriptors_travel(messages: tuple[socket.socket, socket.socket]) -> None:
    """Up to four descriptors come with a message, open and not inherited by programs, though the sender closed its own."""
    pipes = [os.pipe(), os.pipe()]
    wire.send_message(messages[0], {"do": "take"}, [*pipes[0], *pipes[1]])
    for descriptor in (*pipes[0], *pipes[1]):
        os.close(descriptor)
    message = wire.receive_message(messages[1])
    assert message is not None
    assert (message.said, len(message.descriptors)) == ({"do": "take"}, 4)
    try:
        for read, write in (message.descriptors[:2], message.descriptors[2:]):
            os.write(write, b"through")
            assert os.read(read, 10) == b"through"
        assert not any(map(os.get_inheritable, message.descriptors))
    finally:
        for descriptor in message.descriptors:
            os.close(descriptor)


def test_the_sender_is_told(
    messages: tuple[socket.socket, socket.socket],
    start_alone: Callable[..., subprocess.Popen[str]],
) -> None:
    """A socket that asks for it is told which process sent a message, with descriptors or without; another gets 0."""
    wire.tell_sender(messages[1])
    source = """
        import socket
        from skilllab.programs import wire
        sock = socket.socket(fileno=int(sys.argv[1]))
        wire.send_message(sock, {"n": 1})
        wire.send_message(sock, {"n": 2}, [0])
    """
    process = start_alone(source, str(messages[0].fileno()), pass_fds=(messages[0].fileno(),))
    first, second = (wire.receive_message(messages[1]) for _ in range(2))
    assert first == wire.Message({"n": 1}, (), process.pid)
    assert second is not None
    (descriptor,) = second.descriptors
    os.close(descriptor)
    assert second.pid == process.pid
    wire.send_message(messages[0], {"n": 3}, [messages[0].fileno()])
    third = wire.receive_message(messages[1])
    assert third is not None
    assert third.pid == os.getpid()
    wire.send_message(messages[1], {"n": 4})
    assert wire.receive_message(messages[0]) == wire.Message({"n": 4}, (), 0)
    for descriptor in third.descriptors:
        os.close(descriptor)


def test_a_message_has_a_largest_size(messages: tuple[socket.socket, socket.socket]) -> None:
    """With room made a message of 1 MiB arrives whole, and a larger one is refused before it is sent."""
    wire.make_room(messages[0])
    around = len('{"text":""}')
    wire.send_message(messages[0], {"text": "x" * (MESSAGE - around)})
    message = wire.receive_message(messages[1])
    assert message is not None
    assert len(message.said["text"]) == MESSAGE - around
    with pytest.raises(ValueError, match="too large"):
        wire.send_message(messages[0], {"text": "x" * (MESSAGE - around + 1)})


@pytest.mark.parametrize("descriptors", [(), (0,)])
def test_a_message_to_nobody_is_an_error(
    messages: tuple[socket.socket, socket.socket], descriptors: tuple[int, ...]
) -> None:
    """Where the other end is closed, sending raises OSError."""
    messages[1].close()
    with pytest.raises(OSError, match="Broken pipe"):
        wire.send_message(messages[0], {}, descriptors)
