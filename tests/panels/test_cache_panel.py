"""CachePanel: what it shows is what the simulator says."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from skilllab.errors import InvalidValueError
from skilllab.experiments.simulation import hit_mask, hits
from skilllab.panels import CachePanel
from skilllab.panels.cache import Outcome, outcome
from skilllab.trace import Trace, loop, zipf

TRACE = zipf(2_000, 150, 1.1, seed=3, rate=1.0)
OTHER = loop(600, 60, rate=1.0)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=float)


@pytest.fixture
def panel() -> CachePanel:
    return CachePanel({"Zipf": TRACE, "Loop": OTHER}, size=40, ttl=300.0)


def test_outcome_by_hand() -> None:
    """A A B A with room for one: one hit; times .3 .1 .5 .7; of 1.9 s without a cache 0.3 s are saved."""
    trace = Trace.from_keys(["a", "a", "b", "a"])
    found = outcome(trace, "lru", 1, None, np.array([0.3, 0.4, 0.5, 0.7]), 0.1)
    assert found == Outcome(0.25, pytest.approx(0.67), pytest.approx(0.3))


@pytest.mark.slow
def test_the_summary_is_what_the_simulator_says(panel: CachePanel) -> None:
    """Hit ratio, p95 and waiting saved are those of one replay; the optimum is Belady's, without TTL."""
    miss = np.random.default_rng(1).lognormal(0.0, 0.6, len(TRACE))
    miss *= 0.1 / np.median(miss)
    mask = hit_mask(TRACE, "lru", 40, 300.0)
    times = np.where(mask, 0.0001, miss)
    assert panel.summary == (
        f"Zipf: 40 entries, TTL 5 min, LRU: {100 * mask.mean():.1f} % of 2,000 look-ups hit; "
        f"p95 {1000 * np.quantile(times, 0.95):.0f} ms where a miss takes 100 ms (median) and a hit 100 µs; "
        f"{(miss - times).sum() / 60:.2f} min of waiting saved. "
        f"Belady's optimum at this size: {hits(TRACE, 'min', 40) / 20:.1f} %."
    )


@pytest.mark.slow
def test_curves_and_marks_are_what_the_simulator_says(panel: CachePanel) -> None:
    """The drawn curve holds the hit ratio of every size on the slider, and the mark stands on it."""
    panel.policy.value = "fifo"
    panel.settle()
    curve, optimum = panel._top.get_lines()[:2]
    expected = [[size, hits(TRACE, "fifo", size, 300.0) / len(TRACE)] for size in panel._sizes]
    assert curve.get_xydata().tolist() == expected
    assert optimum.get_ydata().tolist() == [hits(TRACE, "min", size) / len(TRACE) for size in panel._sizes]
    _, dot, text = panel._marks[0].artists
    ratio = hits(TRACE, "fifo", 40, 300.0) / len(TRACE)
    assert dot.get_xydata().tolist() == [[40, ratio]]
    assert text.get_text() == f"{100 * ratio:.1f} %"
    low, high = panel._bottom.get_ylim()
    drawn = panel._bottom.get_lines()[0].get_ydata()
    assert low < min(drawn) <= max(drawn) < high


@pytest.mark.slow
def test_every_control_changes_picture_and_words(panel: CachePanel) -> None:
    """Trace, policy, size, TTL and the time of a miss are seen in both; reset brings the first of both back."""
    first = panel.png, panel.summary
    seen = [first]
    moves = [(panel.trace, "Loop"), (panel.policy, "rr"), (panel.size, 50), (panel.ttl, 20.0), (panel.miss, 0.5)]
    for control, value in moves:
        control.value = value
        seen.append((panel.png, panel.summary))
    assert len({png for png, _ in seen}) == len({words for _, words in seen}) == len(seen)
    panel.hit.value = 0.05
    assert "a hit 50 ms" in panel.summary
    panel.reset()
    assert panel.summary == first[1]
    assert np.abs(pixels(panel.png) - pixels(first[0])).max() < 32  # of 255: the palette may be another


