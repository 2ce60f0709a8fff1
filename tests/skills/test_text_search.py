"""text-search-v1."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.errors import InvalidValueError
from skilllab.skills import text_search as module
from skilllab.skills.text_search import text_search


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("one\ntwo needle\nthree\nneedle four\nfive\n")
    (tmp_path / "a.md").write_text("Needle\r\nnothing\r\n")
    (tmp_path / "sub" / "c.txt").write_text("a needle here")
    (tmp_path / "binary").write_bytes(b"needle\0")
    return tmp_path


def found(result: dict) -> list[tuple[str, int, int]]:
    return [(os.path.basename(match["path"]), match["line"], match["column"]) for match in result["matches"]]


def test_a_folder_is_searched_in_order(folder: Path) -> None:
    """Files come by name, folders after them, with line and column from 1; a binary file is skipped and counted."""
    result = text_search(str(folder), "needle")
    assert found(result) == [("b.txt", 2, 5), ("b.txt", 4, 1), ("c.txt", 1, 3)]
    assert result["files_searched"] == 3
    assert result["files_skipped"] == {"binary": 1, "too_large": 0, "unreadable": 0}
    assert not result["truncated"]


def test_case_and_regular_expressions(folder: Path) -> None:
    """ignore_case finds both; a pattern is literal unless regex is true."""
    assert ("a.md", 1, 1) in found(text_search(str(folder), "NEEDLE", ignore_case=True))
    assert found(text_search(str(folder), "n.*e")) == []
    assert found(text_search(str(folder), "^n.*r$", regex=True)) == [("b.txt", 4, 1)]
    assert found(text_search(str(folder), "NEEDLE F", regex=True, ignore_case=True)) == [("b.txt", 4, 1)]
    assert found(text_search(str(folder), "[NEEDLE", ignore_case=True)) == []


@pytest.mark.parametrize(("glob", "names"), [("*.txt", {"b.txt", "c.txt"}), ("sub/*", {"c.txt"}), ("*.none", set())])
def test_globs_choose_by_name_or_by_path(folder: Path, glob: str, names: set[str]) -> None:
    """A glob without a slash is held against the name, one with a slash against the path inside the folder."""
    assert {name for name, _, _ in found(text_search(str(folder), "e", glob=glob))} == names


def test_context_lines(folder: Path) -> None:
    """Context shows the lines before and after, fewer at the ends of a file, and those of close matches overlap."""
    first, second = text_search(str(folder / "b.txt"), "needle", context=2)["matches"]
    assert (first["before"], first["after"]) == (["one"], ["three", "needle four"])
    assert (second["before"], second["after"]) == (["two needle", "three"], ["five"])


def test_the_last_match_has_its_context_too(folder: Path) -> None:
    """The search stops at max_results, but only after the lines that follow the last match."""
    result = text_search(str(folder), "needle", max_results=1, context=1)
    assert result["truncated"]
    assert [match["after"] for match in result["matches"]] == [["three"]]
    assert text_search(str(folder), "needle", max_results=1)["matches"][0]["after"] == []


def test_large_and_unreadable_files_are_skipped_in_folders(folder: Path) -> None:
    """A file beyond the bound, and what is no regular file, is skipped and counted."""
    with open(folder / "large", "wb") as file:
        file.truncate(module.FILE_MAX_BYTES + 1)
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to(folder / "nowhere")
    assert text_search(str(folder), "needle")["files_skipped"] == {"binary": 1, "too_large": 1, "unreadable": 2}


def test_links_to_folders_are_not_followed(folder: Path) -> None:
    """A link back to the folder makes no loop."""
    (folder / "sub" / "loop").symlink_to(folder)
    assert len(text_search(str(folder), "needle")["matches"]) == 3


def test_long_lines_are_shown_in_part(tmp_path: Path) -> None:
    """A match shows 500 characters; bytes that are no UTF-8 show as a replacement character."""
    (tmp_path / "long").write_bytes(b"x" * 600 + b"\xff needle\n")
    [match] = text_search(str(tmp_path / "long"), "needle")["matches"]
    assert (len(match["text"]), match["column"]) == (500, 603)
    assert text_search(str(tmp_path / "long"), "\ufffd needle")["matches"]


@pytest.mark.slow
def test_a_hopeless_regular_expression_ends_in_time_and_lets_others_run(tmp_path: Path) -> None:
    """Nested repetition over forty letters would take years: max_seconds ends it, and another thread keeps running."""
    (tmp_path / "file").write_text("a" * 40 + "b\n")
    errors: list[Exception] = []

    def search() -> None:
        try:
            text_search(str(tmp_path / "file"), "(a|aa)+$", regex=True, max_seconds=0.05)
        except InvalidValueError as error:
            errors.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    last, turns, widest = time.perf_counter(), 0, 0.0
    while thread.is_alive():
        now = time.perf_counter()
        last, turns, widest = now, turns + 1, max(widest, now - last)
    assert "max_seconds=0.05 were over" in str(errors[0])
    assert "line 1" in str(errors[0])
    assert turns > 1000, f"the main thread was held for {widest} s"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"path": "/does/not/exist", "pattern": "a"}, "does not exist"),
        ({"path": "/dev/null", "pattern": "a"}, "no regular file"),
        ({"path": "a\0b", "pattern": "a"}, "cannot be read"),
        ({"path": ".", "pattern": "(", "regex": True}, r"pattern='\(' is no regular expression: missing \)"),
    ],
)
def test_bad_input(params: dict, message: str) -> None:
    """A path that is nothing and a pattern that is none are errors that say so."""
    with pytest.raises(InvalidValueError, match=message):
        text_search(**params)


@pytest.mark.slow
@given(st.lists(st.text("ab ", max_size=6), max_size=12), st.integers(0, 3), st.integers(1, 5))
def test_agrees_with_a_plain_scan(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], context: int, limit: int
) -> None:
    """Matches, columns and context are those of a scan over the list of lines."""
    path = tmp_path_factory.getbasetemp() / "scan.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    expected = [
        (
            number + 1,
            line.index("a") + 1,
            lines[max(0, number - context) : number],
            lines[number + 1 : number + 1 + context],
        )
        for number, line in enumerate(lines)
        if "a" in line
    ]
    result = text_search(str(path), "a", context=context, max_results=limit)
    assert [(m["line"], m["column"], m["before"], m["after"]) for m in result["matches"]] == expected[:limit]
    assert result["truncated"] == (len(expected) >= limit)
