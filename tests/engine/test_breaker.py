"""CircuitBreaker: opens on failures that count, lets exactly one call through to see, and closes when that worked."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab import errors
from skilllab.engine import CircuitBreaker, Execution, GuardOptions, LayeredExecutionEngine
from skilllab.engine.guard import counts_as_failure
from skilllab.errors import CircuitOpenError, InvalidValueError
from skilllab.model import FunctionHandler, SkillDefinition
from skilllab.registry import InMemorySkillRegistry
from skilllab.testing import FakeClock, FakeRunner


async def settle(turns: int = 12) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


def make(threshold: int = 3, recovery: float = 60.0) -> tuple[CircuitBreaker, FakeClock, list[tuple[str, str]]]:
    clock, changes = FakeClock(), list[tuple[str, str]]()
    breaker = CircuitBreaker(
        threshold, recovery, clock=clock, on_change=lambda *states: changes.append(states), name="the service"
    )
    return breaker, clock, changes


def opened() -> tuple[CircuitBreaker, FakeClock, list[tuple[str, str]]]:
    breaker, clock, changes = make()
    for _ in range(3):
        breaker.report(breaker.admit(), False)
    return breaker, clock, changes


# alone


def test_it_opens_after_failures_in_a_row() -> None:
    """Two failures, a success and two failures leave it closed; the third in a row opens it and says when it tries again."""
    breaker, clock, changes = make()
    for worked in (False, False, True, False, False):
        breaker.report(breaker.admit(), worked)
    assert (breaker.state, breaker.failures, changes) == ("closed", 2, [])
    breaker.report(breaker.admit(), False)
    assert (breaker.state, changes) == ("open", [("closed", "open")])
    clock.advance(59.0)
    for refused in (breaker.admit, breaker.check):
        with pytest.raises(
            CircuitOpenError, match=r"the service: refused, .*failed 3 times in a row.*again in 1"
        ) as caught:
            refused()
        assert caught.value.retry_after == 1.0


@pytest.mark.parametrize(
    ("worked", "state", "then"), [(True, "closed", None), (False, "open", 60.0), (None, "half-open", 0.0)]
)
def test_the_probe_decides(worked: bool | None, state: str, then: float | None) -> None:
    """A probe that works closes it, one that fails opens it for as long again, one that says nothing lets another try."""
    breaker, clock, changes = opened()
    clock.advance(60.0)
    ticket = breaker.admit()
    assert breaker.state == "half-open"
    with pytest.raises(CircuitOpenError, match="one call is trying it now") as caught:
        breaker.admit()
    assert caught.value.retry_after == 0.0
    breaker.report(ticket, worked)
    assert breaker.state == state
    assert changes == [
        ("closed", "open"),
        ("open", "half-open"),
        *([("half-open", state)] if worked is not None else []),
    ]
    if then:
        with pytest.raises(CircuitOpenError):
            breaker.admit()
        clock.advance(then)
    breaker.admit()


def test_the_check_admits_nobody() -> None:
    """Looking whether a call would be refused is no probe."""
    breaker, clock, _ = opened()
    clock.advance(60.0)
    breaker.check()
    breaker.check()
    assert breaker.state == "open"
    breaker.admit()


def test_a_late_report_changes_nothing() -> None:
    """What was admitted before it opened speaks of another time: it neither closes nor opens, nor ends a probe."""
    breaker, clock, changes = make()
    late = [breaker.admit() for _ in range(4)]
    for _ in range(3):
        breaker.report(breaker.admit(), False)
    breaker.report(late[0], True)
    assert breaker.state == "open"
    clock.advance(60.0)
    probe = breaker.admit()
    breaker.report(late[1], True)
    breaker.report(late[2], False)
    assert breaker.state == "half-open"
    with pytest.raises(CircuitOpenError):
        breaker.admit()
    breaker.report(probe, True)
    breaker.report(late[3], False)
    assert (breaker.state, breaker.failures) == ("closed", 0)
    assert changes == [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]


class Model:
    """A breaker in the words of its rules; a report counts if its admission belongs to the present period."""

    def __init__(self, threshold: int, recovery: float) -> None:
        self.threshold, self.recovery = threshold, recovery
        self.state, self.failures, self.tries_at, self.period = "closed", 0, 0.0, 0
        self.probe: object = None

    def admits(self, now: float) -> object:
        if self.state == "open" and now >= self.tries_at:
            self.state = "half-open"
        if self.state == "closed":
            return ("call", self.period)
        if self.state == "open" or self.probe is not None:
            return None
        self.probe = ("probe", object())
        return self.probe

    def report(self, admission: object, worked: bool | None, now: float) -> None:
        if self.state == "half-open" and admission is self.probe:
            self.probe = None
            if worked:
                self.state, self.failures = "closed", 0
                self.period += 1
            elif worked is not None:
                self.state, self.tries_at = "open", now + self.recovery
                self.failures += 1
        elif self.state == "closed" and admission == ("call", self.period):
            if worked:
                self.failures = 0
            elif worked is not None:
                self.failures += 1
                if self.failures == self.threshold:
                    self.state, self.tries_at = "open", now + self.recovery


@pytest.mark.slow
@given(
    st.lists(
        st.one_of(
            st.just(("admit", 0, None)),
            st.just(("admit", 0, None)),
            st.tuples(st.just("report"), st.integers(0, 9), st.sampled_from([True, False, False, None])),
            st.tuples(st.just("advance"), st.integers(1, 12), st.none()),
        ),
        max_size=80,
    ),
    st.integers(1, 3),
)
def test_it_does_what_the_model_does(steps: list[tuple[str, int, bool | None]], threshold: int) -> None:
    """However admissions, reports in any order and time follow each other, state, failures and refusals are the model's."""
    breaker, clock, changes = make(threshold, recovery=10.0)
    model, seen = Model(threshold, 10.0), ["closed"]
    under_way: list[tuple[int, object]] = []
    for what, number, worked in steps:
        if what == "advance":
            clock.advance(float(number))
        elif what == "admit":
            admission = model.admits(clock())
            if admission is None:
                with pytest.raises(CircuitOpenError):
                    breaker.check()
                with pytest.raises(CircuitOpenError):
                    breaker.admit()
            else:
                breaker.check()
                under_way.append((breaker.admit(), admission))
        elif under_way:
            ticket, admission = under_way.pop(number % len(under_way))
            breaker.report(ticket, worked)
            model.report(admission, worked, clock())
        assert (breaker.state, breaker.failures) == (model.state, model.failures)
        if model.state != seen[-1]:
            seen.append(model.state)
    assert changes == list(itertools.pairwise(seen))


