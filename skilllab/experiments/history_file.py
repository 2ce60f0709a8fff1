"""The file of a history: opened with care, left as it was whenever anything is wrong with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from skilllab.errors import HistoryError, InvalidValueError

VERSION = 1
_APPLICATION = 0x736B6C62  # "sklb": tells a history from any other SQLite file
_SCHEMA = (
    """CREATE TABLE runs (
        run INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, kind TEXT NOT NULL, label TEXT NOT NULL, seed INTEGER,
        parameters TEXT NOT NULL, versions TEXT NOT NULL, machine TEXT NOT NULL, "commit" TEXT, dirty INTEGER,
        result TEXT NOT NULL)""",
    """CREATE TABLE metrics (
        run INTEGER NOT NULL REFERENCES runs, metric TEXT NOT NULL, value REAL, low REAL, high REAL, confidence REAL,
        PRIMARY KEY (run, metric))""",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)
_UNHARMED = "what it held before is unharmed, and the result is still in memory: save it again"
_ADVICE = {
    sqlite3.SQLITE_BUSY: ("another program is writing for too long", f"{_UNHARMED}, with a longer wait"),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "name a file in a folder that can be written"),
    sqlite3.SQLITE_FULL: ("there is no room", f"{_UNHARMED} when there is room, or name another file"),
    sqlite3.SQLITE_IOERR: ("the disk failed or has no room", f"{_UNHARMED} when there is room, or name another file"),
    sqlite3.SQLITE_PERM: ("it may not be written", "name a file that can be"),
    sqlite3.SQLITE_READONLY: ("it may not be written", "name a file that can be"),
}
_DAMAGED = ("it is damaged or no history", "it was left as it is; move it away, or name another file")


class HistoryFile:
    """The SQLite file at `path`, of which each use is a connection of its own; `wait` is for other writers, in seconds.

    The journal is SQLite's rollback journal and no write-ahead log: at rest there is one file, it works in a home folder
    on a network, where shared memory does not, and writers come a few times an hour, so that readers seldom wait.
    """

    def __init__(self, path: Path, wait: float) -> None:
        self.path = path
        self._wait = wait
        self._sound = False

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Returns what a query finds; nothing where there is no file yet."""
        with self._told():
            if self._version() == 0:
                return []
            with self._connected("rw") as db:
                return db.execute(query, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Gives a connection in a transaction: all of it is on the disk at the end, or nothing after an error or a kill."""
        with self._told():
            self._version()
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._connected("rwc") as db:
                self._look_through(db)
                db.execute("BEGIN IMMEDIATE")
                if self._stamp(db) == 0:  # asked again: another writer may just have made the tables
                    for statement in _SCHEMA:
                        db.execute(statement)
                yield db
                db.execute("COMMIT")

    def _version(self) -> int:
        """Returns the file's version, 0 where there is none yet, and opens it for reading only to find out."""
        if not self.path.exists():
            return 0
        if not self.path.is_file():
            raise HistoryError(self._message("it is no file", _ADVICE[sqlite3.SQLITE_CANTOPEN][1]))
        try:
            with self._connected("ro") as db:
                return self._stamp(db)
        except sqlite3.OperationalError as error:
            if _primary(error) != sqlite3.SQLITE_READONLY:
                raise
        try:
            return self._version_behind_journal()
        except FileNotFoundError:  # meanwhile another program has undone it
            return self._version()

    def _version_behind_journal(self) -> int:
        """Returns the version where a killed writer left a journal, which has to be undone to know: first in a copy."""
        with tempfile.TemporaryDirectory(prefix="skilllab-history-") as folder:
            copy = HistoryFile(Path(folder) / "history", self._wait)
            for suffix in ("-journal", ""):
                shutil.copyfile(f"{self.path}{suffix}", f"{copy.path}{suffix}")
            with copy._connected("rw") as db:
                return self._stamp(db)

    def _stamp(self, db: sqlite3.Connection) -> int:
        (version,), (application,) = (
            db.execute(f"PRAGMA {name}").fetchone() for name in ("user_version", "application_id")
        )
        if application != _APPLICATION and (version or db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()):
            raise HistoryError(self._message("it is the file of another program", _DAMAGED[1]))
        if version > VERSION:
            reason = f"it is of version {version}, and this skilllab reads up to {VERSION}"
            raise HistoryError(self._message(reason, "it was left as it is; update skilllab, or name another file"))
        return int(version)

    def _look_through(self, db: sqlite3.Connection) -> None:
        """Reads the whole file once before the first write, so that nothing is added to a damaged one."""
        if not self._sound:
            (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise HistoryError(self._message(*_DAMAGED))
            self._sound = True

    @contextmanager
    def _connected(self, mode: str) -> Iterator[sqlite3.Connection]:
        address = f"{self.path.as_uri()}?mode={mode}"
        with closing(sqlite3.connect(address, uri=True, timeout=self._wait, isolation_level=None)) as db:
            yield db  # closing undoes a transaction that was left open

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns what SQLite and the system say into a HistoryError that says what to do."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise HistoryError(self._message(*_ADVICE.get(_primary(error), _DAMAGED))) from error
        except OSError as error:
            raise HistoryError(
                self._message(error.strerror or str(error), _ADVICE[sqlite3.SQLITE_CANTOPEN][1])
            ) from error

    def _message(self, reason: str, advice: str) -> str:
        return f"history {str(self.path)!r} cannot be used, {reason}: {advice}"


def _primary(error: sqlite3.Error) -> int:
    """Returns what went wrong in general; the upper bits of SQLite's code tell the particulars."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def plain_text(values: Mapping[str, Any], name: str) -> str:
    """Returns JSON in which the home folder reads ~."""
    try:
        text = json.dumps(values, separators=(",", ":"), default=_by_name)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"{name}(={values!r:.80}) must be plain JSON values: {error}") from error
    home = json.dumps(os.path.expanduser("~"))[1:-1]
    if not home.strip("/~"):
        return text
    return re.sub(
        rf"{re.escape(home)}(?![\w-]|\.\w)", lambda found: "~" if _begins(text, found.start()) else found[0], text
    )


def _begins(text: str, place: int) -> bool:
    """Returns whether a path in JSON can begin there: not within another, but after an escape, whose letter is no word."""
    return not re.match(r"[\w.~-]", text[place - 1 : place]) or text[place - 2 : place] in (r"\n", r"\r", r"\t")


def _by_name(value: object) -> str:
    """Returns what stands for a value that JSON does not know but that has a name of its own."""
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    raise TypeError(f"{type(value).__name__} is none")
