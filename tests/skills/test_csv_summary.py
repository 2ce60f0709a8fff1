"""csv-summary-v1."""

from __future__ import annotations

import csv
import io
import statistics
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.errors import InvalidValueError
from skilllab.skills import csv_summary as module
from skilllab.skills.csv_summary import csv_summary


def column(text: str, **options: Any) -> dict[str, Any]:
    [summary] = csv_summary(text="x\n" + text, delimiter=",", **options)["columns"]
    return dict(summary)


def test_a_small_table_by_hand() -> None:
    """Two columns, worked by hand: 1.5, 2.5 and a missing height; three names, one of them twice."""
    result = csv_summary(text="name,height\nAnn,1.5\nBo,\nAnn,2.5\n")
    assert result["rows"] == 3
    assert result["ragged_rows"] == 0
    assert result["delimiter"] == ","
    name, height = result["columns"]
    assert name == {
        "name": "name",
        "type": "text",
        "count": 3,
        "missing": 0,
        "distinct": 2,
        "distinct_exact": True,
        "min": "Ann",
        "max": "Bo",
        "mean": None,
    }
    assert height == {
        "name": "height",
        "type": "number",
        "count": 2,
        "missing": 1,
        "distinct": 2,
        "distinct_exact": True,
        "min": 1.5,
        "max": 2.5,
        "mean": 2.0,
    }


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "-2", "+3", "0"], "integer"),
        (["1", "2.5", "1e3", ".5", "5."], "number"),
        (["007", "008"], "text"),  # a code
        (["1234567890123456"], "text"),  # 16 digits: a float would change it
        (["1e999"], "text"),
        (["inf", "Infinity"], "text"),
        (["١٢"], "text"),  # Arabic digits are digits to Python, not to a CSV file
        (["1", "x"], "text"),
        (["yes", "NO"], "boolean"),
        (["2024-02-29", "2025-01-01"], "date"),
        (["2023-02-29"], "text"),
        (["20240229"], "integer"),
        (["2024-02-29T10:00:00", "2024-03-01 11:00"], "datetime"),
        (["2024-02-29", "2024-02-29T10:00"], "text"),
        (["", "NA", "null"], "empty"),
    ],
)
def test_types(cells: list[str], kind: str) -> None:
    """The type is the narrowest that fits every cell."""
    assert column("\n".join(cell or '""' for cell in cells))["type"] == kind


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(delimiter: str) -> None:
    """Each usual delimiter is found, although quoted cells hold all of them."""
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([["a", "b", "c"], ["1,2;3", "x|y\tz", "3"], ["4", "5;,|\t6", "7"]])
    result = csv_summary(text=out.getvalue())
    assert (result["delimiter"], len(result["columns"]), result["ragged_rows"]) == (delimiter, 3, 0)


def test_one_column_and_empty_tables() -> None:
    """A single column takes the comma; an empty text and a lone header are tables without rows."""
    assert len(csv_summary(text="a\n1\n2\n")["columns"]) == 1
    assert csv_summary(text="") == {"rows": 0, "ragged_rows": 0, "delimiter": ",", "columns": []}
    assert csv_summary(text="a,b\n")["rows"] == 0


def test_rows_of_other_lengths_are_counted() -> None:
    """A short row has missing cells, a long one loses the rest, both are counted; blank lines are no rows."""
    result = csv_summary(text="a,b\n1,2\n3\n\n4,5,6\n", delimiter=",")
    assert (result["rows"], result["ragged_rows"]) == (3, 2)
    assert [(item["count"], item["missing"]) for item in result["columns"]] == [(3, 0), (2, 1)]


def test_without_a_header_columns_are_numbered() -> None:
    """header=False counts the first row and names the columns by number."""
    result = csv_summary(text="1,2\n3,4\n", header=False)
    assert result["rows"] == 2
    assert [item["name"] for item in result["columns"]] == ["column 1", "column 2"]


def test_distinct_is_exact_up_to_its_bound() -> None:
    """Up to max_distinct the count is exact; beyond, it is the bound and says so."""
    cells = "\n".join(map(str, range(5)))
    assert (column(cells, max_distinct=5)["distinct"], column(cells, max_distinct=5)["distinct_exact"]) == (5, True)
    assert (column(cells, max_distinct=4)["distinct"], column(cells, max_distinct=4)["distinct_exact"]) == (4, False)


