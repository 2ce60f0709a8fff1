"""The private folder of an instance, emptied between calls."""

from __future__ import annotations

import os


def empty(folder: str, device: int | None = None) -> None:
    """Removes everything inside the folder but what is mounted there; what cannot be removed stays.

    device: of the folder, found out unless given.
    """
    try:
        device = os.lstat(folder).st_dev if device is None else device
        with os.scandir(folder) as entries:
            inside = list(entries)
    except OSError:
        return
    for entry in inside:
        try:
            if entry.stat(follow_symlinks=False).st_dev != device:
                continue
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.path, 0o700)  # a skill may have taken the rights away
                empty(entry.path, device)
                os.rmdir(entry.path)
            else:
                os.unlink(entry.path)
        except (OSError, RecursionError):
            continue
