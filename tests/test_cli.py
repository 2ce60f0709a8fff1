"""The command line: what it prints, what it returns, and that Ctrl-C ends everything."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from skilllab.cli import lab_command, main
from skilllab.errors import InvalidValueError
from skilllab.report import Finding
from skilllab.report.runner import Failure, NotebookRun


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three notebooks with one cell each."""
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    for name in ("01_caching", "02_queries", "02_quick"):
        nbformat.write(new_notebook(cells=[new_code_cell("1")]), notebooks / f"{name}.ipynb")
    return notebooks


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Replaces the kernel: records (name, fast) of each run; 02_quick fails, the others find something."""
    calls: list[tuple[str, bool]] = []

    def fake(path: Path, *, fast: bool, on_cell: Callable[..., None]) -> NotebookRun:
        calls.append((path.stem, fast))
        on_cell(0, 1, "1")
        failure = Failure(4, 3, "f(0)", "ZeroDivisionError: x") if path.stem == "02_quick" else None
        found = new_output("display_data", data=Finding(f"{path.stem}?", "71 % of the hits")._repr_mimebundle_())
        cell = new_code_cell("finding()", outputs=[] if failure else [found])
        return NotebookRun(path.stem, new_notebook(cells=[cell]), 1.0, failure)

    monkeypatch.setattr("skilllab.report.runner.run_notebook", fake)
    return calls


def run(folder: Path, *arguments: str) -> int:
    return main(["run", "--notebooks", str(folder), "--output", str(folder.parent / "results"), *arguments])


def test_run_prints_a_line_an_experiment(folder: Path, ran: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Findings come one a line, a failure names notebook, cell, line and error, the others still run, the code is 1."""
    assert run(folder) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "01_caching? — 71 % of the hits"
    assert lines[1] == "02_queries? — 71 % of the hits"
    assert lines[2] == "FAILED 02_quick.ipynb, cell 4 (In [3]) `f(0)`: ZeroDivisionError: x"
    assert lines[3].startswith("2 findings from 3 notebooks in ")
    assert str(folder.parent / "results" / "index.html") in lines[3]
    assert lines[4] == "1 notebook failed: 02_quick"
    assert "ZeroDivisionError: x" in (folder.parent / "results" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["01_caching", "01", "01_caching.ipynb"])
def test_run_takes_names(folder: Path, ran: list[Any], name: str) -> None:
    """A notebook may be named in full, with its ending, or by a beginning that fits one only."""
    assert run(folder, name) == 0
    assert ran == [("01_caching", True)]


def test_run_full(folder: Path, ran: list[Any]) -> None:
    """--full asks for the long setting; notebooks run in order of their names, each once."""
    assert run(folder, "02_queries", "01", "01_caching", "--full") == 0
    assert ran == [("01_caching", False), ("02_queries", False)]


