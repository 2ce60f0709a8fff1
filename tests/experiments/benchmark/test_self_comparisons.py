"""Facts about self-comparisons: what the usual way makes of a machine that changes, and a fair one."""

from __future__ import annotations

import pytest

from skilllab.experiments.benchmark.self_comparisons import SelfComparisons, self_comparisons
from skilllab.plots import summary

from .machines import Machine


@pytest.fixture(scope="module")
def found() -> SelfComparisons:
    machine = Machine(1, neighbour=True)
    return self_comparisons(machine.arm(1e-4, 0.03), 40, calls=100, timer=machine)


def test_one_after_the_other_a_function_differs_from_itself(found: SelfComparisons) -> None:
    """Beside a neighbour that comes and goes the usual way raises false alarms in an eighth of 40, turns raise none."""
    assert found.alarms["sequential"] >= 5
    assert found.alarms["interleaved"] == 0
    assert found.spread["interleaved"] < 0.2 * found.spread["sequential"]


def test_words_frame_and_figure_tell_both_ways(found: SelfComparisons) -> None:
    """The line, the paragraph, the frame and the figure hold the alarms and the dots of both ways."""
    assert found.finding in str(found)
    assert f"{found.alarms['sequential']} of 40 self-comparisons are false alarms, interleaved 0" in found.finding
    assert list(found.frame()) == ["sequential", "interleaved"]
    assert len(found.frame()) == 40
    left, right = found.plot().axes
    assert "false alarms" in summary(left)
    assert "95 % within" in summary(right)


def test_a_steady_machine_raises_no_alarm_either_way() -> None:
    """Where nothing changes, both ways find a function the same as itself."""
    machine = Machine(1)
    found = self_comparisons(machine.arm(1e-6, 0.0), 5, calls=10, timer=machine)
    assert found.alarms == {"sequential": 0, "interleaved": 0}