@pytest.mark.slow
def test_moving_the_size_replays_nothing(panel: CachePanel, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a curve known, a new size draws the top layer only: no replay, no layout; nor does going back."""
    panel.settle()
    known = dict(panel._known)
    drawn: list[int] = []
    draw = panel._picture.draw
    monkeypatch.setattr(panel._picture, "draw", lambda layer: (drawn.append(layer), draw(layer)))
    monkeypatch.delattr(type(panel._picture), "lay_out")
    panel.size.value = 60
    assert "60 entries" in panel.summary
    panel.size.value = 40
    assert (panel._known, drawn) == (known, [2, 2])


@pytest.mark.slow
def test_given_times_keep_their_proportions() -> None:
    """Times of each access are taken as they are, their median stands in the field, and changing it scales them all."""
    times = np.linspace(0.1, 0.3, len(TRACE))
    panel = CachePanel(TRACE, size=40, miss_seconds=times)
    assert panel.miss.value == pytest.approx(0.2)
    for factor in (1.0, 2.0):
        panel.miss.value = 0.2 * factor
        saved = outcome(TRACE, "lru", 40, None, factor * times, 0.0001).saved
        assert f"; {saved:.0f} s of waiting saved" in panel.summary or f"; {saved / 60:.2f} min" in panel.summary


def test_one_time_for_all() -> None:
    """With one time for every miss p95 is that time as long as more than a twentieth of the look-ups miss."""
    panel = CachePanel(TRACE, size=40, miss_seconds=0.25)
    assert "p95 250 ms where a miss takes 250 ms (median)" in panel.summary


def test_a_cache_slower_than_the_call_adds_waiting() -> None:
    """Where a hit takes longer than a miss the panel says that waiting was added, not saved."""
    panel = CachePanel(TRACE, size=40, miss_seconds=0.01, hit_seconds=0.02)
    assert "of waiting added" in panel.summary


def test_one_trace_needs_no_choice(panel: CachePanel) -> None:
    """The trace is a control, and named in the summary, only where there are several."""
    assert len(panel._controls) == 6
    assert len(CachePanel(TRACE, size=40)._controls) == 5


def test_the_first_values_are_on_the_sliders() -> None:
    """Whatever size and TTL are asked for, the sliders can go back to exactly those, and to never."""
    panel = CachePanel(TRACE, size=1234, ttl=77.7)
    assert (panel.size.value, panel.ttl.value) == (1234, 77.7)
    panel.ttl.value = None
    panel.size.value = TRACE.unique
    panel.reset()
    assert (panel.size.value, panel.ttl.value) == (1234, 77.7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"traces": {}}, r"traces\(=\{\}\) must be a Trace, or at least one by name"),
        ({"traces": [1, 2]}, r"traces\(=\[1, 2\]\) must be a Trace"),
        ({"traces": {"a": 1}}, "must be a Trace"),
        ({"size": 0}, r"size\(=0\) must be at least 1"),
        ({"ttl": 0}, r"ttl\(=0\) must be"),
        ({"policy": "best"}, r"policy\(='best'\) is not known"),
        ({"policy": "min"}, r"Policy \(='min'\) must be one of 'lru'"),
        ({"miss_seconds": 0.0}, "must be a number above 0"),
        ({"miss_seconds": [0.1, 0.2]}, r"shape \(2,\)"),
        ({"miss_seconds": "slow"}, "must be seconds"),
        ({"miss_seconds": math.nan}, "seconds from 0 up"),
        ({"miss_seconds": math.inf}, "must be a number above 0"),
        ({"traces": {"a": TRACE, "b": OTHER}, "miss_seconds": [0.1]}, "needs a single trace; there are 2"),
        ({"hit_seconds": 0.0}, "must be a number above 0"),
        ({"hit_seconds": "fast"}, "must be a number above 0"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    """A bad argument is refused at once, with its value."""
    with pytest.raises(InvalidValueError, match=message):
        CachePanel(**({"traces": TRACE, "size": 40} | arguments))
