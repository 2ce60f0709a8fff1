"""When a server works: its time without the stalls, whether they come by themselves or last until told otherwise."""

from __future__ import annotations

import math

from skilllab.demo.settings import Stall


class WorkingHours:
    """The moments at which a server works: all of them, all but a `stall` counted from `origin`, or none (`stopped`).

    Moments are seconds of the server's clock. Every answer is a plain sum of what it was made of, so that without stalls
    a service that starts at `a` and takes `s` is done at exactly `a + s`.
    """

    def __init__(self, stall: Stall | None, origin: float, *, stopped: bool = False) -> None:
        self._stall = stall
        self.origin = origin
        self.stopped = stopped

    def resumed(self, moment: float) -> float:
        """Returns the first moment from `moment` on at which the server works."""
        if self.stopped:
            return math.inf
        if self._stall is None:
            return moment
        period, position = self._place(moment, self._stall)
        working = self._stall.every - self._stall.duration
        return moment if position < working else self.origin + (period + 1) * self._stall.every

    def finish(self, moment: float, work: float) -> float:
        """Returns when `work` seconds that begin at `moment` are done."""
        started = self.resumed(moment)
        if self.stopped or self._stall is None:
            return started + work
        every, working = self._stall.every, self._stall.every - self._stall.duration
        period, position = self._place(started, self._stall)
        if position >= working:  # the end of a stall, which rounding counts to the period before
            period, position = period + 1, 0.0
        rest = work - (working - position)
        if rest <= 0:
            return started + work
        further = math.ceil(rest / working)
        return self.origin + (period + further) * every + (rest - (further - 1) * working)

    def worked(self, start: float, end: float) -> float:
        """Returns how many of the seconds from `start` to `end` the server works."""
        if self.stopped:
            return 0.0
        if self._stall is None:
            return end - start
        return self._since_origin(end, self._stall) - self._since_origin(start, self._stall)

    def _place(self, moment: float, stall: Stall) -> tuple[int, float]:
        period = math.floor((moment - self.origin) / stall.every)
        return period, moment - (self.origin + period * stall.every)

    def _since_origin(self, moment: float, stall: Stall) -> float:
        period, position = self._place(moment, stall)
        working = stall.every - stall.duration
        return period * working + min(position, working)
