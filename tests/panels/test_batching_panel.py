"""BatchingPanel: what it shows is what the experiment measured, and a run can be stopped."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
import pytest

from skilllab.errors import SkilllabError
from skilllab.experiments.batching import BatchSizes, Cell
from skilllab.panels import BatchingPanel
from skilllab.panels import batching as module
from skilllab.panels.batching import SIZES, Setting
from tests.panels.conftest import Measuring, turns

RATE = 500.0  # items/s


def sizes_at(setting: Setting, batch: float = 0.01, item: float = 0.0005) -> BatchSizes:
    """Returns what would be measured where a batch costs 10 ms and an item 0.5 ms: a knee at 20 items."""
    seconds = {size: np.full(3, batch / size + item) for size in SIZES}
    fast_enough = [size for size in SIZES if 1 / seconds[size][0] > RATE]
    cells = {(size, setting.wait): cell(0.02 + setting.wait, setting.wait / 2 + 0.002, size) for size in fast_enough}
    return BatchSizes("an API", "user", RATE, seconds, cells)


def cell(p95: float, waited: float, size: float) -> Cell:
    return Cell(*(np.full(3, value) for value in (p95 / 2, p95, waited, size, 0.0)))


def measuring(failure: SkilllabError | None = None) -> Measuring:
    """Stands in for a server: one of four runs is done, then what would be measured is known."""
    return Measuring(lambda _: (1, 4), sizes_at, failure)


def text_of(artist: Any) -> str:
    return str(artist.get_text())


@pytest.fixture
def panel() -> BatchingPanel:
    return BatchingPanel(sizes_at(Setting()), measure=measuring())


def test_the_first_picture_is_what_was_measured_before(panel: BatchingPanel) -> None:
    """Batches of 10 at 1 ms an item: 667 /s; the knee of 10 ms and 0.5 ms is 20; p95 and wait are those of the cell."""
    assert panel.summary == (
        "Measured, median of 3 bursts: with wait 10 ms, rate 25 %, 4 at once, batches of 10 get 667 /s done; "
        "the knee is at 20 items. At 500 /s p95 is 30.0 ms from the intended start to the answer; 7.00 ms of it (median) "
        "is the wait for a batch of 10."
    )
    assert panel.error == ""


def test_curves_and_marks_are_what_was_measured(panel: BatchingPanel) -> None:
    """Throughput of every size, p95 of those that keep up, knee, offered rate and both marks stand where they belong."""
    panel.settle()
    found = sizes_at(Setting())
    drawing: Any = panel._drawing
    assert drawing._done.get_xydata() == pytest.approx(np.array([[size, found.throughput(size)] for size in SIZES]))
    assert drawing._knee.get_xdata() == pytest.approx([20, 20])
    assert list(drawing._offered.get_ydata()) == [RATE, RATE]
    line = drawing._p95.artists[0]
    assert line.get_xydata() == pytest.approx(np.array([[size, 0.03] for size in SIZES if size >= 10]))
    (_, top, words), (_, bottom, told) = (mark.artists for mark in drawing._marks)
    assert top.get_xydata() == pytest.approx(np.array([[10, found.throughput(10)]]))
    assert bottom.get_xydata() == pytest.approx(np.array([[10, 0.03]]))
    assert (words.get_text(), told.get_text()) == ("667 /s", "30.0 ms")


def test_a_size_that_cannot_keep_up_has_no_p95(panel: BatchingPanel) -> None:
    """The panel says so in words, title and mark, and shows no number."""
    panel.size.value = 3
    assert panel.summary.endswith(
        "batches of 3 get 261 /s done; the knee is at 20 items. They cannot keep up with 500 /s."
    )
    assert panel._drawing._titles[1].get_text() == "Batches of 3 cannot keep up with 500 /s"
    assert text_of(panel._drawing._marks[1].artists[2]) == "cannot keep up"


def test_moving_the_size_takes_no_run(panel: BatchingPanel) -> None:
    """One run knows every size: words and picture follow without another."""
    seen = set()
    for size in SIZES:
        panel.size.value = size
        seen.add((panel.png, panel.summary))
        assert "Measured" in panel.summary
    assert len({png for png, _ in seen}) == len({words for _, words in seen}) == len(SIZES)
    assert panel._measure.asked == []  # type: ignore[attr-defined]


def test_every_control_changes_picture_and_words(panel: BatchingPanel) -> None:
    """Size, wait, rate and number at once are seen in both, and reset brings the first words back."""
    first = panel.summary
    seen = {(panel.png, first)}
    moves: tuple[tuple[Any, float], ...] = (
        (panel.size, 20),
        (panel.wait, 0.1),
        (panel.load, 0.9),
        (panel.at_once, 8),
    )
    for control, value in moves:
        control.value = value
        seen.add((panel.png, panel.summary))
    assert len({png for png, _ in seen}) == len({words for _, words in seen}) == 5
    assert panel.summary == (
        "Not measured yet: batches of at most 20, wait 100 ms, rate 90 %, 8 at once. Press Run to measure every size."
    )
    panel.reset()
    assert panel.summary == first


def test_what_is_not_measured_shows_no_number(panel: BatchingPanel) -> None:
    """The last measurement stays, pale and without numbers at the marks, until there is another."""
    panel.settle()
    panel.wait.value = 0.1
    drawing: Any = panel._drawing
    assert drawing._done.get_alpha() < 0.5
    assert [mark.artists[2].get_text() for mark in drawing._marks] == ["", ""]
    panel.wait.value = 0.01
    assert drawing._done.get_alpha() == 1.0


def test_without_a_measurement_there_are_axes_only() -> None:
    """A panel with nothing measured draws no curve, and says what to do."""
    panel = BatchingPanel(measure=measuring())
    assert panel.summary.startswith("Not measured yet: batches of at most 10")
    assert not panel._drawing._done.get_visible()
    assert panel._drawing._titles[0].get_text() == "Not measured yet: press Run"


def test_no_knee_and_nothing_that_kept_up() -> None:
    """Items without a cost have no knee, and cells that gave up leave no curve: neither is drawn as a number."""
    setting = Setting()
    seconds = {size: np.full(3, 0.01 / size) for size in SIZES}
    cells = {(SIZES[-1], setting.wait): cell(math.nan, math.nan, math.nan)}
    panel = BatchingPanel(BatchSizes("an API", "user", RATE, seconds, cells), measure=measuring())
    assert panel.summary.endswith("there is no knee. They cannot keep up with 500 /s.")
    knee: Any = panel._drawing._knee
    assert knee.get_xdata()[0] < panel._drawing._top.get_xlim()[0]
    assert panel._drawing._names[0].get_text() == ""
    assert text_of(panel._drawing._p95.artists[1]) == ""


def test_run_measures_what_is_chosen() -> None:
    """Run asks for wait, rate and number at once, tells how far it is, and shows what came of it; it stays known."""

    async def main() -> None:
        measure = measuring()
        panel = BatchingPanel(measure=measure)
        panel.wait.value, panel.load.value, panel.at_once.value = 0.1, 0.5, 2
        panel.run.click()
        await measure.started.wait()
        assert measure.asked == [Setting(0.1, 0.5, 2)]
        assert panel.run.description == "Stop"
        assert panel._progress.value == pytest.approx(0.25)
        assert "1 of 4 runs" in panel._status.value
        measure.go_on.set()
        await turns()
        assert panel.summary.startswith("Measured, median of 3 bursts: with wait 100 ms, rate 50 %, 2 at once")
        assert (panel.run.description, panel._progress.layout.visibility) == ("Run", "hidden")
        panel.wait.value = 0.01
        assert panel.summary.startswith("Not measured")
        panel.wait.value = 0.1
        assert panel.summary.startswith("Measured")

    asyncio.run(main())


def test_stop_ends_a_run() -> None:
    """A second press cancels the measurement, and what was shown before stays."""

    async def main() -> None:
        measure = measuring()
        panel = BatchingPanel(sizes_at(Setting()), measure=measure)
        first = panel.summary
        panel.run.click()
        await measure.started.wait()
        panel.run.click()
        await turns()
        assert measure.cancelled == 1
        assert (panel.summary, panel.run.description, panel.error) == (first, "Run", "")

    asyncio.run(main())


def test_the_size_may_move_during_a_run_and_nothing_else() -> None:
    """A run measures every size, so moving it lets the run go on; another wait ends it."""

    async def main() -> None:
        measure = measuring()
        panel = BatchingPanel(measure=measure)
        panel.settle()
        panel.run.click()
        await measure.started.wait()
        panel.size.value = 20
        await turns()
        assert measure.cancelled == 0
        panel.wait.value = 0.1
        await turns()
        assert measure.cancelled == 1
        assert panel.summary.startswith("Not measured yet: batches of at most 20, wait 100 ms")
        assert panel.run.description == "Run"

    asyncio.run(main())


def test_callbacks_from_another_thread_only_hand_over() -> None:
    """Wherever the front end runs its callback, the run is started on the loop."""

    async def main() -> None:
        measure = measuring()
        panel = BatchingPanel(measure=measure)
        await asyncio.to_thread(panel.run.click)
        await measure.started.wait()
        measure.go_on.set()
        await turns()
        assert panel.summary.startswith("Measured")

    asyncio.run(main(), debug=True)  # refuses what another thread does to the loop


def test_a_run_that_fails_says_so() -> None:
    """A typed error goes to the banner, the last picture stays, and the next change clears it."""

    async def main() -> None:
        measure = measuring(SkilllabError("no server <today>"))
        panel = BatchingPanel(sizes_at(Setting()), measure=measure)
        panel.settle()
        panel.run.click()
        await measure.started.wait()
        measure.go_on.set()
        await turns()
        assert panel.error == "no server <today>"
        assert "&lt;today&gt;" in panel._banner.value
        assert panel.run.description == "Run"
        panel.size.value = 20
        assert panel.error == ""

    asyncio.run(main())


def test_without_a_loop_run_measures_to_the_end() -> None:
    """In plain Python the button returns when there is a result."""
    measure = measuring()
    measure.go_on.set()
    panel = BatchingPanel(measure=measure)
    panel.run.click()
    assert panel.summary.startswith("Measured")
    assert measure.asked == [Setting()]


def test_measured_asks_the_experiment_for_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait, rate and number at once reach the experiment; the rate is a share of what the largest batches get done."""
    asked: dict[str, Any] = {}

    async def batch_sizes(workload: Any, sizes: Any, waits: Any, **options: Any) -> str:
        asked.update(options, at_once=workload.at_once, sizes=sizes, waits=waits)
        return "found"

    monkeypatch.setattr(module, "batch_sizes", batch_sizes)
    found: Any = asyncio.run(module.measured(Setting(0.05, 0.75, 2), rounds=1))
    assert found == "found"
    assert (asked["at_once"], asked["sizes"], asked["waits"]) == (2, SIZES, [0.05])
    assert (asked["load"], asked["reference"], asked["rounds"]) == (0.75, SIZES[-1], 1)
