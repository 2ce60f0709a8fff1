"""Experiments on failures: kinds of errors, retries, crowds, outages in virtual and in real time, cancellations."""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
import math
import time

import numpy as np
import pytest

from skilllab.demo.door import Door
from skilllab.errors import InvalidValueError, SkilllabError
from skilllab.experiments.failures import (
    Call,
    Change,
    Crowd,
    Outage,
    RetryCosts,
    Scenario,
    Storm,
    Timeline,
    asked_to_wait,
    cancellations,
    kinds,
    left_behind,
    outage,
    outage_apart,
    predicted,
    retry_costs,
    spread,
    storm,
)
from skilllab.experiments.failures.outages import at_times, play
from skilllab.experiments.failures.queue import QueueTarget
from skilllab.experiments.failures.retries import Retried
from skilllab.experiments.failures.storms import Way
from skilllab.experiments.failures.virtual import in_virtual_time
from skilllab.format import duration
from skilllab.plots import summary

SMALL = Scenario(
    rate=40.0, before=0.3, stall=0.4, after=0.6, service=0.005, timeout=0.1, failures=3, recovery=0.1, seed=1
)


# virtual time


def test_virtual_time_jumps() -> None:
    """A thousand seconds of sleep take no time, end in the order of their timers, and a timeout ends what takes longer."""

    async def main() -> tuple[list[float], float]:
        ended: list[float] = []

        async def sleeper(seconds: float) -> None:
            await asyncio.sleep(seconds)
            ended.append(seconds)

        await asyncio.gather(*(sleeper(seconds) for seconds in (1000.0, 1.0, 0.1)))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await asyncio.sleep(1e6)
        return ended, asyncio.get_running_loop().time()

    begin = time.monotonic()
    ended, now = in_virtual_time(main)
    assert (ended, now) == ([0.1, 1.0, 1000.0], pytest.approx(1005.0, abs=1e-3))
    assert time.monotonic() - begin < 60.0


def test_virtual_time_within_a_running_loop() -> None:
    """It can be called where another event loop runs, as in a notebook."""

    async def inner() -> float:
        await asyncio.sleep(3.0)
        return asyncio.get_running_loop().time()

    async def outer() -> float:
        return in_virtual_time(inner)

    assert asyncio.run(outer()) == pytest.approx(3.0, abs=1e-3)


def test_nothing_due_in_virtual_time_is_an_error() -> None:
    """A task that waits for what never happens is an error, not a program that hangs; so is an error of the task."""

    async def stuck() -> None:
        await asyncio.Event().wait()

    async def failing() -> None:
        raise KeyError("own")

    with pytest.raises(RuntimeError, match="never happen"):
        in_virtual_time(stuck)
    with pytest.raises(KeyError, match="own"):
        in_virtual_time(failing)


# timelines


def by_hand() -> Timeline:
    """A stall from 2 to 4: two calls fail, the breaker opens at 3.0, is tried at 3.5 and 4.5, and closes at 4.6."""
    calls = [
        Call(1.0, 1.0, 0.1, "answered"),
        Call(2.0, 2.0, 0.5, "failed"),
        Call(2.5, 2.5, 0.5, "failed"),
        Call(3.2, 3.25, 0.06, "refused"),
        Call(3.5, 3.5, 0.5, "failed"),
        Call(4.3, 4.3, 0.01, "refused"),
        Call(4.5, 4.5, 0.1, "answered"),
        Call(5.0, 5.0, 0.1, "answered"),
    ]
    changes = [
        Change(3.0, "closed", "open"),
        Change(3.5, "open", "half-open"),
        Change(4.0, "half-open", "open"),
        Change(4.5, "open", "half-open"),
        Change(4.6, "half-open", "closed"),
    ]
    return Timeline(tuple(calls), tuple(changes), (2.0, 4.0), served=6)


def test_a_timeline_by_hand() -> None:
    """Waiting adds up, three of six requests were served in vain, and calls are lost until 0.3 s after the stall."""
    timeline = by_hand()
    assert timeline.waited == pytest.approx(1.87)
    assert (timeline.count("failed"), timeline.count("refused"), timeline.in_vain) == (3, 2, 3)
    assert timeline.aftermath == pytest.approx(0.3)
    assert timeline.probes == (1, 1)
    assert timeline.states(6.0) == [
        ("closed", 0.0, 3.0),
        ("open", 3.0, 3.5),
        ("half-open", 3.5, 4.0),
        ("open", 4.0, 4.5),
        ("half-open", 4.5, 4.6),
        ("closed", 4.6, 6.0),
    ]


