"""Answers: reading one with bounded memory, and what a skill makes of it."""

from __future__ import annotations

import asyncio
import calendar
import codecs
import json
import re
import zlib
from collections.abc import Mapping
from email.utils import parsedate_tz
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn, final

import aiohttp

from skilllab import format as fmt

_PIECE = 2**20  # bytes inflated at once: some milliseconds of the loop
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\s;\"]+)", re.IGNORECASE)
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_EXCERPT = 200
_BOM = codecs.BOM_UTF8.decode()


class TooLargeError(Exception):
    """Raised when an answer has more bytes than it may; `seen` are those that came, or were announced."""

    def __init__(self, seen: int) -> None:
        super().__init__(seen)
        self.seen = seen


class UnreadableError(Exception):
    """Raised when an answer is not what it says it is; its text says why, in words of the server among others."""


@final
class Answer(NamedTuple):
    """A whole answer, decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Returns the body, decompressed. It is counted while it comes, so that no more than `limit` bytes are ever kept.

    Raises TooLargeError, UnreadableError for broken compression, and the errors of aiohttp.
    """
    content = response.content
    if content.at_eof():
        return b""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        return await _inflated(content, encoding, limit)
    announced = response.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise TooLargeError(int(announced))
    body = await content.readany()
    if not content.at_eof():
        body = await _all_of(content, body, limit)
    if len(body) > limit:
        raise TooLargeError(len(body))
    return body


async def _all_of(content: aiohttp.StreamReader, first: bytes, limit: int) -> bytes:
    parts, size = [first], len(first)
    while not content.at_eof():
        parts.append(await content.readany())
        size += len(parts[-1])
        if size > limit:
            raise TooLargeError(size)
    return b"".join(parts)


async def _inflated(content: aiohttp.StreamReader, encoding: str, limit: int) -> bytes:
    """Inflates what comes, member after member of a gzip; asks for one byte more than may be, and never for the rest."""
    if encoding not in _WINDOWS:
        raise UnreadableError(f"its Content-Encoding {encoding!r} was not asked for: gzip and deflate were")
    window = _WINDOWS[encoding]
    inflate: Any = None
    parts: list[bytes] = []
    size = received = 0
    while not content.at_eof():
        data = await content.readany()
        received += len(data)
        if received > limit + limit // 8 + 1024:  # more than compression ever adds
            raise TooLargeError(received)
        more = bool(data)
        while more:
            if inflate is None:
                raw = window == 15 and data[0] & 15 != 8  # deflate without the head that it should have
                inflate = zlib.decompressobj(-15 if raw else window)
            asked = min(_PIECE, limit - size + 1)
            try:
                part = inflate.decompress(data, asked)
            except zlib.error as error:
                raise UnreadableError(f"its {encoding} is broken: {error}") from None
            parts.append(part)
            size += len(part)
            if size > limit:
                raise TooLargeError(size)
            data = inflate.unconsumed_tail
            if inflate.eof:
                data = inflate.unused_data if encoding == "deflate" else inflate.unused_data.lstrip(b"\0")
                if data and encoding == "deflate":
                    raise UnreadableError(f"its deflate is broken: there are {len(data)} bytes after its end")
                if data:
                    inflate = None  # another member of the gzip
            more = bool(data) or len(part) == asked
            if len(part) == _PIECE:
                await asyncio.sleep(0)
    if received and (inflate is None or not inflate.eof):
        raise UnreadableError(f"its {encoding} ends too early, after {fmt.size(received)}")
    return b"".join(parts)


def value_of(method: str, answer: Answer, must_be_json: bool) -> Any:
    """Returns what the body of an answer is: None without one, JSON or text by its Content-Type.

    An answer to HEAD, a 204, 205 or 304, and an empty body of no type are None. JSON is what says so (application/json,
    anything+json) and, with must_be_json, everything. Any other body is text, in the charset that it names or UTF-8.
    Raises UnreadableError.
    """
    body = answer.body
    content_type = answer.headers.get("Content-Type", "")
    if not body and (method == "HEAD" or answer.status in (204, 205, 304) or not content_type):
        return None
    is_json, charset = kind_of(content_type)
    try:
        text = body.decode(charset)
    except LookupError:
        raise UnreadableError(f"its charset {charset!r} is unknown") from None
    except UnicodeError as error:
        raise UnreadableError(f"its body ({content_type or 'of no type'}) is no {charset} text: {error}") from None
    return json_value(text) if is_json or must_be_json else text


@lru_cache(maxsize=256)
def kind_of(content_type: str) -> tuple[bool, str]:
    """Returns whether a Content-Type says JSON, and its charset."""
    name = content_type.partition(";")[0].strip().lower()
    found = _CHARSET.search(content_type)
    charset = found[1].lower() if found else "utf-8"
    return name in ("application/json", "text/json") or name.endswith("+json"), charset


def json_value(text: str) -> Any:
    """Returns the value of a JSON text; raises UnreadableError with the place of the offence, never its text."""
    if text.startswith(_BOM):
        text = text[1:]
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}" if text.strip() else "it is empty"
    except RecursionError:
        where = "it is nested too deeply"
    except ValueError as error:
        where = str(error)
    raise UnreadableError(f"its body is no JSON: {where}")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"it has {name}, which JSON does not have")


_decoder = json.JSONDecoder(parse_constant=_no_constant)


def in_one_line(answer: Answer) -> str:
    """Returns a body as text in one line, "" when it is none."""
    try:
        text = answer.body.decode(kind_of(answer.headers.get("Content-Type", ""))[1], "replace")
    except (LookupError, UnicodeError):
        return ""
    return " ".join(text.split())


def shortened(line: str) -> str:
    """Returns the start of a line."""
    return line if len(line) <= _EXCERPT else f"{line[:_EXCERPT]}…"


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Returns the seconds that a Retry-After asks to wait, from seconds or an HTTP date; None without a readable one.

    now: seconds since the epoch.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    date = parsedate_tz(value)
    if date is None:
        return None
    try:
        return max(0.0, calendar.timegm((*date[:6], 0, 0, 0)) - (date[9] or 0) - now)
    except (ValueError, OverflowError):
        return None
