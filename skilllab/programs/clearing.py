"""Clearing: takes away what supervisors left that could not do so themselves: groups with their processes, and folders."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping

from skilllab.programs.cgroups import Place, clear_stale, is_stale


def clear(places: Mapping[str, Place], mine: str) -> None:
    """Clears away what has an owner that is gone, and what has a name that begins with `mine`."""
    clear_stale(places, mine)
    top = tempfile.gettempdir()
    for name in os.listdir(top):
        if is_stale(name, mine):
            path = os.path.join(top, name)
            try:
                if os.lstat(path).st_uid == os.getuid():
                    shutil.rmtree(path, ignore_errors=True)
            except FileNotFoundError:
                continue  # another one was quicker
