"""Every option and default, with its unit and its reason."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from skilllab.errors import InvalidValueError

CACHE_MAX_SIZE = 2000
"""Entries a SkillCache holds: room for the hot tenth of 20,000 skills, a few MiB of definitions."""

CACHE_TTL = 600.0
"""Seconds an entry of no particular kind lives: ten minutes bound how old an answer may be."""

SKILL_TTL = 900.0
"""Seconds a cached skill lives: definitions change rarely, and a change invalidates at once anyway."""

QUERY_TTL = 120.0
"""Seconds a cached query lives: pages are cheap to compute again and crowd out what is not."""

VALIDATION_TTL = 300.0
"""Seconds a cached validation lives: it is keyed by revision, so it can only be unused, never wrong."""

CELL_TIMEOUT = 300.0
"""Seconds a notebook cell may take when run headless: far beyond any honest cell, so only a hang meets it."""

FUNCTION_THREADS = 32
"""Plain functions at once: they mostly wait for files, and more threads only share one interpreter lock."""

FILE_MAX_BYTES = 10 * 2**20
"""Bytes of a file that built-in skills read or search unless told otherwise: beyond 10 MiB it is data, not text."""

FAST_VARIABLE = "SKILLLAB_FAST"
"""The environment variable that asks notebooks for their fast setting."""

DATA_VARIABLE = "SKILLLAB_DATA"
"""The environment variable that names the folder with the catalogue and the recorded traces."""

_FLAGS = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


def fast(environ: Mapping[str, str] = os.environ) -> bool:
    """Returns whether notebooks should run in their fast setting: small inputs, the same conclusions.

    Raises InvalidValueError when SKILLLAB_FAST is neither yes nor no.
    """
    value = environ.get(FAST_VARIABLE, "")
    try:
        return _FLAGS[value.strip().lower()]
    except KeyError:
        raise InvalidValueError(f"{FAST_VARIABLE}={value!r} is not a yes or a no: set it to 1 or to 0") from None


def data_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Returns the folder with the skill catalogue and the recorded traces: SKILLLAB_DATA, else the checkout's data/.

    Raises InvalidValueError when there is no such folder.
    """
    named = environ.get(DATA_VARIABLE)
    folder = Path(named) if named else Path(__file__).resolve().parent.parent / "data"
    if folder.is_dir():
        return folder
    advice = (
        f"set {DATA_VARIABLE} to an existing folder"
        if named
        else f"install from a checkout with `pip install -e .`, or set {DATA_VARIABLE} to a checkout's data folder"
    )
    raise InvalidValueError(f"data folder {str(folder)!r} does not exist: {advice}")
