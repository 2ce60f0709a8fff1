"""Requests: what a load test records of every request, in columns; batches of them travel between processes."""

from __future__ import annotations

import base64
import math
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skilllab.stats import Array

if TYPE_CHECKING:
    import pandas as pd

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
_WIDTH = 6  # intended, start, end, service, code, place
_PENDING = 600  # numbers that are put aside before they go into an array
_DIGITS = 9  # decimals of a second: what rounding adds to them would make equal times differ
_NEVER = -1.0  # s of service of what did not run, in JSON
_LOST = 3  # intended, when it was given up, place


class Batch(NamedTuple):
    """What was recorded since the batch before, ready to travel: rows as bytes, and the error kinds they point to."""

    rows: bytes
    dropped: bytes
    unfinished: bytes
    kinds: tuple[str, ...]


class Requests:
    """Every finished request of a test as a row, in the order in which they ended; times in seconds since its begin.

    Columns: intended, start, end, lag, waiting, service, response, ok, error, cached, stage, warm. A response counts
    from the intended start and has three parts: the generator's lag (start - intended), the waiting (for a place, a
    thread or a connection, and whatever else is not the skill) and the service, 0 in the sum and NaN in its column where
    the skill did not run. What an open test dropped at its in-flight cap, and what was given up at the end, is counted
    beside and is in no column.
    """

    def __init__(self) -> None:
        self._rows = array("d")
        self._new: list[float] = []  # what is not in rows yet: putting numbers into an array one by one takes longer
        self._dropped = array("d")
        self._unfinished = array("d")
        self._kinds: dict[str, int] = {"": 0}
        self._sent = (0, 0, 0)

    def append(
        self,
        intended: float,
        start: float,
        end: float,
        service: float | None,
        error: str = "",
        cached: bool = False,
        stage: int = 0,
        warm: bool = False,
    ) -> None:
        """Adds a finished request; error: the kind of its failure, "" for a success. service: None when it did not run."""
        code = 2 * self.kind(error) + cached
        self.put((intended, start, end, math.nan if service is None else service, code, 2 * stage + warm))

    def kind(self, error: str) -> int:
        """Returns the number of a kind of error."""
        return self._kinds.setdefault(error, len(self._kinds))

    def put(self, row: tuple[float, float, float, float, int, int]) -> None:
        """Adds a row as it is kept: intended, start, end, service, 2 x kind + cached, 2 x stage + warm."""
        new = self._new
        new += row
        if len(new) >= _PENDING:
            self._fold()

    def drop(self, intended: float, stage: int = 0, warm: bool = False) -> None:
        """Counts a request that was not sent, since too many were under way."""
        self._dropped.extend((intended, intended, 2 * stage + warm))

    def give_up(self, intended: float, at: float, stage: int = 0, warm: bool = False) -> None:
        """Counts a request that had no end when the test ended, `at` seconds: it took at least that long."""
        self._unfinished.extend((intended, at, 2 * stage + warm))

    def batch(self) -> Batch:
        """Returns what was recorded since the last call."""
        self._fold()
        columns = (self._rows, self._dropped, self._unfinished)
        new = [column[begin:].tobytes() for column, begin in zip(columns, self._sent, strict=True)]
        self._sent = (len(self._rows), len(self._dropped), len(self._unfinished))
        return Batch(new[0], new[1], new[2], tuple(self._kinds))

    def extend(self, batch: Batch) -> None:
        """Adds the batches of another process, one after another; the numbers of error kinds become those of here."""
        self._fold()
        rows = np.frombuffer(batch.rows).reshape(-1, _WIDTH).copy()
        here = np.array([self._kinds.setdefault(kind, len(self._kinds)) for kind in batch.kinds])
        code = rows[:, 4].astype(np.int64)
        rows[:, 4] = 2 * here[code // 2] + code % 2
        self._rows.frombytes(rows.tobytes())
        self._dropped.frombytes(batch.dropped)
        self._unfinished.frombytes(batch.unfinished)

    def __len__(self) -> int:
        return (len(self._rows) + len(self._new)) // _WIDTH

    @property
    def dropped(self) -> int:
        """Requests that were not sent, since too many were under way."""
        return len(self._dropped) // _LOST

    @property
    def unfinished(self) -> int:
        """Requests that had no end when the test ended."""
        return len(self._unfinished) // _LOST

    def columns(self, begin: int = 0) -> Columns:
        """Returns the rows from number `begin` on as columns, copied, so that more can be appended."""
        self._fold()
        rows = np.array(self._rows[begin * _WIDTH :], dtype=np.float64).reshape(-1, _WIDTH)
        kinds = np.array(list(self._kinds), dtype=object)
        code, place = rows[:, 4].astype(np.int64), rows[:, 5].astype(np.int64)
        intended, start, end, service = np.round(rows[:, :4].T, _DIGITS)
        return Columns(
            intended, start, end, service, code < 2, kinds[code // 2], code % 2 == 1, place // 2, place % 2 == 1
        )

    def lost(self, which: str, begin: int = 0) -> tuple[Array, Numbers, Flags]:
        """Returns intended start, stage and warm of what was "dropped" or is "unfinished", from number `begin` on."""
        column = self._dropped if which == "dropped" else self._unfinished
        rows = np.array(column[begin * _LOST :]).reshape(-1, _LOST)
        place = rows[:, 2].astype(np.int64)
        return rows[:, 0], place // 2, place % 2 == 1

    def waited(self) -> Array:
        """Returns how long each unfinished request had taken when it was given up, in seconds."""
        rows = np.array(self._unfinished, dtype=np.float64).reshape(-1, _LOST)
        waited: Array = rows[:, 1] - rows[:, 0]
        return waited

    def to_json(self) -> dict[str, Any]:
        """Returns plain values for `from_json`: times to the nanosecond, a dozen bytes a request."""
        self._fold()
        rows = np.array(self._rows, dtype=np.float64).reshape(-1, _WIDTH)
        whole = np.empty(rows.shape, dtype=np.int64)
        nanoseconds = np.rint(np.nan_to_num(rows[:, :4], nan=_NEVER) * 1e9).astype(np.int64)
        whole[:, 0] = np.diff(nanoseconds[:, 0], prepend=0)
        whole[:, 1:3] = np.diff(nanoseconds[:, :3], axis=1)
        whole[:, 3], whole[:, 4:] = nanoseconds[:, 3], rows[:, 4:]
        packed = base64.b64encode(zlib.compress(np.ascontiguousarray(whole.T).tobytes())).decode("ascii")
        lost = {"dropped": self._dropped.tolist(), "unfinished": self._unfinished.tolist()}
        return {"rows": packed, "kinds": list(self._kinds), **lost}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Requests:
        """Returns the requests that `to_json` wrote; raises ValueError, KeyError or TypeError for anything else."""
        try:
            unpacked = zlib.decompress(base64.b64decode(saved["rows"]))
        except zlib.error as error:
            raise ValueError(f"rows are damaged: {error}") from error
        whole = np.frombuffer(unpacked, dtype=np.int64).reshape(_WIDTH, -1)
        rows = whole.T.astype(np.float64)
        rows[:, 0] = np.cumsum(whole[0]) / 1e9
        rows[:, 1:3] = np.cumsum([np.cumsum(whole[0]), whole[1], whole[2]], axis=0)[1:].T / 1e9
        rows[:, 3] = np.where(whole[3] < 0, math.nan, whole[3] / 1e9)
        made = cls()
        made._kinds = {kind: number for number, kind in enumerate(saved["kinds"])}
        made._rows.frombytes(rows.tobytes())
        made._dropped.extend(saved["dropped"])
        made._unfinished.extend(saved["unfinished"])
        if len(whole.T) and not 0 <= whole[4].min() <= whole[4].max() < 2 * len(made._kinds):
            raise ValueError(f"rows name kinds of errors beyond the {len(made._kinds)} that there are")
        if len(made._dropped) % _LOST or len(made._unfinished) % _LOST:
            raise ValueError(f"what was dropped or is unfinished must be {_LOST} numbers each")
        return made

    def frame(self) -> pd.DataFrame:
        """Returns one row a finished request, all columns named above."""
        import pandas as pd

        columns = self.columns()
        parts = {name: getattr(columns, name) for name in ("lag", "waiting", "response")}
        return pd.DataFrame({**columns._asdict(), **parts})[list(_FRAME)]

    def _fold(self) -> None:
        self._rows.extend(array("d", self._new))
        self._new.clear()


Progress = Callable[[float, Requests], object]
"""Told four times a second: seconds since the begin, and the requests so far."""


class Columns(NamedTuple):
    """The columns of some requests; times in seconds since the begin of the test."""

    intended: Array
    start: Array
    end: Array
    service: Array
    ok: Flags
    error: npt.NDArray[np.object_]
    cached: Flags
    stage: Numbers
    warm: Flags

    @property
    def response(self) -> Array:
        """Seconds from the intended start to the end."""
        return np.round(self.end - self.intended, _DIGITS)

    @property
    def lag(self) -> Array:
        """Seconds by which the generator was late."""
        return np.round(self.start - self.intended, _DIGITS)

    @property
    def waiting(self) -> Array:
        """Seconds between start and end in which the skill did not run."""
        return np.round(self.end - self.start - np.nan_to_num(self.service, nan=0.0), _DIGITS)

    @property
    def error_share(self) -> float:
        """Share of failures, 0 to 1; nan without any request. One less the share of successes is off by the last bit."""
        return float((~self.ok).mean()) if len(self.ok) else math.nan

    def errors(self) -> dict[str, int]:
        """Returns how often each kind of error came, the most frequent first."""
        return dict(Counter(self.error[~self.ok].tolist()).most_common())

    def where(self, wanted: Flags | Numbers | slice) -> Columns:
        """Returns the rows that a mask, an index or a slice picks."""
        return Columns(*[column[wanted] for column in self])  # type: ignore[arg-type]  # each column keeps its kind


_FRAME = ("intended", "start", "end", "lag", "waiting", "service", "response", "ok", "error", "cached", "stage", "warm")
