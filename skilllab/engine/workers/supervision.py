"""Supervision: the engine's side of its supervisor. Starts it when first needed, and again when it was lost."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

from skilllab.engine.workers.machine import Machine, this_machine
from skilllab.engine.workers.rooms import PACKAGE, Room
from skilllab.errors import HandlerNotRunnableError, IsolationError, WorkerLostError
from skilllab.programs import wire
from skilllab.programs.board import SEATS, Board
from skilllab.programs.cgroups import PREFIX, Cgroup
from skilllab.programs.clearing import clear

_BOOT = "import sys; sys.path.insert(0, {!r}); from skilllab.programs.supervisor import main; main()"
_GRACE = 5.0  # s that a supervisor may take to end everything before it is killed itself
_log = logging.getLogger("skilllab")


class Occupant(Protocol):
    """Who has a seat and is told what happens there; `said` is a message of the supervisor, None: it was lost."""

    def hear(self, said: dict[str, Any] | None) -> None: ...


class Supervision:
    """One supervisor process, which the runners of an engine share. machine: what limits can be held with."""

    def __init__(self, machine: Callable[[], Machine] = this_machine) -> None:
        self._machine = machine
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._free: list[int] = list(range(SEATS - 1, -1, -1))
        self._occupants: dict[int, Occupant] = {}
        self._names = itertools.count()
        self._name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}-"
        self.board: Board | None = None
        self.lost = 0

    @property
    def machine(self) -> Machine:
        """What limits can be held with here."""
        return self._machine()

    @property
    def pid(self) -> int | None:
        """The supervisor's process, None while there is none."""
        return None if self._process is None else self._process.pid

    def sit(self, occupant: Occupant) -> int:
        """Returns a seat; raises WorkerLostError when all are taken."""
        if not self._free:
            raise WorkerLostError(f"all {SEATS} places for worker processes are taken: allow fewer at once")
        seat = self._free.pop()
        self._occupants[seat] = occupant
        return seat

    def rise(self, seat: int) -> None:
        """Gives the seat back."""
        if self._occupants.pop(seat, None) is not None:
            self._free.append(seat)

    def open(self, seat: int, room: Room) -> Cgroup | None:
        """Has an instance started for the seat; returns its control group, None where none can be made."""
        try:
            self._start()
        except OSError as error:
            raise IsolationError(f"the supervisor of worker processes cannot be started: {error}") from error
        places = self.machine.places
        name = f"{self._name}{next(self._names)}"
        self.say(
            {
                **room.opening(self.machine.bubblewrap),
                "do": "open",
                "seat": seat,
                "cgroup": list(places),
                "cgroup_name": name,
            }
        )
        return Cgroup(places, name) if places else None

    def say(self, said: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        """Tells the supervisor; that it is lost is heard elsewhere."""
        if self._sock is None:
            return
        try:
            wire.send_message(self._sock, said, descriptors)
        except ValueError as error:  # nothing of it was sent
            raise HandlerNotRunnableError(f"a worker cannot be told its environment and paths: {error}") from None
        except OSError:
            self._lose()

    def begin(self, seat: int, deadline: float, cpu_before: float, cpu_limit: float) -> None:
        """Notes that a call runs on the seat; see Board."""
        if self.board is not None and self.board.begin(seat, deadline, cpu_before, cpu_limit):
            self.say({"do": "watch"})

    def end(self, seat: int) -> None:
        """Notes that the call has ended."""
        if self.board is not None:
            self.board.end(seat)

    async def aclose(self) -> None:
        """Ends the supervisor, and with it every instance; returns when it has ended."""
        process, self._process = self._process, None
        wait = asyncio.get_running_loop().run_in_executor
        if process is not None:
            self._forget()
            await wait(None, _ended, process)
        if self.lost:
            await wait(None, clear, self.machine.places, self._name)

    def abandon(self) -> None:
        """Ends the supervisor when the engine is gone without having been closed; from any thread, and without waiting."""
        loop, process = self._loop, self._process
        if process is None or loop is None:
            return
        if loop.is_closed():
            self._occupants.clear()  # with the loop went everybody who could have been told
            self._end_now()
        else:
            loop.call_soon_threadsafe(self._end_now)

    def _end_now(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            self._forget()
            for occupant in tuple(self._occupants.values()):
                occupant.hear(None)
            threading.Thread(target=_ended, args=(process,), name="skilllab-reaper", daemon=True).start()

    def _start(self) -> None:
        if self._process is not None:
            return
        self._loop = asyncio.get_running_loop()
        self.board = Board()
        ours, theirs = wire.pair("message")
        wire.make_room(ours)
        shared = (theirs.fileno(), self.board.descriptor)
        argv = [os.path.realpath(sys.executable), "-I", "-S", "-c", _BOOT.format(str(PACKAGE.parent))]
        # A session of its own: Ctrl-C in a terminal is not for it.
        try:
            self._process = subprocess.Popen(
                [*argv, *map(str, shared), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=shared,
                start_new_session=True,
            )
        except OSError:
            ours.close()
            self._forget()
            raise
        finally:
            theirs.close()
        self._sock = ours
        self._loop.add_reader(ours.fileno(), self._hear)
        places = {name: tuple(place) for name, place in self.machine.places.items()}
        self.say({"do": "begin", "places": places, "name": self._name})

    def _hear(self) -> None:
        assert self._sock is not None
        try:
            message = wire.receive_message(self._sock)
        except OSError:
            message = None
        if message is None:
            self._lose()
            return
        occupant = self._occupants.get(message.said["seat"])
        if occupant is not None:
            occupant.hear(message.said)

    def _lose(self) -> None:
        """Takes a lost supervisor off the books; every occupant hears of it, and the next need starts another."""
        process, self._process = self._process, None
        if process is None:
            return
        self._forget()
        status = process.wait()
        self.lost += 1
        _log.warning("the supervisor of worker processes ended (status %s); the next call starts another", status)
        for occupant in tuple(self._occupants.values()):
            occupant.hear(None)

    def _forget(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(sock.fileno())
            sock.close()
        board, self.board = self.board, None
        if board is not None:
            board.close()


def _ended(process: subprocess.Popen[bytes]) -> None:
    """Waits for a supervisor that has been told to end; kills one that does not."""
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
