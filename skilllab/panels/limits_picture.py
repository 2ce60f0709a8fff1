"""The picture of the LimitsPanel: a bar for each limit, how much of it was used, and which one stopped the script."""

from __future__ import annotations

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FixedLocator

from skilllab import look
from skilllab.experiments.limits import MISBEHAVIOURS, Attempt, Setting, Use
from skilllab.experiments.limits.ways import show

_WIDTH = 1.85  # of the x axis, in shares of what is allowed: room for the words beside the bars
_LEAST = 0.004  # share that is drawn for a bar with next to nothing in it


class LimitsDrawing:
    """A bar for each limit, its words beside it, and a title, all of which move."""

    def __init__(self, fig: Figure) -> None:
        ax = fig.add_subplot()
        places = range(len(MISBEHAVIOURS))
        # Until something is shown both colours are there, for the palette of the picture.
        self._bars = ax.barh(places, [1.0] * len(places), height=0.6, color=look.COLOURS[:2] * 4, linewidth=0)
        look.dress(ax, "Not run yet", "Used, of what is allowed", "")
        ax.set(xlim=(0, _WIDTH), ylim=(len(places) - 0.5, -0.5))
        ax.set_yticks(places, list(MISBEHAVIOURS))
        ax.xaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
        ax.xaxis.set_major_formatter(FixedFormatter(["0 %", "50 %", "100 %"]))
        ax.xaxis.label.set_x(0.5 / _WIDTH)
        ax.grid(visible=False, axis="y")
        ax.axvline(1.0, color=look.GREY, linewidth=1.5, zorder=1)
        ax.spines["bottom"].set_bounds(0, 1)
        self._texts = [ax.text(1.04, place, "", va="center", fontsize=look.TEXT) for place in places]
        (self._title,) = (
            text for text in ax.get_children() if isinstance(text, Text) and text.get_gid() == look.FINDING
        )

    @property
    def artists(self) -> list[Artist]:
        """What moves, from back to front."""
        return [*self._bars, *self._texts, self._title]

    def show(self, setting: Setting, found: Attempt | None) -> None:
        """Draws what was used of each limit; without an attempt, what is allowed."""
        allowed = setting.limits
        uses = found.uses if found else [Use(limit, getattr(allowed, limit), None) for limit in MISBEHAVIOURS]
        for bar, text, use in zip(self._bars, self._texts, uses, strict=True):
            outcome = found.outcome if found and use.limit == setting.limit else ""
            stopped = outcome == "stopped"
            bar.set_width(1.0 if stopped else _share(use))
            bar.set_facecolor(look.COLOURS[1] if stopped else look.COLOURS[0])
            marked, own = outcome in ("stopped", "refused"), use.limit == setting.limit
            text.set_text(_words(use, outcome))
            text.set_color(look.INKS[1] if marked else look.INK if own or use.used is not None else look.GREY)
            text.set_fontweight("bold" if marked else "normal")
        self._title.set_text(_title(setting, found))


def _share(use: Use) -> float:
    if use.used is None or not use.allowed:
        return 0.0
    return min(1.0, max(_LEAST, use.used / use.allowed))


def _words(use: Use, outcome: str) -> str:
    if use.allowed is None:
        return "not asked for"
    amount = show(use.limit, use.allowed) if use.allowed else "none"
    if outcome in ("stopped", "refused"):
        return f"{amount}: {outcome}"
    if use.used is None:
        return f"{amount} allowed"
    return f"{show(use.limit, use.used)} of {amount}" if use.allowed else "none, none allowed"


def _title(setting: Setting, found: Attempt | None) -> str:
    if found is None:
        return f"Not run yet (isolation {setting.isolation})"
    return {
        "stopped": f"{setting.limit} stopped it (isolation {setting.isolation})",
        "refused": f"Refused before it started (isolation {setting.isolation})",
        "finished": f"No limit stopped it (isolation {setting.isolation})",
    }.get(found.outcome, f"It failed, not by this limit (isolation {setting.isolation})")
