"""A picture that follows: one kept figure whose moving parts are drawn over a stored background.

A full drawing takes tens of milliseconds, most of them for text and layout; a move copies the background back and
draws only what moves. Colours come from a palette kept with the background: PNG in a quarter of the time.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from PIL import Image
from traitlets import Unicode

from skilllab import look
from skilllab.stats import Array

_CSS_PIXELS = 100  # an inch on the page, as in every figure of the lab


class Marker:
    """A marked point: a dot, its text, and a hairline through the plot that leads the eye to the plots above and below.

    `rising` says which way the curve goes that the point moves on: the text stands where the curve does not.
    """

    def __init__(self, ax: Axes, *, rising: bool) -> None:
        self._ax, self._rising = ax, rising
        self._line = ax.axvline(1.0, color=look.TIE, linewidth=1, zorder=1.5, label="_")
        (self._dot,) = ax.plot(
            [1.0], [1.0], "o", color=look.INK, markersize=9, markeredgecolor="white", markeredgewidth=1.5, label="_"
        )
        self._text = ax.annotate(
            "",
            (1.0, 1.0),
            textcoords="offset points",
            xytext=(0, 0),
            color=look.INK,
            fontsize=look.TEXT,
            weight="bold",
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )

    @property
    def artists(self) -> tuple[Artist, ...]:
        """What moves, from back to front."""
        return self._line, self._dot, self._text

    def move(self, x: float, y: float, text: str) -> None:
        """Moves to a point in data coordinates; the text stands to the right of it while there is room."""
        self._line.set_xdata([x, x])
        self._dot.set_data([x], [y])
        across, _ = self._ax.transAxes.inverted().transform(self._ax.transData.transform((x, y)))
        right = across < 0.85
        above = right != self._rising
        self._text.xy = (x, y)
        self._text.set(text=text, ha="left" if right else "right", va="bottom" if above else "top")
        self._text.xyann = (9 if right else -9, 6 if above else -6)


class Picture:
    """A figure in a `widgets.Image` of fixed size. `moving` are the artists drawn at every move, from back to front."""

    def __init__(self, figure: Figure, moving: Sequence[Artist]) -> None:
        self.figure = figure
        self._canvas: Any = FigureCanvasAgg(figure)
        self._layout = figure.get_layout_engine()
        self._moving = list(moving)
        self._background: Any = None
        self._palette: Image.Image | None = None
        width, height = (round(inches * _CSS_PIXELS) for inches in figure.get_size_inches())
        self.widget = widgets.Image(format="png", width=width, height=height)
        self.widget.add_class("skilllab-picture")
        # A tooltip is the name that a screen reader says, and ipywidgets gives one only to what has a description.
        self.widget.add_traits(description=Unicode("").tag(sync=True))

    @property
    def png(self) -> bytes:
        """The picture as it is shown."""
        return bytes(self.widget.value)

    def lay_out(self) -> None:
        """Finds a place for everything, moving parts included; call it when texts beside the plots have changed."""
        for artist in self._moving:
            artist.set_animated(False)
        self.figure.set_layout_engine(self._layout)
        self._canvas.draw()
        self.figure.set_layout_engine("none")
        self._palette = self._pixels().quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        for artist in self._moving:
            artist.set_animated(True)
        self._background = None

    def redraw(self) -> None:
        """Draws everything anew, in the places there are, and shows it."""
        if self._palette is None:
            self.lay_out()
        self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(self.figure.bbox)
        self.move()

    def move(self) -> None:
        """Draws the moving parts over the stored background and shows the picture."""
        if self._background is None:
            self.redraw()
            return
        self._canvas.restore_region(self._background)
        for artist in self._moving:
            (getattr(artist, "axes", None) or self.figure).draw_artist(artist)
        buffer = io.BytesIO()
        self._pixels().quantize(palette=self._palette, dither=Image.Dither.NONE).save(buffer, "png", compress_level=1)
        self.widget.value = buffer.getvalue()

    def _pixels(self) -> Image.Image:
        width, height = self._canvas.get_width_height(physical=True)
        return Image.frombuffer("RGBA", (width, height), self._canvas.buffer_rgba()).convert("RGB")


def follow(ax: Axes, place: int, x: Sequence[float], y: Sequence[float] | Array, name: str) -> None:
    """Gives the named line at `place` of a plot other points and another name, and spreads the names again."""
    line = ax.get_lines()[place]
    names = [text for text in ax.texts if isinstance(text, Annotation) and text.get_gid() == look.NAME]
    line.set_data(x, y)
    line.set_label(name)
    names[place].set_text(name)
    names[place].xy = (x[-1], y[-1])
    look.spread_names(ax)
