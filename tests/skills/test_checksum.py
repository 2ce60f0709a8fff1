"""checksum-v1."""

from __future__ import annotations

import base64
import hashlib
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.errors import InvalidValueError
from skilllab.skills.checksum import checksum


@pytest.mark.parametrize(
    ("algorithm", "digest"),
    [
        ("sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("md5", "900150983cd24fb0d6963f7d28e17f72"),
        ("crc32", "352441c2"),
    ],
)
def test_published_digests_of_abc(algorithm: str, digest: str) -> None:
    """The digests of "abc" are those of FIPS 180-4, RFC 1321 and the zlib documentation's polynomial."""
    assert checksum(text="abc", algorithm=algorithm) == {"algorithm": algorithm, "digest": digest, "size": 3}


def test_blake2b_has_64_bytes() -> None:
    """blake2b gives its full length."""
    assert checksum(text="", algorithm="blake2b")["digest"] == hashlib.blake2b().hexdigest()


@given(st.binary(max_size=300))
def test_every_source_and_algorithm_agrees_with_the_standard_library(data: bytes) -> None:
    """Base64 in, and the digest is that of the bytes; crc32 keeps its leading zeros."""
    encoded = base64.b64encode(data).decode()
    assert checksum(base64=encoded)["digest"] == hashlib.sha256(data).hexdigest()
    assert checksum(base64=encoded, algorithm="crc32")["digest"] == f"{zlib.crc32(data):08x}"


@pytest.mark.parametrize("algorithm", ["sha256", "blake2b", "md5", "crc32"])
def test_a_file_in_pieces_is_the_file(tmp_path: Path, algorithm: str) -> None:
    """A file of more than one piece has the digest of its whole content."""
    data = bytes(range(256)) * 5000  # 1.2 pieces
    (tmp_path / "file").write_bytes(data)
    result = checksum(path=str(tmp_path / "file"), algorithm=algorithm)
    assert result == checksum(base64=base64.b64encode(data).decode(), algorithm=algorithm)
    assert result["size"] == len(data)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "give one of text, base64, path, not none"),
        ({"text": "a", "path": "b"}, "not text and path"),
        ({"base64": "a"}, "base64='a' is not base64"),
        ({"base64": "é"}, "is not base64"),
        ({"base64": "YQ==\n!"}, "is not base64"),
        ({"text": "a\ud800"}, "half a surrogate pair at character 1"),
        ({"path": "/does/not/exist"}, "does not exist"),
    ],
)
def test_bad_input(params: dict[str, str], message: str) -> None:
    """No source, two, broken base64, half a character and a missing file are errors that say so."""
    with pytest.raises(InvalidValueError, match=message):
        checksum(**params)
