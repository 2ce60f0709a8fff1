"""ConcurrencyLimit: never more than its places, first come first served; and the limits of an engine."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.engine import ConcurrencyLimit, Execution, GuardOptions, LayeredExecutionEngine
from skilllab.engine.guard import checked_seconds
from skilllab.errors import ExecutionTimeoutError, InvalidValueError, QueueFullError
from skilllab.model import FunctionHandler, SkillDefinition
from skilllab.registry import InMemorySkillRegistry
from skilllab.testing import FakeRunner


async def settle(turns: int = 12) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


# one limit against a model


class Model:
    """What a limit must do: a place that is given back goes at once to the first who still waits."""

    def __init__(self, limit: int) -> None:
        self.limit, self.free = limit, limit
        self.waiting: list[int] = []
        self.given: list[int] = []  # handed over, not yet taken up
        self.holding: list[int] = []
        self.gone: set[int] = set()

    def acquire(self, client: int) -> None:
        if self.free > 0:
            self.free -= 1
            self.holding.append(client)
        else:
            self.waiting.append(client)

    def give_back(self) -> None:
        self.free += 1
        self.hand_over()

    def hand_over(self) -> None:
        while self.free > 0 and self.waiting:
            self.free -= 1
            self.given.append(self.waiting.pop(0))

    def cancel(self, client: int) -> None:
        self.gone.add(client)
        if client in self.waiting:
            self.waiting.remove(client)

    def resize(self, limit: int) -> None:
        self.free += limit - self.limit
        self.limit = limit
        self.hand_over()

    def settle(self) -> None:
        while self.given:
            client = self.given.pop(0)
            if client in self.gone:
                self.give_back()
            else:
                self.holding.append(client)


STEPS = st.lists(
    st.one_of(
        st.just(("acquire", 0)),
        st.tuples(st.just("release"), st.integers(0, 9)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("resize"), st.integers(1, 4)),
        st.just(("settle", 0)),
    ),
    max_size=40,
)


@pytest.mark.slow
@given(STEPS, st.integers(1, 3), st.integers(0, 6))
def test_places_are_given_as_the_model_says(steps: list[tuple[str, int]], limit: int, crowd: int) -> None:
    """Whatever is acquired, released, cancelled and resized, in one turn of the loop or over many, the same clients hold
    the places, in the same order, as in the model; a cancelled one ends with its CancelledError; no place gets lost.
    """

    async def run() -> None:
        gate, model = ConcurrencyLimit(limit, 1000), Model(limit)
        held: list[int] = []
        clients: list[asyncio.Task[None]] = []

        async def client(number: int) -> None:
            await gate.acquire()
            held.append(number)

        for what, number in [*[("acquire", 0)] * crowd, *steps, ("settle", 0)]:
            if what == "acquire":
                clients.append(asyncio.create_task(client(len(clients))))
                await settle()  # so that it waits, and whatever was given is taken up
                model.settle()
                model.acquire(len(clients) - 1)
            elif what == "release" and model.holding:
                given_back = model.holding.pop(number % len(model.holding))
                held.remove(given_back)
                gate.release()
                model.give_back()
            elif what == "cancel" and model.waiting + model.given:
                unlucky = (model.waiting + model.given)[number % len(model.waiting + model.given)]
                clients[unlucky].cancel()
                model.cancel(unlucky)
            elif what == "resize":
                gate.resize(number)
                model.resize(number)
            elif what == "settle":
                await settle(4 * len(clients) + 1)
                model.settle()
                assert held == model.holding
                assert gate.statistics() == (model.limit, model.limit - model.free, len(model.waiting))
        for number in model.gone:
            assert clients[number].cancelled()
        while held:
            held.pop()
            gate.release()
            await settle()
        assert gate.statistics() == (model.limit, 0, 0)
        assert all(task.done() for task in clients)

    asyncio.run(run())


def test_first_come_first_served() -> None:
    """Places go to those who wait in the order in which they came, and never past one who waits."""

    async def run() -> list[int]:
        gate = ConcurrencyLimit(2)
        order: list[int] = []

        async def client(number: int) -> None:
            async with gate:
                order.append(number)
                await settle(number % 3)

        await asyncio.gather(*(client(number) for number in range(50)))
        assert gate.statistics() == (2, 0, 0)
        return order

    assert asyncio.run(run()) == list(range(50))


def test_the_queue_has_a_bound() -> None:
    """The call for which there is no room is refused at once, with the numbers; those that wait are served."""

    async def run() -> None:
        gate = ConcurrencyLimit(2, queue_size=3, name="the printer")
        tasks = [asyncio.create_task(gate.acquire()) for _ in range(5)]
        await settle()
        with pytest.raises(QueueFullError, match="the printer: all 2 places are taken and 3 calls wait") as caught:
            await gate.acquire()
        assert (caught.value.limit, caught.value.waiting) == (2, 3)
        for _ in range(3):
            gate.release()
        await asyncio.gather(*tasks)
        assert gate.statistics() == (2, 2, 0)

    asyncio.run(run())


def test_a_queue_of_none_refuses_whoever_finds_no_place() -> None:
    """With queue_size=0 nobody waits."""

    async def run() -> None:
        gate = ConcurrencyLimit(1, queue_size=0)
        async with gate:
            with pytest.raises(QueueFullError):
                await gate.acquire()
        await gate.acquire()

    asyncio.run(run())


def test_a_place_given_to_one_who_is_cancelled_in_the_same_turn_goes_on() -> None:
    """Release and cancellation in one turn lose no place, in either order."""

    async def run(release_first: bool) -> None:
        gate = ConcurrencyLimit(1)
        await gate.acquire()
        first, second = (asyncio.create_task(gate.acquire()) for _ in range(2))
        await settle()
        for what in (gate.release, first.cancel) if release_first else (first.cancel, gate.release):
            what()
        with pytest.raises(asyncio.CancelledError):
            await first
        await second
        assert gate.statistics() == (1, 1, 0)

    asyncio.run(run(True))
    asyncio.run(run(False))


def test_many_who_leave_the_queue_leave_it_in_order() -> None:
    """After 1,000 of 2,000 waiting calls were cancelled, last first, the others are served in the order of their coming."""

    async def run() -> None:
        gate = ConcurrencyLimit(1)
        order: list[int] = []
        await gate.acquire()

        async def client(number: int) -> None:
            async with gate:
                order.append(number)

        tasks = [asyncio.create_task(client(number)) for number in range(2000)]
        await asyncio.sleep(0)
        for task in reversed(tasks[::2]):
            task.cancel()
        await asyncio.sleep(0)
        assert gate.statistics().waiting == 1000
        gate.release()
        await asyncio.gather(*tasks[1::2])
        assert order == list(range(1, 2000, 2))

    asyncio.run(run())


def test_resizing() -> None:
    """More places are given at once; fewer take effect as those who hold one leave."""

    async def run() -> None:
        gate = ConcurrencyLimit(1)
        tasks = [asyncio.create_task(gate.acquire()) for _ in range(5)]
        await settle()
        gate.resize(4)
        await settle()
        assert gate.statistics() == (4, 4, 1)
        gate.resize(2)
        for in_flight in (3, 2, 2):
            gate.release()
            await settle()
            assert gate.statistics().in_flight == in_flight
        assert gate.statistics() == (2, 2, 0)
        await asyncio.gather(*tasks)

    asyncio.run(run())


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "3", None])
def test_a_limit_without_a_meaning_is_refused(limit: Any) -> None:
    """A limit is a whole number of at least one, when it is made and when it is changed."""
    with pytest.raises(InvalidValueError, match="limit="):
        ConcurrencyLimit(limit)
    gate = ConcurrencyLimit(2)
    with pytest.raises(InvalidValueError, match="limit="):
        gate.resize(limit)
    assert gate.statistics() == (2, 0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "timeout=0 must be"),
        ({"timeout": True}, "timeout=True must be"),
        ({"timeout": float("nan")}, "timeout=nan must be"),
        ({"timeout": float("inf")}, "timeout=inf must be"),
        ({"timeout": 10**400}, "must be a number of seconds"),
        ({"timeout": "5"}, "timeout='5' must be"),
        ({"concurrency": 0}, "concurrency=0 must be"),
        ({"skill_concurrency": 0}, "skill_concurrency=0 must be"),
        ({"layer_concurrency": {4: 1}}, "layer_concurrency has layer 4"),
        ({"layer_concurrency": {1: 0}}, r"layer_concurrency\[1\]=0 must be"),
        ({"queue_size": -1}, "queue_size=-1 must be"),
        ({"breaker_failures": 0}, "breaker_failures=0 must be"),
        ({"breaker_recovery": None}, "breaker_recovery=None would never try again"),
        ({"breaker_recovery": 0}, "breaker_recovery=0 must be"),
    ],
)
def test_guards_without_a_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    """Each wrong option is an error that shows the value."""
    with pytest.raises(InvalidValueError, match=message):
        GuardOptions(**options)


def test_seconds_are_floats_or_none() -> None:
    """A whole number of seconds is one, None is no end."""
    assert (checked_seconds("timeout", 2), checked_seconds("timeout", None)) == (2.0, None)


# the limits of an engine


def definition(skill_id: str, layer: int = 1, **fields: Any) -> SkillDefinition:
    handler: Any = "textwrap:dedent" if layer == 1 else {"kind": "http", "url": "http://127.0.0.1/"}
    return SkillDefinition(id=skill_id, name=skill_id, layer=layer, handler=handler, **fields)


class Counted:
    """An answer that takes some turns and notes how many run at once, in all and by skill."""

    def __init__(self, turns: int = 3) -> None:
        self.turns = turns
        self.now: dict[str, int] = {}
        self.most: dict[str, int] = {}

    async def __call__(self, skill_id: str, params: dict[str, Any]) -> Any:
        names = ("all", skill_id)
        for name in names:
            self.now[name] = self.now.get(name, 0) + 1
            self.most[name] = max(self.most.get(name, 0), self.now[name])
        try:
            await settle(self.turns)
            if params.get("fail"):
                raise ConnectionError("gone")
            return params
        finally:
            for name in names:
                self.now[name] -= 1


def as_function(skill: SkillDefinition, answer: Any) -> SkillDefinition:
    """Returns the skill as an `async def` of its own, for the engine's own runner, with the same answers."""

    async def function(**params: Any) -> Any:
        answered = answer(skill.id, params)
        return await answered if inspect.isawaitable(answered) else answered

    return skill.model_copy(update={"handler": FunctionHandler(target="tests:skill", function=function)})


