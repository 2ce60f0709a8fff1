"""Places: turns paths of this machine into names that tell nothing about it or its user."""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import sys
import sysconfig
import tempfile
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Places:
    """Folders and what stands for them in a name; `user` is replaced wherever it stands alone in what is left."""

    folders: dict[str, str]
    user: str
    _ordered: tuple[tuple[str, str], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ordered = sorted(self.folders.items(), key=lambda pair: -len(pair[0]))  # the innermost folder names the file
        object.__setattr__(self, "_ordered", tuple(ordered))

    @classmethod
    def here(cls) -> Places:
        """Returns the places of this process: its working folder, its Python's libraries, temporary files, home."""
        libraries = sysconfig.get_paths()
        folders = {
            str(Path.home()): "<home>",
            tempfile.gettempdir(): "<temp>",
            sys.base_prefix: "<python>",
            sys.prefix: "<environment>",
            libraries["stdlib"]: "<stdlib>",
            libraries["platstdlib"]: "<stdlib>",
            libraries["purelib"]: "<site>",
            libraries["platlib"]: "<site>",
            os.getcwd(): "<project>",
        }
        real = {os.path.realpath(folder): name for folder, name in folders.items()}
        return cls({folder: name for folder, name in (folders | real).items() if folder != "/"}, _user())

    def name(self, path: str) -> str:
        """Returns the path from its place, as in `<stdlib>/json/decoder.py`.

        Below no known place only the file's own name is kept, after a digest that keeps different folders apart.
        """
        path = os.path.normpath(path)
        for folder, name in self._ordered:
            if path.startswith(folder + "/"):
                return name + "/" + self._without_user(path[len(folder) + 1 :])
        folder, _, last = path.rpartition("/")
        digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
        return f"<elsewhere {digest}>/{self._without_user(last)}"

    def scrub(self, text: str) -> str:
        """Returns a text, such as a command line, with every known folder and the user replaced."""
        for folder, name in self._ordered:
            text = text.replace(folder, name)
        return self._without_user(text)

    def _without_user(self, text: str) -> str:
        if not self.user:
            return text
        return re.sub(rf"(?<![A-Za-z0-9]){re.escape(self.user)}(?![A-Za-z0-9])", "<user>", text)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a process whose user id has no name
        return ""