def test_a_second_probe_is_seen() -> None:
    """A breaker that lets two calls through while half open is found out; calls sent before it opened do not count."""
    timeline = by_hand()
    calls = tuple(call._replace(outcome="failed") if call.due == 3.2 else call for call in timeline.calls)
    assert dataclasses.replace(timeline, calls=calls).probes == (2, 1)


def test_an_aftermath_ends_with_ten_answers_in_a_row() -> None:
    """A call that is lost later, after ten that were answered, is none of the stall's; after nine it is."""
    calls = [Call(2.0 + number, 2.0 + number, 0.1, "answered") for number in range(12)]
    lost = [calls[number]._replace(outcome="failed") for number in (0, 11)]
    timeline = Timeline((lost[0], *calls[1:11], lost[1]), (), (0.5, 1.5))
    assert timeline.aftermath == 0.5
    assert dataclasses.replace(timeline, calls=(lost[0], *calls[2:11], lost[1])).aftermath == 11.5


def test_a_timeline_without_a_breaker() -> None:
    """It is closed all the time, was never tried, and where nothing was lost after the stall there is no aftermath."""
    timeline = Timeline((Call(0.0, 0.0, 0.1, "answered"), Call(1.5, 1.5, 0.5, "failed")), (), (1.0, 2.0))
    assert (timeline.probes, timeline.states(3.0), timeline.aftermath) == ((), [("closed", 0.0, 3.0)], 0.0)


def test_an_outage_in_words_frames_and_figures() -> None:
    """Both ways stand in the words, in the frame, and in the figure, whose titles are what callers waited."""
    guarded = by_hand()
    without = dataclasses.replace(guarded, changes=(), calls=(*guarded.calls, Call(5.5, 5.5, 1.87, "failed")))
    both = Outage(6.0, without, guarded)
    assert both.saved == pytest.approx(0.5)
    assert str(both).startswith("without a breaker 9 callers wait 3.74 s (3 answered, 4 failed, 2 refused)")
    frame = both.frame()
    assert frame["breaker"].tolist() == ["without"] * 9 + ["guarded"] * 8
    assert frame["latency"].sum() == pytest.approx(5.61)
    top, middle, bottom = both.plot().axes
    assert summary(top).startswith("No breaker: 3.74 s waited, 1.5 s of aftermath")
    assert summary(middle).startswith("Breaker: 1.87 s waited, 300 ms of aftermath")
    (refused,) = (line for line in middle.get_lines() if line.get_label() == "refused")
    assert refused.get_xydata().tolist() == [[3.2, 0.06], [4.3, 0.01]]
    opened = bottom.get_lines()[0].get_xdata()
    assert [x for x in opened if not math.isnan(x)] == [3.0, 3.5, 4.0, 4.5]


def test_a_spread_is_a_range_or_one_value() -> None:
    """Several runs give their range; one run, or several that read alike, one value."""
    assert spread([3.0, 1.0, 2.0], lambda seconds: duration(seconds, 2)) == "1.0 to 3.0 s"
    assert spread([2.0], lambda seconds: duration(seconds, 2)) == "2.0 s"
    assert spread([2.001, 2.002], lambda seconds: duration(seconds, 2)) == "2.0 s"


# outages


def test_arrivals_are_seeded_and_of_the_rate() -> None:
    """The same seed gives the same Poisson arrivals, another seed others; their gaps have the mean and the spread."""
    scenario = Scenario(rate=50.0, before=10.0, stall=10.0, after=180.0)
    due = scenario.arrivals()
    assert due == scenario.arrivals() != dataclasses.replace(scenario, seed=1).arrivals()
    assert 0.0 < due[0] < due[-1] < scenario.duration
    gaps = np.diff(due)
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.05)


@pytest.mark.parametrize("field", ["rate", "before", "stall", "after", "service", "workers", "timeout", "failures"])
def test_a_scenario_refuses_what_has_no_meaning(field: str) -> None:
    """A value that is no number above 0 is refused with its name."""
    for value in (0, -1, float("nan"), math.inf, "1"):
        with pytest.raises(InvalidValueError, match=field):
            Scenario(**{field: value})