def with_engine(
    work: Callable[[LayeredExecutionEngine], Awaitable[Any]],
    answer: Any,
    *definitions: Any,
    real: bool = False,
    **guards: Any,
) -> Any:
    async def run() -> Any:
        registry = InMemorySkillRegistry()
        for each in definitions:
            await registry.register(as_function(each, answer) if real and each.layer == 1 else each)
            await registry.load(each.id)
        runner = FakeRunner(answer)
        runners = {"http": runner} if real else {"function": runner, "http": runner}
        async with LayeredExecutionEngine(registry, runners=runners, guards=GuardOptions(**guards)) as engine:
            return await work(engine)

    return asyncio.run(run())


@pytest.mark.parametrize("real", [False, True])
def test_a_thousand_executions_never_exceed_ten_in_flight(real: bool) -> None:
    """With room for ten, 1,000 concurrent executions run ten at once; nine hundred and ninety have waited."""
    counted = Counted()

    async def work(engine: LayeredExecutionEngine) -> list[Any]:
        return await asyncio.gather(*(engine.execute("a", {"n": n}) for n in range(1000)))

    results = with_engine(work, counted, definition("a"), real=real, concurrency=10)
    assert counted.most["all"] == 10
    assert [result.output for result in results] == [{"n": n} for n in range(1000)]
    assert sum(result.metadata.queue_time > 0 for result in results) == 990


