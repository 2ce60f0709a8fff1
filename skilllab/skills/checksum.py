"""checksum-v1: the digest of a text, of bytes in base64, or of a file of any size."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import zlib
from collections.abc import Callable
from typing import Annotated, BinaryIO, Literal, Protocol

from pydantic import Field
from typing_extensions import TypedDict

from skilllab.define import skill
from skilllab.errors import InvalidValueError
from skilllab.skills._files import one_of, open_file

_CHUNK = 1 << 20


class Digest(TypedDict):
    """A digest in hexadecimal digits and the number of bytes it covers."""

    algorithm: str
    digest: str
    size: int


class _Hash(Protocol):
    def update(self, data: bytes, /) -> object: ...

    def hexdigest(self) -> str: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


_ALGORITHMS: dict[str, Callable[[], _Hash]] = {
    "sha256": hashlib.sha256,
    "blake2b": hashlib.blake2b,
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "crc32": _Crc32,
}


@skill(
    id="checksum-v1",
    category="file-operations",
    tags=("io", "integrity", "utility"),
    cacheable=False,
    examples=(
        {"text": "abc"},
        {"base64": "AAEC/w==", "algorithm": "crc32"},
        {"path": "samples/stations.csv", "algorithm": "blake2b"},
    ),
)
def checksum(
    text: Annotated[str | None, Field(description="text to digest, as UTF-8")] = None,
    base64: Annotated[str | None, Field(description="bytes to digest, in base64")] = None,
    path: Annotated[str | None, Field(description="file to digest, read in pieces of 1 MiB")] = None,
    algorithm: Annotated[
        Literal["sha256", "blake2b", "md5", "crc32"],
        Field(description="sha256 or blake2b against tampering; md5 and crc32 only against accidents"),
    ] = "sha256",
) -> Digest:
    """Computes the digest of a text, of bytes in base64, or of a file, which is read in pieces and never held whole.

    Raises InvalidValueError unless exactly one of the three is given, for bad base64 and for an unreadable file.
    """
    source = one_of(text=text, base64=base64, path=path)
    if source == "path":
        with open_file(path or "") as file:
            return _digest(file, algorithm)
    return _digest(io.BytesIO(_encoded(text) if text is not None else _decoded(base64 or "")), algorithm)


def _digest(source: BinaryIO, algorithm: str) -> Digest:
    digest, size = _ALGORITHMS[algorithm](), 0
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return {"algorithm": algorithm, "digest": digest.hexdigest(), "size": size}


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError(
            f"text holds half a surrogate pair at character {error.start}, which has no UTF-8"
        ) from None


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidValueError(f"base64={text[:40]!r} is not base64: {error}") from None
