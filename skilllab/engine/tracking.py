"""ResourceTracker: seconds, CPU and memory of the process, by section of a program."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from skilllab import format as fmt
from skilllab.errors import ExecutionError, InvalidValueError
from skilllab.frozen import FrozenDict

if TYPE_CHECKING:
    import pandas as pd


class ProcessMemory:
    """Resident memory of this process as Linux counts it. folder: /proc/self."""

    resets: ClassVar[int] = 0
    """How often the peak was reset in this process: the kernel keeps one for all who ask."""

    def __init__(self, folder: Path = Path("/proc/self")) -> None:
        self._folder = folder
        self._page = resource.getpagesize()

    def resident(self) -> int:
        """Returns the bytes resident now; raises OSError where the system does not say."""
        return int((self._folder / "statm").read_text().split()[1]) * self._page

    def peak(self) -> int:
        """Returns the most bytes resident since `reset_peak`; raises OSError where the system does not say."""
        for line in (self._folder / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise OSError("the kernel counts no VmHWM")

    def reset_peak(self) -> None:
        """Lets the peak start anew from what is resident now; raises OSError where that is not allowed."""
        (self._folder / "clear_refs").write_text("5")  # 5 resets VmHWM and nothing else, proc(5)
        ProcessMemory.resets += 1


class Section(NamedTuple):
    """What the process used between two checkpoints.

    duration, cpu_time: seconds; CPU is of all threads of the process. memory: resident bytes at the end, None where not
    measured. memory_change: bytes since its beginning. memory_peak: most resident bytes in between. See `unmeasured`.
    """

    begin: str
    end: str
    duration: float
    cpu_time: float
    memory: int | None
    memory_change: int | None
    memory_peak: int | None


@dataclass(frozen=True, slots=True)
class ResourceReport:
    """The sections between the checkpoints of a ResourceTracker; `unmeasured` says why a figure is None."""

    sections: tuple[Section, ...]
    unmeasured: Mapping[str, str] = FrozenDict()

    @property
    def duration(self) -> float:
        """Seconds from the first checkpoint to the last."""
        return sum(section.duration for section in self.sections)

    @property
    def cpu_time(self) -> float:
        """CPU seconds of the process from the first checkpoint to the last."""
        return sum(section.cpu_time for section in self.sections)

    @property
    def memory_peak(self) -> int | None:
        """Most resident bytes from the first checkpoint to the last, None unless measured in every section."""
        peaks = [section.memory_peak for section in self.sections]
        return None if None in peaks else max(peak for peak in peaks if peak is not None)

    def frame(self) -> pd.DataFrame:
        """Returns one row a section, in seconds and bytes; what was not measured is missing (NA)."""
        import pandas as pd

        frame = pd.DataFrame(self.sections, columns=Section._fields)
        return frame.astype(dict.fromkeys(("memory", "memory_change", "memory_peak"), "Int64"))

    def __str__(self) -> str:
        total = (
            f"{fmt.duration(self.duration)} in all, {fmt.duration(self.cpu_time)} of CPU in all threads of the process"
        )
        reasons = "".join(f"; {name} was not measured: {reason}" for name, reason in self.unmeasured.items())
        return f"{'; '.join(map(_told, self.sections))}; {total}{reasons}."


class _Moment(NamedTuple):
    """What the process had used at a checkpoint, and why something is not known."""

    name: str
    time: float
    cpu: float
    resident: int | None
    peak: int | None
    reasons: Mapping[str, str]


class ResourceTracker:
    """Measures the sections between checkpoints, in the process that made it.

    clock: seconds that only grow. cpu_clock: CPU seconds of the process, all its threads and tasks together. memory:
    where resident memory is read. The peak of a section is measured by resetting the process's own: a second tracker
    at work at the same time makes it None in both.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
        memory: ProcessMemory | None = None,
    ) -> None:
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._memory = memory or ProcessMemory()
        self._process = os.getpid()
        self._moments: list[_Moment] = []
        self._resets: int | None = None  # of the peak, when this tracker last reset it
        self._refused = ""  # why it could not

    def checkpoint(self, name: str) -> None:
        """Ends the section that runs, if any, and begins the next; raises ExecutionError in another process."""
        if os.getpid() != self._process:
            raise ExecutionError(
                f"the tracker measures process {self._process} and is used in {os.getpid()}: make one there"
            )
        now, cpu, reasons = self._clock(), self._cpu_clock(), dict[str, str]()
        resident, peak = self._measured("memory", self._memory.resident, reasons), self._peak(reasons)
        if resident is not None and peak is not None:
            peak = max(peak, resident)  # the kernel brings the two up to date at different moments
        self._moments.append(_Moment(name, now, cpu, resident, peak, reasons))

    def get_report(self) -> ResourceReport:
        """Returns the sections so far; raises InvalidValueError before the second checkpoint."""
        if len(self._moments) < 2:
            raise InvalidValueError(f"{len(self._moments)} checkpoints make no section: set one before and one after")
        pairs = zip(self._moments, self._moments[1:], strict=False)
        reasons = {name: reason for moment in self._moments for name, reason in moment.reasons.items()}
        return ResourceReport(tuple(_section(*pair) for pair in pairs), FrozenDict(reasons))

    def _peak(self, reasons: dict[str, str]) -> int | None:
        """Returns the peak since the last checkpoint, if it can be known, and lets the next one start."""
        peak = None
        if self._resets == ProcessMemory.resets:
            peak = self._measured("memory_peak", self._memory.peak, reasons)
        elif self._moments:
            reasons["memory_peak"] = self._refused or "something else in this process reset it meanwhile"
        try:
            self._memory.reset_peak()
            self._resets, self._refused = ProcessMemory.resets, ""
        except OSError as error:
            self._resets, self._refused = None, f"the process may not reset its peak ({_reason(error)})"
        return peak

    @staticmethod
    def _measured(name: str, read: Callable[[], int], reasons: dict[str, str]) -> int | None:
        try:
            return read()
        except OSError as error:
            reasons[name] = f"this system does not tell it ({_reason(error)})"
            return None


def _reason(error: OSError) -> str:
    return f"{error.strerror}: {error.filename}" if error.filename else str(error)


def _section(begin: _Moment, end: _Moment) -> Section:
    change = None if end.resident is None or begin.resident is None else end.resident - begin.resident
    return Section(begin.name, end.name, end.time - begin.time, end.cpu - begin.cpu, end.resident, change, end.peak)


def _told(section: Section) -> str:
    text = f"{section.begin} to {section.end}: {fmt.duration(section.duration)}, CPU {fmt.duration(section.cpu_time)}"
    if section.memory is not None and section.memory_change is not None:
        sign = "+" if section.memory_change >= 0 else ""
        text += f", memory {fmt.size(section.memory)} ({sign}{fmt.size(section.memory_change)})"
    return text if section.memory_peak is None else f"{text}, at most {fmt.size(section.memory_peak)}"