@pytest.mark.parametrize("real", [False, True])
def test_beyond_the_queue_is_a_typed_refusal(real: bool) -> None:
    """Of 100 concurrent calls with 10 places and 20 to wait, 70 fail at once with the numbers, and did not start."""
    counted = Counted()

    async def work(engine: LayeredExecutionEngine) -> list[Any]:
        return await asyncio.gather(*(engine.execute("a", {}) for _ in range(100)))

    results = with_engine(work, counted, definition("a"), real=real, concurrency=10, queue_size=20)
    refused = [result for result in results if not result.success]
    assert results[30:] == refused
    assert {type(result.error) for result in refused} == {QueueFullError}
    assert {(result.error.limit, result.error.waiting) for result in refused} == {(10, 20)}
    assert {(result.metadata.duration, result.metadata.attempts) for result in refused} == {(None, 0)}


@pytest.mark.parametrize("real", [False, True])
def test_each_layer_and_each_skill_has_its_own_limit(real: bool) -> None:
    """The engine, the layers and the skills are limited each for themselves; max_concurrency goes before the default."""
    counted = Counted()
    skills = (definition("a"), definition("b", max_concurrency=4), definition("c", layer=3))

    async def work(engine: LayeredExecutionEngine) -> Any:
        calls = [engine.execute(skill_id, {}) for _ in range(30) for skill_id in "abc"]
        waiting = asyncio.gather(*calls)
        await settle(3)
        seen = engine.limits()
        await waiting
        return seen, engine.limits()

    seen, after = with_engine(
        work, counted, *skills, real=real, concurrency=7, layer_concurrency={1: 5, 3: 3}, skill_concurrency=2
    )
    assert counted.most["a"] == 2
    assert counted.most["b"] <= 4
    assert counted.most["c"] <= 3
    assert counted.most["all"] == 7
    assert (seen["engine"].limit, seen["layer 1"].limit, seen["layer 3"].limit) == (7, 5, 3)
    assert seen["engine"].in_flight == 7
    assert seen["layer 1"].in_flight + seen["layer 3"].in_flight >= 7
    assert {name: statistics[1:] for name, statistics in after.items()} == dict.fromkeys(after, (0, 0))


