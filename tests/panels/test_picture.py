"""The picture: moving parts over a stored background are what a full drawing would give."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from skilllab import plots
from skilllab.panels import Curve, Marker, Picture


def pixels(picture: Picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"))


@pytest.fixture
def scene() -> tuple[Picture, Axes, Marker]:
    fig = plots.figure(3, 2)
    ax = fig.subplots()
    plots.hit_ratio_curve([1, 10, 100], {"LRU": [0.1, 0.5, 0.9]}, optimum=[0.2, 0.6, 0.9], ax=ax)
    marker = Marker(ax, rising=True)
    return Picture(fig, [[*Curve(ax, 1).artists, *Curve(ax, 0).artists], marker.artists]), ax, marker


def test_a_move_is_what_a_full_drawing_gives(scene: tuple[Picture, Axes, Marker]) -> None:
    """After any moves the picture is pixel by pixel the one that is drawn anew; nothing stays of what was elsewhere."""
    picture, ax, marker = scene
    curve = Curve(ax, 0)
    marker.move(10, 0.5, "50 %")
    picture.draw()
    first = pixels(picture)
    for layer, size, ratio in ((2, 100, 0.9), (1, 1, 0.1), (2, 50, 0.3), (1, 10, 0.5)):
        marker.move(size, ratio, f"{ratio}")
        curve.move([1, size, 100], [0.1, ratio, 0.9], "LRU")
        picture.draw(layer)
        assert not np.array_equal(pixels(picture), first)
    marker.move(10, 0.5, "50 %")
    picture.draw(2)
    assert np.array_equal(pixels(picture), first)
    curve.move([1, 100], [0.0, 0.2], "LFU")
    picture.draw(1)
    moved = pixels(picture)
    picture.draw()
    assert np.array_equal(pixels(picture), moved)
    assert not np.array_equal(moved, first)


def test_the_first_drawing_is_a_full_one(scene: tuple[Picture, Axes, Marker]) -> None:
    """Whatever layer is asked for first, all of the figure is there."""
    picture, _, marker = scene
    marker.move(10, 0.5, "50 %")
    picture.draw(2)
    top = pixels(picture)
    picture.draw()
    assert np.array_equal(pixels(picture), top)


def test_size_and_form(scene: tuple[Picture, Axes, Marker]) -> None:
    """The picture has a fixed size on the page, twice the pixels for sharp screens, and is PNG."""
    picture, _, marker = scene
    marker.move(10, 0.5, "50 %")
    picture.draw()
    shown = Image.open(io.BytesIO(picture.png))
    assert (picture.widget.width, picture.widget.height) == ("300", "200")
    assert (shown.format, shown.size) == ("PNG", (600, 400))


def test_the_text_stands_where_the_curve_does_not(scene: tuple[Picture, Axes, Marker]) -> None:
    """On a rising curve the text is right and below, at the right edge left and above; falling curves mirror that.
    At the bottom it is above: what is below belongs to the next plot.
    """
    picture, ax, rising = scene
    falling = Marker(ax, rising=False)
    picture.lay_out()
    places = []
    for marker in (rising, falling):
        for size in (10, 100):
            marker.move(size, 0.5, "50 %")
            text = marker.artists[-1]
            places.append((text.get_ha(), text.get_va()))
    assert places == [("left", "top"), ("right", "bottom"), ("left", "bottom"), ("right", "top")]
    rising.move(10, 0.01, "1 %")
    assert rising.artists[-1].get_va() == "bottom"


def test_a_curve_moves_a_line_with_its_name(scene: tuple[Picture, Axes, Marker]) -> None:
    """A line gets other points and another name, and its name stands at its new end; other lines stay."""
    _, ax, _ = scene
    Curve(ax, 0).move([1, 50], [0.0, 0.3], "LFU")
    lines = ax.get_lines()
    assert lines[0].get_xydata().tolist() == [[1, 0.0], [50, 0.3]]
    assert [line.get_label() for line in lines[:2]] == ["LFU", "optimum (Belady)"]
    assert {text.get_text(): text.xy for text in ax.texts if text.get_text()} == {
        "LFU": (50, 0.3),
        "optimum (Belady)": (100, 0.9),
    }
