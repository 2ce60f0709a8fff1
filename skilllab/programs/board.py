"""Board: memory that engine and supervisor share, on which the engine notes each call for the supervisor to watch.

A note costs less than a message by far, and the supervisor sees it when it looks next, every LOOK seconds at most.
"""

from __future__ import annotations

import mmap
import os
from typing import NamedTuple

LOOK = 0.01
"""Seconds between two looks of the supervisor while calls run: a fifth of the overshoot that a duration may have."""

SEATS = 256
_WORDS = 8  # of eight bytes for each seat
_VERSION, _TURN, _DEADLINE, _CPU_BEFORE, _CPU_LIMIT = range(5)
_TRIES = 1000
_SIZE = (SEATS + 1) * _WORDS * 8


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
    """The shared memory behind the descriptor, which stays open as long as the board.

    Every word is written whole. The version of a seat is odd while its words are written (a sequence lock), so that a
    reader takes none of an old note for a new one's.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("skilllab-board")
            os.ftruncate(descriptor, _SIZE)
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, _SIZE)
        self._whole = memoryview(self._memory).cast("Q")
        self._real = memoryview(self._memory).cast("d")

    def begin(self, seat: int, deadline: float, cpu_before: float, cpu_limit: float) -> bool:
        """Notes that a call runs, or other bounds of the one that runs; returns whether the supervisor must be woken."""
        at, whole, real = (seat + 1) * _WORDS, self._whole, self._real
        whole[at] += 1
        real[at + _DEADLINE] = deadline
        real[at + _CPU_BEFORE] = cpu_before
        real[at + _CPU_LIMIT] = cpu_limit
        whole[at + _TURN] |= 1
        whole[at] += 1
        return whole[0] != 0

    def end(self, seat: int) -> None:
        """Notes that no call runs any more."""
        at = (seat + 1) * _WORDS + _TURN
        if self._whole[at] % 2:
            self._whole[at] += 1

    def note(self, seat: int) -> Note | None:
        """Returns what is noted of the seat; None when it is being written for long, as by an engine that was killed then."""
        at, whole, real = (seat + 1) * _WORDS, self._whole, self._real
        for _ in range(_TRIES):
            version = whole[at]
            note = Note(whole[at + _TURN], real[at + _DEADLINE], real[at + _CPU_BEFORE], real[at + _CPU_LIMIT])
            if version % 2 == 0 and whole[at] == version:
                return note
        return None

    @property
    def asleep(self) -> bool:
        """Whether the supervisor sleeps."""
        return self._whole[0] != 0

    def sleep(self, asleep: bool) -> None:
        """Notes whether the supervisor sleeps."""
        self._whole[0] = int(asleep)

    def close(self) -> None:
        """Gives the memory back."""
        self._whole.release()
        self._real.release()
        self._memory.close()
        os.close(self.descriptor)