def test_guard_reports_what_its_body_did() -> None:
    """A body that ends works, one that raises what counts fails, and any other error says nothing; all errors pass."""
    breaker, _, _ = make()
    for error in (ConnectionError("a"), TimeoutError("b")):
        with pytest.raises(type(error)), breaker.guard():
            raise error
    for other in (ValueError("mine"), asyncio.CancelledError(), KeyboardInterrupt()):
        with pytest.raises(type(other)), breaker.guard():
            raise other
    assert breaker.failures == 2
    with breaker.guard():
        pass
    assert breaker.failures == 0
    with pytest.raises(ValueError, match="counted"), breaker.guard(lambda error: isinstance(error, ValueError)):
        raise ValueError("counted")
    assert breaker.failures == 1
    with pytest.raises(KeyError), breaker.guard(lambda error: isinstance(error, ValueError)):
        raise KeyError("an answer, if not the one hoped for")
    assert breaker.failures == 0


def test_one_of_a_hundred_tasks_probes() -> None:
    """When the time has come and a hundred tasks call at once, one goes through and ninety-nine are refused."""
    breaker, clock, _ = opened()
    clock.advance(60.0)
    went: list[int] = []

    async def client(number: int) -> None:
        with breaker.guard():
            went.append(number)
            await settle()

    async def run() -> list[Any]:
        return await asyncio.gather(*(client(number) for number in range(100)), return_exceptions=True)

    outcomes = asyncio.run(run())
    assert went == [0]
    assert [type(outcome) for outcome in outcomes[1:]] == [CircuitOpenError] * 99
    assert breaker.state == "closed"


