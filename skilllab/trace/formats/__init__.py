"""File formats: one module each, with `fits(head)` and `read(path)`; the first that fits reads the file."""

from __future__ import annotations

import lzma
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from skilllab.errors import InvalidValueError, TraceError
from skilllab.trace.formats import compact, table

if TYPE_CHECKING:
    from skilllab.trace.trace import Trace


class Format(Protocol):
    """What a format offers."""

    def fits(self, head: bytes) -> bool: ...

    def read(self, path: Path) -> Trace: ...


FORMATS: tuple[Format, ...] = (compact, table)
HEAD = 512  # bytes: enough for any signature or the header line of a table


def read(path: Path) -> Trace:
    """Reads a trace with the first format that fits the start of the file; raises TraceError naming the file."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
        if not head:
            raise TraceError(f"{path} is empty; record or copy the trace again")
        reader = next((module for module in FORMATS if module.fits(head)), None)
        if reader is None:
            raise TraceError(f"{path} is not a trace: it starts with {head[:16]!r}; give a .trace or a CSV file")
        return reader.read(path)
    except EOFError as error:
        raise TraceError(f"{path} ends too early ({error}); it is half written: record or copy it again") from error
    except (lzma.LZMAError, zlib.error) as error:
        raise TraceError(f"{path} is damaged ({error}); record or copy it again") from error
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error.strerror or error}; check the path") from error
    except (TraceError, InvalidValueError) as error:
        if str(path) in str(error):
            raise
        raise TraceError(f"{path}: {error}") from error
