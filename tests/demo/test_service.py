"""The queue against the theory: Lindley and Kiefer-Wolfowitz, and a count tick by tick where the server stands still."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.demo.service import Service, Visit
from skilllab.demo.settings import Stall
from skilllab.demo.stalls import WorkingHours

Op = tuple[int, str, int]  # ticks since the last one, what happens, and its number

EXACT = st.integers(0, 640).map(lambda n: n / 64)  # numbers whose sums floats hold exactly
LATE = st.sampled_from([0.0, 0.25, 3.0])
CUSTOMERS = st.lists(st.tuples(EXACT, EXACT), min_size=1, max_size=30)  # time since the last arrival, service time
OPS = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from(["arrive"] * 6 + ["stall", "resume", "workers"]),
        st.integers(1, 6),
    ),
    max_size=30,
)
STALLS = st.none() | st.integers(1, 3).flatmap(
    lambda duration: st.integers(duration + 1, duration + 5).map(lambda every: Stall(duration, every))
)


def play(time: Any, workers: int | None, stall: Stall | None, ops: list[Op]) -> list[Visit]:
    """Runs the operations through a Service whose timers are as late as `time` says, then lets it finish."""

    async def run() -> list[Visit]:
        service = Service(workers, stall, time.clock, time.call_later)
        now, visits, number = 0.0, [], workers
        for gap, what, value in ops:
            now += gap
            time.run_until(now)
            if what == "arrive":
                visits.append(asyncio.create_task(service.serve(value)))
                await asyncio.sleep(0)
            elif what == "workers":
                number = value
                service.configure(number, stall)
            else:
                getattr(service, what)()
        service.resume()
        time.run()
        done = [await visit for visit in visits]
        assert (time.waiting, service.waiting, service.stalled) == (0, 0, False)
        return done

    return asyncio.run(run())


@given(customers=CUSTOMERS, late=LATE)
def test_one_worker_is_lindleys_recursion(fake_time: Any, customers: list[tuple[float, float]], late: float) -> None:
    """With one worker every waiting time is exactly that of Lindley's recursion, however late the timers are."""
    visits = play(fake_time(late), 1, None, [(gap, "arrive", work) for gap, work in customers])  # type: ignore[misc]
    waits = [0.0]
    for (_, work), (gap, _) in pairwise(customers):
        waits.append(max(0.0, waits[-1] + work - gap))
    assert [visit.started - visit.arrived for visit in visits] == waits
    assert [visit.done - visit.started for visit in visits] == [work for _, work in customers]


@given(customers=CUSTOMERS, late=LATE, workers=st.integers(1, 4))
def test_many_workers_are_kiefer_and_wolfowitz(
    fake_time: Any, customers: list[tuple[float, float]], late: float, workers: int
) -> None:
    """With c workers the waiting times are those of the recursion on the sorted workloads of the workers."""
    visits = play(fake_time(late), workers, None, [(gap, "arrive", work) for gap, work in customers])  # type: ignore[misc]
    loads, waits = [0.0] * workers, []
    for gap, work in customers:
        loads = sorted(max(0.0, load - gap) for load in loads)
        waits.append(loads[0])
        loads[0] += work
    assert [visit.started - visit.arrived for visit in visits] == waits


def count_ticks(workers: int, stall: Stall | None, ops: list[Op]) -> list[tuple[float, float, float]]:
    """What the service should do, counted tick by tick: who is taken, who works, who is done."""
    events: dict[int, list[tuple[str, int]]] = {}
    now = 0
    for gap, what, value in ops:
        now += gap
        events.setdefault(now, []).append((what, value))
    last, stopped, tick = now, False, 0
    waiting: list[dict[str, Any]] = []
    taken: list[dict[str, Any]] = []
    everyone: list[dict[str, Any]] = []
    while tick <= last or waiting or taken:
        while waiting and len(taken) < workers:  # before anything else happens, as many as there were places
            taken.append(waiting.pop(0))
        for what, value in events.get(tick, []):
            if what == "arrive":
                everyone.append({"arrived": tick, "started": None, "done": None, "left": value})
                waiting.append(everyone[-1])
            elif what == "workers":
                workers = value
            else:
                stopped = what == "stall"
            while waiting and len(taken) < workers:
                taken.append(waiting.pop(0))
        if tick == last:
            stopped = False
        if not stopped and (stall is None or tick % stall.every < stall.every - stall.duration):
            for job in taken:
                job["started"] = tick if job["started"] is None else job["started"]
                job["left"] -= 1
                if job["left"] == 0:
                    job["done"] = tick + 1
            taken = [job for job in taken if job["left"]]
        tick += 1
    return [(job["arrived"], job["started"], job["done"]) for job in everyone]


