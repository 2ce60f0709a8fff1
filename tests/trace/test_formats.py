"""Formats: what every reader does, and what each does with files of its own."""

from __future__ import annotations

import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.errors import TraceError
from skilllab.trace import Trace, zipf

EXPECTED = Trace([0, 0.5, 2], [0, 1, 0], [10, 20, 11])
CSV = "key,time,size,other\n7,1.5,10,x\n3,2.0,20,y\n7,3.5,11,z\n"


def _compact(path: Path) -> Path:
    return EXPECTED.write(path)


def _table(path: Path) -> Path:
    path.write_text(CSV)
    return path


def _packed_table(path: Path) -> Path:
    path.write_bytes(gzip.compress(CSV.encode(), mtime=0))
    return path


@pytest.mark.parametrize("make", [_compact, _table, _packed_table])
class TestEveryFormat:
    """The contract of a reader."""

    def test_reads_the_columns(self, make: Callable[[Path], Path], tmp_path: Path) -> None:
        """Keys, times from 0 and sizes come out the same from every format, whatever the file is called."""
        trace = Trace.read(make(tmp_path / "any.name"))
        assert (trace.key.tolist(), trace.time.tolist()) == (EXPECTED.key.tolist(), EXPECTED.time.tolist())
        assert trace.size is not None
        assert trace.size.tolist() == [10, 20, 11]

    def test_accepts_a_path_as_text(self, make: Callable[[Path], Path], tmp_path: Path) -> None:
        """A path may be a str or a Path."""
        assert len(Trace.read(str(make(tmp_path / "t")))) == 3

    @pytest.mark.parametrize("kept", [0, 1, 8, 20, 0.5, 0.9])
    def test_half_written_is_refused(self, make: Callable[[Path], Path], tmp_path: Path, kept: float) -> None:
        """A file cut short anywhere, inside a row for plain text, gives an error that names it, and no partial trace."""
        path = make(tmp_path / "half")
        content = path.read_bytes()
        cut = kept if isinstance(kept, int) else int(len(content) * kept)
        path.write_bytes(content[: min(cut, len(content) - 6)])
        with pytest.raises(TraceError, match=str(path)):
            Trace.read(path)


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    """A file that is not there, a folder, an image and another xz file are refused by name, with what to give instead."""
    with pytest.raises(TraceError, match=r"none.trace cannot be read: No such file or directory"):
        Trace.read(tmp_path / "none.trace")
    with pytest.raises(TraceError, match="cannot be read: Is a directory"):
        Trace.read(tmp_path)
    image = tmp_path / "image.trace"
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    with pytest.raises(TraceError, match=r"is not a trace.*give a \.trace or a CSV file"):
        Trace.read(image)
    image.write_bytes(lzma.compress(b"hello"))
    with pytest.raises(TraceError, match="not a trace of skilllab"):
        Trace.read(image)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"skilllab-trace 1", b"skilllab-trace 2", "reads version 1: update it"),
        (b'"accesses":3', b'"accesses":4', "contradicts its content"),
        (b'"names":null', b'"nemas":null', "contradicts its content"),
        (b'"names":null', b'"names":["a"]', "1 names for 2 keys"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    """A newer version and a header that contradicts the columns are errors, not other data."""
    path = EXPECTED.write(tmp_path / "t.trace")
    content = lzma.decompress(path.read_bytes())
    assert old in content
    path.write_bytes(lzma.compress(content.replace(old, new)))
    with pytest.raises(TraceError, match=message) as error:
        Trace.read(path)
    assert str(path) in str(error.value)


@given(st.data())
def test_the_compact_format_loses_nothing(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any trace with times in whole microseconds comes back equal, with sizes of any magnitude, names and provenance."""
    keys = data.draw(st.lists(st.text(max_size=3), min_size=1, max_size=20))
    count = {"min_size": len(keys), "max_size": len(keys)}
    ticks = data.draw(st.lists(st.integers(0, 10**9), **count))
    size = data.draw(st.none() | st.lists(st.integers(0, 2**60), **count))
    time = np.cumsum(np.array(ticks) - ticks[0] + ticks[0]) - ticks[0]
    trace = Trace.from_keys(keys, time=time / 1e6, size=size, meta={"a": "ü", "b": None})
    path = tmp_path_factory.getbasetemp() / "any.trace"
    assert Trace.read(trace.write(path)) == trace


def test_names_of_any_bytes_survive(tmp_path: Path) -> None:
    """A file name that is not text, which Python holds as lone surrogates, is stored and comes back."""
    trace = Trace.from_keys([os.fsdecode(b"caf\xe9"), "café"])
    assert Trace.read(trace.write(tmp_path / "t")).names == trace.names


def test_equal_traces_give_equal_bytes(tmp_path: Path) -> None:
    """Writing twice, or writing what was read, gives the same bytes: the file holds no date and no name of its own."""
    first = zipf(500, 50, seed=3).write(tmp_path / "a").read_bytes()
    assert zipf(500, 50, seed=3).write(tmp_path / "b").read_bytes() == first
    assert Trace.read(tmp_path / "a").write(tmp_path / "c").read_bytes() == first


def test_a_failed_write_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fails the old file is still whole, and no draft stays behind."""
    path = EXPECTED.write(tmp_path / "t.trace")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TraceError, match="No space left on device; nothing was changed"):
        zipf(10, 3).write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(TraceError, match="No such file or directory; nothing was changed"):
        EXPECTED.write(tmp_path / "no" / "t.trace")


def test_tables_as_others_write_them(tmp_path: Path) -> None:
    """Milliseconds become seconds, `id` stands in for `key`, quotes and a byte order mark are understood."""
    path = tmp_path / "t.csv"
    path.write_text('time_ms,"key",req\n0,a,1\n250,b,1\n1000,a,2\n', encoding="utf-8-sig")
    trace = Trace.read(path)
    assert (trace.key.tolist(), trace.time.tolist(), trace.names) == ([0, 1, 0], [0, 0.25, 1], ("a", "b"))
    assert trace.meta["source"] == "t.csv"
    path.write_text("id\n4\n4\n")
    assert Trace.read(path).key.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key,time\n1,0\n2,soon\n", "time='soon' in data row 2"),
        ("key,time\n1,0\n,1\n", "no key in data row 2 of 2"),
        ("key,time\n1,5\n2,4\n", r"time\[1\] is 4.0 after 5.0"),
        ("key,size\n1,5\n2,-4\n", r"size\[1\] is -4"),
        ("key,time\n", "no accesses"),
        ("key,time\n1,2,3\n4,5,6,7\n", "is not a table"),
        ("name,value\n1,2\n", "is not a trace"),
    ],
)
def test_bad_tables_are_refused_with_file_and_row(tmp_path: Path, text: str, message: str) -> None:
    """A gap, a word for a number, falling times and ragged rows are named with the file."""
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(TraceError, match=message) as error:
        Trace.read(path)
    assert str(path) in str(error.value)
