"""The panel kit: who draws when, what errors do, and what other programs get to see."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator

import pytest
from matplotlib.figure import Figure

from skilllab.errors import InvalidValueError
from skilllab.panels import Marker, Panel, Picture, amount, steps


class Doubling(Panel):
    """Says twice the size and draws it; a size of 3 has no meaning; `fine` adds a finer picture."""

    def __init__(self, *, fine: bool = False) -> None:
        self.size = steps("Size", {str(size): size for size in range(1, 10)}, 1)
        self.cost = amount("Cost", "s", 1.0)
        self.fine = fine
        self.drawn: list[str] = []
        self.threads: set[int] = set()
        figure = Figure(figsize=(1, 1), dpi=50)
        ax = figure.add_subplot()
        ax.set(xlim=(0, 20), ylim=(0, 20))
        self.mark = Marker(ax, rising=True)
        super().__init__([self.size, self.cost], Picture(figure, [self.mark.artists]), "A note.")

    def update(self) -> Iterator[str]:
        size, cost = self.size.value, self.cost.value
        if size == 3:
            raise InvalidValueError(f"size(={size}) must not be 3 <b>")
        for kind in ["rough", "fine"] if self.fine else ["plain"]:
            self.threads.add(threading.get_ident())
            self.drawn.append(f"{kind} {size} {cost:g}")
            self.mark.move(size, size, "")
            self._picture.draw(1)
            yield f"twice {size} is {2 * size}"


def test_without_a_loop_a_change_draws_at_once() -> None:
    """In plain Python the picture and the summary follow the value within the same statement."""
    panel = Doubling()
    first = panel.png
    panel.size.value = 2
    assert panel.drawn == ["plain 1 1", "plain 2 1"]
    assert panel.summary == "twice 2 is 4"
    assert panel.png != first


def test_on_a_loop_changes_are_handed_over_and_only_the_newest_is_drawn() -> None:
    """A callback draws nothing; whatever came until the loop gets to it makes one drawing."""

    async def main() -> Doubling:
        panel = Doubling()
        panel.settle()
        for size in (2, 4, 5):
            panel.size.value = size
        panel.cost.value = 7.0
        assert panel.drawn == ["plain 1 1"]
        await asyncio.sleep(0)
        assert panel.drawn == ["plain 1 1", "plain 5 7"]
        return panel

    panel = asyncio.run(main())
    panel.size.value = 6  # the loop has ended: nobody to hand over to
    assert panel.drawn[-1] == "plain 6 7"


def test_a_change_from_another_thread_is_drawn_on_the_loop() -> None:
    """Wherever a front end runs its callbacks, the drawing happens on the thread of the loop."""

    async def main() -> Doubling:
        panel = Doubling()
        await asyncio.to_thread(setattr, panel.size, "value", 2)
        await asyncio.sleep(0)
        return panel

    panel = asyncio.run(main())
    assert panel.drawn == ["plain 2 1"]
    assert panel.threads == {threading.get_ident()}


def test_reading_draws_what_is_pending() -> None:
    """In a cell that reads the summary right after a change, it is that of the change."""

    async def main() -> list[str]:
        panel = Doubling()
        panel.size.value = 2
        assert panel.summary == "twice 2 is 4"
        await asyncio.sleep(0)
        return panel.drawn

    assert asyncio.run(main()) == ["plain 2 1"]


def test_a_finer_picture_follows_unless_a_newer_value_came() -> None:
    """A rough picture comes first, its finer one at rest; a newer value drops the finer picture of the older."""

    async def main() -> list[str]:
        panel = Doubling(fine=True)
        panel.size.value = 2
        await asyncio.sleep(0)
        panel.size.value = 4
        for _ in range(5):
            await asyncio.sleep(0)
        return panel.drawn

    assert asyncio.run(main()) == ["rough 2 1", "rough 4 1", "fine 4 1"]


def test_settle_goes_to_the_finest() -> None:
    """Without a loop nothing is left half drawn."""
    panel = Doubling(fine=True)
    panel.settle()
    assert panel.drawn == ["rough 1 1", "fine 1 1"]
    panel.settle()
    assert len(panel.drawn) == 2


def test_an_error_goes_to_the_banner(capsys: pytest.CaptureFixture[str]) -> None:
    """A typed error shows its message as text, leaves the last good picture, prints nothing, and goes with its cause."""
    panel = Doubling()
    before = panel.summary, panel.png
    panel.size.value = 3
    assert panel.error == "size(=3) must not be 3 <b>"
    assert "must not be 3 &lt;b&gt;" in panel._banner.value
    assert panel._banner.layout.display is None
    assert (panel.summary, panel.png) == before
    panel.size.value = 2
    assert (panel.error, panel._banner.layout.display) == ("", "none")
    assert capsys.readouterr() == ("", "")


def test_a_field_that_cannot_be_read_is_an_error_too() -> None:
    """What a control refuses to read stands in the banner like any other error."""
    panel = Doubling()
    panel.cost.widget.value = -1.0
    assert panel.error == "Cost (=-1 s) must be a number above 0"


def test_a_mistake_in_a_panel_is_not_hidden() -> None:
    """An error that is none of the lab's own is raised, not shown as if the person had made it."""

    class Broken(Doubling):
        def update(self) -> Iterator[str]:
            raise ZeroDivisionError
            yield ""

    with pytest.raises(ZeroDivisionError):
        Broken().settle()


def test_reset_is_one_change() -> None:
    """Reset moves every control back and draws once; the button does the same."""
    panel = Doubling()
    panel.size.value, panel.cost.value = 5, 2.0
    panel.reset()
    assert panel.drawn == ["plain 5 1", "plain 5 2", "plain 1 1"]
    panel.size.value = 3
    panel._reset.click()
    assert (panel.size.value, panel.error, panel.summary) == (1, "", "twice 1 is 2")


def test_busy_shows_while_it_lasts() -> None:
    """The panel carries the mark of work exactly as long as the work lasts, also when it fails."""
    panel = Doubling()
    with panel.busy():
        assert "skilllab-busy" in panel.widget._dom_classes
    with pytest.raises(KeyError), panel.busy():
        raise KeyError
    assert "skilllab-busy" not in panel.widget._dom_classes


def test_what_a_notebook_gets() -> None:
    """The output holds the widgets, and for pages without a kernel the picture as it is and its text as its name."""
    panel = Doubling()
    panel.size.value = 4
    data, metadata = panel._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.widget.model_id
    assert base64.b64decode(data["image/png"]) == panel.png
    assert data["text/plain"] == metadata["image/png"]["alt"] == "twice 4 is 8"


def test_names_for_those_who_do_not_see() -> None:
    """The picture's name is the summary, the summary is a live region, a hint explains each control."""
    panel = Doubling()
    panel.size.value = 2
    assert panel._picture.widget.tooltip == "twice 2 is 4"
    assert panel._summary.value == '<div role="status">twice 2 is 4</div>'
    panel.size.value = 3
    assert panel._banner.value.startswith('<div role="alert">')