def test_calls_are_sent_when_due_whatever_became_of_others() -> None:
    """The model is open: a call that never seems to end delays none of those after it."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        sent: list[float] = []

        async def send(number: int) -> None:
            sent.append(loop.time())
            await asyncio.sleep(100.0)

        await at_times([1.0, 1.5, 7.0], send, loop.time)
        return sent

    assert in_virtual_time(main) == pytest.approx([1.0, 1.5, 7.0], abs=1e-3)


def test_the_prediction_is_the_queue_of_theory() -> None:
    """Without a stall to speak of, latencies are those of Kiefer and Wolfowitz's recursion on the same draws."""
    scenario = Scenario(before=3.0, stall=1e-6, after=1.0, timeout=60.0, seed=3)
    door = Door(scenario.server(), 0.0)
    for _ in range(5):  # the calls that warm up
        door.service_time("user")
    free, expected = [0.0] * scenario.workers, []
    for due in scenario.arrivals():
        done = max(due, heapq.heappop(free)) + door.service_time("user")
        heapq.heappush(free, done)
        expected.append(done - due)
    for timeline in (predicted(scenario).without, predicted(scenario).guarded):
        assert timeline.count("answered") == len(expected)
        np.testing.assert_allclose(timeline.column("latency"), expected, atol=1e-4)


def test_a_prediction_depends_on_nothing_but_its_scenario() -> None:
    """The same scenario gives the same outage, call by call."""
    assert predicted(SMALL) == predicted(SMALL) != predicted(dataclasses.replace(SMALL, seed=2))


@pytest.mark.parametrize("seed", range(5))
def test_a_breaker_spares_waiting_and_tries_with_one_call(seed: int) -> None:
    """Both ways get the same calls; the breaker opens, tries with exactly one call each time, and closes again."""
    made = predicted(Scenario(seed=seed))
    due = Scenario(seed=seed).arrivals()
    assert made.without.column("due").tolist() == made.guarded.column("due").tolist() == due
    assert made.guarded.waited < 0.5 * made.without.waited
    assert set(made.guarded.probes) == {1}
    assert [change.after for change in made.guarded.changes][:2] == ["open", "half-open"]
    assert made.guarded.changes[-1].after == "closed"
    assert made.without.changes == ()
    assert made.without.count("refused") == 0
    assert made.guarded.in_vain < made.without.in_vain == made.without.count("failed")


def test_more_failures_to_open_send_more_calls_into_the_stall() -> None:
    """A breaker that opens later spares less; one that would need more failures than there are never opens."""
    failed = [predicted(dataclasses.replace(SMALL, failures=number)).guarded for number in (1, 8, 1000)]
    counts = [timeline.count("failed") for timeline in failed]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    assert failed[-1].changes == ()


def test_without_trouble_nothing_happens() -> None:
    """A stall shorter than anybody's patience opens no breaker, and loses nothing."""
    made = predicted(dataclasses.replace(SMALL, stall=0.001, timeout=5.0))
    for timeline in (made.without, made.guarded):
        assert timeline.count("answered") == len(timeline.calls) > 0
        assert (timeline.changes, timeline.in_vain, timeline.aftermath) == ((), 0, 0.0)


def test_progress_is_told_while_it_lasts() -> None:
    """Whoever asks hears several times of the calls that have ended, at last of all, in growing numbers."""

    async def main() -> tuple[list[Outage], Outage]:
        loop = asyncio.get_running_loop()
        told: list[Outage] = []
        targets = [QueueTarget(SMALL.server(), loop) for _ in range(2)]
        return told, await play(SMALL, targets, clock=loop.time, on_progress=told.append)

    told, made = in_virtual_time(main)
    assert told[-1] == made
    assert len(told) > 8
    counts = [len(so_far.guarded.calls) for so_far in told]
    assert counts == sorted(counts)
    assert [so_far.elapsed for so_far in told[:2]] == pytest.approx([0.125, 0.25], abs=1e-3)


def test_a_server_that_fails_ends_the_run() -> None:
    """What a target raises is raised as it is, and no task is left behind."""

    class Gone(QueueTarget):
        async def resume(self) -> None:
            raise SkilllabError("the server is gone")

    async def main() -> int:
        loop = asyncio.get_running_loop()
        with pytest.raises(SkilllabError, match="the server is gone"):
            await play(
                SMALL, [Gone(SMALL.server(), loop) for _ in range(2)], clock=loop.time, on_progress=lambda _: None
            )
        return len([task for task in asyncio.all_tasks() if "QueueTarget._serve" not in str(task.get_coro())])

    assert in_virtual_time(main) == 1


