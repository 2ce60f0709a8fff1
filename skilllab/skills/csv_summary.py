"""csv-summary-v1: what a table in CSV holds, column by column, in one pass and bounded memory."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime
from typing import Annotated, Literal, TextIO

from pydantic import Field
from typing_extensions import TypedDict

from skilllab.define import skill
from skilllab.errors import InvalidValueError
from skilllab.skills._files import one_of, open_file

MAX_COLUMNS = 1000
"""Columns a table may have: with max_distinct they bound the memory."""

_DELIMITERS = ",;\t|"
_SAMPLE_LINES = 100
_LONGEST_LINE = 1 << 20
_MISSING = ("", "NA", "N/A", "na", "n/a", "null", "NULL", "None", "NaN", "nan", "-")
# 007 is a code and no number, and so are 16 digits or more, which a float could not hold exactly.
_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,14})")
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]{0,14})(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_TRUTH = frozenset({"true", "false", "yes", "no"})

ColumnType = Literal["integer", "number", "boolean", "date", "datetime", "text", "empty"]


class ColumnSummary(TypedDict):
    """One column. min and max: as numbers, or as the first and last text in order; mean: of numbers only, else null.

    distinct: how many different values, exact unless `distinct_exact` is false, where it is the bound that was reached.
    """

    name: str
    type: ColumnType
    count: int
    missing: int
    distinct: int
    distinct_exact: bool
    min: float | int | str | None
    max: float | int | str | None
    mean: float | None


class TableSummary(TypedDict):
    """The table: its rows, how many of them have too few or too many cells, its delimiter and its columns."""

    rows: int
    ragged_rows: int
    delimiter: str
    columns: list[ColumnSummary]


@skill(
    id="csv-summary-v1",
    category="data-processing",
    tags=("csv", "statistics", "table"),
    examples=(
        {"path": "samples/stations.csv"},
        {"text": "name;height\nAnn;1.70\nBo;n/a\n", "delimiter": ";"},
        {"text": "3,4\n5,6\n", "header": False},
    ),
)
def csv_summary(
    path: Annotated[str | None, Field(description="the file")] = None,
    text: Annotated[str | None, Field(description="the table itself")] = None,
    delimiter: Annotated[
        str, Field(description='what stands between cells, or "auto" for the one of , ; tab | that fits')
    ] = "auto",
    header: Annotated[bool, Field(description="whether the first row names the columns")] = True,
    encoding: Annotated[str, Field(description="of the file; a byte order mark is dropped")] = "utf-8",
    missing: Annotated[list[str] | None, Field(description="cells that mean nothing; null for the usual ones")] = None,
    max_distinct: Annotated[
        int, Field(ge=1, le=100_000, description="count different values of a column up to this")
    ] = 1000,
) -> TableSummary:
    """Summarises a CSV table: type, missing, distinct, least, greatest and mean of each column.

    It is read once, row by row; memory depends on columns and max_distinct, not on rows. A type is the narrowest that
    fits every cell: a number with a leading zero is text, because it is a code. Blank lines do not count.
    Raises InvalidValueError unless exactly one of path and text is given, for a bad encoding, and for a broken table.
    """
    nothing = frozenset(_MISSING if missing is None else missing)
    if one_of(path=path, text=text) == "text":
        return _summary(io.StringIO(text, newline=""), delimiter, header, nothing, int(max_distinct))
    with open_file(path or "") as file:
        try:
            lines = io.TextIOWrapper(
                file, encoding="utf-8-sig" if encoding.lower() == "utf-8" else encoding, newline=""
            )
            return _summary(lines, delimiter, header, nothing, int(max_distinct))
        except LookupError:
            raise InvalidValueError(f"encoding={encoding!r} is no text encoding that Python knows") from None
        except UnicodeError as error:
            raise InvalidValueError(f"path={path!r} is not {encoding}: {error}; name its encoding") from None


def _summary(source: TextIO, delimiter: str, header: bool, missing: frozenset[str], max_distinct: int) -> TableSummary:
    lines = _lines(source)
    sample = list(itertools.islice(lines, _SAMPLE_LINES))
    if delimiter == "auto":
        delimiter = _likely_delimiter(sample)
    rows = _rows(itertools.chain(sample, lines), delimiter)
    first = next(rows, [])
    if len(first) > MAX_COLUMNS:
        raise InvalidValueError(
            f"the table has {len(first)} columns, more than {MAX_COLUMNS}: is delimiter={delimiter!r} right?"
        )
    names = first if header else [f"column {number}" for number in range(1, len(first) + 1)]
    columns = [_Column(name, missing, max_distinct) for name in names]
    count = ragged = 0
    for row in rows if header else itertools.chain([first] if first else [], rows):
        count += 1
        short = len(columns) - len(row)
        ragged += short != 0
        for column, cell in zip(columns, row + [""] * short, strict=False):
            column.add(cell.strip())
    return {
        "rows": count,
        "ragged_rows": ragged,
        "delimiter": delimiter,
        "columns": [column.summary() for column in columns],
    }


def _lines(source: TextIO) -> Iterator[str]:
    """Yields the lines; raises InvalidValueError for one so long that it would not be a table's."""
    for number in itertools.count(1):
        line = source.readline(_LONGEST_LINE + 1)
        if not line:
            return
        if len(line) > _LONGEST_LINE:
            raise InvalidValueError(f"line {number} has more than {_LONGEST_LINE} characters: this is no CSV table")
        yield line.removeprefix("\ufeff") if number == 1 else line


