"""How answers travel: JSON or plain bytes, compressed for those who ask, the large ones in pieces."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from aiohttp import web

_PIECE = 1 << 16  # bytes made and sent at once: little memory, and never long on the event loop
_SMALLEST_GZIP = 1024  # bytes; below, compressing saves no packet
_FILLING = (b"the quick brown fox jumps over the lazy dog\n" * (_PIECE // 44 + 1))[:_PIECE]


class Answer(NamedTuple):
    """What a route answers: `payload` as JSON, or `size` bytes; `items` of a batch make its service longer."""

    status: int
    payload: Any = None
    headers: Mapping[str, str] = {}
    items: int = 0
    size: int | None = None


def problem(status: int, message: str, **headers: str) -> Answer:
    """Returns an answer that says what went wrong; a header's name takes _ for -."""
    return Answer(status, {"error": message}, {name.replace("_", "-"): value for name, value in headers.items()})


async def send(request: web.Request, answer: Answer, *, gzip: bool) -> web.StreamResponse:
    """Returns the response to an answer; the large ones are sent already. gzip: compress for those who ask."""
    headers = {"Content-Type": "application/json; charset=utf-8", **answer.headers}
    pieces: Iterator[bytes]
    if answer.size is None:
        body = json.dumps(answer.payload).encode()
        size = len(body)
        pieces = (body[at : at + _PIECE] for at in range(0, size, _PIECE))
    else:
        headers["Content-Type"] = "application/octet-stream"
        size = answer.size
        pieces = (_FILLING[: size - at] for at in range(0, size, _PIECE))
    if gzip and size >= _SMALLEST_GZIP:
        headers["Vary"] = "Accept-Encoding"
        if accepts_gzip(request.headers.get("Accept-Encoding", "")):
            headers["Content-Encoding"] = "gzip"
            pieces = _compressed(pieces)
    if size <= _PIECE:
        return web.Response(status=answer.status, body=b"".join(pieces), headers=headers)
    response = web.StreamResponse(status=answer.status, headers=headers)
    if "Content-Encoding" not in headers:
        response.content_length = size
    await response.prepare(request)
    if request.method != "HEAD":
        for piece in pieces:
            if piece:  # a compressor keeps much to itself
                await response.write(piece)
            await asyncio.sleep(0)  # others have their turn: writing waits only for a full socket
    await response.write_eof()
    return response


def accepts_gzip(header: str) -> bool:
    """Returns whether an Accept-Encoding header allows gzip, by name or by *, with a weight above 0."""
    weights = {}
    for part in header.lower().split(","):
        name, _, parameter = part.partition(";")
        key, _, weight = parameter.strip().partition("=")
        weights[name.strip()] = not (key == "q" and weight.strip() in ("0", "0.0", "0.00", "0.000"))
    return weights.get("gzip", weights.get("*", False))


def _compressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(1, wbits=31)  # 31: the gzip format; 1: the level of most web servers
    for piece in pieces:
        yield compressor.compress(piece)
    yield compressor.flush()