@pytest.mark.slow
def test_a_real_outage() -> None:
    """Real servers do what was predicted: the breaker opens and closes, each try is one call, and callers wait less."""
    made = asyncio.run(outage(SMALL))
    assert made.without.column("due").tolist() == made.guarded.column("due").tolist() == SMALL.arrivals()
    assert set(made.guarded.probes) == {1}
    assert made.guarded.changes[-1].after == "closed"
    assert made.guarded.count("refused") > 0 == made.without.count("refused")
    assert made.guarded.waited < made.without.waited
    begin, end = made.without.stalled
    assert begin >= SMALL.before
    assert end - begin >= SMALL.stall
    assert made.without.served == made.without.count("answered") + made.without.in_vain


@pytest.mark.slow
def test_an_outage_apart_tells_its_progress() -> None:
    """Another process measures the same, and what it tells on the way grows to what it returns."""
    told: list[Outage] = []
    made = asyncio.run(outage_apart(SMALL, on_progress=told.append))
    assert told[-1] == made
    assert len(made.guarded.calls) == len(SMALL.arrivals())
    assert len(told) > 3


@pytest.mark.slow
def test_an_outage_apart_ends_with_its_caller() -> None:
    """Cancelled, it kills its process and waits for its end."""

    async def main() -> int | None:
        began = asyncio.Event()
        task = asyncio.create_task(outage_apart(Scenario(), on_progress=lambda _: began.set()))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(asyncio.all_tasks())

    assert asyncio.run(main()) == 1


