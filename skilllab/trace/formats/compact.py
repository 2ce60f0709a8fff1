"""The compact format: an xz file that holds a line of text, a JSON header, and differences column by column.

xz carries a checksum, so a half-written or changed file is noticed, and no date, so equal traces give equal bytes.
"""

from __future__ import annotations

import json
import lzma
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from skilllab.errors import TraceError

if TYPE_CHECKING:
    from skilllab.trace.trace import Trace

XZ = b"\xfd7zXZ\x00"
MAGIC = b"skilllab-trace"
VERSION = 1
TICKS = 1_000_000  # per second; a finer clock would mostly store noise


def fits(head: bytes) -> bool:
    """Tells whether a file that starts with `head` is ours to read."""
    return head.startswith(XZ)


def read(path: Path) -> Trace:
    """Reads a trace; raises TraceError when the content is not ours, or lzma's and EOF errors when it is damaged."""
    from skilllab.trace.trace import Trace

    magic, _, rest = lzma.decompress(path.read_bytes(), format=lzma.FORMAT_XZ).partition(b"\n")
    if not magic.startswith(MAGIC):
        raise TraceError(f"{path} is an xz file, but not a trace of skilllab; give a .trace or a CSV file")
    if magic != MAGIC + b" %d" % VERSION:
        raise TraceError(
            f"{path} has format {magic.decode('ascii', 'replace')!r}; this skilllab reads version {VERSION}: update it"
        )
    line, _, body = rest.partition(b"\n")
    try:
        header = json.loads(line)
        columns = _unpack(dict(header["columns"]), header["accesses"], body)
        time = _restored(columns["time"]) / header["ticks"]
        key = _restored(columns["key"])
        size = _sizes(key, columns["size"]) if "size" in columns else None
        names, meta = header["names"], header["meta"]
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError(f"{path} has a header that contradicts its content ({error!r}); record it again") from error
    return Trace(time, key, size, names, meta)


def write(trace: Trace, path: Path) -> Path:
    """Writes beside the target and renames, so that readers see the old file or the whole new one."""
    ticks = np.rint(trace.time * TICKS).astype(np.int64)
    columns = {"time": _differences(ticks), "key": _differences(trace.key)}
    if trace.size is not None:
        columns["size"] = _size_changes(trace.key, trace.size)
    packed = {name: _pack(column) for name, column in columns.items()}
    header = {
        "accesses": len(trace),
        "ticks": TICKS,
        "columns": [[name, width] for name, (width, _) in packed.items()],
        "names": trace.names,
        "meta": dict(trace.meta),
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    content = b"%s %d\n%s\n" % (MAGIC, VERSION, text.encode("ascii"))
    content += b"".join(data for _, data in packed.values())
    # Without a size of its own the dictionary of this preset takes 64 MiB, and ten times that while packing.
    reach = max(4096, min(len(content), 1 << 26))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": reach}]
    _replace(path, lzma.compress(content, format=lzma.FORMAT_XZ, filters=filters))
    return path


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise TraceError(f"{path} cannot be written: {error.strerror}; nothing was changed") from error
    finally:
        draft.unlink(missing_ok=True)


def _differences(column: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.diff(column, prepend=np.int64(0))


def _restored(differences: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.cumsum(differences, dtype=np.int64)


def _by_key(key: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Returns the accesses grouped by key in order of time, and where in that order each group starts."""
    order = np.argsort(key, kind="stable")
    return order, np.diff(key[order], prepend=np.int64(-1)) != 0


def _size_changes(key: npt.NDArray[np.int64], size: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Stores what changed since the last access to the same key: nearly always 0."""
    order, starts = _by_key(key)
    changes = np.diff(size[order], prepend=np.int64(0))
    changes[starts] = size[order][starts]
    column = np.empty_like(changes)
    column[order] = changes
    return column


def _sizes(key: npt.NDArray[np.int64], changes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    order, starts = _by_key(key)
    total = np.cumsum(changes[order])
    before = (total - changes[order])[starts]
    column = np.empty_like(total)
    column[order] = total - np.repeat(before, np.diff(np.append(np.flatnonzero(starts), len(key))))
    return column


def _pack(column: npt.NDArray[np.int64]) -> tuple[int, bytes]:
    """Returns the width in bytes and the column with its bytes regrouped (all low bytes first), which packs better."""
    width = next(w for w in (1, 2, 4, 8) if w == 8 or np.abs(column).max() < 1 << (8 * w - 1))
    narrow = column.astype(f"<i{width}")
    return width, narrow.view(np.uint8).reshape(-1, width).T.tobytes()


def _unpack(widths: dict[str, int], accesses: int, body: bytes) -> dict[str, npt.NDArray[np.int64]]:
    if len(body) != sum(widths.values()) * accesses:
        raise ValueError(f"{len(body)} bytes for {accesses} accesses of {sum(widths.values())} bytes")
    columns: dict[str, npt.NDArray[np.int64]] = {}
    start = 0
    for name, width in widths.items():
        planes = np.frombuffer(body, dtype=np.uint8, count=width * accesses, offset=start)
        rows = np.ascontiguousarray(planes.reshape(width, accesses).T)
        columns[name] = cast("npt.NDArray[Any]", rows.view(f"<i{width}"))[:, 0].astype(np.int64)
        start += width * accesses
    return columns
