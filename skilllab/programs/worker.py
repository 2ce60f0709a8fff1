"""Worker: what runs the calls of one skill, one after another, until its socket closes.

It is told once what to run and within which limits (LOAD), and answers READY. Then it answers each CALL with DONE or
FAILED, and each STREAM with CHUNKs, one for each NEXT. An exit status of 70 and above says that it could not go on.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from skilllab.programs import rlimits, wire
from skilllab.programs.folder import empty

BROKEN, CLOSED, OUT_OF_MEMORY = 71, 72, 73
"""Exit statuses: its socket does not work any more, though the engine is there; the engine closed it; no room for a call."""

_RESOURCE_OF_ERROR = {
    errno.EFBIG: "max_file_size",
    errno.ENOSPC: "max_disk",
    errno.EDQUOT: "max_disk",
    errno.EMFILE: "max_open_files",
    errno.EAGAIN: "max_processes",
    errno.ENOMEM: "max_memory",
    errno.ENETUNREACH: "max_network_requests",
}
_TICKS = 50_000_000  # ns, several ticks of any clock
_NEARLY = 1 << 20  # bytes that may be free in a folder that is full for who wanted more
_NO_NAMES = (-2, -3)  # EAI_NONAME, EAI_AGAIN: where there is no network, no name is found


class UnsendableError(Exception):
    """Raised when what a skill returned cannot be sent: `said` is what the engine is told."""

    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__(said["message"])
        self.said = said


def serve(sock: socket.socket, folder: str | None) -> int:
    """Serves the calls that come over the socket; returns the exit status. folder: emptied after each call."""
    try:
        frame, body = wire.receive_frame(sock)
        if frame.kind != wire.LOAD:
            return BROKEN
        server = _loaded(sock, body, folder)
        if server is None:
            return 0
        while True:
            frame, body = wire.receive_frame(sock)
            server.answer(frame, body)
    except EOFError:
        return CLOSED
    except OSError:
        return BROKEN
    except MemoryError:
        return OUT_OF_MEMORY


def _loaded(sock: socket.socket, body: bytes, folder: str | None) -> Server | None:
    try:
        load = json.loads(body[: body.index(b"\n")])
        handler = _handler(load, body[body.index(b"\n") + 1 :])
        rlimits.give_up_lifting()
        limits = load["limits"]
        if limits.get("address_space") is not None:
            limits = {**limits, "address_space": limits["address_space"] + handler.resting()}
        if limits.get("more_processes") is not None:
            limits = {**limits, "processes": _tasks_of_user() + limits["more_processes"]}
        if limits.get("open_files") is not None:
            limits = {**limits, "open_files": _bound(handler.descriptors(), limits["open_files"])}
        handler.hold(limits)
    except BaseException as error:  # noqa: BLE001 - foreign code is loaded here, and every failure is told
        wire.send_frame(sock, wire.FAILED, 0, json.dumps(_told(error)).encode())
        return None
    wire.send_frame(sock, wire.READY, 0)
    return Server(sock, handler, load["max_output"], folder)


def _handler(load: dict[str, Any], content: bytes) -> Any:
    """Returns what runs the calls: of a module that the warm parent has imported already."""
    if load["kind"] == "command":
        from skilllab.programs.commands import Command

        return Command(load, content)
    from skilllab.programs.kinds import Function, Script

    return Function(load, content) if load["kind"] == "function" else Script(load, content)


def _tasks_of_user() -> int:
    """Returns how many processes and threads this user has, as far as they can be seen: in a sandbox, those inside it."""
    total = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == os.getuid():
                total += len(os.listdir(f"/proc/{name}/task"))
        except OSError:  # it is gone already
            continue
    return total


def _bound(taken: set[int], more: int) -> int:
    """Returns the bound on descriptors' numbers that leaves room for `more` beside those taken."""
    bound = 0
    while more:
        more -= bound not in taken
        bound += 1
    return bound


