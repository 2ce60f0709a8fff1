"""Hits on public traces, on which two independent implementations agree to the integer."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from skilllab.experiments.simulation import hits, lru_hits
from skilllab.trace import Trace

FOLDER = os.environ.get("SKILLLAB_TRACES", "")
POLICIES = {"LRU": "lru", "FIFO": "fifo", "LFU": "lfu", "Belady": "min"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (FOLDER and Path(FOLDER, "ground_truth.csv").is_file()),
        reason="set SKILLLAB_TRACES to a folder with ground_truth.csv and its traces (see tests/experiments)",
    ),
]


@pytest.fixture(scope="module")
def traces() -> dict[str, Trace]:
    """The public traces, on a clock of milliseconds, as whole numbers leave no rounding to argue about."""
    read = {}
    for path in Path(FOLDER).glob("*.csv.gz"):
        table = pd.read_csv(path)
        times = table["time_ms"].to_numpy() if "time_ms" in table else None
        read[path.name.removesuffix(".csv.gz")] = Trace.from_keys(table["key"].to_numpy(), time=times)
    return read


def test_every_policy_and_size(traces: dict[str, Trace]) -> None:
    """LRU (by replay and from the curve), FIFO, LFU and MIN have exactly the known hits at every size."""
    known = pd.read_csv(Path(FOLDER, "ground_truth.csv"))
    rows = list(known[known["policy"].isin(list(POLICIES))].itertuples())
    assert len(rows) > 20
    curves = {name: lru_hits(trace) for name, trace in traces.items()}
    for row in rows:
        assert hits(traces[row.trace], POLICIES[row.policy], row.size) == row.hits, row
        assert row.policy != "LRU" or curves[row.trace][row.size] == row.hits, row


def test_every_ttl(traces: dict[str, Trace]) -> None:
    """LRU with a TTL has exactly the hits of expiry before eviction, not those of lazy expiry."""
    known = pd.read_csv(Path(FOLDER, "ground_truth_ttl.csv"))
    assert (known["hits_expired_first"] != known["hits_lazy"]).any()
    for row in known.itertuples():
        assert hits(traces[row.trace], "lru", row.size, float(row.ttl_ms)) == row.hits_expired_first, row


def test_the_readers_read_them(traces: dict[str, Trace]) -> None:
    """Trace.read numbers the keys of both files as their own column `id` does, and takes milliseconds for time."""
    for name, expected in traces.items():
        trace = Trace.read(Path(FOLDER, f"{name}.csv.gz"))
        assert (trace.key == pd.read_csv(Path(FOLDER, f"{name}.csv.gz"))["id"]).all()
        scale = 1000 if name.startswith("mooncake") else 1
        assert trace.duration == pytest.approx(expected.duration / scale)
