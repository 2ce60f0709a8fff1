"""The form of every notebook: what a reader, the headless runner and the offline page rely on."""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from skilllab.report import FINDING_MIME

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
START = "00_start_here.ipynb"
CHECKED = "nbval-check-output"
MOST_CELLS, MOST_LINES = 40, 12
# A path of the machine that ran the notebook, but neither a part of a word (a/home) nor of an address.
MACHINE_PATH = re.compile(r"(?<![\w./:])/(?:work|home|root|tmp)(?=/|\b)|\bipykernel_\d+")

Notebook = dict[str, Any]
Cell = dict[str, Any]


def read(path: Path) -> Notebook:
    notebook: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def text(value: str | list[str]) -> str:
    """Returns a text of the file format, which may be a list of lines."""
    return value if isinstance(value, str) else "".join(value)


def code_cells(notebook: Notebook) -> list[Cell]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outputs(notebook: Notebook) -> list[dict[str, Any]]:
    return [output for cell in code_cells(notebook) for output in cell["outputs"]]


def mimes(notebook: Notebook) -> set[str]:
    return {mime for output in outputs(notebook) for mime in output.get("data", {})}


def texts(value: Any, mime: str = "") -> Iterator[str]:
    """Yields every text in a part of a notebook; pictures in base64, where any letters can meet, are none."""
    if isinstance(value, str):
        if not mime.startswith("image/") or mime == "image/svg+xml":
            yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item, mime)


# The facts: each takes a notebook and returns whether it holds.


def title_is_a_question(notebook: Notebook) -> bool:
    first = notebook["cells"][0]
    return first["cell_type"] == "markdown" and bool(re.match(r"# \S.*\?(\n|$)", text(first["source"])))


def short_answer_near_the_top(notebook: Notebook) -> bool:
    return any(
        "**In short" in text(cell["source"]) for cell in notebook["cells"][:3] if cell["cell_type"] == "markdown"
    )


def few_cells(notebook: Notebook) -> bool:
    return len(notebook["cells"]) <= MOST_CELLS


def short_code(notebook: Notebook) -> bool:
    sources = [text(cell["source"]).splitlines() for cell in code_cells(notebook)]
    return all(sum(bool(line.strip()) for line in lines) <= MOST_LINES for lines in sources)


def executed_in_order(notebook: Notebook) -> bool:
    counts = [cell["execution_count"] for cell in code_cells(notebook)]
    return bool(counts) and counts == list(range(1, len(counts) + 1))


def no_errors(notebook: Notebook) -> bool:
    return all(output["output_type"] != "error" and output.get("name") != "stderr" for output in outputs(notebook))


def checked_cells_have_outputs(notebook: Notebook) -> bool:
    checked = [cell for cell in code_cells(notebook) if CHECKED in cell["metadata"].get("tags", [])]
    return bool(checked) and all(cell["outputs"] and cell["execution_count"] for cell in checked)


def no_machine_paths(notebook: Notebook) -> bool:
    return not any(MACHINE_PATH.search(part) for part in texts(notebook))


def no_widget_state(notebook: Notebook) -> bool:
    return "widgets" not in notebook["metadata"] and not any("jupyter.widget" in mime for mime in mimes(notebook))


def no_run_times(notebook: Notebook) -> bool:
    return not any("execution" in cell["metadata"] for cell in code_cells(notebook))


def plain_kernel(notebook: Notebook) -> bool:
    return bool(notebook["metadata"].get("kernelspec", {}).get("name") == "python3")


def has_a_finding(notebook: Notebook) -> bool:
    return FINDING_MIME in mimes(notebook)


def has_a_picture(notebook: Notebook) -> bool:
    pictures = [output["data"].get("image/png") for output in outputs(notebook) if "data" in output]
    return any(base64.b64decode(text(picture)).startswith(b"\x89PNG") for picture in pictures if picture)


FACTS: tuple[Callable[[Notebook], bool], ...] = (
    title_is_a_question,
    short_answer_near_the_top,
    few_cells,
    short_code,
    executed_in_order,
    no_errors,
    checked_cells_have_outputs,
    no_machine_paths,
    no_widget_state,
    no_run_times,
    plain_kernel,
    has_a_finding,
    has_a_picture,
)


