"""LimitsPanel: a skill that wants too much, run for real on request, and which limit stopped it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol

from skilllab import format as fmt
from skilllab import plots
from skilllab.experiments.limits import MISBEHAVIOURS, Attempt, Setting, attempt
from skilllab.experiments.limits.ways import ISOLATIONS, NETWORK, here, show
from skilllab.panels.controls import Control, named, steps
from skilllab.panels.limits_picture import LimitsDrawing
from skilllab.panels.measuring import MeasuringPanel
from skilllab.panels.picture import Picture

_SHARES = (0.125, 0.25, 0.5, 1.0, 2.0)
_DOING = {"starting a sandbox …": 0.1, "running …": 0.5}
"""How full the progress bar is while this is being done."""


class Measure(Protocol):
    """Tries a setting and tells what it is doing, as `attempt` does."""

    def __call__(self, setting: Setting, *, on_progress: Callable[[str], object]) -> Awaitable[Attempt]: ...


class LimitsPanel(MeasuringPanel[Setting, Attempt]):
    """What a script used of each of its limits, and which of them stopped it.

    first: an attempt that was made, where the controls start. measure: what Run does. To change a control ends a run under
    way, and with it the script. What was tried stays known.

    Controls: .misbehaviour, .share, .isolation; and .run, the button that starts and stops.
    """

    _starting = "starting a sandbox …"

    def __init__(self, first: Attempt | None = None, *, measure: Measure = attempt) -> None:
        self._prepare(measure)
        base = Setting(isolation=here()[0]) if first is None else first.setting
        if first is not None:
            self._measured[base] = first
        deeds = {each.name: limit for limit, each in MISBEHAVIOURS.items()}
        shares = named(sorted({*_SHARES, base.share}), _percent)
        isolations = named(ISOLATIONS, str)
        self.misbehaviour = steps("Misbehaviour", deeds, base.limit, "What the script wants too much of")
        self.share = steps(
            "Limit, of what it wants", shares, base.share, "What the limit allows, of what the script wants"
        )
        self.isolation = steps("Isolation", isolations, base.isolation, "What stands around the script")
        controls: list[Control[Any]] = [self.misbehaviour, self.share, self.isolation]
        fig = plots.figure(6.0, 4.8)
        self._drawing = LimitsDrawing(fig)
        picture = Picture(fig, [self._drawing.artists])
        picture.lay_out()
        super().__init__(controls, picture, _NOTE)
        self._add_run_button("Run the script for real, or end it")

    def update(self) -> Iterator[str]:
        """Draws what was tried with these values, or else only what is allowed."""
        setting = self._chosen()
        self._may_draw(setting)
        found = self._measured.get(setting)
        self._drawing.show(setting, found)
        self._picture.draw(1)
        yield _words(setting, found)

    def _chosen(self) -> Setting:
        return Setting(self.misbehaviour.value, self.share.value, self.isolation.value)

    def _on_progress(self, doing: str) -> None:
        self._show_progress("Stop", doing, _DOING.get(doing, 0.0))


_NOTE = (
    "A script in a warm sandbox. The limit is a share of what it wants; of network requests it allows none. The other limits "
    "allow enough: a bar shows what was used of them, where that is measured."
)


def _words(setting: Setting, found: Attempt | None) -> str:
    """Returns the summary: what was tried, what was allowed, what became of it."""
    amount = show(setting.limit, setting.allowed)
    allowed = "no request allowed" if setting.limit == NETWORK else f"{amount} allowed, {_share(setting.share)}"
    tried = f"With isolation {setting.isolation}, a script that {setting.misbehaviour.words}; {allowed}"
    if found is None:
        return f"{tried}: not run yet. Press Run."
    if found.outcome == "stopped" and setting.limit == NETWORK:
        return f"{tried}: stopped, there is no network ({found.words})."
    ends = {"finished": "finished", "refused": "refused before it started", "failed": "failed for another reason"}
    how = f"{ends[found.outcome]}: " if found.outcome in ends else ""
    return f"{tried}: {how}{found.words}."


def _share(share: float) -> str:
    """Returns a share of what is wanted, in words."""
    return "all it wants" if share == 1 else f"{_percent(share)} of that"


def _percent(share: float) -> str:
    return fmt.trimmed(fmt.ratio(share))
