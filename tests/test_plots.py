"""Facts about figures, read from what is drawn."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from skilllab import format as fmt
from skilllab import look, plots, stats
from skilllab.errors import InvalidValueError
from skilllab.stats import Interval

_SIZES = [10, 100, 1000, 10_000, 100_000]
_RATIOS = [0.05, 0.2, 0.5, 0.8, 0.95]
_LONG = "A finding of so many words that no figure of this width holds it in one line, however small it is written"
_SIX = ["LRU", "LFU", "FIFO", "random replacement", "S3-FIFO", "a policy whose name is longer than a label may be"]
_RNG = np.random.default_rng(0)
_LATENCIES = _RNG.lognormal(-6, 1, 1000)

_CASES: dict[str, Callable[[], Axes]] = {
    "percentiles": lambda: plots.percentile_curve({"cold": _LATENCIES, "warm": _LATENCIES / 300}, title=_LONG),
    "percentiles, one value": lambda: plots.percentile_curve({"one": [1e-3]}),
    "percentiles, nine decades": lambda: plots.percentile_curve({"a": 10 ** _RNG.uniform(-7, 2, 500)}, title=_LONG),
    "percentiles, all equal": lambda: plots.percentile_curve({name: [0.004] * 100 for name in "abc"}),
    "percentiles, unequal n": lambda: plots.percentile_curve({"few": [1e-3] * 9, "many": [1e-3] * 9999}),
    "hits": lambda: plots.hit_ratio_curve(
        _SIZES, dict.fromkeys(_SIX, _RATIOS), optimum=_RATIOS, point=(1000, 0.5), title=_LONG
    ),
    "hits, one size": lambda: plots.hit_ratio_curve([100], {"LRU": [1.0]}, point=(100, 1.0)),
    "growth": lambda: plots.growth(_SIZES, {"scan": np.array(_SIZES) * 1e-7, "index": [1e-6] * 5}, title=_LONG),
    "growth, nine decades": lambda: plots.growth(10.0 ** np.arange(10), {"a": 10.0 ** np.arange(-7, 3)}),
    "growth, hours": lambda: plots.growth(_SIZES, {"a": [1, 50, 900, 20_000, 90_000]}),
    "cliff": lambda: plots.cliff([0, 0.5, 0.94, 0.96, 0.99], {"p95": [0.2, 0.1, 0.06, 1e-4, 1e-4]}, title=_LONG),
    "time": lambda: plots.time_line(range(100), {"precise": [0.7] * 100, "flush": [0.69] * 100}),
    "time, rate": lambda: plots.time_line([0, 9e5], {"served": [1e6, 2e6]}, show=fmt.rate, y_label="Calls"),
    "bars": lambda: plots.bars(_SIX, [1.6e-6, 5e-7, 8e-8, 8e-7, 1e-7, 2e-7], show=fmt.duration, title=_LONG),
    "bars, log": lambda: plots.bars(_SIX, [1e-7, 1e-4, 1e-1, 2.5, 1e-7, 1e-5], show=fmt.duration, log=True),
    "bars, one": lambda: plots.bars(["only"], [0.5], show=fmt.ratio, title=_LONG),
    "bars, sizes": lambda: plots.bars(list("abc"), [3e8, 1e8, 2.0**27], show=fmt.size, x_label="Memory"),
}


def _drawn(ax: Axes) -> Axes:
    ax.figure.draw_without_rendering()
    return ax


@cache
def _case(case: str) -> Axes:
    """A drawn plot, drawn once for all tests that only read it."""
    return _drawn(_CASES[case]())


def _texts(ax: Axes, gid: str) -> list[Text]:
    return [text for text in ax.findobj(Text) if text.get_gid() == gid]


def _ticks(ax: Axes, which: str) -> list[str]:
    axis, (low, high) = (ax.xaxis, sorted(ax.get_xlim())) if which == "x" else (ax.yaxis, sorted(ax.get_ylim()))
    write = axis.get_major_formatter()
    return write.format_ticks([tick for tick in axis.get_majorticklocs() if low <= tick <= high])


def _overlaps(texts: list[Text]) -> list[tuple[str, str]]:
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in texts if text.get_text()]
    return [(a, b) for (a, box), (b, other) in combinations(boxes, 2) if box.overlaps(other)]


# --- what every plot keeps


@pytest.mark.parametrize("case", _CASES)
def test_names_of_lines_and_ticks_do_not_overlap(case: str) -> None:
    """However close lines end and however far values reach, no name covers another, and no tick label another."""
    ax = _case(case)
    assert _overlaps(_texts(ax, look.NAME)) == []
    for axis in (ax.xaxis, ax.yaxis):
        assert _overlaps([tick.label1 for tick in axis.get_major_ticks()]) == []


@pytest.mark.parametrize("case", _CASES)
def test_every_text_is_within_the_figure(case: str) -> None:
    """Titles wrap, and names, values, ticks and axis labels find room: nothing is cut at the edge."""
    ax = _case(case)
    edge = ax.figure.bbox.padded(1)
    seen = [text for text in ax.findobj(Text) if text.get_text() and text.get_visible()]
    outside = [
        text.get_text()
        for text in seen
        if not all(edge.contains(*corner) for corner in text.get_window_extent().corners())
    ]
    assert outside == []


@pytest.mark.parametrize("case", _CASES)
def test_a_title_keeps_every_word(case: str) -> None:
    """A wrapped title reads as it was written, and no line of it is a lone word at the end."""
    ax = _case(case)
    lines = ax.get_title("left").split("\n")
    if lines != [""]:
        assert " ".join(lines) == _LONG
        assert len(lines) > 1
        assert len(lines[-1]) > 0.6 * len(lines[0])


@pytest.mark.parametrize("case", _CASES)
def test_a_plot_has_labelled_axes_and_no_box(case: str) -> None:
    """No legend, no top or right spine, ticks on both axes, and both axes named where a name was given."""
    ax = _case(case)
    assert ax.get_legend() is None
    assert not ax.spines["top"].get_visible()
    assert not ax.spines["right"].get_visible()
    assert len(_ticks(ax, "y")) >= 1
    assert len(_ticks(ax, "x")) >= 1
    assert case.startswith("bars") or (ax.get_xlabel() and ax.get_ylabel())


def test_titles_side_by_side_do_not_meet() -> None:
    """Two long titles in one figure wrap within their own columns."""
    fig = plots.figure(10, 4)
    left, right = fig.subplots(1, 2)
    plots.growth(_SIZES, {"index": [1e-6] * 5}, ax=left, title=_LONG)
    plots.bars(_SIX, [1, 2, 3, 4, 5, 6], ax=right, title=_LONG)
    _drawn(left)
    assert _overlaps(_texts(left, look.FINDING) + _texts(right, look.FINDING)) == []
    assert left.get_title("left").count("\n") >= 2


@pytest.mark.slow
def test_laying_out_again_changes_nothing() -> None:
    """A kept figure that is drawn twice shows the same picture, and a wider one wraps its title anew."""
    ax = _CASES["hits"]()
    first = plots.png(ax.figure)
    assert plots.png(ax.figure) == first
    before = ax.get_title("left").count("\n")
    ax.figure.set_size_inches(16, 4.5)
    _drawn(ax)
    assert ax.get_title("left").count("\n") < before


@given(
    st.lists(st.tuples(st.floats(-100, 1100), st.floats(1, 60)), min_size=1, max_size=12),
)
def test_names_are_set_apart_in_order(lines: list[tuple[float, float]]) -> None:
    """Names keep the order of their lines, do not overlap, stay inside where there is room, and stay put if they can."""
    wanted, heights = np.array([y for y, _ in lines]), [height for _, height in lines]
    placed = look._apart(wanted, heights, 0, 1000)
    order = np.argsort(placed)
    assert np.all(np.diff(wanted[order]) >= 0)
    tall = np.array(heights)[order]
    assert np.all(np.diff(placed[order]) >= (tall[1:] + tall[:-1]) / 2 - 1e-6)
    assert placed.min() >= tall[0] / 2 - 1e-6
    assert placed.max() <= 1000 - tall[-1] / 2 + 1e-6
    assert look._apart(placed, heights, 0, 1000) == pytest.approx(placed)


def test_more_names_than_room_stand_out_on_both_sides() -> None:
    """Names that cannot all fit are still apart, centred on the axis."""
    placed = look._apart(np.full(10, 5.0), [10.0] * 10, 0, 50)
    assert sorted(placed) == pytest.approx(range(-20, 80, 10))
    assert placed.tolist() == sorted(placed, reverse=True)


def test_colours_have_contrast_and_a_style_each() -> None:
    """Lines have 3:1 and names 4.5:1 on white (WCAG 2.2), and no two of 16 lines share colour and style."""

    def contrast(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 1.05 / (0.05 + float(np.dot([0.2126, 0.7152, 0.0722], linear)))

    assert all(contrast(colour) >= 3 for colour in look.COLOURS)
    assert all(contrast(colour) >= 4.5 for colour in (*look.INKS, look.INK, look.GREY))
    ax = plots.time_line([0, 1], {str(index): [0, index / 16] for index in range(16)})
    assert len({(line.get_color(), str(line._unscaled_dash_pattern)) for line in ax.get_lines()}) == 16


# --- each plot


def test_percentile_curve_ends_where_the_values_do() -> None:
    """Each line ends at the finest percentile that has a 95 % interval with its values, on an axis of nines."""
    ax = plots.percentile_curve({"few": [1e-3] * 72, "many": [1e-3] * 368}, y_label="Latency")
    ends = [line.get_xdata()[-1] for line in ax.get_lines()]
    assert ends == pytest.approx([stats.finest_quantile(72), stats.finest_quantile(368)])
    assert 0.95 <= ends[0] < 0.951
    assert 0.99 <= ends[1] < 0.9901
    assert _ticks(ax, "x") == ["0 %", "50 %", "90 %", "99 %"]
    places = ax.transData.transform([(share, 1e-3) for share in (0, 0.9, 0.99)])[:, 0]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1])
    assert ax.get_xlabel() == "Percentile of calls (n = 72 to 368)"


def test_percentile_curve_is_the_quantile() -> None:
    """Every point of the line is the quantile of the column, and a missing value is left out."""
    ax = plots.percentile_curve({"a": pd.Series([*_LATENCIES, None])})
    shares, seconds = ax.get_lines()[0].get_data()
    assert seconds == pytest.approx(np.quantile(_LATENCIES, shares))
    assert ax.get_xlabel().endswith("(n = 1,000)")


def test_latency_axes_have_human_ticks() -> None:
    """A logarithmic latency axis reads 100 ns, 1 µs, 10 µs and on; minutes and hours follow the seconds."""
    ax = plots.growth([1, 10], {"a": [1e-7, 1e-2]})
    assert ax.get_yscale() == ax.get_xscale() == "log"
    assert _ticks(ax, "y") == ["100 ns", "1 µs", "10 µs", "100 µs", "1 ms", "10 ms"]
    assert _ticks(plots.growth([1, 10], {"a": [1, 9000]}), "y") == ["1 s", "10 s", "60 s", "10 min", "60 min"]
    assert _ticks(plots.growth([1, 10], {"a": [1e-3, 4e-3]}), "y") == ["1 ms", "2 ms", "5 ms"]


def test_a_logarithmic_axis_does_not_blow_up_noise() -> None:
    """Values that differ by 1 % look flat: the axis spans a factor of ten at least."""
    low, high = plots.growth([1, 10], {"a": [1.00e-3, 1.01e-3]}).get_ylim()
    assert high / low == pytest.approx(10)
    assert low < 1e-3 < high


def test_hit_ratio_curve_shows_the_optimum_and_the_point() -> None:
    """The optimum is the grey line after the others, the point says its size and its ratio, and y goes from 0 to 100 %."""
    ax = plots.hit_ratio_curve(_SIZES, {"LRU": _RATIOS}, optimum=[0.1, 0.3, 0.6, 0.9, 0.96], point=(2000, 0.637))
    lru, best, point = ax.get_lines()
    assert (lru.get_color(), best.get_color()) == (look.COLOURS[0], look.GREY)
    assert [text.get_text() for text in _texts(ax, look.NAME)] == ["LRU", "optimum (Belady)"]
    assert point.get_xydata().tolist() == [[2000, 0.637]]
    assert "2,000 entries: 63.7 %" in [text.get_text() for text in ax.texts]
    assert _ticks(ax, "y") == ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]
    assert _ticks(ax, "x") == ["10", "100", "1,000", "10,000", "100,000"]


def test_growth_shows_intervals_and_gaps() -> None:
    """An interval is a band at its point and counts for the limits; what was not measured leaves a gap."""
    intervals = {"a": [None, Interval(1e-4, 1e-2, 0.95), None]}
    ax = plots.growth([1, 10, 100], {"a": [1e-3, 2e-3, None], "b": [np.nan, 1e-3, 1e-3]}, intervals=intervals)
    (band,) = ax.collections
    assert band.get_segments()[0].tolist() == [[10, 1e-4], [10, 1e-2]]
    assert ax.get_ylim()[0] < 1e-4 < 1e-2 < ax.get_ylim()[1]
    assert [text.xy[0] for text in _texts(ax, look.NAME)] == [10, 100]


def test_cliff_marks_where_the_quantile_becomes_a_hit() -> None:
    """The edge stands at a hit ratio of q and says what happens there, even when no measurement reaches it."""
    ax = plots.cliff([0.2, 0.5], {"misses": [0.1, 0.09]}, q=0.99)
    edge = ax.get_lines()[1]
    assert list(edge.get_xdata()) == [0.99, 0.99]
    assert ax.get_xlim()[0] == pytest.approx(0.2)
    assert ax.get_xlim()[1] > 0.99
    assert "beyond 99 % hits\np99 is a hit" in [text.get_text() for text in ax.texts]
    assert ax.get_ylabel() == "p99 latency"
    assert plots.cliff([0.97, 0.99], {"hits": [1e-4, 1e-4]}, q=0.5).get_xlim()[0] == 0.5


def test_cliff_names_marked_points() -> None:
    """A marked point is named below the lines, in order of hit ratio, told in the summary, and inside the axes."""
    points = {"large": (0.9, 2.0), "small": (0.1, 1.0)}
    ax = plots.cliff([0.5, 0.97], {"p95": [0.1, 1e-4]}, points=points)
    names = [text for text in ax.texts if text.get_text() in points]
    assert [text.get_text() for text in names] == ["small", "large"]
    assert names[0].xyann[1] > names[1].xyann[1]
    assert "small: 1 s at 10 %. large: 2 s at 90 %" in plots.summary(ax)
    assert ax.get_ylim()[1] > 2.0
    assert ax.get_xlim()[0] <= 0.1


def test_time_line_starts_at_zero() -> None:
    """A column over time has linear axes from zero, and the writer that was asked for."""
    ax = plots.time_line([0, 10, 20], {"served": [900, 950, 1000]}, show=fmt.rate, y_label="Calls")
    assert ax.get_ylim()[0] == 0
    assert _ticks(ax, "y")[:2] == ["0 /s", "200 /s"]
    assert ax.get_xlim() == (0, 20)


def test_bars_say_their_values_and_intervals() -> None:
    """Bars stand in the given order from the top, each with its interval and its value; missing ones read as a dash."""
    ax = plots.bars(
        ["a", "b", "c"], [2e-3, None, 1e-3], intervals=[Interval(1e-3, 4e-3, 0.95), None, None], show=fmt.duration
    )
    assert _ticks(ax, "y") == ["a", "b", "c"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert [text.get_text() for text in _texts(ax, look.VALUE)] == ["2.00 ms", "–", "1.00 ms"]
    assert ax.collections[0].get_segments()[0].tolist() == [[1e-3, 0], [4e-3, 0]]
    assert [round(patch.get_width(), 6) for patch in ax.patches if math.isfinite(patch.get_width())] == [0.002, 0.001]
    assert ax.get_xlim()[0] == 0


def test_bars_on_a_log_axis_are_dots() -> None:
    """A logarithmic axis has no zero: dots take the place of bars."""
    ax = plots.bars(["a", "b"], [1e-6, 1.0], show=fmt.duration, log=True)
    assert ax.get_xscale() == "log"
    assert len(ax.patches) == 0
    assert ax.get_lines()[0].get_xdata().tolist() == [1e-6, 1.0]


def test_an_interval_beside_its_value_hides_neither() -> None:
    """Limits hold the values and the intervals, also where an interval (of a mean) does not hold its value."""
    beside = Interval(1e-6, 2e-6, 0.95)
    bars = plots.bars(["a"], [1e-9], intervals=[beside], show=fmt.duration, log=True)
    line = plots.growth([1], {"a": [1e-9]}, intervals={"a": [beside]})
    for low, high in (bars.get_xlim(), line.get_ylim()):
        assert low < 1e-9 < 2e-6 < high


def test_sizes_have_binary_ticks() -> None:
    """An axis of bytes counts in whole steps of its binary unit."""
    ax = plots.bars(["a"], [163 * 2**20], show=fmt.size, x_label="Memory")
    assert _ticks(ax, "x") == ["0 B", "50 MiB", "100 MiB", "150 MiB"]


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: plots.percentile_curve({}),
        lambda: plots.percentile_curve({"a": []}),
        lambda: plots.percentile_curve({"a": [math.nan]}),
        lambda: plots.percentile_curve({"a": [0.0, 1.0]}),
        lambda: plots.percentile_curve({"a": ["fast"]}),
        lambda: plots.hit_ratio_curve([0, 10], {"a": [0.1, 0.2]}),
        lambda: plots.hit_ratio_curve(_SIZES, {"a": [0.1]}),
        lambda: plots.hit_ratio_curve(_SIZES, {"a": _RATIOS}, optimum=[1.0]),
        lambda: plots.growth([1, 10], {"a": [-1.0, 1.0]}),
        lambda: plots.growth([1, 10], {}),
        lambda: plots.cliff([0.1], {"a": [1.0, 2.0]}),
        lambda: plots.cliff([0.1], {"a": [1.0]}, q=95),
        lambda: plots.cliff([0.1], {"a": [1.0]}, points={"bad": (0.5, 0.0)}),
        lambda: plots.time_line([], {"a": []}),
        lambda: plots.bars([], []),
        lambda: plots.bars(["a"], [1.0, 2.0]),
        lambda: plots.bars(["a", "b"], [1.0, 2.0], intervals=[None]),
        lambda: plots.bars(["a"], [0.0], log=True),
        lambda: plots.figure(0, 4),
    ],
)
def test_what_cannot_be_drawn_is_refused(attempt: Callable[[], object]) -> None:
    """No columns, unequal lengths, text, and zero or less on a logarithmic axis end in a typed error."""
    with pytest.raises(InvalidValueError):
        attempt()


@pytest.mark.parametrize(
    "attempt",
    [
        lambda ax: plots.percentile_curve({"good": [1.0], "bad": [0.0]}, ax=ax),
        lambda ax: plots.hit_ratio_curve([1, 10], {"good": [0.5, 0.5], "bad": [0.5]}, ax=ax),
        lambda ax: plots.growth([1, 10], {"good": [1.0, 1.0], "bad": [1.0, math.inf]}, ax=ax),
        lambda ax: plots.cliff([0.5, 0.9], {"good": [1.0, 1.0], "bad": [1.0, 0.0]}, ax=ax),
        lambda ax: plots.time_line([1, 2], {"good": [1.0, 1.0], "bad": [math.inf, 1.0]}, ax=ax),
        lambda ax: plots.bars(["a"], [1.0], intervals=[Interval(0.0, 2.0, 0.95)], log=True, ax=ax),
    ],
)
def test_a_refused_plot_leaves_the_axes_as_they_were(attempt: Callable[[Axes], Axes]) -> None:
    """When the last column is refused, nothing of the first is drawn and no axis has changed."""
    ax = plots.figure().subplots()
    with pytest.raises(InvalidValueError):
        attempt(ax)
    assert not ax.has_data()
    assert not ax.texts
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_xlim()) == ("linear", "linear", (0, 1))


# --- what a notebook gets


def test_a_plot_shows_itself_once() -> None:
    """The Axes that a call returns, as the value of a cell, gives one PNG and its text; so does the figure."""
    ax = plots.growth([1, 10], {"index": [1e-3, 2e-3]}, title="A finding")
    for value in (ax, ax.figure):
        data, metadata = DisplayFormatter().format(value)
        assert set(data) == {"image/png", "text/plain"}
        assert data["text/plain"] == "A finding. Time a call over Skills. index: 1 ms at 1 to 2 ms at 10."
        assert metadata["image/png"] == {"width": 800, "alt": data["text/plain"]}


@pytest.mark.slow
def test_png_is_sharp_and_small_and_says_nothing_else() -> None:
    """A PNG has twice the pixels it is shown with, stays under 100 KB, and carries no text, time or machine."""
    image = plots.png(_CASES["hits"]().figure)
    chunks, place = set(), 8
    while place < len(image):
        chunks.add(image[place + 4 : place + 8].decode("ascii"))
        place += 12 + int.from_bytes(image[place : place + 4], "big")
    assert chunks == {"IHDR", "PLTE", "IDAT", "IEND"}
    assert Image.open(io.BytesIO(image)).size == (1600, 900)
    assert len(image) < 100_000


def test_summary_names_bars_and_values() -> None:
    """The text of bars says each name and value."""
    ax = plots.bars(["ours", "a name that is long enough to be wrapped"], [0.5, 0.25], show=fmt.ratio, title="T")
    assert plots.summary(ax) == "T. ours: 50.0 %. a name that is long enough to be wrapped: 25.0 %."


def test_a_plot_draws_into_axes_from_elsewhere() -> None:
    """An Axes of any figure is taken, returned, and has its names spread and its title wrapped at once."""
    ax = Figure(figsize=(5, 3)).add_subplot()
    same = plots.hit_ratio_curve(_SIZES, dict.fromkeys("abcd", _RATIOS), ax=ax, title=_LONG)
    assert same is ax
    assert "\n" in _drawn(ax).get_title("left")
    assert _overlaps(_texts(ax, look.NAME)) == []


@pytest.mark.slow
def test_plots_never_load_pyplot() -> None:
    """Drawing leaves pyplot and its global state out of the process."""
    code = (
        "import sys; from skilllab import plots; plots.png(plots.bars(['a'], [1]).figure);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