@pytest.mark.parametrize(
    ("threshold", "recovery", "message"),
    [
        (0, 1.0, "failure_threshold=0 must be"),
        (True, 1.0, "failure_threshold=True must be"),
        (5, 0, "recovery_time=0 must be"),
        (5, None, "recovery_time=None would never try again"),
        (5, float("inf"), "recovery_time=inf must be"),
    ],
)
def test_a_breaker_without_a_meaning_is_refused(threshold: Any, recovery: Any, message: str) -> None:
    """Each wrong argument is an error that shows the value."""
    with pytest.raises(InvalidValueError, match=message):
        CircuitBreaker(threshold, recovery)


OUTCOMES = [
    (ConnectionError("gone"), True),
    (TimeoutError("late"), True),
    (errors.TransportError("gone"), True),
    (errors.ExecutionTimeoutError("late", timeout=1.0, stage="run"), True),
    (errors.LimitExceededError("much", limit="max_memory", allowed=1, used=2), True),
    (errors.HttpStatusError("failed", status=500), True),
    (errors.HttpStatusError("failed", status=503), True),
    (errors.HttpStatusError("too many", status=429), True),
    (errors.HttpStatusError("slow", status=408), True),
    (errors.HttpStatusError("not there", status=404), False),
    (errors.HttpStatusError("not allowed", status=403), False),
    (errors.SkillFailedError("its own"), False),
    (errors.InvalidOutputError("lied", skill_id="a"), False),
    (errors.InvalidParametersError("wrong", skill_id="a"), None),
    (errors.QueueFullError("full", limit=1, waiting=1), None),
    (errors.CircuitOpenError("open", retry_after=1.0), None),
    (errors.ExecutionCancelledError("told to"), None),
    (errors.HostNotAllowedError("elsewhere"), None),
    (errors.SecretError("unset"), None),
    (errors.BatchError("too few"), None),
    (ValueError("a bug"), None),
    (asyncio.CancelledError(), None),
]


@pytest.mark.parametrize(("error", "counts"), OUTCOMES, ids=lambda value: getattr(value, "args", [value])[0:1])
def test_what_counts(error: BaseException, counts: bool | None) -> None:
    """Transport failures, timeouts, limit hits and a server's own errors count; answers of a caller's fault count for it."""
    assert counts_as_failure(error) is counts


