"""Work with a cost for each batch and one for each item: inserts into a SQLite file, and an API with a batch endpoint."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from skilllab.demo import DemoProcess, DemoSettings
from skilllab.demo.content import USERS
from skilllab.errors import ExecutionError

BatchFunction = Callable[[list[int]], Awaitable[list[Any]]]

_MOST_ITEMS = 10_000  # of one request to the API: more than any size that is worth trying


@dataclass(frozen=True, slots=True)
class Workload:
    """What batches are sent to. name: in words. item: what one item is. at_once: batches under way, None for any number.

    open: makes an async context manager, which gives a function from item numbers to answers.
    """

    name: str
    item: str
    at_once: int | None
    open: Callable[[], AbstractAsyncContextManager[BatchFunction]]


def sqlite_inserts() -> Workload:
    """Returns inserts into a new SQLite file in a temporary folder, each batch committed to the disk (fsync).

    There is one writer, as SQLite allows; an item's answer is the number of its row. Closing it raises ExecutionError
    when the file does not hold exactly the rows that were answered.
    """
    return Workload("SQLite inserts, one commit a batch", "insert", 1, _inserting)


def api_users(latency: float = 0.005, workers: int = 4, at_once: int | None = None) -> Workload:
    """Returns look-ups of users at the batch endpoint of a demo API server in a process of its own.

    latency: seconds that a batch of one takes there; each further item adds a twentieth of it. workers: batches that the
    server serves at once. at_once: batches that are sent at once; as many as there are workers unless given.
    """
    served = DemoSettings(latency=latency, workers=workers, batch_max=_MOST_ITEMS, log=0)
    name = f"an API with a batch endpoint, {workers} workers"
    return Workload(name, "user", workers if at_once is None else at_once, partial(_asking, served))


@asynccontextmanager
async def _inserting() -> AsyncIterator[BatchFunction]:
    loop = asyncio.get_running_loop()
    with TemporaryDirectory() as folder, ThreadPoolExecutor(1, "sqlite-writer") as writer:
        file = Path(folder) / "events.sqlite"
        db = await loop.run_in_executor(writer, _created, file)
        answered = 0

        def write(items: list[int]) -> list[Any]:
            nonlocal answered
            rows = _insert(db, items)
            answered += len(rows)  # here, in the thread: it goes on when the batch that waits for it is given up
            return rows

        async def insert(items: list[int]) -> list[Any]:
            return await loop.run_in_executor(writer, write, items)

        try:
            yield insert
        finally:
            stored = await loop.run_in_executor(writer, _closed, db)
        if stored != answered:
            raise ExecutionError(f"{answered} inserts were answered, and the file holds {stored} rows")


def _created(file: Path) -> sqlite3.Connection:
    db = sqlite3.connect(file, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")  # each commit waits for the disk
    db.execute("CREATE TABLE event (id INTEGER PRIMARY KEY, number INTEGER NOT NULL, kind TEXT NOT NULL)")
    return db


def _insert(db: sqlite3.Connection, items: list[int]) -> list[int | None]:
    db.execute("BEGIN")
    rows = [db.execute("INSERT INTO event (number, kind) VALUES (?, 'call')", (item,)).lastrowid for item in items]
    db.execute("COMMIT")
    return rows


def _closed(db: sqlite3.Connection) -> int:
    (rows,) = db.execute("SELECT count(*) FROM event").fetchone()
    db.close()
    return int(rows)


@asynccontextmanager
async def _asking(served: DemoSettings) -> AsyncIterator[BatchFunction]:
    async with DemoProcess(served) as server, aiohttp.ClientSession(server.url) as session:

        async def ask(items: list[int]) -> list[Any]:
            asked = {"items": [{"user_id": 1 + item % USERS} for item in items]}
            async with session.post("/batch/users", json=asked) as response:
                response.raise_for_status()
                answers: list[Any] = (await response.json())["answers"]
            return answers

        yield ask
