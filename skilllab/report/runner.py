"""Runs a notebook headless, in a kernel of this very interpreter, without touching the file."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_notebook

from skilllab.report.findings import Finding, collect
from skilllab.settings import CELL_TIMEOUT, FAST_VARIABLE

OnCell = Callable[[int, int, str], None]
"""Called before each cell with code: how many are done, how many there are, the first line of the next."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Where and why a notebook stopped; `cell` counts all cells from 1, `prompt` those with code, as In [n] does."""

    cell: int
    prompt: int
    line: str
    error: str

    def __str__(self) -> str:
        where = f"cell {self.cell} (In [{self.prompt}]) `{self.line}`: " if self.cell else ""
        return where + self.error


@dataclass(frozen=True, slots=True)
class NotebookRun:
    """An executed notebook: its cells with outputs, the duration (s), and how it failed if it did."""

    name: str
    notebook: NotebookNode
    duration: float
    failure: Failure | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What its cells found, in order."""
        return tuple(finding for cell in self.notebook.cells for finding in collect(cell.get("outputs", ())))


def run_notebook(
    path: Path, *, fast: bool = True, cell_timeout: float | None = CELL_TIMEOUT, on_cell: OnCell | None = None
) -> NotebookRun:
    """Runs all cells of the notebook at `path` in its own folder and returns them executed; the file stays as it is.

    `fast` asks the notebook for its fast setting; a cell that takes longer than `cell_timeout` (s, None is off) fails.
    A cell that fails ends the notebook and is reported in `.failure`; the cells after it stay unexecuted. So is a file
    that is no notebook. Nothing is raised but KeyboardInterrupt, with the kernel gone.
    """
    start = time.perf_counter()
    try:
        notebook = _read(path)
    except _UNREADABLE as error:
        reason = f"cannot be read as a notebook: {str(error).splitlines()[0]}"
        return NotebookRun(path.stem, new_notebook(), 0.0, Failure(0, 0, "", reason))
    failure = asyncio.run(_execute(notebook, path.parent, fast, cell_timeout, on_cell or _quiet))
    return NotebookRun(path.stem, notebook, time.perf_counter() - start, failure)


def has_code(cell: NotebookNode) -> bool:
    """Returns whether a kernel has anything to do for the cell."""
    return bool(cell.cell_type == "code" and cell.source.strip())


def first_line(cell: NotebookNode) -> str:
    """Returns the first line of a cell that is not blank."""
    return next((line.strip() for line in cell.source.splitlines() if line.strip()), "")


# nbformat converts before it validates: strange JSON ends in any of these.
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, nbformat.ValidationError)


def _read(path: Path) -> NotebookNode:
    """Returns the notebook at `path`, its code cells as if never run."""
    notebook: NotebookNode = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def _quiet(done: int, total: int, line: str) -> None:
    """Nobody listens."""


async def _execute(
    notebook: NotebookNode, folder: Path, fast: bool, cell_timeout: float | None, on_cell: OnCell
) -> Failure | None:
    todo = [index for index, cell in enumerate(notebook.cells) if has_code(cell)]
    where = (0, 0, "")
    try:
        async with _kernel(notebook, folder, fast, cell_timeout) as client:
            for done, index in enumerate(todo):
                cell = notebook.cells[index]
                where = (index + 1, done + 1, first_line(cell))
                on_cell(done, len(todo), where[2])
                await client.async_execute_cell(cell, index, execution_count=done + 1)
    except CellTimeoutError:
        return Failure(*where, f"took longer than {cell_timeout:g} s")
    except CellExecutionError as error:
        return Failure(*where, f"{error.ename}: {error.evalue}".splitlines()[0])
    except DeadKernelError as error:
        # nbclient takes every cancellation for a dead kernel; this one was Ctrl-C.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError from None
        return Failure(*where, str(error))
    except RuntimeError as error:
        return Failure(*where, str(error).splitlines()[0])
    return None


@asynccontextmanager
async def _kernel(
    notebook: NotebookNode, folder: Path, fast: bool, cell_timeout: float | None
) -> AsyncIterator[NotebookClient]:
    """Starts a kernel for the notebook and ends it; what it writes for itself goes into a folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="skilllab-") as private:
        # Sockets in the private folder: no port to race for, and nobody else on the machine can listen.
        manager = AsyncKernelManager(
            kernel_spec_manager=_ThisInterpreter(),
            connection_file=os.path.join(private, "kernel.json"),
            transport="ipc",
            ip=os.path.join(private, "socket"),
        )
        client = NotebookClient(
            notebook,
            km=manager,
            timeout_func=lambda cell: cell_timeout,
            coalesce_streams=True,
            record_timing=False,
            resources={"metadata": {"path": str(folder)}},
        )
        # A profile of the user's own could run code before the first cell.
        env = os.environ | {FAST_VARIABLE: "1" if fast else "0", "IPYTHONDIR": os.path.join(private, "ipython")}
        # Not nbclient's setup_kernel: it takes Ctrl-C away from the loop.
        idle = False
        try:
            await client.async_start_new_kernel(env=env)
            await client.async_start_new_kernel_client()
            yield client
            idle = True
        except CellExecutionError:
            idle = True
            raise
        finally:
            if client.kc is not None:
                client.kc.stop_channels()
            # A kernel inside a cell cannot end itself in good order, it only complains.
            await manager.shutdown_kernel(now=not idle)


class _ThisInterpreter(KernelSpecManager):
    """Knows one kernel, the running interpreter, whichever specs the machine has or lacks."""

    def get_kernel_spec(self, kernel_name: str) -> Any:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")