class Server:
    """Answers calls with what the handler returns. folder: emptied before each answer, so that it is the call's own time."""

    def __init__(self, sock: socket.socket, handler: Any, max_output: int, folder: str | None = None) -> None:
        self._folder = folder
        self._changed = 0  # when something was last made or removed in the folder, in ns since the epoch
        self._sock = sock
        self._handler = handler
        self._max_output = max_output + getattr(handler, "overhead", 0)
        self._before, self._waited = spent(), 0.0

    def answer(self, frame: wire.Frame, body: bytes) -> None:
        """Runs one call and answers it; raises OSError when the answer cannot be sent."""
        kind, answer = wire.FAILED, b""
        self._before, self._waited = spent(), 0.0
        try:
            if frame.kind == wire.CALL:
                kind, answer = wire.DONE, self._checked(self._handler.call(body))
            elif frame.kind == wire.STREAM:
                self._stream(frame, body)
                kind = wire.DONE
        except _GoneError as gone:
            raise gone.error from None
        except UnsendableError as error:
            answer = self._handler.failure(None, error.said)
        except BaseException as error:  # noqa: BLE001 - no skill ends its worker by raising
            answer = self._handler.failure(error, self._with_disk(_told(error)))
        if self._folder is not None and self._touched(self._folder):
            empty(self._folder)
        self._send(kind, frame.number, answer)

    def _touched(self, folder: str) -> bool:
        """Tells whether something may have been made in the folder since it was found so the last time.

        The times of files are as coarse as the clock's tick: one of just now says nothing.
        """
        before, self._changed = self._changed, os.lstat(folder).st_mtime_ns
        return before != self._changed or time.time_ns() - self._changed < _TICKS

    def _with_disk(self, told: dict[str, Any]) -> dict[str, Any]:
        """Adds what the private folder holds where an error says that there is no room; elsewhere that is no limit of ours."""
        if told["limit"] == "max_disk" and self._folder is not None:
            state = os.statvfs(self._folder)
            full = state.f_bavail * state.f_frsize < _NEARLY
            told["used"] = (state.f_blocks - state.f_bfree) * state.f_frsize
            told["limit"] = "max_disk" if full else None
        return told

    def _send(self, kind: int, number: int, body: bytes) -> None:
        elapsed, own, others = (now - before for now, before in zip(spent(), self._before, strict=True))
        wire.send_frame(self._sock, kind, number, body, elapsed - self._waited, own, others, has_children())

    def _stream(self, frame: wire.Frame, body: bytes) -> None:
        chunks: Iterator[bytes] = self._handler.stream(body)
        close: Callable[[], None] = getattr(chunks, "close", lambda: None)
        try:
            for chunk in chunks:
                self._send_chunk(frame, self._checked(chunk))
                if self._asked() == wire.STOP:
                    return
        finally:
            close()

    def _send_chunk(self, frame: wire.Frame, chunk: bytes) -> None:
        try:
            self._send(wire.CHUNK, frame.number, chunk)
        except OSError as error:
            raise _GoneError(error) from None

    def _asked(self) -> int:
        begin = time.monotonic()
        try:
            return wire.receive_frame(self._sock)[0].kind
        except (OSError, EOFError) as error:
            raise _GoneError(error) from None
        finally:
            self._waited += time.monotonic() - begin

    def _checked(self, answer: bytes) -> bytes:
        if len(answer) > self._max_output:
            raise UnsendableError(
                {"type": "OverflowError", "message": "", "limit": "max_output", "used": len(answer), "trace": ""}
            )
        return answer


class _GoneError(Exception):
    """Raised within a stream when the engine is gone."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


def has_children() -> bool:
    """Tells whether this process has children that it has not waited for, or may have had such."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    return True


def spent() -> tuple[float, float, float]:
    """Returns the seconds of the clock, CPU seconds of this process, and CPU seconds of those that it has waited for.

    CPU time is read from inside: from outside that of a process that runs just now is as old as the last clock tick.
    """
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic(), time.process_time(), others.ru_utime + others.ru_stime


def _told(error: BaseException) -> dict[str, Any]:
    """Returns what the engine is told of an error, the limit included that it may come from."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - the text of a foreign error is foreign code
        message = "(an error without readable text)"
    import traceback

    traceback.clear_frames(error.__traceback__)  # they may hold what filled the memory
    trace = "".join(traceback.format_exception(error, limit=-20))
    return {
        "type": type(error).__qualname__,
        "message": message[:10_000],
        "limit": _limit_behind(error),
        "trace": trace[-20_000:],
    }


def _limit_behind(error: BaseException | None) -> str | None:
    """Returns the limit whose error this is, or one that led to it."""
    seen = 0
    while error is not None and seen < 20:
        if isinstance(error, MemoryError):
            return "max_memory"
        if isinstance(error, socket.gaierror):
            return "max_network_requests" if error.errno in _NO_NAMES else None
        if isinstance(error, OSError) and error.errno in _RESOURCE_OF_ERROR:
            return _RESOURCE_OF_ERROR[error.errno]
        if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
            return "max_processes"
        behind = None if error.__suppress_context__ else error.__context__
        error, seen = error.__cause__ or behind, seen + 1
    return None
