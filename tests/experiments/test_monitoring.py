"""The live minute and the cost of watching, with real skills."""

from __future__ import annotations

import asyncio

import pytest

from skilllab.errors import InvalidValueError
from skilllab.experiments import monitoring
from skilllab.experiments.monitoring import PRICE, RESIZE, SEARCH


@pytest.mark.slow
def test_three_are_told_and_advised() -> None:
    """In six seconds the slow, the hungry and the failing skill are each told as firing and as over, and advised."""
    minute = asyncio.run(monitoring.live_minute(6.0, seed=1))
    ill = {SEARCH, RESIZE, PRICE}
    alerts = minute.frame()
    for state in ("firing", "cleared"):
        assert set(alerts.query(f"state == {state!r}")["skill"]) == ill
    for name in ill:
        assert 2.0 < minute.alert(name, "firing") < minute.alert(name, "cleared")
    assert {each.subject for each in minute.report.recommendations} - {"engine"} == ill
    assert minute.report.in_flight == 0
    assert minute.report.memory_heavy_skills[0].skill_id == RESIZE
    assert minute.plot().get_title("left").startswith("The alert fires")
    assert "firing" in str(minute)
    with pytest.raises(InvalidValueError, match="no alert about 'lookup-v1'"):
        minute.alert("lookup-v1", "firing")


def test_cost_is_a_comparison() -> None:
    """The cost of watching comes with its rounds and its interval."""
    compared, seconds = asyncio.run(monitoring.cost(rounds=8, executions=20))
    assert compared.rounds == 8
    assert compared.low <= compared.ratio <= compared.high
    assert -1e-3 < seconds < 1e-3


@pytest.mark.parametrize("duration", [0.0, 5.9, float("nan"), 1e9])
def test_too_short_to_tell(duration: float) -> None:
    """A run whose windows would hold too few calls is refused before anything starts."""
    with pytest.raises(InvalidValueError, match="duration"):
        asyncio.run(monitoring.live_minute(duration))
