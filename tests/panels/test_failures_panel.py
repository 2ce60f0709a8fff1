"""FailuresPanel: what it predicts is the experiment's, what it measures replaces that, and a run can be stopped."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from skilllab.errors import InvalidValueError, SkilllabError
from skilllab.experiments.failures import Outage, Scenario, predicted
from skilllab.panels import FailuresPanel
from tests.panels.conftest import Measuring, turns

pytestmark = pytest.mark.slow  # each lays a picture out

BASE = Scenario(rate=10.0, before=0.5, stall=1.0, after=4.5, service=0.01, seed=3)


def measuring(failure: SkilllabError | None = None) -> Measuring:
    """Stands in for real servers: half of a prediction, then all of it but one call."""

    def half(scenario: Scenario) -> tuple[Outage]:
        whole = predicted(scenario)
        return (part(whole, len(whole.without.calls) // 2, BASE.duration / 2),)

    return Measuring(half, lambda scenario: part(predicted(scenario), -1, BASE.duration), failure)


def part(whole: Outage, calls: int, elapsed: float) -> Outage:
    ways = (dataclasses.replace(way, calls=way.calls[:calls]) for way in (whole.without, whole.guarded))
    return Outage(elapsed, *ways)


@pytest.fixture
def panel() -> FailuresPanel:
    return FailuresPanel(BASE, measure=measuring())


def test_the_first_picture_is_the_prediction(panel: FailuresPanel) -> None:
    """Words and titles hold what the experiment predicts for the scenario that the controls start at."""
    made = predicted(BASE)
    assert panel.summary.startswith(
        f"Predicted, {len(made.without.calls)} calls, a stall of 1 s, a timeout of 500 ms: "
    )
    assert f"callers wait {made.without.waited:.3g} s in all" in panel.summary
    assert f"refuses {made.guarded.count('refused')} calls at once" in panel.summary
    assert panel.summary.endswith("Press Run to measure it.")
    assert panel.error == ""


def test_every_control_changes_picture_and_words(panel: FailuresPanel) -> None:
    """Timeout, failures, recovery time and stall are seen in both, and reset brings the first words back."""
    first = panel.summary
    seen = {(panel.png, first)}
    for control, value in ((panel.timeout, 0.2), (panel.failures, 2), (panel.recovery, 0.1), (panel.stall, 2.0)):
        control.value = value
        seen.add((panel.png, panel.summary))
    assert len({png for png, _ in seen}) == len({words for _, words in seen}) == 5
    made = predicted(dataclasses.replace(BASE, timeout=0.2, failures=2, recovery=0.1, stall=2.0, after=3.5))
    assert f"refuses {made.guarded.count('refused')} calls at once" in panel.summary
    panel.reset()
    assert panel.summary == first


def test_a_known_setting_is_not_predicted_anew(panel: FailuresPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going back to where a control was takes no other prediction."""
    panel.settle()
    panel.timeout.value = 0.2
    monkeypatch.delattr("skilllab.panels.failures.predicted")
    panel.timeout.value = 0.5
    panel.timeout.value = 0.2
    assert "timeout of 200 ms" in panel.summary


def test_the_first_values_are_on_the_sliders() -> None:
    """Whatever scenario is asked for, the sliders can go back to exactly its values."""
    odd = dataclasses.replace(BASE, timeout=0.33, recovery=0.77, stall=1.23, failures=17)
    panel = FailuresPanel(odd, measure=measuring())
    panel.timeout.value, panel.recovery.value, panel.stall.value, panel.failures.value = 0.5, 1.0, 2.0, 1
    panel.reset()
    found = panel.timeout.value, panel.recovery.value, panel.stall.value, panel.failures.value
    assert found == (0.33, 0.77, 1.23, 17)


def test_a_scenario_must_leave_time_after_the_longest_stall() -> None:
    """A scenario that ends with the stall is refused with its length."""
    with pytest.raises(InvalidValueError, match=r"a scenario of 2\.00 s must leave 1\.00 s after a stall of 4\.00 s"):
        FailuresPanel(dataclasses.replace(BASE, after=0.5))


def test_run_measures_what_is_chosen() -> None:
    """Run shows what has been measured so far, then all of it; the setting stays known as measured, others predicted."""

    async def main() -> None:
        measure = measuring()
        panel = FailuresPanel(BASE, measure=measure)
        panel.timeout.value = 0.2
        predicted_words = panel.summary
        panel.run.click()
        await measure.started.wait()
        assert measure.asked == [dataclasses.replace(BASE, timeout=0.2)]
        assert panel.run.description == "Stop"
        assert panel._progress.value == pytest.approx(0.5)
        assert "3.0 of 6.0 s" in panel._status.value
        assert panel.summary.startswith("Measuring")
        measure.go_on.set()
        await turns()
        assert panel.summary.startswith("Measured")
        assert panel.summary != predicted_words
        assert (panel.run.description, panel._progress.layout.visibility) == ("Run", "hidden")
        panel.timeout.value = 0.5
        assert panel.summary.startswith("Predicted")
        panel.timeout.value = 0.2
        assert panel.summary.startswith("Measured")

    asyncio.run(main())


def test_stop_ends_a_run() -> None:
    """A second press cancels the measurement, and the prediction comes back."""

    async def main() -> None:
        measure = measuring()
        panel = FailuresPanel(BASE, measure=measure)
        first = panel.summary
        panel.run.click()
        await measure.started.wait()
        panel.run.click()
        await turns()
        assert measure.cancelled == 1
        assert (panel.summary, panel.run.description, panel.error) == (first, "Run", "")

    asyncio.run(main())


def test_a_moved_control_ends_a_run() -> None:
    """What is measured is always what the controls say: moving one stops the run and shows its prediction."""

    async def main() -> None:
        measure = measuring()
        panel = FailuresPanel(BASE, measure=measure)
        panel.settle()
        panel.run.click()
        await measure.started.wait()
        panel.stall.value = 2.0
        await turns()
        assert measure.cancelled == 1
        assert panel.summary.startswith("Predicted")
        assert "a stall of 2 s" in panel.summary
        assert panel.run.description == "Run"

    asyncio.run(main())


def test_callbacks_from_another_thread_only_hand_over() -> None:
    """Wherever the front end runs its callback, the run is started on the loop."""

    async def main() -> None:
        measure = measuring()
        panel = FailuresPanel(BASE, measure=measure)
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
        panel = FailuresPanel(BASE, measure=measure)
        panel.settle()
        panel.run.click()
        await measure.started.wait()
        measure.go_on.set()
        await turns()
        assert panel.error == "no server <today>"
        assert "&lt;today&gt;" in panel._banner.value
        assert panel.run.description == "Run"
        panel.timeout.value = 0.2
        assert panel.error == ""

    asyncio.run(main())


def test_without_a_loop_run_measures_to_the_end() -> None:
    """In plain Python the button returns when there is a result."""
    measure = measuring()
    measure.go_on.set()
    panel = FailuresPanel(BASE, measure=measure)
    panel.run.click()
    assert panel.summary.startswith("Measured")
    assert measure.asked == [BASE]
