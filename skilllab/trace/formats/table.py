"""CSV tables, plain or gzip: a column `key` (or `id`), and if there `time` (s) or `time_ms`, and `size` (bytes)."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from skilllab.errors import TraceError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from skilllab.trace.trace import Trace

GZIP = b"\x1f\x8b"


def fits(head: bytes) -> bool:
    """Tells whether a file that starts with `head` is a gzip file or a line of text that names our columns."""
    if head.startswith(GZIP):
        head = zlib.decompressobj(wbits=31).decompress(head)
    try:
        line = head.decode("utf-8-sig", errors="strict").splitlines()[:1]
    except UnicodeDecodeError:
        return False
    return bool(line) and bool({"key", "id"} & {name.strip().strip('"') for name in line[0].split(",")})


def read(path: Path) -> Trace:
    """Reads a trace; raises TraceError for a table with gaps, or gzip's and EOF errors when it is damaged."""
    from skilllab.trace.trace import Trace

    frame = _frame(path)
    keys = frame["key" if "key" in frame else "id"]
    time = _numbers(frame["time"], path) if "time" in frame else None
    if time is None and "time_ms" in frame:
        time = _numbers(frame["time_ms"], path) / 1000
    size = _numbers(frame["size"], path) if "size" in frame else None
    column = keys.to_numpy() if keys.dtype.kind in "iu" else keys.astype(str).to_list()
    return Trace.from_keys(column, time=time, size=size, meta={"source": path.name})


def _frame(path: Path) -> pd.DataFrame:
    import pandas as pd

    with path.open("rb") as file:
        compression: Literal["gzip"] | None = "gzip" if file.read(2) == GZIP else None
    try:
        # A first column that pandas takes for row labels would silently shift every other one.
        frame = pd.read_csv(path, compression=compression, index_col=False, encoding="utf-8-sig", skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise TraceError(f"{path} is not a table: {error}; give a CSV file with a column `key`") from error
    used = frame[[name for name in ("key", "id", "time", "time_ms", "size") if name in frame]]
    gaps = used.isna().any(axis=1).to_numpy().nonzero()[0]
    if len(gaps):
        row = int(gaps[0])
        raise TraceError(
            f"{path} has no {used.columns[used.iloc[row].isna()][0]} in data row {row + 1} of {len(frame)}; "
            "it may be half written: complete the row or copy the file again"
        )
    return used


def _numbers(column: pd.Series[Any], path: Path) -> npt.NDArray[np.float64]:
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype="float64")
    bad = (numbers != numbers).nonzero()[0]
    if len(bad):
        raise TraceError(
            f"{path} has {column.name}={column.iloc[int(bad[0])]!r} in data row {int(bad[0]) + 1}; it must be a number"
        )
    return numbers
