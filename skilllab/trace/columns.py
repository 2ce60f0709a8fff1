"""Checks and brings into form the columns of a trace."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from skilllab.errors import InvalidValueError, TraceError

MAX_INTEGER = np.iinfo(np.int64).max


def dense(keys: Iterable[Any]) -> tuple[npt.NDArray[np.int64], tuple[str, ...] | None]:
    """Returns ids in order of first appearance, and the names of keys that are not whole numbers.

    Raises TraceError when there are no keys, InvalidValueError for keys that cannot be compared (NaN, lists).
    """
    if isinstance(keys, str | bytes):
        raise InvalidValueError(f"keys are one text of {len(keys)} characters; give a sequence with one key an access")
    array = keys if isinstance(keys, np.ndarray) else None
    if array is None:
        listed = list(keys)
        array = np.asarray(listed) if listed and all(type(key) is int for key in listed) else None
    else:
        listed = []
    if array is not None and array.ndim != 1:
        raise InvalidValueError(f"keys have {array.ndim} dimensions; give one key an access")
    if not (listed or (array is not None and len(array))):
        raise TraceError("the trace has no accesses; give at least one")
    if array is not None and array.dtype.kind in "iu":
        _, first, inverse = np.unique(array, return_index=True, return_inverse=True)
        rank = np.empty(len(first), dtype=np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        return rank[inverse], None
    return _dense_objects(listed if array is None else array.tolist())


def times(time: npt.ArrayLike, length: int) -> npt.NDArray[np.float64]:
    """Returns a copy that starts at 0 s; raises TraceError for another length, NaN, infinity, or falling times."""
    try:
        column = np.array(time, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"time must be numbers of seconds: {error}") from error
    _check_length("time", column, length)
    bad = np.flatnonzero(~np.isfinite(column))
    if len(bad):
        raise TraceError(f"time[{bad[0]}] is {column[bad[0]]}; every access needs a finite time in seconds")
    falls = np.flatnonzero(np.diff(column) < 0)
    if len(falls):
        place = int(falls[0]) + 1
        raise TraceError(
            f"time[{place}] is {float(column[place])!r} after {float(column[place - 1])!r}; "
            "times may not fall: sort the accesses by time first"
        )
    column -= column[0]
    return column


def sizes(size: npt.ArrayLike | None, length: int) -> npt.NDArray[np.int64] | None:
    """Returns a copy in bytes; raises TraceError for another length, fractions, NaN, or negative sizes."""
    if size is None:
        return None
    column = np.asarray(size)
    _check_length("size", column, length)
    if column.dtype.kind not in "iuf":
        raise InvalidValueError(f"size must be whole numbers of bytes, not {column.dtype}")
    bad = np.flatnonzero(~((column >= 0) & (column < MAX_INTEGER) & (column % 1 == 0)))
    if len(bad):
        raise TraceError(f"size[{bad[0]}] is {column[bad[0]]}; sizes are whole numbers of bytes from 0 up")
    return column.astype(np.int64)


def _dense_objects(keys: list[Any]) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    ids: dict[Any, int] = {}
    codes = np.empty(len(keys), dtype=np.int64)
    for place, key in enumerate(keys):
        # None and NaN stand for a missing key in tables, and NaN is not even equal to itself.
        if key is None or isinstance(key, float):
            raise InvalidValueError(f"keys[{place}] is {key!r}; a key is a whole number, a text, or another hashable")
        try:
            codes[place] = ids.setdefault(key, len(ids))
        except TypeError as error:
            raise InvalidValueError(f"keys[{place}] is {key!r}, which is not hashable; use its text") from error
    return codes, tuple(key if isinstance(key, str) else str(key) for key in ids)


def _check_length(name: str, column: npt.NDArray[Any], length: int) -> None:
    if column.shape != (length,):
        raise TraceError(f"{name} has shape {column.shape} for {length} keys; give one value an access")
