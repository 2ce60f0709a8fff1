"""Compiles a kernel with numba, keeping the machine code on disk where the disk lets it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Returns `function` as machine code that releases the GIL; it is compiled at its first call.

    The code is cached beside the source or in the user's cache folder. A kernel must not call another module's
    kernel: numba would not notice when that one changes, and run the old code.
    """
    try:
        return cast("Function", numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # numba's way to say that no folder can be written to
        return cast("Function", numba.njit(nogil=True)(function))
