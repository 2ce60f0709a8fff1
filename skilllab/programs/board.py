"""Board: memory that engine and supervisor share, on which the engine notes each call for the supervisor to watch.

A note costs less than a message by far, and the supervisor sees it when it looks next, every LOOK seconds at most.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import NamedTuple

LOOK = 0.01
"""Seconds between two looks of the supervisor while calls run: a fifth of the overshoot that a duration may have."""

SEATS = 256
_SEAT = struct.Struct("<Qddd")
_TURN = struct.Struct("<Q")
_BOUNDS = struct.Struct("<ddd")
_STRIDE = 64
_ASLEEP = 0
_SIZE = (SEATS + 1) * _STRIDE


class Note(NamedTuple):
    """What stands on a seat's place: turn (odd while a call runs), when it must end, CPU seconds it had used and may use.

    deadline: in seconds of time.monotonic, which is the same clock in every process. Infinity is no limit.
    """

    turn: int
    deadline: float
    cpu_before: float
    cpu_limit: float

    @property
    def busy(self) -> bool:
        """Whether a call runs."""
        return self.turn % 2 == 1


class Board:
    """The shared memory behind the descriptor, which stays open as long as the board."""

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("skilllab-board")
            os.ftruncate(descriptor, _SIZE)
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, _SIZE)

    def begin(self, seat: int, deadline: float, cpu_before: float, cpu_limit: float) -> bool:
        """Notes that a call runs; returns whether the supervisor sleeps and must be woken."""
        at = (seat + 1) * _STRIDE
        _BOUNDS.pack_into(self._memory, at + _TURN.size, deadline, cpu_before, cpu_limit)
        # Last, so that whoever sees it sees the bounds that go with it.
        _TURN.pack_into(self._memory, at, _TURN.unpack_from(self._memory, at)[0] | 1)
        return self._memory[_ASLEEP] != 0

    def end(self, seat: int) -> None:
        """Notes that no call runs any more."""
        at = (seat + 1) * _STRIDE
        turn = _TURN.unpack_from(self._memory, at)[0]
        if turn % 2:
            _TURN.pack_into(self._memory, at, turn + 1)

    def note(self, seat: int) -> Note:
        """Returns what is noted of the seat."""
        while True:  # until it is read twice alike: the engine may be writing it just now
            note = Note._make(_SEAT.unpack_from(self._memory, (seat + 1) * _STRIDE))
            if note == Note._make(_SEAT.unpack_from(self._memory, (seat + 1) * _STRIDE)):
                return note

    @property
    def asleep(self) -> bool:
        """Whether the supervisor sleeps."""
        return self._memory[_ASLEEP] != 0

    def sleep(self, asleep: bool) -> None:
        """Notes whether the supervisor sleeps."""
        self._memory[_ASLEEP] = int(asleep)

    def close(self) -> None:
        """Gives the memory back."""
        self._memory.close()
        os.close(self.descriptor)
