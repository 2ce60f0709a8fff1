"""Opening what a parameter names, with errors that name it back."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from skilllab.errors import InvalidValueError


class UnreadableFileError(InvalidValueError):
    """Raised when a path names nothing that can be read as a file."""


def open_file(path: str) -> BinaryIO:
    """Returns a regular file open for reading bytes; raises UnreadableFileError that says why a path is none."""
    try:
        # Opening a pipe would wait for a writer: O_NONBLOCK returns at once, and fstat sees what was opened.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", closefd=True)
    except IsADirectoryError:
        raise UnreadableFileError(f"path={path!r} is a folder: name a file in it") from None
    except FileNotFoundError:
        raise UnreadableFileError(
            f"path={path!r} does not exist; a relative path starts at the working folder"
        ) from None
    except (OSError, ValueError) as error:
        raise UnreadableFileError(
            f"path={path!r} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UnreadableFileError(f"path={path!r} is no regular file: devices, pipes and sockets are not read")
    return file


def one_of(**given: object) -> str:
    """Returns the name of the one argument that is not None; raises InvalidValueError when none or several are."""
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise InvalidValueError(f"give one of {', '.join(given)}, not {' and '.join(names) or 'none'}")
    return names[0]
