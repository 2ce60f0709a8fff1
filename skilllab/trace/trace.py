"""Trace: who asked for what, when, and how big it was, as immutable columns."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from skilllab import format as fmt
from skilllab.errors import InvalidValueError, TraceError
from skilllab.trace.columns import dense, sizes, times

if TYPE_CHECKING:
    import pandas as pd

Meta = Mapping[str, str | int | float | bool | None]


class Trace:
    """A sequence of accesses, in order of time.

    time: float64, seconds since the first access, never falling.
    key:  int64, dense ids in order of first appearance: the first access has key 0, the next new one 1.
    size: int64, bytes of what was asked for at each access, or None when nobody measured it.
    names: one text for each key, or None.
    meta: where the trace comes from: a flat mapping of text, numbers and None.

    The columns cannot be written to. Raises TraceError for columns that contradict each other or the facts above,
    and InvalidValueError for arguments of a wrong type; both say which value stands where.
    """

    __slots__ = ("key", "meta", "names", "size", "time", "unique")

    time: npt.NDArray[np.float64]
    key: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64] | None
    names: tuple[str, ...] | None
    meta: Meta
    unique: int

    def __init__(
        self,
        time: npt.ArrayLike,
        key: npt.ArrayLike,
        size: npt.ArrayLike | None = None,
        names: Sequence[str] | None = None,
        meta: Meta | None = None,
    ) -> None:
        codes, _ = dense(np.asarray(key))
        if not np.array_equal(codes, key):
            place = int(np.flatnonzero(codes != np.asarray(key))[0])
            raise TraceError(
                f"key[{place}] is {np.asarray(key)[place]}, but ids must count up from 0 in order of first appearance "
                f"({codes[place]} here); use Trace.from_keys for keys of any kind"
            )
        unique = int(codes.max()) + 1
        if names is not None and len(names) != unique:
            raise TraceError(f"{len(names)} names for {unique} keys; give one name for each key, in order of its id")
        for fact, said in (meta or {}).items():
            if not isinstance(fact, str) or not isinstance(said, str | int | float | None):
                raise InvalidValueError(f"meta[{fact!r}] is {said!r}; provenance holds texts, numbers and None")
        columns = {
            "time": times(time, len(codes)),
            "key": codes,
            "size": sizes(size, len(codes)),
            "names": None if names is None else tuple(names),
            "meta": MappingProxyType(dict(meta or {})),
            "unique": unique,
        }
        for name, value in columns.items():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
            object.__setattr__(self, name, value)

    @classmethod
    def from_keys(
        cls,
        keys: Iterable[Any],
        time: npt.ArrayLike | None = None,
        size: npt.ArrayLike | None = None,
        meta: Meta | None = None,
    ) -> Trace:
        """Makes a trace from keys of any hashable kind.

        keys: one for each access: whole numbers, or anything hashable (whose text becomes the name).
        time: seconds from any origin, never falling; without it one access a second.
        size: bytes at each access.
        Raises TraceError for an empty or contradictory trace, InvalidValueError for keys that cannot be told apart.
        """
        codes, names = dense(keys)
        if time is None:
            time = np.arange(len(codes), dtype=np.float64)
            meta = {"clock": "one access a second, because no times were given"} | dict(meta or {})
        return cls(time, codes, size, names, meta)

    @classmethod
    def read(cls, path: str | Path) -> Trace:
        """Reads a trace; the content of the file, not its name, says how.

        path: a file that `write` made, or a CSV table (gzip or not) with a column `key`, and if it likes `time`
        (seconds) or `time_ms`, and `size` (bytes); other columns are left out.
        Raises TraceError when the file cannot be opened, is half written, or is something else.
        """
        from skilllab.trace.formats import read

        return read(Path(path))

    def write(self, path: str | Path) -> Path:
        """Writes the compact format; the same trace gives the same bytes, and a failure leaves no half file.

        Times are kept to a microsecond. Raises TraceError when the file cannot be written.
        """
        from skilllab.trace.formats.compact import write

        return write(self, Path(path))

    @property
    def duration(self) -> float:
        """Seconds from the first access to the last."""
        return float(self.time[-1])

    @property
    def footprint(self) -> int | None:
        """Bytes of all keys together, each at its latest size; None when sizes are unknown."""
        if self.size is None:
            return None
        latest = np.zeros(self.unique, dtype=np.int64)
        latest[self.key] = self.size
        return int(latest.sum())

    def head(self, accesses: int) -> Trace:
        """Returns the first `accesses` accesses, or all when there are fewer; raises InvalidValueError below 1."""
        if operator.index(accesses) < 1:
            raise InvalidValueError(f"accesses(={accesses}) must be at least 1")
        return self[:accesses]

    def at_speed(self, speed: float) -> Trace:
        """Returns the same accesses on a clock of their own: 1/60 makes a minute last an hour.

        The gaps are no longer recorded ones, so `meta["speed"]` and the text of the trace say how it was changed.
        Raises InvalidValueError unless `speed` is a number above 0.
        """
        if not (math.isfinite(speed) and speed > 0):
            raise InvalidValueError(f"speed(={speed!r}) must be a number above 0; 1 is as recorded")
        total = float(self.meta.get("speed") or 1.0) * speed
        return Trace(self.time / speed, self.key, self.size, self.names, {**self.meta, "speed": total})

    def frame(self) -> pd.DataFrame:
        """Returns one row an access: time (s), key, and where known size (bytes) and name."""
        import pandas as pd

        columns: dict[str, Any] = {"time": self.time, "key": self.key}
        if self.size is not None:
            columns["size"] = self.size
        if self.names is not None:
            columns["name"] = np.array(self.names, dtype=object)[self.key]
        return pd.DataFrame(columns)

    def __len__(self) -> int:
        return len(self.key)

    @overload
    def __getitem__(self, index: slice) -> Trace: ...
    @overload
    def __getitem__(self, index: int) -> tuple[float, int]: ...
    def __getitem__(self, index: slice | int) -> Trace | tuple[float, int]:
        """Returns a part as a trace with ids and a clock of its own, or (time, key) of one access."""
        if not isinstance(index, slice):
            return float(self.time[index]), int(self.key[index])
        if (index.step or 1) < 1:
            raise InvalidValueError(f"step(={index.step}) must be at least 1: time cannot run backwards")
        keys = self.key[index]
        codes, _ = dense(keys)
        names = None
        if self.names is not None:
            _, first = np.unique(codes, return_index=True)
            names = [self.names[key] for key in keys[first]]
        size = None if self.size is None else self.size[index]
        return Trace(self.time[index], codes, size, names, self.meta)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trace):
            return NotImplemented
        sized = (self.size is None) == (other.size is None)
        return (
            sized
            and np.array_equal(self.key, other.key)
            and np.array_equal(self.time, other.time)
            and (self.size is None or np.array_equal(self.size, other.size))  # type: ignore[arg-type]
            and self.names == other.names
            and self.meta == other.meta
        )

    __hash__ = None  # type: ignore[assignment]

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} cannot be set: a trace is immutable; make another with Trace(...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name} cannot be deleted: a trace is immutable")

    def __reduce__(self) -> Any:
        return Trace, (self.time, self.key, self.size, self.names, dict(self.meta))

    def __repr__(self) -> str:
        facts = f"{fmt.count(len(self))} accesses to {fmt.count(self.unique)} keys in {fmt.duration(self.duration)}"
        if self.footprint is not None:
            facts += f", {fmt.size(self.footprint)}"
        if "speed" in self.meta:
            facts += f", replayed at {fmt.times(float(self.meta['speed'] or 1.0))} the recorded speed"
        return f"Trace({facts})"