def broken(notebook: Notebook) -> list[str]:
    return [fact.__name__ for fact in FACTS if not fact(notebook)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_form(path: Path) -> None:
    """Every notebook is valid, and has the form that a reader, the headless runner and the offline page rely on."""
    nbformat.validate(nbformat.read(path, nbformat.NO_CONVERT))
    assert broken(read(path)) == []


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.name != START], ids=lambda path: path.stem)
def test_start_links_every_notebook(path: Path) -> None:
    """Whoever opens the first notebook finds a link to each of the others."""
    cells = [text(cell["source"]) for cell in read(FOLDER / START)["cells"] if cell["cell_type"] == "markdown"]
    assert any(f"]({path.name})" in cell for cell in cells)


def test_the_first_notebook_is_there() -> None:
    """The notebooks are found, so that the tests above are not passed by an empty folder."""
    assert START in [path.name for path in NOTEBOOKS]


def good() -> Notebook:
    """A notebook that holds every fact."""
    png = base64.b64encode(b"\x89PNG\r\n").decode()
    shown = {"output_type": "display_data", "metadata": {}, "data": {FINDING_MIME: {}, "image/png": png}}
    printed = {"output_type": "stream", "name": "stdout", "text": ["1\n"]}
    return {
        "metadata": {"kernelspec": {"name": "python3"}},
        "cells": [
            {"cell_type": "markdown", "metadata": {}, "source": ["# Why?\n", "\n", "**In short.** So."]},
            {
                "cell_type": "code",
                "metadata": {"tags": [CHECKED]},
                "execution_count": 1,
                "source": "print(1)",
                "outputs": [printed],
            },
            {"cell_type": "code", "metadata": {}, "execution_count": 2, "source": "show()", "outputs": [shown]},
        ],
    }


def change(place: str, value: Any) -> Notebook:
    """Returns the good notebook with one value put in at a place: "cells.1.source"."""
    notebook: Any = good()
    *path, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    part = notebook
    for step in path:
        part = part[step]
    part[last] = copy.deepcopy(value)
    return dict(notebook)


VIEW = {
    "output_type": "display_data",
    "data": {"application/vnd.jupyter.widget-view+json": {}, "image/png": "iVBORw0K"},
}
ERROR = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}
CELL = {"cell_type": "markdown", "metadata": {}, "source": "more"}
HOME = "/" + "home"  # written so that a search for machine paths does not find this file


@pytest.mark.parametrize(
    ("fact", "place", "value"),
    [
        ("title_is_a_question", "cells.0.source", "# A statement\n**In short.** Is that so?"),
        ("short_answer_near_the_top", "cells.0.source", "# Why?"),
        ("few_cells", "cells", good()["cells"] + [CELL] * MOST_CELLS),
        ("short_code", "cells.1.source", "x\n\n" * (MOST_LINES + 1)),
        ("executed_in_order", "cells.2.execution_count", 3),
        ("executed_in_order", "cells.2.execution_count", None),
        ("no_errors", "cells.1.outputs", [ERROR]),
        ("no_errors", "cells.1.outputs.0.name", "stderr"),
        ("checked_cells_have_outputs", "cells.1.metadata", {}),
        ("checked_cells_have_outputs", "cells.1.outputs", []),
        ("no_machine_paths", "cells.1.source", f"open('{HOME}/me/x')"),
        ("no_machine_paths", "cells.1.outputs.0.text", ["1\n", f"in {HOME}\n"]),
        ("no_machine_paths", "cells.1.outputs.0.text", "File ipykernel_" + "123/1.py"),
        ("no_widget_state", "metadata.widgets", {}),
        ("no_widget_state", "cells.1.outputs", [VIEW]),
        ("no_run_times", "cells.1.metadata.execution", {"iopub.execute_input": "2026-01-01"}),
        ("plain_kernel", "metadata.kernelspec.name", "my-env"),
        (
            "has_a_finding",
            "cells.2.outputs.0.data",
            {"image/png": good()["cells"][2]["outputs"][0]["data"]["image/png"]},
        ),
        ("has_a_picture", "cells.2.outputs.0.data", {FINDING_MIME: {}}),
    ],
)
def test_a_bad_notebook_fails(fact: str, place: str, value: Any) -> None:
    """Each fact fails, and it alone, for a notebook with one thing wrong; without it all hold."""
    assert broken(good()) == []
    assert broken(change(place, value)) == [fact]


def test_paths_that_are_no_machine_paths() -> None:
    """An address, a relative path and a word that ends alike are let through, and so are the letters of a picture."""
    harmless = "a/home/b ../tmp/c https://example.org/homework/x and/or path=/orders status=200 /homes/1"
    assert no_machine_paths(change("cells.1.outputs.0.text", harmless))
    assert no_machine_paths(change("cells.2.outputs.0.data", {"image/png": f"iVBORw0K={HOME}/"}))