def _rows(lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    """Yields the rows that are not blank; raises InvalidValueError with the line where the table breaks."""
    try:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"delimiter={delimiter!r} must be a single character: {error}") from None
    try:
        for row in reader:
            if row:
                yield row
    except csv.Error as error:
        raise InvalidValueError(f"line {reader.line_num} of the table is broken: {error}") from None


def _likely_delimiter(sample: list[str]) -> str:
    """Returns the delimiter that gives most rows of the sample one width above one cell; a comma if none does."""

    def fit(candidate: str) -> tuple[float, int]:
        # The sample may end inside a quoted cell, so a broken last row is no argument against a delimiter.
        widths = Counter(len(row) for row in csv.reader(sample, delimiter=candidate) if row)
        width, rows = max(widths.items(), key=lambda item: (item[0] > 1, item[1]), default=(0, 0))
        return (rows / widths.total(), width) if width > 1 else (0.0, 0)

    try:
        return max(_DELIMITERS, key=fit)
    except csv.Error as error:
        raise InvalidValueError(f"the table is broken within its first {_SAMPLE_LINES} lines: {error}") from None


class _Column:
    """One column's running counts, and the types that every cell so far has fitted."""

    def __init__(self, name: str, missing: frozenset[str], max_distinct: int) -> None:
        self._name = name
        self._missing_words = missing
        self._max_distinct = max_distinct
        self._types = dict.fromkeys(("integer", "number", "boolean", "date", "datetime"), True)
        self._count = self._missing = 0
        self._hashes: set[int] = set()
        self._first: str | None = None
        self._last: str | None = None
        self._least, self._greatest, self._mean = math.inf, -math.inf, 0.0

    def add(self, cell: str) -> None:
        if cell in self._missing_words:
            self._missing += 1
            return
        self._count += 1
        if len(self._hashes) <= self._max_distinct:
            self._hashes.add(hash(cell))  # eight bytes whatever the cell's length
        if self._first is None or cell < self._first:
            self._first = cell
        if self._last is None or cell > self._last:
            self._last = cell
        for kind, possible in self._types.items():
            if possible and not _FITS[kind](cell):
                self._types[kind] = False
        if self._types["number"]:
            value = float(cell)
            self._least, self._greatest = min(self._least, value), max(self._greatest, value)
            # A running mean (Welford 1962) loses nothing to a large sum; divided first, its difference cannot overflow.
            self._mean += value / self._count - self._mean / self._count

    def summary(self) -> ColumnSummary:
        kind = self._type()
        numeric = kind in ("integer", "number")
        whole = kind == "integer"
        return {
            "name": self._name,
            "type": kind,
            "count": self._count,
            "missing": self._missing,
            "distinct": min(len(self._hashes), self._max_distinct),
            "distinct_exact": len(self._hashes) <= self._max_distinct,
            "min": (int(self._least) if whole else self._least) if numeric else self._first,
            "max": (int(self._greatest) if whole else self._greatest) if numeric else self._last,
            "mean": self._mean if numeric else None,
        }

    def _type(self) -> ColumnType:
        if not self._count:
            return "empty"
        fitting: list[ColumnType] = [kind for kind in _ORDER if self._types[kind]]
        return fitting[0] if fitting else "text"


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell) is not None and math.isfinite(float(cell))


def _is_date(cell: str) -> bool:
    try:
        return len(cell) == 10 and bool(date.fromisoformat(cell))
    except ValueError:
        return False


def _is_datetime(cell: str) -> bool:
    try:
        return len(cell) > 10 and bool(datetime.fromisoformat(cell))
    except ValueError:
        return False


_ORDER: tuple[ColumnType, ...] = ("integer", "number", "boolean", "date", "datetime")
_FITS = {
    "integer": lambda cell: _INTEGER.fullmatch(cell) is not None,
    "number": _is_number,
    "boolean": lambda cell: cell.lower() in _TRUTH,
    "date": _is_date,
    "datetime": _is_datetime,
}
