"""Commands in a worker: a program is started anew for each call, and what it writes is read within bounds."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sys
import termios
from collections.abc import Mapping
from typing import Any

from skilllab.programs import rlimits

_PROGRAM = 16 << 20  # bytes of address space that a program needs before it does anything: itself and its libraries


class Command:
    """A program and its arguments, started anew for each call. Its limits are set on the program, not on the worker."""

    overhead = 1 << 17
    """Bytes of an answer beside the output of the program."""

    def __init__(self, load: Mapping[str, Any], content: bytes) -> None:
        self._cwd = load["cwd"]
        self._most = load["max_output"]
        self._limits: dict[str, Any] = {}
        # What a process held before it became another program counts into its most: below that, nothing is known.
        self._floor = int(1.1 * self._run(["true"], None)["memory"])

    def resting(self) -> int:
        """Returns the bytes of address space of a program that does nothing."""
        return _PROGRAM

    def hold(self, limits: Mapping[str, Any]) -> None:
        """Remembers the limits for the programs."""
        self._limits = dict(limits)

    def descriptors(self) -> set[int]:
        """Returns the descriptors that a program begins with."""
        return {0, 1, 2}

    def call(self, body: bytes) -> bytes:
        """Runs the program; returns a line of JSON with status and usage, then what it wrote to output and error output."""
        asked = json.loads(body)
        found = self._run(asked["argv"], asked["stdin"])
        out: bytes = found.pop("stdout")
        err: bytes = found.pop("stderr")
        return json.dumps({**found, "floor": self._floor, "written": len(out)}).encode() + b"\n" + out + err

    def failure(self, error: BaseException | None, told: dict[str, Any]) -> bytes:
        """Returns what is told of an error as JSON."""
        return json.dumps(told).encode()

    def _run(self, argv: list[str], stdin: str | None) -> dict[str, Any]:
        data = (stdin or "").encode("utf-8", "surrogateescape")
        pipes = [os.pipe() for _ in range(3)]
        (in_read, in_write), (out_read, out_write), (err_read, err_write) = pipes
        pid = os.fork()
        if pid == 0:
            self._become(argv, in_read, out_write, err_write)
        for descriptor in (in_read, out_write, err_write):
            os.close(descriptor)
        out, err = Drain(out_read, self._most), Drain(err_read, 1 << 16)
        try:
            _exchange(pid, in_write, data, (out, err))
            _, status, usage = os.wait4(pid, 0)
        finally:
            for drain in (out, err):
                os.close(drain.descriptor)
        return {
            "status": os.waitstatus_to_exitcode(status),
            "stdout": bytes(out.kept),
            "stderr": bytes(err.kept),
            "size": out.size,
            "memory": usage.ru_maxrss * 1024,
        }

    def _become(self, argv: list[str], *standard: int) -> None:
        """Turns the forked process into the program; never returns."""
        try:
            for number, descriptor in enumerate(standard):
                os.dup2(descriptor, number)
            for number in (signal.SIGXFSZ, signal.SIGPIPE, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            if self._cwd is not None:
                os.chdir(self._cwd)
            rlimits.hold(self._limits)
            os.execvp(argv[0], argv)
        except BaseException as error:  # noqa: BLE001 - this process is about to be another, and can only say why not
            os.write(2, f"{argv[0]}: {error}\n".encode())
        finally:
            os._exit(127)


class Drain:
    """What is read of a pipe: at most `most` bytes are kept, all are counted."""

    def __init__(self, descriptor: int, most: int) -> None:
        self.descriptor = descriptor
        self.most = most
        self.kept = bytearray()
        self.size = 0

    def read(self, most: int = 1 << 16) -> bool:
        """Reads what is there, at most so many bytes; returns whether more may come."""
        data = os.read(self.descriptor, most)
        self.size += len(data)
        if len(self.kept) < self.most:
            self.kept += data[: self.most - len(self.kept)]
        return bool(data)

    def finish(self) -> None:
        """Reads what the pipe holds now: what a process left behind goes on to write is no output of the program."""
        held = int.from_bytes(fcntl.ioctl(self.descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)
        while held > 0:
            before = self.size
            if not self.read(held):
                return
            held -= self.size - before


def _exchange(pid: int, stdin: int, data: bytes, drains: tuple[Drain, ...]) -> None:
    """Writes to a program and reads from it until it has ended, and then what is still in the pipes."""
    ended = os.pidfd_open(pid)
    os.set_blocking(stdin, False)
    poll = select.poll()
    by_descriptor = {drain.descriptor: drain for drain in drains}
    poll.register(ended, select.POLLIN)
    poll.register(stdin, select.POLLOUT)
    for drain in drains:
        os.set_blocking(drain.descriptor, False)
        poll.register(drain.descriptor, select.POLLIN)
    view, open_stdin, running = memoryview(data), True, True
    while running:
        for descriptor, _ in poll.poll():
            if descriptor == ended:
                running = False
            elif descriptor == stdin:
                view = _written(stdin, view)
                if not view:
                    poll.unregister(stdin)
                    os.close(stdin)
                    open_stdin = False
            elif not by_descriptor[descriptor].read():
                poll.unregister(descriptor)
    for drain in drains:
        drain.finish()
    if open_stdin:
        os.close(stdin)
    os.close(ended)


def _written(descriptor: int, view: memoryview) -> memoryview:
    """Writes what fits; returns the rest: nothing, when nobody reads."""
    try:
        return view[os.write(descriptor, view[: 1 << 16]) :] if view else view
    except BlockingIOError:
        return view
    except BrokenPipeError:
        return view[:0]
