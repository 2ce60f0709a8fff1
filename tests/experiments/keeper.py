"""A result to keep, and a program that keeps many of them: until it is killed, beside another, or until the disk is full."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from skilllab.errors import HistoryError
from skilllab.experiments import history
from skilllab.experiments.history import History
from skilllab.stats import Interval

LARGE = (
    4 << 20
)  # bytes, more than the 2 MiB that SQLite keeps in memory: it writes before the end, and has to undo that


class Kept:
    """A result whose parts all follow from its number, so that half of one is seen."""

    def __init__(self, number: int, ballast: int = 0) -> None:
        self.number, self.ballast = number, ballast

    def to_json(self) -> dict[str, Any]:
        return {"number": self.number, "ballast": "x" * self.ballast}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Kept:
        return cls(values["number"], len(values["ballast"]))

    def metrics(self) -> dict[str, tuple[float, Interval | None]]:
        return {
            "p50": (self.number, Interval(self.number - 1, self.number + 1, 0.95)),
            "p95": (2 * self.number, Interval(2 * self.number - 1, 2 * self.number + 1, 0.95)),
            "calls": (100.0, None),
        }


def problems(path: Path, acknowledged: int) -> list[str]:
    """What is wrong with a file in which that many runs were said to be kept, one more at most."""
    kept = History(path)
    runs = kept.list(limit=None)["run"].tolist()
    found = [f"{acknowledged} acknowledged, {len(runs)} there"] * (not acknowledged <= len(runs) <= acknowledged + 1)
    if not runs:
        return found
    found += [f"run {run} is not whole" for run in runs[:2] if kept.load(run).ballast != LARGE]
    with closing(sqlite3.connect(path)) as db:
        counts = db.execute("SELECT count(metric) FROM runs LEFT JOIN metrics USING (run) GROUP BY run").fetchall()
        (sound,) = db.execute("PRAGMA integrity_check").fetchone()
    found += ["a run without all of its metrics"] * any(count != 3 for (count,) in counts)
    return found + [sound] * (sound != "ok")


def kill_many(folder: Path, times: int) -> dict[str, Any]:
    """Kills a process that keeps results, at a random moment each time, and looks at what is left."""
    rng = random.Random(5)
    start = time.perf_counter()
    History(folder / "first.sqlite").save(Kept(7, LARGE))
    usual = time.perf_counter() - start
    undone, found = 0, []
    for turn in range(times):
        path = folder / f"{turn}.sqlite"
        if turn % 2:
            shutil.copy(folder / "first.sqlite", path)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            mine = History(path)
            while True:
                mine.save(Kept(7, LARGE))
                os.write(writing, b"+")
        os.close(writing)
        time.sleep(rng.uniform(0, 2 * usual))  # the moment of the kill is what is tried
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        acknowledged = turn % 2 + len(os.read(reading, 1000))
        os.close(reading)
        undone += path.with_name(f"{path.name}-journal").exists()
        found += problems(path, acknowledged)
        path.unlink(missing_ok=True)
    return {"undone": undone, "problems": found}


def fill(path: Path) -> dict[str, Any]:
    """Keeps results until there is no room for another, then makes room, and keeps one more."""
    spare = path.with_name("spare")
    spare.write_bytes(bytes(100_000))
    kept, message = 0, ""
    while not message:
        try:
            History(path).save(Kept(kept, 10_000))
            kept += 1
        except HistoryError as error:
            message = str(error)
    there = History(path).list(limit=None)["run"].tolist()
    whole = [run for run in there if History(path).load(run).ballast == 10_000]
    spare.unlink()
    if os.environ.get("LIMIT"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    return {"kept": kept, "message": message, "whole": whole, "next": History(path).save(Kept(kept, 10_000))}


def beside(path: Path, label: str, count: int) -> list[int]:
    """Keeps results as soon as the other program is ready, too."""
    print("ready", flush=True)
    sys.stdin.readline()
    rng, runs = random.Random(label), []
    for number in range(count):
        runs.append(History(path).save(Kept(number), label))
        time.sleep(rng.uniform(0, 0.004))  # about as long as a save, so that some meet and none only follow each other
    return runs


def main(task: str, path: str, *rest: str) -> None:
    history.KINDS["Kept"] = history.Kind("__main__")
    history.commit = lambda: None  # or most kills would meet git
    if task == "kill":
        print(json.dumps(kill_many(Path(path), int(rest[0]))))
    elif task == "fill":
        if os.environ.get("LIMIT"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        print(json.dumps(fill(Path(path))))
    else:
        print(json.dumps(beside(Path(path), rest[0], int(rest[1]))))


if __name__ == "__main__":
    main(*sys.argv[1:])