def test_who_waits_for_its_skill_holds_no_place_of_the_engine() -> None:
    """Calls of a busy skill that wait for it do not keep another skill from running."""
    gate = asyncio.Event()

    async def answer(skill_id: str, params: Any) -> str:
        if skill_id == "busy":
            await gate.wait()
        return skill_id

    async def work(engine: LayeredExecutionEngine) -> None:
        waiting = [asyncio.create_task(engine.call("busy")) for _ in range(10)]
        await settle()
        assert await engine.call("other") == "other"
        gate.set()
        assert await asyncio.gather(*waiting) == ["busy"] * 10

    with_engine(work, answer, definition("busy", max_concurrency=1), definition("other"), concurrency=2)


@pytest.mark.parametrize("real", [False, True])
def test_what_ends_at_once_gives_its_place_back(real: bool) -> None:
    """A skill that returns, raises, or is wrong in its first step holds no place afterwards."""

    def answer(skill_id: str, params: dict[str, Any]) -> Any:
        if params["how"] == "raise":
            raise ValueError("no")
        return "text" if params["how"] == "lie" else 5

    async def work(engine: LayeredExecutionEngine) -> None:
        for how in ("return", "raise", "lie") * 2:
            result = await engine.execute("a", {"how": how})
            assert result.success is (how == "return")
            assert result.metadata.duration is not None
            assert engine.limits()["engine"] == (1, 0, 0)

    with_engine(
        work, answer, definition("a", output_schema={"type": "integer"}), real=real, concurrency=1, queue_size=0
    )


@pytest.mark.parametrize("how", ["timeout", "cancel", "refused"])
def test_who_gets_one_place_and_not_the_other_gives_it_back(how: str) -> None:
    """A call that has its skill's place and cannot get the engine's leaves both free for others."""
    gate = asyncio.Event()

    async def answer(skill_id: str, params: Any) -> str:
        if skill_id == "long":
            await gate.wait()
        return skill_id

    async def work(engine: LayeredExecutionEngine) -> None:
        running = asyncio.create_task(engine.execute("long"))
        await settle()
        for _ in range(3):
            task = asyncio.create_task(engine.execute("narrow", timeout=0.01 if how == "timeout" else None))
            await settle()
            own_gate = engine._lanes.get("narrow").own_gate  # type: ignore[union-attr]
            assert own_gate.statistics() == (1, 0 if how == "refused" else 1, 0)
            if how == "cancel":
                task.cancel()
            await asyncio.wait([task])
            assert own_gate.statistics() == (1, 0, 0)
        gate.set()
        assert (await running).success
        assert await engine.call("narrow") == "narrow"

    skills = (definition("long"), definition("narrow", max_concurrency=1))
    with_engine(work, answer, *skills, concurrency=1, queue_size=0 if how == "refused" else 5)


