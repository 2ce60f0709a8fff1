"""file-reader-v1."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.errors import InvalidValueError
from skilllab.settings import FILE_MAX_BYTES
from skilllab.skills.file_reader import file_reader

TEXT = "Grüße, naïve café – 東京\nsecond line\n"


@pytest.fixture
def write(tmp_path: Path):
    def write(data: bytes) -> str:
        (tmp_path / "file.txt").write_bytes(data)
        return str(tmp_path / "file.txt")

    return write


@pytest.mark.parametrize(
    ("mark", "codec", "found"),
    [
        (b"", "utf-8", "utf-8"),
        (codecs.BOM_UTF8, "utf-8", "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16-le", "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16-be", "utf-16"),
        (codecs.BOM_UTF32_LE, "utf-32-le", "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32-be", "utf-32"),
    ],
)
def test_auto_follows_the_byte_order_mark(write, mark: bytes, codec: str, found: str) -> None:
    """A byte order mark decides the encoding and is not part of the text."""
    data = mark + TEXT.encode(codec)
    assert file_reader(write(data)) == {"text": TEXT, "encoding": found, "size": len(data), "lines": 2}


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Entrée : crème d’asperges à l’œuf poché, pain grillé et beurre salé, gâteau brûlé.", "cp1252"),
        ("Die größte Fähre fährt über die Straße, und der Hafenmeister grüßt wie üblich sehr höflich.", "cp1252"),
        ("El niño comió piñas mañana en la estación. ¿Qué pasó después? El café está frío.", "cp1252"),
        ("Zażółć gęślą jaźń. Łódź płynie do portu, a kapitan śpiewa. Świeża kawa już jest.", "cp1250"),
        ("Příliš žluťoučký kůň úpěl ďábelské ódy. Loď připlula do přístavu včera večer.", "cp1250"),
        ("Árvíztűrő tükörfúrógép. A hajó reggel érkezik a kikötőbe, és őszi eső esik.", "cp1250"),
        ("Паром уходит в шесть утра и редко бывает полон.", "cp1251"),
        ("Το πλοίο φεύγει στις έξι το πρωί και σπάνια είναι γεμάτο.", "cp1253"),
        ("港の最初のフェリーは朝六時に出発します。とても古い犬がいます。", "shift_jis"),
    ],
)
def test_auto_guesses_a_legacy_encoding(write, text: str, encoding: str) -> None:
    """A sentence or two in the usual encoding of its language comes back as it was written."""
    result = file_reader(write(text.encode(encoding)))
    assert result["text"] == text
    assert result["encoding"] != "utf-8"


def test_what_fits_no_encoding_is_refused(write) -> None:
    """Bytes that no encoding makes text of are an error."""
    with pytest.raises(InvalidValueError, match="fits no text encoding"):
        file_reader(write(bytes(range(1, 256)) * 3))


def test_an_explicit_encoding_is_used(write) -> None:
    """A named encoding wins over what the bytes look like, and a mark is dropped there as well."""
    assert file_reader(write("é".encode()), encoding="latin-1")["text"] == "Ã©"
    assert file_reader(write(codecs.BOM_UTF8 + b"a"), encoding="utf-8")["text"] == "a"
    assert file_reader(write(b"a\0b"), encoding="ascii")["text"] == "a\0b"


@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        (b"caf\xe9", "utf-8", r"is not utf-8: byte 3 \(0xe9\).*name another encoding, or \"auto\""),
        (b"a", "klingon", r"encoding='klingon' is no text encoding"),
        (b"61", "hex", r"encoding='hex' is no text encoding"),
        (b"a\0b", "auto", r"zero byte at 1.*name its encoding"),
        (codecs.BOM_UTF16_LE + b"a", "auto", r"is not utf-16: byte 2"),
    ],
)
def test_undecodable_files_are_refused(write, data: bytes, encoding: str, message: str) -> None:
    """What cannot be decoded is an error that names the place and what to do."""
    with pytest.raises(InvalidValueError, match=message):
        file_reader(write(data), encoding=encoding)


def test_newlines_are_made_one_kind_or_kept(write) -> None:
    """Lines end at \\n, \\r\\n and \\r; "lf" makes them all \\n, "keep" changes none; \\f and U+2028 end no line."""
    path = write("a\r\nb\rc\nd\fe\u2028f".encode())
    assert file_reader(path)["text"] == "a\nb\nc\nd\fe\u2028f"
    assert file_reader(path, newlines="keep")["text"] == "a\r\nb\rc\nd\fe\u2028f"
    assert file_reader(path, newlines="keep")["lines"] == 4


@pytest.mark.parametrize(
    ("first", "last", "text"),
    [(1, None, "a\nb\nc"), (2, None, "b\nc"), (2, 2, "b\n"), (1, 9, "a\nb\nc"), (4, None, ""), (2.0, 2.0, "b\n")],
)
def test_line_ranges(write, first: int, last: int | None, text: str) -> None:
    """A range counts from 1, includes its last line, and is empty past the end; the line count stays that of the file."""
    result = file_reader(write(b"a\nb\nc"), first_line=first, last_line=last)
    assert (result["text"], result["lines"]) == (text, 3)


def test_a_range_that_ends_before_it_begins_is_refused(write) -> None:
    """last_line below first_line is an error."""
    with pytest.raises(InvalidValueError, match="last_line=1 must be at least first_line=2"):
        file_reader(write(b"a"), first_line=2, last_line=1)


def test_large_files_are_refused_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beyond max_bytes is refused by its size: no byte is read, however large it claims to be."""
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InvalidValueError, match=r"1.00 TiB, more than max_bytes=10485760"):
        file_reader(str(path))
    assert FILE_MAX_BYTES == 10 * 2**20


def test_the_size_limit_is_inclusive_and_holds_for_files_that_claim_no_size(write) -> None:
    """Exactly max_bytes are read; a file of /proc, which says it has none, is measured by reading."""
    assert file_reader(write(b"abc"), max_bytes=3)["size"] == 3
    with pytest.raises(InvalidValueError, match="more than max_bytes=2"):
        file_reader(write(b"abc"), max_bytes=2)
    if os.path.exists("/proc/self/status"):
        with pytest.raises(InvalidValueError, match="more than max_bytes=5"):
            file_reader("/proc/self/status", max_bytes=5)


def test_what_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    """A missing file, a folder, a pipe, a device and a name with a zero byte are errors that say so, and none hangs."""
    os.mkfifo(tmp_path / "pipe")
    for path, reason in {
        str(tmp_path / "none"): "does not exist",
        str(tmp_path): "is a folder",
        str(tmp_path / "pipe"): "no regular file",
        "/dev/null": "no regular file",
        "a\0b": "cannot be read",
    }.items():
        with pytest.raises(InvalidValueError, match=reason):
            file_reader(path)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\0\ufeff")), st.integers(1, 6), st.integers(0, 6))
def test_ranges_join_to_the_whole(tmp_path_factory: pytest.TempPathFactory, text: str, first: int, more: int) -> None:
    """Any text without carriage returns comes back as it is, and the lines before, in and after a range make the whole."""
    path = str(tmp_path_factory.getbasetemp() / "property.txt")
    Path(path).write_bytes(text.encode())
    last = first + more
    before = file_reader(path, first_line=1, last_line=first - 1)["text"] if first > 1 else ""
    parts = [
        before,
        file_reader(path, first_line=first, last_line=last)["text"],
        file_reader(path, first_line=last + 1)["text"],
    ]
    assert "".join(parts) == file_reader(path)["text"] == text