@given(ops=OPS, stall=STALLS, workers=st.integers(1, 3), late=LATE)
def test_stalls_and_changes_are_those_of_a_count(
    fake_time: Any, ops: list[Op], stall: Stall | None, workers: int, late: float
) -> None:
    """Stalls by the clock and by hand, and another number of workers in mid-flight, give the times of a plain count."""
    assert play(fake_time(late), workers, stall, ops) == count_ticks(workers, stall, ops)


@given(
    duration=st.floats(0.001, 5),
    working=st.floats(0.001, 5),
    origin=st.floats(-100, 1e6),
    start=st.floats(0, 100),
    work=st.floats(0, 50),
)
def test_working_hours_agree_with_themselves(
    duration: float, working: float, origin: float, start: float, work: float
) -> None:
    """What finishes has been worked for as long as asked, at a moment that is no stall; rounding never costs a period."""
    stall = Stall(duration, duration + working)
    hours = WorkingHours(stall, origin)
    begun = hours.resumed(origin + start)
    done = hours.finish(origin + start, work)
    assert hours.resumed(begun) == begun
    assert begun - (origin + start) <= duration + 1e-6
    assert hours.worked(origin + start, done) == pytest.approx(work, abs=1e-6)
    assert done - begun <= work + (work / (stall.every - stall.duration) + 1) * duration + 1e-6


def test_by_hand(fake_time: Any) -> None:
    """Five arrivals at one worker that stands still from 3 to 5, worked by hand.

    arrived 0 1 2 4 9, service 2 2 1 1 1: the first is done at 2; the second works from 2 to 3, stands still, and is done
    at 6; the third is done at 7, the fourth at 8; the fifth finds nobody.
    """
    ops = [(0, "arrive", 2), (1, "arrive", 2), (1, "arrive", 1), (1, "stall", 0), (1, "arrive", 1), (1, "resume", 0)]
    assert play(fake_time(), 1, None, [*ops, (4, "arrive", 1)]) == [
        (0, 0, 2),
        (1, 2, 6),
        (2, 6, 7),
        (4, 7, 8),
        (9, 9, 10),
    ]


def test_no_limit_serves_all_at_once(fake_time: Any) -> None:
    """Without a number of workers nobody waits; a service of no time is done on arrival."""
    visits = play(fake_time(), None, None, [(0, "arrive", 3)] * 50 + [(1, "arrive", 0)])
    assert visits == [(0, 0, 3)] * 50 + [(1, 1, 1)]


def test_no_service_time_needs_no_timer(fake_time: Any) -> None:
    """A service of no time is done on arrival, without a turn of the event loop's timers."""
    time = fake_time()

    async def run() -> Visit:
        return await Service(1, None, time.clock, time.call_later).serve(0)

    assert asyncio.run(run()) == (0, 0, 0)


def test_another_stall_counts_from_its_change(fake_time: Any) -> None:
    """A stall set at 10 lets the server work for its first seconds, whatever stood before."""
    time = fake_time()

    async def run() -> Visit:
        service = Service(1, Stall(9, 10), time.clock, time.call_later)
        time.run_until(10.5)
        visit = asyncio.create_task(service.serve(3))
        await asyncio.sleep(0)
        time.run_until(12)  # it has worked from 10.5 to 11, and stands still till 20
        service.configure(1, Stall(2, 4))  # from 12 to 14 it works, from 14 to 16 not
        time.run()
        return await visit

    assert asyncio.run(run()) == (10.5, 10.5, 16.5)


def test_who_leaves_keeps_its_place(fake_time: Any) -> None:
    """A caller that is cancelled in the queue or in service still takes its worker's time, as in a real server."""
    time = fake_time()

    async def run() -> Visit:
        service = Service(1, None, time.clock, time.call_later)
        visits = [asyncio.create_task(service.serve(2)) for _ in range(3)]
        await asyncio.sleep(0)
        assert service.waiting == 2
        visits[0].cancel()
        visits[1].cancel()
        await asyncio.sleep(0)
        time.run()
        return await visits[2]

    assert asyncio.run(run()) == (0, 4, 6)


def test_close_drops_everyone(fake_time: Any) -> None:
    """Closing cancels whoever is served or waits, in a stall too, and leaves no timer."""
    time = fake_time()

    async def run() -> list[Any]:
        service = Service(1, None, time.clock, time.call_later)
        visits = [asyncio.create_task(service.serve(2)) for _ in range(3)]
        await asyncio.sleep(0)
        service.stall()
        assert time.waiting == 0
        service.close()
        return await asyncio.gather(*visits, return_exceptions=True)

    assert [type(answer) for answer in asyncio.run(run())] == [asyncio.CancelledError] * 3
    assert time.waiting == 0
