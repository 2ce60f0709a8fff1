"""The picture of a limit matrix: a table of outcomes, each in a colour and in a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from skilllab import look, plots
from skilllab.experiments.limits.misbehaviours import MISBEHAVIOURS
from skilllab.experiments.limits.ways import show

if TYPE_CHECKING:
    from skilllab.experiments.limits.matrix import Cell, Matrix

_LOOKS = {
    "enforced": (look.COLOURS[0], "white"),
    "refused": ("#DDDDDD", look.INK),
    "ignored": (look.COLOURS[1], "white"),
}
"""For each outcome: the colour of its cells and of the word in them."""
_GAP = 0.25  # of a column, between two isolations


def draw_matrix(matrix: Matrix, ax: Axes | None = None) -> Axes:
    """Draws limits from the top, isolations and kinds from the left."""
    limits = list(dict.fromkeys(cell.limit for cell in matrix.cells))
    isolations = list(dict.fromkeys(cell.isolation for cell in matrix.cells))
    columns = list(dict.fromkeys((cell.isolation, cell.kind) for cell in matrix.cells))
    places = {column: at + _GAP * isolations.index(column[0]) for at, column in enumerate(columns)}
    if ax is None:
        fig = plots.figure(2.3 + 0.85 * len(columns), 1.9 + 0.42 * len(limits))
        ax = fig.add_subplot(axes_class=look.PlotAxes)
    for cell in matrix.cells:
        _draw(ax, cell, places[cell.isolation, cell.kind], limits.index(cell.limit))
    end = max(places.values()) + 0.5
    look.dress(ax, matrix.finding, "", "")
    ax.set(xlim=(-0.5, end), ylim=(len(limits) - 0.5, -0.5))
    ax.set_xticks(list(places.values()), [kind.replace(" ", "\n") for _, kind in columns])
    ax.set_yticks(range(len(limits)), [f"{limit} = {show(limit, MISBEHAVIOURS[limit].allowed)}" for limit in limits])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    _name_isolations(ax, isolations, places)
    for at, limit in enumerate(limits):
        text = ax.text(0, at, _row(matrix, limit), gid=look.VALUE)  # for who reads the summary
        text.set_visible(False)
    return ax


def _draw(ax: Axes, cell: Cell, x: float, y: int) -> None:
    colour, ink = _LOOKS[cell.outcome]
    ax.add_patch(Rectangle((x - 0.47, y - 0.43), 0.94, 0.86, facecolor=colour, linewidth=0))
    weight = "bold" if cell.outcome == "ignored" else "normal"
    ax.text(x, y, cell.outcome, ha="center", va="center", color=ink, fontsize=look.TEXT, weight=weight)


def _name_isolations(ax: Axes, isolations: list[str], places: dict[tuple[str, str], float]) -> None:
    for isolation in isolations:
        own = [place for (name, _), place in places.items() if name == isolation]
        middle = (min(own) + max(own)) / 2
        ax.annotate(
            f"isolation {isolation}",
            (middle, 0),
            xycoords=ax.get_xaxis_transform(),
            xytext=(0, -40),
            textcoords="offset points",
            ha="center",
            va="top",
            color=look.INK,
            fontsize=look.TEXT,
            weight="bold",
        )


def _row(matrix: Matrix, limit: str) -> str:
    """Returns the outcomes of a limit in words, those of an isolation as one where they are all alike."""
    told = []
    for isolation in dict.fromkeys(cell.isolation for cell in matrix.cells):
        outcomes = {
            cell.kind: cell.outcome for cell in matrix.cells if (cell.limit, cell.isolation) == (limit, isolation)
        }
        alike = set(outcomes.values())
        words = alike.pop() if len(alike) == 1 else ", ".join(f"{kind} {outcome}" for kind, outcome in outcomes.items())
        told.append(f"{words} with {isolation}")
    return ", ".join(told)
