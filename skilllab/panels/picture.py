"""A picture that follows: one kept figure in layers, the moving ones drawn over stored pixels.

A full drawing takes a tenth of a second, most of it for text and layout; a move copies back what stands below and draws
only what moves. Colours come from a palette that is kept: PNG in a quarter of the time.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import chain
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
            [1.0],
            [1.0],
            "o",
            color=look.INK,
            markersize=9,
            markeredgecolor="white",
            markeredgewidth=1.5,
            clip_on=False,
            label="_",
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
            in_layout=False,
        )

    @property
    def artists(self) -> tuple[Artist, ...]:
        """What moves, from back to front."""
        return self._line, self._dot, self._text

    def move(self, x: float, y: float, text: str) -> None:
        """Moves to a point in data coordinates; the text stands where there is room."""
        self._line.set_xdata([x, x])
        self._dot.set_data([x], [y])
        across, up = self._ax.transAxes.inverted().transform(self._ax.transData.transform((x, y)))
        right = across < 0.85
        above = right != self._rising or up < 0.15
        self._text.xy = (x, y)
        self._text.set(text=text, ha="left" if right else "right", va="bottom" if above else "top")
        self._text.xyann = (9 if right else -9, 6 if above else -6)


class Picture:
    """A figure in a `widgets.Image` of fixed size, drawn in layers.

    layers: the artists of each layer over the ground, from back to front; the ground is the rest of the figure. The
    more often a part moves, the higher its layer: drawing a layer costs that layer and those above it.
    """

    def __init__(self, figure: Figure, layers: Sequence[Sequence[Artist]]) -> None:
        self.figure = figure
        self._canvas: Any = FigureCanvasAgg(figure)
        self._layout = figure.get_layout_engine()
        self._layers = [list(layer) for layer in layers]
        self._below: list[Any] = []  # what stands below each layer, as pixels
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
        """Finds a place for everything; call it, before `draw`, when texts beside the plots have changed."""
        self._animate(False)
        self.figure.set_layout_engine(self._layout)
        self._canvas.draw()
        self.figure.set_layout_engine("none")
        self._palette = self._pixels().quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        self._below.clear()

    def draw(self, layer: int = 0) -> None:
        """Draws a layer and those above it over what was there, and shows the picture; 0 is the ground."""
        if self._palette is None:
            self.lay_out()
        first = max(layer, 1) - 1
        if layer == 0 or not self._below:
            self._animate(True)
            self._canvas.draw()
            self._below, first = [self._canvas.copy_from_bbox(self.figure.bbox)], 0
        else:
            self._canvas.restore_region(self._below[first])
            del self._below[first + 1 :]
        for above in self._layers[first:-1]:
            self._draw_artists(above)
            self._below.append(self._canvas.copy_from_bbox(self.figure.bbox))
        self._draw_artists(self._layers[-1])
        buffer = io.BytesIO()
        self._pixels().quantize(palette=self._palette, dither=Image.Dither.NONE).save(buffer, "png", compress_level=1)
        self.widget.value = buffer.getvalue()

    def _animate(self, animated: bool) -> None:
        """Takes the layers out of what the figure draws by itself, or puts them back."""
        for artist in chain(*self._layers):
            artist.set_animated(animated)

    def _draw_artists(self, artists: Sequence[Artist]) -> None:
        for artist in artists:
            (getattr(artist, "axes", None) or self.figure).draw_artist(artist)

    def _pixels(self) -> Image.Image:
        width, height = self._canvas.get_width_height(physical=True)
        return Image.frombuffer("RGBA", (width, height), self._canvas.buffer_rgba()).convert("RGB")


class Curve:
    """A line of a plot with the name at its end: the one at `place`, counted from 0 in the order they were drawn.

    Names make room for one another, so the curves of one plot belong in one layer.
    """

    def __init__(self, ax: Axes, place: int) -> None:
        self._ax = ax
        self._line = ax.get_lines()[place]
        self._name = [text for text in ax.texts if isinstance(text, Annotation) and text.get_gid() == look.NAME][place]

    @property
    def artists(self) -> tuple[Artist, ...]:
        """What moves, from back to front."""
        return self._line, self._name

    def move(self, x: Sequence[float], y: Sequence[float] | Array, name: str) -> None:
        """Takes other points and another name."""
        self._line.set_data(x, y)
        self._line.set_label(name)
        self._name.set_text(name)
        self._name.xy = (x[-1], y[-1])
        look.spread_names(self._ax)