def test_missing_words_are_the_callers() -> None:
    """`missing` replaces the usual words."""
    assert column("NA\n?\n5", missing=["?", "NA"])["type"] == "integer"
    assert column("NA\n5", missing=[])["type"] == "text"


def test_files_and_encodings(tmp_path: Path) -> None:
    """A file is read in its encoding, without its byte order mark; the wrong one is an error."""
    path = tmp_path / "table.csv"
    path.write_bytes("\ufeffPreis €;n\n1;2\n".encode())
    assert [item["name"] for item in csv_summary(path=str(path))["columns"]] == ["Preis €", "n"]
    path.write_bytes("größe;n\n1;2\n".encode("cp1252"))
    assert csv_summary(path=str(path), encoding="cp1252")["columns"][0]["name"] == "größe"
    with pytest.raises(InvalidValueError, match=r"is not utf-8.*name its encoding"):
        csv_summary(path=str(path))
    with pytest.raises(InvalidValueError, match="encoding='klingon'"):
        csv_summary(path=str(path), encoding="klingon")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "give one of path, text"),
        ({"text": "a", "path": "b"}, "not path and text"),
        ({"text": "a,b", "delimiter": ",,"}, "delimiter=',,' must be a single character"),
        ({"text": "a,b", "delimiter": ""}, "delimiter='' must be a single character"),
        ({"text": 'a,b\n1,"2', "delimiter": ","}, "line 2 of the table is broken"),
        ({"text": 'a,b\n1,"2', "delimiter": "auto"}, "line 2 of the table is broken"),
        ({"text": "a" * 200_000}, "broken within its first 100 lines: field larger"),
        ({"text": "a,b\n" + "1" * 1_100_000}, "line 2 has more than 1048576 characters"),
        ({"text": "," * 2000}, "2001 columns, more than 1000"),
        ({"path": "/does/not/exist"}, "does not exist"),
    ],
)
def test_bad_input(params: dict[str, Any], message: str) -> None:
    """A broken table is an error with its line; a delimiter is one character; a source is one."""
    with pytest.raises(InvalidValueError, match=message):
        csv_summary(**params)


@pytest.mark.slow
def test_memory_does_not_grow_with_rows(tmp_path: Path) -> None:
    """Ten times the rows, all different, take the memory of the bounds: less than a tenth more."""
    module.csv_summary(text="warm,up\n1,2\n")
    peaks = []
    for rows in (500, 5_000):
        path = tmp_path / f"{rows}.csv"
        path.write_text("id,word\n" + "".join(f"{number},word number {number}\n" for number in range(rows)))
        tracemalloc.start()
        csv_summary(path=str(path), max_distinct=100)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] + 10_000


@given(
    st.lists(
        st.integers(-(10**14), 10**14)
        | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e14, max_value=1e14).map(lambda x: round(x, 3)),
        min_size=1,
    )
)
def test_numbers_agree_with_the_standard_library(values: list[float]) -> None:
    """Count, extremes, mean and distinct of a numeric column are those of statistics over the same cells."""
    cells = [str(value) for value in values]
    summary = column("\n".join(cells))
    assert summary["count"] == len(values)
    assert (summary["min"], summary["max"]) == (min(values), max(values))
    assert summary["mean"] == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-9 * max(map(abs, values)))
    assert summary["distinct"] == len(set(cells))


@given(
    st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5), min_size=2, max_size=2),
        min_size=1,
    )
)
def test_any_table_that_python_writes_is_read(table: list[list[str]]) -> None:
    """Rows and counts agree with the table that csv.writer wrote, whatever its cells hold."""
    out = io.StringIO()
    csv.writer(out).writerows([["a", "b"], *table])
    result = csv_summary(text=out.getvalue(), delimiter=",", missing=[])
    assert (result["rows"], result["ragged_rows"]) == (len(table), 0)
    assert [item["count"] for item in result["columns"]] == [len(table)] * 2
