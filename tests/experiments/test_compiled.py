"""Compiling kernels: late, and also where nothing can be written."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numba
import pytest

from skilllab.experiments.simulation.compiled import compiled


def test_numba_starts_with_the_first_simulation_only() -> None:
    """Importing the simulation does not import numba, which costs a third of a second; the first kernel does."""
    code = (
        "import sys\n"
        "import skilllab.experiments.simulation as simulation\n"
        "assert 'numba' not in sys.modules and 'pandas' not in sys.modules\n"
        "from skilllab.trace import loop\n"
        "assert simulation.hits(loop(9, 3), 'lru', 3) == 6\n"
        "assert 'numba' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_kernels_compile_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """When numba finds no folder for its cache, the kernel is compiled for this process alone."""

    def no_folder(**options: Any) -> Any:
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr("skilllab.experiments.simulation.compiled.numba", SimpleNamespace(njit=no_folder), raising=True)

    def double(value: int) -> int:
        return 2 * value

    assert compiled(double)(21) == 42
