"""What the processes say to each other: frames on a stream, and messages that carry descriptors."""

from __future__ import annotations

import array
import json
import socket
import struct
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

LOAD, CALL, STREAM, NEXT, STOP = 1, 2, 3, 4, 5  # from the engine to a worker
READY, DONE, CHUNK, FAILED = 11, 12, 13, 14  # from a worker to the engine
_MAGIC = b"sk"
_HEADER = struct.Struct("<2sBIQddd?")
_CREDENTIALS = struct.Struct("3i")
_INTS = array.array("i").itemsize
HEADER_SIZE = _HEADER.size
_MOST_DESCRIPTORS = 4
_LARGEST = 1 << 20


class Frame(NamedTuple):
    """The head of a frame: its kind, the call it belongs to, the bytes that follow, and seconds of the call so far.

    elapsed: on the clock, without waiting for a reader. own: CPU time of the worker. others: CPU time of processes that the
    skill started and waited for. left: whether processes are there that it has started and not waited for.
    """

    kind: int
    number: int
    size: int
    elapsed: float = 0.0
    own: float = 0.0
    others: float = 0.0
    left: bool = False


def head(frame: Frame) -> bytes:
    """Returns the head of a frame as bytes."""
    return _HEADER.pack(_MAGIC, *frame)


def parse_head(data: bytes | bytearray | memoryview) -> Frame | None:
    """Returns the head that `data` begins with, None for what is none."""
    magic, *fields = _HEADER.unpack_from(data)
    return Frame._make(fields) if magic == _MAGIC else None


def send_frame(sock: socket.socket, kind: int, number: int, body: bytes = b"", *rest: Any) -> None:
    """Sends a frame, waiting until all of it is on its way. rest: elapsed, own, others and left; see Frame."""
    begin = head(Frame(kind, number, len(body), *rest))
    if len(body) < 1 << 16:
        sock.sendall(begin + body)
    else:
        sock.sendall(begin)
        sock.sendall(body)


def receive_frame(sock: socket.socket) -> tuple[Frame, bytes]:
    """Waits for a frame; raises EOFError when the other end is closed."""
    frame = parse_head(_exactly(sock, HEADER_SIZE))
    if frame is None:
        raise EOFError("what came is no frame")
    return frame, _exactly(sock, frame.size)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = sock.recv(size) if size else b""
    if len(data) == size:
        return data
    parts = bytearray(data)
    while len(parts) < size:
        data = sock.recv(min(size - len(parts), 1 << 20))
        if not data:
            raise EOFError("the other end is closed")
        parts += data
    return bytes(parts)


class Message(NamedTuple):
    """A message: what it says, descriptors that came with it, and the process that sent it (0: not told)."""

    said: dict[str, Any]
    descriptors: tuple[int, ...] = ()
    pid: int = 0


def pair(kind: Literal["stream", "message"]) -> tuple[socket.socket, socket.socket]:
    """Returns two connected sockets: of a stream, or one that keeps messages apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM if kind == "stream" else socket.SOCK_SEQPACKET)


def send_message(sock: socket.socket, said: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Sends a message; raises OSError when nobody is there, ValueError when it is larger than 1 MiB."""
    data = json.dumps(said, separators=(",", ":")).encode()
    if len(data) > _LARGEST:
        raise ValueError(f"a message of {len(data)} bytes is too large")
    socket.send_fds(sock, [data], list(descriptors)) if descriptors else sock.send(data)


def receive_message(sock: socket.socket) -> Message | None:
    """Returns the next message, None when the other end is closed."""
    room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * _INTS) + socket.CMSG_SPACE(_CREDENTIALS.size)
    try:
        data, extra, _, _ = sock.recvmsg(_LARGEST, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:  # the other end went without reading all; what it had said before is still there
        data, extra, _, _ = sock.recvmsg(_LARGEST, room, socket.MSG_CMSG_CLOEXEC)
    descriptors, pid = array.array("i"), 0
    for level, kind, content in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % _INTS])
        elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
    if not data:
        return None
    return Message(json.loads(data), tuple(descriptors), pid)


def tell_sender(sock: socket.socket) -> None:
    """Asks the system to tell which process sent each message that this socket receives."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


def make_room(sock: socket.socket) -> None:
    """Lets one message be as large as messages may be."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _LARGEST)
