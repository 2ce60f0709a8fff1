"""file-reader-v1: the text of a file, whatever its encoding."""

from __future__ import annotations

import codecs
import io
import os
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from skilllab import format as fmt
from skilllab.define import skill
from skilllab.errors import InvalidValueError
from skilllab.settings import FILE_MAX_BYTES
from skilllab.skills._files import open_file

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MARKED = ["utf_7", "utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "utf_32_le"]  # never guessed
_COMMON = ("cp1252", "cp1251", "cp1250")  # of the encodings that are often taken for each other
_NEAR = 0.05  # of the detector's measures of disorder and of language, 0 to 1 each


class FileText(TypedDict):
    """The text asked for, the encoding that read it, and what the whole file has: bytes and lines."""

    text: str
    encoding: str
    size: int
    lines: int


@skill(
    id="file-reader-v1",
    category="file-operations",
    tags=("io", "text", "utility"),
    examples=(
        {"path": "samples/notes/harbour.txt"},
        {"path": "samples/notes/menu_cp1252.txt", "encoding": "auto"},
        {"path": "samples/events.log", "first_line": 10, "last_line": 12},
    ),
)
def file_reader(
    path: Annotated[str, Field(min_length=1, description="the file")],
    encoding: Annotated[
        str,
        Field(description='its encoding by Python\'s name, or "auto": byte order mark, else UTF-8, else the likeliest'),
    ] = "auto",
    newlines: Annotated[
        Literal["lf", "keep"], Field(description='"lf" makes every line end \\n, "keep" leaves them as they are')
    ] = "lf",
    first_line: Annotated[int, Field(ge=1, description="first line to return, counted from 1")] = 1,
    last_line: Annotated[int | None, Field(ge=1, description="last line to return; null for the end")] = None,
    max_bytes: Annotated[int, Field(ge=1, description="refuse a larger file before reading it")] = FILE_MAX_BYTES,
) -> FileText:
    """Reads a text file, finding out its encoding, and returns all of it or a range of lines.

    A byte order mark is dropped. Lines end at \\n, \\r\\n or \\r; a range past the end is empty.
    Raises InvalidValueError for a file that is missing, no regular file, too large, binary, or not in the encoding.
    """
    if last_line is not None and last_line < first_line:
        raise InvalidValueError(f"last_line={last_line} must be at least first_line={first_line}")
    data = _read(path, max_bytes)
    text, found = _decode(data, path, encoding)
    lines = list(io.StringIO(text, newline="" if newlines == "keep" else None))
    wanted = lines[int(first_line) - 1 : None if last_line is None else int(last_line)]
    return {"text": "".join(wanted), "encoding": found, "size": len(data), "lines": len(lines)}


def _read(path: str, max_bytes: int) -> bytes:
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        # A growing file, or one of /proc that claims no size, is stopped by reading one byte more than allowed.
        data = b"" if size > max_bytes else file.read(int(max_bytes) + 1)
    if max(size, len(data)) > max_bytes:
        raise InvalidValueError(
            f"path={path!r} has {fmt.size(max(size, len(data)))}, more than max_bytes={max_bytes}: "
            "raise max_bytes to read it"
        )
    return data


def _decode(data: bytes, path: str, encoding: str) -> tuple[str, str]:
    if encoding != "auto":
        return _decode_as(data, path, encoding), encoding
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if marked:
        return _decode_as(data, path, marked), marked
    if b"\0" in data:
        raise InvalidValueError(
            f"path={path!r} holds a zero byte at {data.index(0)}, so it is no text, or UTF-16 without a mark: "
            "name its encoding to read it all the same"
        )
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return _guess(data, path)


def _decode_as(data: bytes, path: str, encoding: str) -> str:
    try:
        text = data.decode(encoding)
    except LookupError:
        raise InvalidValueError(
            f"encoding={encoding!r} is no text encoding that Python knows: utf-8 and cp1252 are"
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidValueError(
            f"path={path!r} is not {encoding}: byte {error.start} (0x{data[error.start]:02x}): {error.reason}; "
            'name another encoding, or "auto"'
        ) from None
    except (UnicodeError, ValueError) as error:
        raise InvalidValueError(f"path={path!r} is not {encoding}: {error}") from None
    return text.removeprefix("\ufeff")


def _guess(data: bytes, path: str) -> tuple[str, str]:
    from charset_normalizer import from_bytes  # takes 20 ms to import and is seldom needed

    matches = list(from_bytes(data, cp_exclusion=_MARKED))
    if not matches:
        raise InvalidValueError(f"path={path!r} fits no text encoding; name its encoding if it is text")
    best = matches[0]
    # The detector puts near ties in order of the alphabet; the commoner encoding is the likelier one.
    close = [m for m in matches if m.chaos <= best.chaos + _NEAR and m.coherence >= best.coherence - _NEAR]
    likeliest = min(
        close, key=lambda match: _COMMON.index(match.encoding) if match.encoding in _COMMON else len(_COMMON)
    )
    return str(likeliest), likeliest.encoding
