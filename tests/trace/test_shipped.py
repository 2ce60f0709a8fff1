"""The recorded traces that come with the project."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from skilllab.experiments.simulation import hits, lru_hits
from skilllab.trace import Trace

FOLDER = Path(__file__).parents[2] / "data" / "traces"
SHIPPED = sorted(FOLDER.glob("*.trace"))
PRIVATE = re.compile(r"^/|(^|/)(home|root|work|tmp|Users)(/|$)")


def test_two_traces_fit_in_one_megabyte() -> None:
    """There are two recorded traces, together at most 1 MB."""
    assert [path.stem for path in SHIPPED] == ["test-run", "type-checks"]
    assert sum(path.stat().st_size for path in SHIPPED) <= 1_000_000


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
class TestShipped:
    """What holds for each."""

    def test_holds_no_path_of_the_machine_it_was_recorded_on(self, path: Path) -> None:
        """No name and no part of the provenance is an absolute path or holds the folder of a user."""
        trace = Trace.read(path)
        texts = [*(trace.names or ()), *str(trace.meta["command"]).split()]
        assert not [text for text in texts if PRIVATE.search(text)]

    def test_is_the_one_that_the_note_describes(self, path: Path) -> None:
        """The note beside it gives its accesses, keys and bytes, and the command it was recorded with."""
        trace, note = Trace.read(path), (FOLDER / "README.md").read_text()
        assert f"{path.name} | {len(trace):,} | {trace.unique:,} | {trace.footprint:,} |" in note
        assert str(trace.meta["command"]) in " ".join(note.replace("\\\n", " ").split())

    def test_is_worth_caching(self, path: Path) -> None:
        """It is long and re-used: half of its accesses can hit, and a small LRU cache is far from the optimum."""
        trace = Trace.read(path)
        assert len(trace) >= 20_000
        assert 500 <= trace.unique <= 10_000
        assert trace.duration > 60
        assert lru_hits(trace)[-1] / len(trace) > 0.5
        small = trace.unique // 16
        assert hits(trace, "min", small) - hits(trace, "lru", small) > 0.05 * len(trace)

    def test_can_be_written_again(self, path: Path, tmp_path: Path) -> None:
        """Reading and writing it gives the same trace, so it was stored without loss."""
        trace = Trace.read(path)
        assert Trace.read(trace.write(tmp_path / "again.trace")) == trace