@pytest.mark.parametrize(
    ("met", "counts"),
    [
        (ConnectionResetError("gone"), True),
        (TimeoutError("late"), True),
        (errors.TransportError("gone"), True),
        (FileNotFoundError("no file"), False),
        (ValueError("a bug"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_skill_met_counts(met: Exception, counts: bool) -> None:
    """A connection that failed counts against a skill also where its own code met it; a bug or a missing file does not."""
    failure = errors.SkillFailedError("its own")
    failure.__cause__ = met
    assert counts_as_failure(failure) is counts


# in the engine


def definition(skill_id: str = "a", **fields: Any) -> SkillDefinition:
    return SkillDefinition(id=skill_id, name=skill_id, layer=1, handler="textwrap:dedent", **fields)


def as_function(skill: SkillDefinition, answer: Any) -> SkillDefinition:
    """Returns the skill as an `async def` of its own, for the engine's own runner, with the same answers."""

    async def function(**params: Any) -> Any:
        answered = answer(skill.id, params)
        return await answered if inspect.isawaitable(answered) else answered

    return skill.model_copy(update={"handler": FunctionHandler(target="tests:skill", function=function)})


def with_engine(
    work: Callable[[LayeredExecutionEngine], Awaitable[Any]],
    answer: Any,
    *,
    runner: FakeRunner | None = None,
    real: bool = False,
    **options: Any,
) -> Any:
    """Runs the work with an engine whose skills a, b and (cacheable) c answer as told; three failures open."""

    async def run() -> Any:
        registry = InMemorySkillRegistry()
        skills = [definition("a", input_schema={"required": []}), definition("b"), definition("c", cacheable=True)]
        for each in skills:
            await registry.register(as_function(each, answer) if real else each)
            await registry.load(each.id)
        guards = GuardOptions(**{"breaker_failures": 3, **options.pop("guards", {})})
        runners = {} if real else {"function": runner or FakeRunner(answer)}
        async with LayeredExecutionEngine(registry, runners=runners, guards=guards, **options) as engine:
            return await work(engine)

    return asyncio.run(run())


def raising(error: BaseException) -> Callable[..., Any]:
    def answer(*_: Any) -> Any:
        raise error

    return answer


def test_a_failing_skill_is_refused_and_tried_again() -> None:
    """Three failures open the skill's breaker, not another's; after the recovery time one call tries; events tell it all."""
    clock, works = FakeClock(), False
    events: list[Any] = []

    def answer(skill_id: str, params: Any) -> str:
        if skill_id == "a" and not works:
            raise errors.TransportError("gone")
        return skill_id

    async def work(engine: LayeredExecutionEngine) -> None:
        nonlocal works
        engine.on("breaker-change", events.append)
        assert engine.breaker("a") is None
        for _ in range(3):
            assert isinstance((await engine.execute("a")).error, errors.TransportError)
        refused = await engine.execute("a")
        assert isinstance(refused.error, CircuitOpenError)
        assert refused.error.retry_after == 60.0
        assert (refused.metadata.duration, refused.metadata.attempts, refused.metadata.isolation) == (None, 0, None)
        assert (await engine.execute("b")).output == "b"
        works = True
        clock.advance(60.0)
        assert (await engine.execute("a")).output == "a"
        breaker = engine.breaker("a")
        assert breaker is not None
        assert breaker.state == "closed"

    with_engine(work, answer, clock=clock, wall_clock=FakeClock(5.0))
    assert [(event.skill_id, event.before, event.after, event.time) for event in events] == [
        ("a", "closed", "open", 5.0),
        ("a", "open", "half-open", 5.0),
        ("a", "half-open", "closed", 5.0),
    ]


async def opened_in(engine: LayeredExecutionEngine, skill_id: str = "a") -> CircuitBreaker:
    """Returns the breaker of the skill after it had its three failures."""
    await engine.execute(skill_id)
    breaker = engine.breaker(skill_id)
    assert breaker is not None
    while breaker.state != "open":
        breaker.report(breaker.admit(), False)
    return breaker


@pytest.mark.parametrize(("fails", "real"), [(True, False), (False, False), (False, True)])
def test_exactly_one_execution_probes_under_a_burst(fails: bool, real: bool) -> None:
    """Of a hundred executions at once one runs, whatever comes of it, and ninety-nine are refused."""
    clock = FakeClock()
    ran: list[str] = []

    async def answer(skill_id: str, params: Any) -> str:
        ran.append(skill_id)
        await settle()
        if fails:
            raise errors.TransportError("gone")
        return "ok"

    async def work(engine: LayeredExecutionEngine) -> None:
        breaker = await opened_in(engine)
        clock.advance(60.0)
        ran.clear()
        results = await asyncio.gather(*(engine.execute("a") for _ in range(100)))
        assert ran == ["a"]
        assert sum(isinstance(result.error, CircuitOpenError) for result in results) == 99
        assert breaker.state == ("open" if fails else "closed")

    with_engine(work, answer, real=real, clock=clock)


@pytest.mark.parametrize("real", [False, True])
def test_a_cancelled_probe_lets_another_try(real: bool) -> None:
    """A probe whose caller leaves says nothing: the next call is the probe."""
    clock, hang = FakeClock(), asyncio.Event()

    async def answer(skill_id: str, params: Any) -> str:
        if params:
            await hang.wait()
        return "ok"

    async def work(engine: LayeredExecutionEngine) -> None:
        await opened_in(engine)
        clock.advance(60.0)
        probe = asyncio.create_task(engine.execute("a", {"hang": True}))
        await settle()
        assert isinstance((await engine.execute("a")).error, CircuitOpenError)
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        hang.set()
        assert (await engine.execute("a")).output == "ok"

    with_engine(work, answer, real=real, clock=clock)


def test_a_probe_waits_for_its_place_like_any_call() -> None:
    """Waiting is no probe: the call that is tried is the one that runs, and until then another may be."""
    clock, gate = FakeClock(), asyncio.Event()

    async def answer(skill_id: str, params: Any) -> str:
        if skill_id == "b":
            await gate.wait()
        return skill_id

    async def work(engine: LayeredExecutionEngine) -> None:
        breaker = await opened_in(engine)
        clock.advance(60.0)
        busy = asyncio.create_task(engine.execute("b"))
        await settle()
        waiting = [asyncio.create_task(engine.execute("a")) for _ in range(2)]
        await settle()
        assert (breaker.state, engine.limits()["engine"].waiting) == ("open", 2)
        waiting[0].cancel()
        gate.set()
        assert (await waiting[1]).output == "a"
        assert breaker.state == "closed"
        await busy

    with_engine(work, answer, clock=clock, guards={"concurrency": 1})


@pytest.mark.parametrize(("error", "counts"), OUTCOMES[:-1], ids=lambda value: getattr(value, "args", [value])[0:1])
def test_what_counts_in_an_engine(error: BaseException, counts: bool | None) -> None:
    """What a runner raises counts for, against or not at all, after two failures that did."""
    outcome: list[BaseException] = [ConnectionError("gone"), ConnectionError("gone"), error]

    async def work(engine: LayeredExecutionEngine) -> tuple[str, int]:
        for _ in range(3):
            await engine.execute("a")
        breaker = engine.breaker("a")
        assert breaker is not None
        return breaker.state, breaker.failures

    expected = {True: ("open", 3), False: ("closed", 0), None: ("closed", 2)}[counts]
    assert with_engine(work, lambda *_: raising(outcome.pop(0))()) == expected


def test_mistakes_of_the_caller_do_not_count() -> None:
    """Wrong parameters, limits that cannot be held and a full queue never reach the breaker."""

    async def work(engine: LayeredExecutionEngine) -> None:
        for _ in range(5):
            assert not (await engine.execute("a", [])).success  # type: ignore[arg-type]
            assert not (await engine.execute("a", resource_limits=5)).success  # type: ignore[arg-type]
            assert not (await engine.execute("a", timeout=-1)).success
        breaker = engine.breaker("a")
        assert breaker is not None
        assert (breaker.state, breaker.failures) == ("closed", 0)

    with_engine(work, lambda *_: 1)


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("skill_id", ["a", "c"])
@pytest.mark.parametrize("manner", ["obeys", "swallows", "converts"])
def test_timeouts_of_a_running_skill_count(skill_id: str, manner: str, real: bool) -> None:
    """Three that ran into their timeout open the breaker, whether cacheable or not, and whatever the skill made of it."""

    async def answer(*_: Any) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if manner == "obeys":
                raise
            if manner == "converts":
                raise ValueError("stopped") from None
        return "swallowed"

    async def work(engine: LayeredExecutionEngine) -> None:
        for number in range(3):
            result = await engine.execute(skill_id, {"n": number}, timeout=0.01)
            assert isinstance(result.error, errors.ExecutionTimeoutError)
            assert result.error.stage == "run"
        breaker = engine.breaker(skill_id)
        assert breaker is not None
        assert breaker.state == "open"

    with_engine(work, answer, real=real)


@pytest.mark.parametrize("skill_id", ["a", "c"])
def test_timeouts_in_the_queue_do_not_count(skill_id: str) -> None:
    """A skill that never got its turn has not failed: its callers' timeouts leave the breaker as it was."""
    hang = asyncio.Event()

    async def answer(*_: Any) -> None:
        await hang.wait()

    async def work(engine: LayeredExecutionEngine) -> None:
        running = asyncio.create_task(engine.execute("b"))
        await settle()
        results = await asyncio.gather(*(engine.execute(skill_id, {"n": n}, timeout=0.01) for n in range(10)))
        assert {getattr(result.error, "stage", None) for result in results} == {"queue"}
        breaker = engine.breaker(skill_id)
        assert breaker is not None
        assert (breaker.state, breaker.failures) == ("closed", 0)
        hang.set()
        await running

    with_engine(work, answer, guards={"concurrency": 1})


def test_timeouts_while_the_runner_waits_do_not_count() -> None:
    """A call whose time is over while it waits for a thread or a connection has not failed either."""

    class Busy(FakeRunner):
        async def run(self, execution: Execution) -> Any:
            begin = execution.clock()
            try:
                await asyncio.Event().wait()
            finally:
                execution.waited += execution.clock() - begin

    async def work(engine: LayeredExecutionEngine) -> None:
        for skill_id in ("a", "c"):
            result = await engine.execute(skill_id, timeout=0.01)
            assert isinstance(result.error, errors.ExecutionTimeoutError)
            assert result.error.stage == "queue"
            assert result.metadata.queue_time > 0.009
            breaker = engine.breaker(skill_id)
            assert breaker is not None
            assert (breaker.state, breaker.failures) == ("closed", 0)

    with_engine(work, None, runner=Busy())


@pytest.mark.parametrize("real", [False, True])
def test_cancellations_do_not_count(real: bool) -> None:
    """Callers who leave and executions that are told to stop say nothing about the skill."""

    async def answer(*_: Any) -> None:
        await asyncio.Event().wait()

    async def work(engine: LayeredExecutionEngine) -> None:
        for _ in range(5):
            leaving = asyncio.create_task(engine.execute("a"))
            ended = asyncio.create_task(engine.execute("a"))
            await settle()
            leaving.cancel()
            engine.cancel(engine.active[1].execution_id)
            await asyncio.gather(leaving, ended, return_exceptions=True)
        breaker = engine.breaker("a")
        assert breaker is not None
        assert (breaker.state, breaker.failures) == ("closed", 0)

    with_engine(work, answer, real=real)


def test_who_waits_while_the_breaker_opens_is_refused_when_its_turn_comes() -> None:
    """Calls in the queue of a skill that fails meanwhile do not run; a call that comes later does not even wait."""
    ran = 0

    async def answer(skill_id: str, params: Any) -> None:
        nonlocal ran
        ran += skill_id == "a"
        await settle()
        raise errors.TransportError("gone")

    async def work(engine: LayeredExecutionEngine) -> None:
        results = await asyncio.gather(*(engine.execute("a") for _ in range(10)))
        kinds = [type(result.error) for result in results]
        assert kinds == [errors.TransportError] * 3 + [CircuitOpenError] * 7
        assert ran == 3
        hanging = asyncio.create_task(engine.execute("b"))
        await settle(2)
        assert engine.limits()["engine"] == (1, 1, 0)
        assert isinstance((await engine.execute("a", timeout=None)).error, CircuitOpenError)
        assert not hanging.done()

    with_engine(work, answer, guards={"concurrency": 1})


def test_an_update_keeps_the_breaker() -> None:
    """A new revision of a failing skill is not hammered at once: its breaker stays open."""

    async def work(engine: LayeredExecutionEngine) -> None:
        for _ in range(3):
            await engine.execute("a")
        registry: Any = engine._pipeline._registry
        await registry.update("a", definition("a", version="2"))
        assert isinstance((await engine.execute("a")).error, CircuitOpenError)

    with_engine(work, raising(errors.TransportError("gone")))


def test_without_breakers_nothing_is_refused() -> None:
    """breaker_failures=None lets every call through."""

    async def work(engine: LayeredExecutionEngine) -> None:
        for _ in range(20):
            assert isinstance((await engine.execute("a")).error, errors.TransportError)
        assert engine.breaker("a") is None

    with_engine(work, raising(errors.TransportError("gone")), guards={"breaker_failures": None})
