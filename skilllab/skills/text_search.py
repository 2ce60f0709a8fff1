"""text-search-v1: lines of files that hold a text or match a regular expression."""

from __future__ import annotations

import fnmatch
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import Field
from typing_extensions import TypedDict

from skilllab.define import skill
from skilllab.errors import InvalidValueError
from skilllab.settings import FILE_MAX_BYTES
from skilllab.skills._files import UnreadableFileError, open_file

_PROBE = 8192
_SHOWN = 500  # characters of a line in a result
_LINE = 1 << 20  # bytes read as one line: a file without line ends is searched in pieces

Finder = Callable[[str, float], int | None]
"""Where a line has its first match, if it has one and it is found within so many seconds; else TimeoutError."""


class Match(TypedDict):
    """One line that matches: its file, its number and the first match's column (both from 1), and its neighbours."""

    path: str
    line: int
    column: int
    text: str
    before: list[str]
    after: list[str]


class Skipped(TypedDict):
    """How many files were not searched, by reason."""

    binary: int
    too_large: int
    unreadable: int


class SearchResult(TypedDict):
    """The matches, how many files were searched and skipped, and whether the search ended at max_results."""

    matches: list[Match]
    files_searched: int
    files_skipped: Skipped
    truncated: bool


@skill(
    id="text-search-v1",
    category="file-operations",
    tags=("io", "search", "text"),
    examples=(
        {"path": "samples/notes", "pattern": "ferry", "context": 1},
        {"path": "samples/events.log", "pattern": "status=5[0-9]{2}", "regex": True, "max_results": 5},
        {"path": "samples", "pattern": "HARBOUR", "ignore_case": True, "glob": "*.txt"},
    ),
)
def text_search(
    path: Annotated[str, Field(min_length=1, description="a file, or a folder to search with all inside")],
    pattern: Annotated[str, Field(min_length=1, max_length=1000, description="the text or regular expression")],
    regex: Annotated[bool, Field(description="whether the pattern is a regular expression")] = False,
    ignore_case: Annotated[bool, Field(description="whether a and A are the same")] = False,
    glob: Annotated[
        str, Field(description='files of a folder: "*.txt" by name, "notes/*.txt" by path in the folder')
    ] = "*",
    context: Annotated[int, Field(ge=0, le=20, description="lines to show before and after each match")] = 0,
    max_results: Annotated[int, Field(ge=1, le=10_000, description="stop after so many matches")] = 100,
    max_seconds: Annotated[float, Field(gt=0, le=600, description="give up after so long")] = 10.0,
) -> SearchResult:
    """Searches a file, or every file of a folder in order of name, and returns the lines that match with their context.

    Bounded: binary files (a zero byte in the first 8 KiB) and files beyond 10 MiB are skipped and counted, links to
    folders are not followed, lines show 500 characters, and max_seconds ends even a regular expression that would take
    for ever, without holding up other threads. Text is read as UTF-8; bytes that are not show as �. A line beyond 1 MiB
    is searched, and counted, in pieces.
    Raises InvalidValueError for a path that does not exist, a bad regular expression, or when time is up.
    """
    search = _Search(_finder(pattern, regex, ignore_case), int(context), int(max_results), max_seconds)
    root = Path(path)
    if not root.is_dir():
        search.file(path)
    else:
        search.folder(root, glob)
    return {
        "matches": search.matches,
        "files_searched": search.searched,
        "files_skipped": search.skipped,
        "truncated": search.truncated,
    }


class _Search:
    """One search over many files."""

    def __init__(self, find: Finder, context: int, max_results: int, max_seconds: float) -> None:
        self.matches: list[Match] = []
        self.searched = 0
        self.skipped: Skipped = {"binary": 0, "too_large": 0, "unreadable": 0}
        self.truncated = False
        self._find = find
        self._context = context
        self._max_results = max_results
        self._max_seconds = max_seconds
        self._deadline = time.monotonic() + max_seconds

    def folder(self, root: Path, glob: str) -> None:
        for path in _files(root, glob):
            try:
                self.file(path)
            except UnreadableFileError:
                self.skipped["unreadable"] += 1
            if self.truncated:
                return

    def file(self, path: str) -> None:
        with open_file(path) as file:
            if os.fstat(file.fileno()).st_size > FILE_MAX_BYTES:
                self.skipped["too_large"] += 1
            elif b"\0" in file.read(_PROBE):
                self.skipped["binary"] += 1
            else:
                file.seek(0)
                self.searched += 1
                self._lines(path, file)

    def _lines(self, path: str, file: BinaryIO) -> None:
        before: deque[str] = deque(maxlen=self._context)
        waiting: list[Match] = []  # matches that still lack lines after them
        number = 0
        while raw := file.readline(_LINE):
            number += 1
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            for match in waiting:
                match["after"].append(line[:_SHOWN])
            waiting = [match for match in waiting if len(match["after"]) < self._context]
            if self.truncated:
                if not waiting:
                    return
                continue
            column = self._column(line, path, number)
            if column is not None:
                match = self._matched(path, number, column, line, list(before))
                waiting += [match] if self._context else []
            before.append(line[:_SHOWN])

    def _column(self, line: str, path: str, number: int) -> int | None:
        try:
            remaining = self._deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            return self._find(line, remaining)
        except TimeoutError:
            raise InvalidValueError(
                f"max_seconds={self._max_seconds} were over at {path!r}, line {number}, "
                f"after {len(self.matches)} matches: narrow path and glob, or simplify the regular expression"
            ) from None

    def _matched(self, path: str, number: int, column: int, line: str, before: list[str]) -> Match:
        match: Match = {
            "path": path,
            "line": number,
            "column": column + 1,
            "text": line[:_SHOWN],
            "before": before,
            "after": [],
        }
        self.matches.append(match)
        self.truncated = len(self.matches) >= self._max_results
        return match


def _finder(pattern: str, regex: bool, ignore_case: bool) -> Finder:
    if not regex and not ignore_case:
        return lambda line, _: line.find(pattern) if pattern in line else None
    # The standard library's engine cannot be stopped, and it holds every other thread while a hopeless match runs.
    import regex as engine

    try:
        compiled = engine.compile(pattern if regex else engine.escape(pattern), engine.IGNORECASE if ignore_case else 0)
    except engine.error as error:
        raise InvalidValueError(f"pattern={pattern!r} is no regular expression: {error}") from None

    def find(line: str, seconds: float) -> int | None:
        found = compiled.search(line, timeout=seconds, concurrent=True)
        return found.start() if found else None

    return find


def _files(root: Path, glob: str) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            subject = os.path.relpath(path, root).replace(os.sep, "/") if "/" in glob else name
            if fnmatch.fnmatchcase(subject, glob):
                yield path