@pytest.mark.slow
@given(st.data())
def test_places_come_back_whatever_happens(data: st.DataObject) -> None:
    """Random cancellations, failures, timeouts and refusals leave every place free, and never exceeded a limit."""
    limit = data.draw(st.integers(1, 4))
    plan = data.draw(
        st.lists(st.tuples(st.sampled_from(["run", "fail", "cancel", "end"]), st.integers(0, 9)), max_size=30)
    )
    real = data.draw(st.booleans())
    counted = Counted(turns=4)

    async def work(engine: LayeredExecutionEngine) -> None:
        ids: list[str] = []
        engine.on("execution-start", lambda event: ids.append(event.execution_id))
        tasks = []
        for what, when in plan:
            tasks.append(asyncio.create_task(engine.execute("a", {"fail": what == "fail"})))
            await settle(when % 3)
            if what == "cancel":
                tasks[when % len(tasks)].cancel()
            elif what == "end" and ids:
                engine.cancel(ids[when % len(ids)])
        await asyncio.gather(*tasks, return_exceptions=True)
        assert engine.active == ()
        assert engine.limits()["engine"] == (limit, 0, 0)

    with_engine(work, counted, definition("a"), real=real, concurrency=limit, queue_size=5, breaker_failures=3)
    assert counted.most.get("all", 0) <= limit
    assert counted.now.get("all", 0) == 0


def test_what_could_not_be_stopped_keeps_its_place() -> None:
    """A run that a runner left behind holds its places until it ends, although its caller has its result."""
    ends: list[asyncio.Future[None]] = []

    class Leaving(FakeRunner):
        async def run(self, execution: Execution) -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                execution.left_behind = asyncio.get_running_loop().create_future()
                ends.append(execution.left_behind)

    async def run() -> None:
        registry = InMemorySkillRegistry()
        for name in ("a", "kept"):
            await registry.register(definition(name, cacheable=name == "kept"))
        guards = GuardOptions(concurrency=1, queue_size=0)
        async with LayeredExecutionEngine(registry, runners={"function": Leaving()}, guards=guards) as engine:
            for name in ("a", "kept"):
                assert isinstance((await engine.execute(name, timeout=0.01)).error, ExecutionTimeoutError)
                assert engine.limits()["engine"] == (1, 1, 0)
                assert isinstance((await engine.execute(name)).error, QueueFullError)
                ends.pop().set_result(None)
                await settle()
                assert engine.limits()["engine"] == (1, 0, 0)

    asyncio.run(run())


# an update


def test_an_update_keeps_the_places_and_changes_their_number() -> None:
    """Executions of the former revision still hold their places; a lowered or raised max_concurrency counts at once."""
    counted = Counted(turns=6)

    async def work(engine: LayeredExecutionEngine) -> None:
        registry: Any = engine._pipeline._registry
        tasks = [asyncio.create_task(engine.execute("a", {})) for _ in range(20)]
        await settle(3)
        assert counted.now["all"] == 4
        counted.most.clear()
        await registry.update("a", definition("a", max_concurrency=2, version="2"))
        await registry.load("a")
        tasks += [asyncio.create_task(engine.execute("a", {})) for _ in range(10)]
        await settle(9)
        assert counted.now["all"] <= 2
        await registry.update("a", definition("a", max_concurrency=6, version="3"))
        await registry.load("a")
        tasks += [asyncio.create_task(engine.execute("a", {})) for _ in range(30)]
        counted.most.clear()
        await asyncio.gather(*tasks)
        assert counted.most["all"] == 6  # at one moment or another: a place that is handed over is empty for a turn

    with_engine(work, counted, definition("a", max_concurrency=4))


def test_many_skills_keep_the_busy_and_the_failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the kept number of skills only those go of which nothing would be lost: no place held, no failure counted."""
    monkeypatch.setattr("skilllab.engine.lanes._KEPT", 5)
    gate = asyncio.Event()

    async def answer(skill_id: str, params: Any) -> str:
        if skill_id == "busy":
            await gate.wait()
        if skill_id == "failing":
            raise ConnectionError("gone")
        return skill_id

    names = ["busy", "failing", *(f"s{number}" for number in range(20))]

    async def work(engine: LayeredExecutionEngine) -> None:
        tasks = [asyncio.create_task(engine.execute("busy")) for _ in range(3)]
        await engine.execute("failing")
        breaker = engine.breaker("failing")
        for number in range(20):
            await engine.call(f"s{number}")
            assert len(engine._lanes._lanes) <= 6
        assert engine.breaker("failing") is breaker
        assert breaker is not None
        assert breaker.failures == 1
        assert engine.breaker("s0") is None
        tasks.append(asyncio.create_task(engine.execute("busy")))
        await settle()
        assert [run.state for run in engine.active] == ["running", "queued", "queued", "queued"]
        gate.set()
        assert {(await task).output for task in tasks} == {"busy"}

    with_engine(work, answer, *(definition(name, max_concurrency=1) for name in names))
