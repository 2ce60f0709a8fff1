"""Six testers of one stalling server: the true times are those of a hand-worked case, and only one tester reports them."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from skilllab.demo import DemoSettings
from skilllab.demo.settings import Stall
from skilllab.engine import GuardOptions
from skilllab.errors import InvalidValueError
from skilllab.experiments.failures.queue import QueueTarget
from skilllab.experiments.failures.virtual import in_virtual_time
from skilllab.experiments.testers import TESTERS, Ground, Reports, compare, reports

GROUND = Ground(duration=1.5)
OURS = "rate, timed when due"
pytestmark = pytest.mark.slow  # six testers for 1.5 s of virtual time take a second or two


@pytest.fixture(scope="module")
def found() -> Reports:
    """What all testers report of the same queue in virtual time."""

    async def main() -> Reports:
        loop = asyncio.get_running_loop()
        target = QueueTarget(DemoSettings(latency=GROUND.service, workers=1), loop)
        stall = Stall(GROUND.stalled, GROUND.every)

        async def begin() -> None:
            target._service.configure(1, None)
            target._service.configure(1, stall)

        async with target.engine(GuardOptions()) as engine:
            return await reports(engine, GROUND, begin)

    return in_virtual_time(main)


def test_true_times_of_a_case_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work takes 0.2 s and the server stands still from 0.6 s to 1 s: who comes at 0, 0.1, 0.5 and 0.9 waits as long as here.

    0 to 0.2; 0.1 to 0.4; 0.5 works 0.1 s, stands still for 0.4 and ends at 1.1; 0.9 begins at 1.1 and ends at 1.3.
    """
    ground = Ground(service=0.2, stalled=0.4, every=1.0, duration=1.5)
    monkeypatch.setattr(Ground, "arrivals", [0.0, 0.1, 0.5, 0.9])
    assert ground.true_times() == pytest.approx([0.2, 0.3, 0.6, 0.4])


def test_only_times_from_when_a_call_was_due_are_the_true_ones(found: Reports) -> None:
    """The last tester reports the true p95 to 1 %, every other less than half of it."""
    assert list(TESTERS)[-1] == OURS
    assert found[OURS].p95 == pytest.approx(found.true, rel=0.01)
    assert found.true > 0.05
    assert [each.tester for each in found.reports if each.p95 > found.true / 2] == [OURS]


def test_the_rates_are_the_same_for_all_who_have_one(found: Reports) -> None:
    """Who calls at a rate sends every arrival, but the one that drops some; users who think make up about that rate."""
    arrivals = len(GROUND.arrivals)
    assert found[OURS].requests == found["rate, timed when sent"].requests == arrivals
    assert 0.7 * arrivals < found["rate, drops when busy"].requests < arrivals
    assert found["closed loop with pauses"].requests == pytest.approx(arrivals, rel=0.25)
    assert found["closed loop"].requests > 2 * arrivals


def test_the_results_say_what_was_found(found: Reports) -> None:
    """Frame, words and figure hold the reported p95 of every tester and the true one."""
    frame = found.frame()
    assert list(frame.index) == list(TESTERS)
    assert frame.loc[OURS, "ratio"] == pytest.approx(1.0, rel=0.01)
    assert str(found).startswith("The true p95 is ")
    assert all(name in str(found) for name in TESTERS)
    ax = found.plot()
    assert "the true p95" in " ".join(ax.get_title("left").split())
    assert any(text.get_text().startswith("true p95: ") for text in ax.texts)


@pytest.mark.parametrize(
    "change", [{"rate": 0.0}, {"users": 0}, {"service": -1.0}, {"stalled": 2.0}, {"duration": float("nan")}]
)
def test_a_bad_ground_is_refused_before_a_server_starts(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate of 0, no users, work of negative length, a stall without end and no duration are InvalidValueErrors."""
    monkeypatch.delattr("skilllab.experiments.testers.DemoProcess")
    with pytest.raises(InvalidValueError):
        asyncio.run(compare(dataclasses.replace(Ground(), **change)))
