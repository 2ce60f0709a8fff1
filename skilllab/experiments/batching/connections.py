"""A connection pool on and off: the same calls through two engines that differ in nothing else."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from skilllab import format as fmt
from skilllab.define import skill
from skilllab.engine import FunctionOptions, LayeredExecutionEngine
from skilllab.engine.pools import ConnectionPool
from skilllab.experiments.batching.rounds import Progress, counted, ends, middle, middle_interval, turns
from skilllab.registry import InMemorySkillRegistry
from skilllab.stats import Array, Comparison, paired_bootstrap, quantile

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

ARMS = {"pool": None, "no pool": 0.0}
"""Seconds that an unused connection is kept, by arm: None keeps it, 0 keeps none."""

_ROWS = 1000  # of the table that is asked


@skill(id="customer-name", category="experiments", leases=["db"])
def customer_name(number: int, db: sqlite3.Connection) -> str:
    """Looks a customer's name up."""
    (name,) = db.execute("SELECT name FROM customer WHERE id = ?", (number,)).fetchone()
    return str(name)


@dataclass(frozen=True, slots=True)
class Pooling:
    """The same calls with and without a pool.

    seconds: by arm, seconds a call, one number a round. opened: connections opened by each arm in all. opening: seconds
    that each opening took, without the pool. calls: of one round. at_once: calls under way.
    """

    seconds: Mapping[str, Array]
    opened: Mapping[str, int]
    opening: Array
    calls: int
    at_once: int

    @property
    def comparison(self) -> Comparison:
        """How many times as long a call takes without the pool, paired by round."""
        return paired_bootstrap(self.seconds["pool"], self.seconds["no pool"])

    def frame(self) -> pd.DataFrame:
        """Returns one row an arm: seconds a call (median over the rounds, its interval), connections, rounds, calls."""
        import pandas as pd

        rows = [
            (arm, middle(values), *ends(middle_interval(values)), self.opened[arm], len(values), self.calls)
            for arm, values in self.seconds.items()
        ]
        return pd.DataFrame(rows, columns=["arm", "seconds", "low", "high", "opened", "rounds", "calls"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws seconds a call of both arms with their intervals."""
        from skilllab import plots

        return plots.bars(
            [f"{arm}: {fmt.count(self.opened[arm])} connections opened" for arm in self.seconds],
            [middle(values) for values in self.seconds.values()],
            intervals=[middle_interval(values) for values in self.seconds.values()],
            show=fmt.duration,
            title=self._finding(),
            x_label=f"Time a call, {self.at_once} at once (median of {len(self.seconds['pool'])} rounds)",
            ax=ax,
        )

    def __str__(self) -> str:
        calls = fmt.count(self.calls * len(self.seconds["pool"]))
        told = "; ".join(
            f"{arm}: {fmt.duration(middle(values))} a call, {fmt.count(self.opened[arm])} connections for {calls} calls"
            for arm, values in self.seconds.items()
        )
        return f"{self._finding()}. {told}; opening one takes {fmt.duration(quantile(self.opening, 0.5))} (median)."

    def _finding(self) -> str:
        found = self.comparison
        if found.verdict in ("same", "inconclusive"):
            return f"Pool or none: {found.verdict} over {found.rounds} rounds"
        spread = fmt.interval(found.low, found.high, fmt.times)
        return f"Without a pool a call takes {fmt.times(found.ratio)} as long ({spread})"


async def pooling(
    *,
    calls: int = 200,
    at_once: int = 5,
    tables: int = 50,
    rounds: int = 20,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Pooling:
    """Runs the same look-ups in a SQLite file with a pool of `at_once` connections and without, in turns.

    calls: in each run. tables: in the file besides the one that is asked; a new connection reads the schema of all of
    them before its first answer. Raises InvalidValueError for counts below 1, and the error of a call that failed.
    """
    for name, count in {"calls": calls, "at_once": at_once, "tables": tables, "rounds": rounds}.items():
        counted(name, [count])
    opening: dict[str, list[float]] = {arm: [] for arm in ARMS}
    registry = InMemorySkillRegistry()
    await registry.register(customer_name)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "shop.sqlite"
        _create(file, tables)
        async with AsyncExitStack() as stack:
            engines, pools = {}, {}
            for arm, max_idle in ARMS.items():
                opener = partial(_opened, file, opening[arm])
                pool = pools[arm] = ConnectionPool(opener, max_size=at_once, close=_close, max_idle=max_idle)
                options = FunctionOptions(pools={"db": pool}, max_threads=at_once)
                engines[arm] = await stack.enter_async_context(
                    LayeredExecutionEngine(registry, functions=options, results=None)
                )
            arms = {arm: partial(_run, engine, calls, at_once) for arm, engine in engines.items()}
            for run in arms.values():
                await run(0)  # starts the threads, opens what the pool keeps
            seconds = await turns(arms, rounds, seed=seed, on_progress=on_progress)
            opened = {arm: pool.statistics().opened for arm, pool in pools.items()}
    return Pooling(
        {arm: np.array(values) for arm, values in seconds.items()}, opened, np.array(opening["no pool"]), calls, at_once
    )


async def _run(engine: LayeredExecutionEngine, calls: int, at_once: int, turn: int) -> float:
    asked = [(customer_name.definition.id, {"number": 1 + number % _ROWS}) for number in range(calls)]
    begin = time.perf_counter()
    results = await engine.execute_many(asked, limit=at_once)
    taken = time.perf_counter() - begin
    for result in results:
        if result.error is not None:
            raise result.error
    return taken / calls


def _create(file: Path, tables: int) -> None:
    db = sqlite3.connect(file)
    db.execute("CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    db.executemany(
        "INSERT INTO customer (name) VALUES (?)", [(f"customer {number}",) for number in range(1, _ROWS + 1)]
    )
    for number in range(tables):
        db.execute(f"CREATE TABLE data_{number} (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, value REAL, noted TEXT)")
        db.execute(f"CREATE INDEX data_{number}_kind ON data_{number} (kind, noted)")
    db.commit()
    db.close()


def _opened(file: Path, seconds: list[float]) -> sqlite3.Connection:
    begin = time.perf_counter()
    db = sqlite3.connect(file, check_same_thread=False)
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("SELECT count(*) FROM sqlite_master").fetchone()  # reads the schema, as the first query would
    seconds.append(time.perf_counter() - begin)
    return db


def _close(db: sqlite3.Connection) -> None:
    db.close()