def test_a_process_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends without a result is a typed error with its exit code, not a wait without end."""
    monkeypatch.setattr("skilllab.experiments.failures.apart.sys.executable", "/bin/false")
    with pytest.raises(SkilllabError, match="ended with exit code 1: run it again"):
        asyncio.run(outage_apart(SMALL))


# kinds of failure


@pytest.mark.slow
def test_kinds() -> None:
    """Every kind comes as its typed error, and what it tells the breaker is what the error says of itself."""
    found = {kind.what: kind for kind in asyncio.run(kinds())}
    assert len(found) == 14
    told = {what: (type(kind.error).__name__, kind.breaker.split()[0]) for what, kind in found.items()}
    assert told["nobody registered the skill"] == ("SkillNotFoundError", "there")
    assert told["a parameter has the wrong type"] == ("InvalidParametersError", "says")
    assert told["the skill raised"] == ("SkillFailedError", "the")
    assert told["its output is not what it says"] == ("InvalidOutputError", "the")
    assert told["the server says 404"] == ("HttpStatusError", "the")
    assert told["the server says 503"] == ("HttpStatusError", "counts")
    assert told["nobody listens there"] == ("TransportError", "counts")
    assert told["no answer in time"] == ("ExecutionTimeoutError", "counts")
    assert told["somebody cancelled it"] == ("ExecutionCancelledError", "says")
    heard = {True: "counts", False: "the", None: "says"}
    for what, kind in found.items():
        if told[what][1] != "there":
            assert told[what][1] == heard[getattr(kind.error, "trips_breaker", None)], what


# retries


def test_what_retries_should_win_by_hand() -> None:
    """At p = 1/2 one retry answers 3 of 4 calls for 1.5 requests each, and two answer 7 of 8 for 1.75."""
    costs = RetryCosts(0.5, 0.01, ())
    assert [costs.share_expected(retries) for retries in (0, 1, 2)] == [0.5, 0.75, 0.875]
    assert [costs.requests_expected(retries) for retries in (0, 1, 2)] == [1.0, 1.5, 1.75]


def test_retry_costs_in_frames_and_figures() -> None:
    """Shares, requests a call and quantiles stand in the frame; the titles say what was won and what it costs."""
    rows = [Retried(0, 100, 50, 100, np.full(100, 0.01)), Retried(1, 100, 75, 150, np.full(100, 0.03))]
    costs = RetryCosts(0.5, 0.01, tuple(rows))
    frame = costs.frame()
    assert frame["answered"].tolist() == frame["answered_expected"].tolist() == [0.5, 0.75]
    assert frame["requests"].tolist() == frame["requests_expected"].tolist() == [1.0, 1.5]
    assert frame["p95"].tolist() == pytest.approx([0.01, 0.03])
    left, right = costs.plot().axes
    assert summary(left).startswith("With 1 retry 75 % are answered, not 50 %")
    assert "no retries: 50.0 %" in summary(left)
    assert summary(right).startswith("p95 is 3× as long")


@pytest.mark.slow
@pytest.mark.parametrize(("p", "answered", "requests"), [(0.0, 10, 10), (1.0, 0, 30)])
def test_real_retries_at_the_ends(p: float, answered: int, requests: int) -> None:
    """A server that never fails gets one request a call; one that always fails gets all that may be sent."""
    (row,) = asyncio.run(retry_costs((2,), p=p, calls=10, backoff=0.0001)).rows
    assert (row.answered, row.requests, len(row.latency)) == (answered, requests, 10)


@pytest.mark.slow
def test_real_retries_are_seeded() -> None:
    """Counts depend on the seed alone, and a retry makes them better."""
    one, again = (asyncio.run(retry_costs((0, 1), p=0.4, calls=60, backoff=0.0001, seed=5)) for _ in range(2))
    counts = [[(row.answered, row.requests) for row in costs.rows] for costs in (one, again)]
    assert counts[0] == counts[1]
    assert one.rows[0].answered < one.rows[1].answered


@pytest.mark.slow
def test_who_is_asked_to_wait_comes_back_when_told() -> None:
    """Of two callers one is served at once, the other after the second that it was told, with one request more."""
    (first, second), requests = asyncio.run(asked_to_wait(2))
    assert first < 1.0 <= second
    assert requests == 3


# crowds


@pytest.mark.parametrize("field", ["callers", "service", "timeout", "retries", "backoff"])
def test_a_crowd_refuses_what_has_no_meaning(field: str) -> None:
    """A value that is not above 0 is refused with its name."""
    with pytest.raises(InvalidValueError, match=field):
        Crowd(**{field: 0})


def test_ways_to_come_back() -> None:
    """Together, all wait the same; scattered, by seeded chance; at once, as good as nothing."""
    ways = Crowd(backoff=0.2, seed=4).ways()
    assert ways["at once"][0] < 1e-3
    assert [ways["all together"][1]() for _ in range(3)] == [0.5] * 3
    drawn = [ways["scattered"][1]() for _ in range(3)]
    assert len(set(drawn)) == 3
    assert drawn == [chance() for chance in [Crowd(seed=4).ways()["scattered"][1]] for _ in range(3)]


def test_a_storm_in_frames_and_figures() -> None:
    """Shares and requests stand in the frame, arrivals are counted by span, and the title names both ends."""
    come = np.array([0.0, 0.01, 0.02, 0.03, 0.12, 0.13])
    ways = {"at once": Way(1, come, 0.2), "all together": Way(2, come, 0.3), "scattered": Way(4, come[:5], 0.4)}
    made = Storm(Crowd(callers=4), ways)
    assert made.frame()["answered"].tolist() == [0.25, 0.5, 1.0]
    assert made.frame()["requests"].tolist() == [6, 6, 5]
    assert made.arrivals(0.1)["at once"].tolist()[:2] == [4, 2]
    left, right = made.plot().axes
    assert summary(left).startswith("Scattered retries get 100 % through, instant ones 25 %")
    assert "Together, up to 2 come back at a time; scattered, 1" in summary(right)


@pytest.mark.slow
def test_a_real_crowd_that_fits() -> None:
    """Where the server can serve all in time nobody comes back, whichever way they would."""
    made = asyncio.run(storm(Crowd(callers=3, service=0.001, timeout=5.0)))
    assert {name: (way.answered, len(way.came)) for name, way in made.ways.items()} == dict.fromkeys(
        ("at once", "all together", "scattered"), (3, 3)
    )


# cancellations


@pytest.mark.slow
def test_cancellations_leave_nothing() -> None:
    """Whatever was ended at whatever moment: no execution, place, lease, task, request or connection is left."""
    remains = asyncio.run(cancellations(45, seed=2))
    assert sum(remains.ended.values()) == 45
    assert set(remains.ended) <= {"finished", "the engine cancelled it", "its task was cancelled"}
    middle, ended, closed = (remains.counts[moment] for moment in ("in the middle", "all ended", "engine closed"))
    assert middle.executions > 10
    assert middle.leases == 5
    assert middle.connections > 5
    assert sum(ended._replace(connections=0)) == sum(closed) == sum(remains.counts["before"]) == 0
    assert remains.frame().loc["all ended", "leases"] == 0


def test_no_cancellations_are_refused() -> None:
    """There must be something to cancel."""
    with pytest.raises(InvalidValueError, match="executions"):
        asyncio.run(cancellations(0))


@pytest.mark.slow
def test_a_thread_is_left_behind() -> None:
    """Its caller is answered at its timeout; the thread is counted and keeps its place until it ends."""
    left = asyncio.run(left_behind(seconds=0.3, timeout=0.02))
    assert left.answered < 0.25
    assert (left.abandoned, left.places) == ((1, 0), (1, 0))
    assert "could not be stopped" in left.unmeasured