@pytest.mark.parametrize(
    ("name", "message"), [("03", "names 0 notebooks: name one of 01_caching"), ("02", "02_queries, 02_quick")]
)
def test_run_refuses_unclear_names(
    folder: Path, ran: list[Any], capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    """A name that fits no notebook or several is refused with the choice, before anything runs or is written."""
    assert run(folder, name) == 2
    assert message in capsys.readouterr().err
    assert ran == []
    assert not (folder.parent / "results").exists()


def test_run_without_notebooks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without notebooks is a wrong call, told with what to do."""
    assert run(tmp_path / "none") == 2
    assert "--notebooks" in capsys.readouterr().err


def test_unreadable_notebook_fails_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A half-written notebook is reported as failed by name, and the page is still written."""
    (folder / "01_caching.ipynb").write_text("{")
    assert run(folder, "01") == 1
    assert "FAILED 01_caching.ipynb, cannot be read as a notebook" in capsys.readouterr().out
    assert (folder.parent / "results" / "index.html").exists()


def test_unknown_option_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An option that `run` does not know is refused by name; only `lab` hands options on."""
    with pytest.raises(SystemExit) as ended:
        run(folder, "--fulll")
    assert ended.value.code == 2
    assert "--fulll" in capsys.readouterr().err


def test_lab_serves_this_machine_with_shipped_settings(folder: Path) -> None:
    """JupyterLab listens on the loopback address in the notebooks' folder, without the news pop-up."""
    command = lab_command(folder, root=False, browser=True)
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert "--ServerApp.ip=127.0.0.1" in command
    assert f"--ServerApp.root_dir={folder}" in command
    assert not {"--allow-root", "--no-browser"} & set(command)
    (shipped,) = (part.partition("=")[2] for part in command if part.startswith("--LabApp.app_settings_dir="))
    overrides = json.loads((Path(shipped) / "overrides.json").read_text())
    assert overrides["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"


def test_lab_as_root_without_display(folder: Path) -> None:
    """The root user and a machine without a display get the options they need; options of one's own come last."""
    command = lab_command(folder, root=True, browser=False, rest=["--port=9999"])
    assert command[-3:] == ["--allow-root", "--no-browser", "--port=9999"]


def test_lab_starts_at_the_guide(folder: Path) -> None:
    """Where 00_start_here exists, JupyterLab opens it first."""
    assert not any("default_url" in part for part in lab_command(folder, root=False, browser=True))
    (folder / "00_start_here.ipynb").touch()
    assert "--LabApp.default_url=/lab/tree/00_start_here.ipynb" in lab_command(folder, root=False, browser=True)


def test_lab_replaces_this_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`skilllab lab` becomes JupyterLab, and hands on the options it does not know."""
    seen: list[list[str]] = []

    def fake(path: str, command: list[str]) -> None:
        seen.append(command)
        raise InvalidValueError("replaced")

    monkeypatch.setattr(os, "execv", fake)
    assert main(["lab", "--notebooks", str(folder), "--port=9999"]) == 2
    assert seen[0][-1] == "--port=9999"


@pytest.mark.slow
def test_interrupt_ends_the_kernel(tmp_path: Path) -> None:
    """Ctrl-C inside a cell ends the run with 130 and one line, and the kernel with it."""
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    cell = f"import os, time\nopen({str(ready)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    nbformat.write(new_notebook(cells=[new_code_cell(cell)]), tmp_path / "01_hang.ipynb")
    command = [sys.executable, "-m", "skilllab.cli", "run", "--notebooks", str(tmp_path), "--output", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        kernel = int(ready.read_text())  # waits until the cell runs
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err.strip()) == (130, "", "skilllab: interrupted")
    with pytest.raises(ProcessLookupError):
        os.kill(kernel, 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_serves_until_asked_to_stop(number: signal.Signals) -> None:
    """`skilllab demo` prints its address, answers there, and ends with 0 on Ctrl-C or when told to terminate."""
    command = [sys.executable, "-m", "skilllab.cli", "demo", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        example = said.split()[-1]
        assert example.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(example, timeout=30) as answer:
            assert json.load(answer)["id"] == 17
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out.strip(), err) == (0, "Stopped after 1 request.", "")


def test_demo_takes_the_catalogues_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --port it listens where the API skills of the shipped catalogue look for it."""
    seen: list[int] = []

    async def fake(port: int) -> None:
        seen.append(port)

    monkeypatch.setattr("skilllab.cli._serve_demo", fake)
    assert main(["demo"]) == 0
    catalogue = json.loads((Path(__file__).parent.parent / "data" / "catalogue.json").read_text(encoding="utf-8"))
    urls = {skill["handler"]["url"] for skill in catalogue["skills"] if skill["layer"] == 3}
    assert {urlsplit(url).port for url in urls} == set(seen)


def test_demo_names_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    """A port that is taken or none at all is a wrong call, told with its number."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port)]) == 2
    assert f"port={port} is in use" in capsys.readouterr().err
    assert main(["demo", "--port", "99999"]) == 2
    assert "port=99999 must be" in capsys.readouterr().err
