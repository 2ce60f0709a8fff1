"""Experiments on limits: what misbehaves, what became of it, what it cost, and what is shut out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from skilllab.engine import LayeredExecutionEngine
from skilllab.engine.workers.machine import Isolation, Machine
from skilllab.errors import InvalidValueError, LimitExceededError, LimitNotEnforceableError, SkillFailedError
from skilllab.experiments import limits as lab
from skilllab.experiments.limits import ways
from skilllab.experiments.limits.attempts import ROOM
from skilllab.experiments.limits.inside import _TRYING
from skilllab.experiments.limits.latencies import API, FUNCTION, PROCESS
from skilllab.experiments.limits.loopback import Door
from skilllab.experiments.limits.matrix import judged
from skilllab.model import ResourceLimits
from skilllab.outcome import ExecutionMetadata, ExecutionResult, ResourceUsage

MIB = 2**20
LIMITS = tuple(lab.MISBEHAVIOURS)


def result(error: Any = None, output: Any = None) -> ExecutionResult:
    metadata = ExecutionMetadata("e", "s", 2, "process", 0.0, 0.1, 0.0, 0.0, 1, False, None, ResourceUsage())
    return ExecutionResult(output, error, metadata)


def exceeded(limit: str) -> LimitExceededError:
    return LimitExceededError(f"s: stopped at {limit}", limit=limit, allowed=1, used=1)


REFUSED = LimitNotEnforceableError(
    "s: max_disk=1 cannot be held: only bubblewrap does; FunctionOptions(...) would hold it. The skill did not start: leave it"
)
NO_NETWORK = SkillFailedError("s: ConnectionRefusedError: [Errno 111] Connection refused")
CRASHED = SkillFailedError("s: ModuleNotFoundError: no socket")


# misbehaviours


def test_there_is_one_for_every_limit() -> None:
    """Every limit has a misbehaviour that wants more than its own amount, in the order of the limits."""
    assert set(LIMITS) == set(ResourceLimits.model_fields)
    assert all(each.want > each.allowed for each in lab.MISBEHAVIOURS.values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["function", "warm script", "command"])
@pytest.mark.parametrize("limit", LIMITS)
def test_without_its_limit_it_gets_what_it_wants(limit: str, kind: str) -> None:
    """What stops it is the limit, not a mistake in the skill: with room enough each of them works."""
    each = lab.MISBEHAVIOURS[limit]
    less = 0.05 if limit in ("max_cpu_time", "max_duration") else each.want
    room = ResourceLimits(max_memory=512 * MIB, max_cpu_time=20.0, max_duration=20.0)

    async def main() -> tuple[ExecutionResult, int]:
        with Door() as at:
            async with ways.engine_for("process", [limit], [kind]) as engine:
                asked = ways.parameters(each, at.port)
                if "want" in asked:
                    asked["want"] = less
                made = await engine.execute(ways.skill_id(limit, kind), asked, resource_limits=room)
                return made, at.visits

    made, came = asyncio.run(main())
    assert made.error is None
    assert came == (limit == ways.NETWORK)
    if kind != "command":
        assert made.output == (1 if limit == ways.NETWORK else less)


# the matrix


@pytest.mark.parametrize(
    ("limit", "made", "reached", "outcome", "words"),
    [
        ("max_memory", result(exceeded("max_memory")), False, "enforced", "stopped at max_memory"),
        ("max_memory", result(exceeded("max_cpu_time")), False, "ignored", "stopped at max_cpu_time"),
        ("max_memory", result(CRASHED), False, "ignored", "ModuleNotFoundError: no socket"),
        ("max_memory", result(output=5), False, "ignored", "it got what it wanted: 5"),
        ("max_disk", result(REFUSED), False, "refused", "only bubblewrap does"),
        ("max_network_requests", result(NO_NETWORK), False, "enforced", "Connection refused"),
        ("max_network_requests", result(exceeded("max_network_requests")), False, "enforced", "stopped at"),
        ("max_network_requests", result(NO_NETWORK), True, "ignored", "Connection refused"),
        ("max_network_requests", result(CRASHED), False, "ignored", "no socket"),
    ],
)
def test_outcomes(limit: str, made: ExecutionResult, reached: bool, outcome: str, words: str) -> None:
    """Enforced is only what names its limit, or was kept from a server by want of a network; refused says why."""
    found, said = judged(made, limit, reached=reached)
    assert (found, words in said) == (outcome, True)
    if outcome == "refused":
        assert said == words


def cells(*outcomes: str) -> tuple[lab.Cell, ...]:
    kinds = ways.KINDS[: len(outcomes)]
    return tuple(
        lab.Cell("max_disk", "process", kind, outcome, f"why {outcome}")
        for kind, outcome in zip(kinds, outcomes, strict=True)
    )


def test_what_a_matrix_says() -> None:
    """Counts, reasons and sentence follow from the cells, and what was ignored is told in full."""
    good = lab.Matrix(cells("enforced", "refused", "refused"))
    assert good.counts == {"enforced": 1, "refused": 2, "ignored": 0}
    assert good.reasons == {"why refused": ("max_disk",)}
    assert str(good) == "1 of 3 enforced, 2 refused, none ignored. Refused: max_disk: why refused."
    bad = lab.Matrix(cells("enforced", "ignored"))
    assert bad.finding == "1 of 2 enforced, 0 refused, 1 ignored"
    assert "max_disk of a warm script with isolation process: why ignored" in str(bad)
    assert list(bad.frame()["outcome"]) == ["enforced", "ignored"]


@pytest.mark.slow
def test_the_picture_of_a_matrix() -> None:
    """Each cell has a word and a colour of its outcome, and the text for readers tells every row."""
    from skilllab.look import summary

    ax = lab.Matrix(cells("enforced", "refused", "ignored")).plot()
    ax.figure.draw_without_rendering()
    words = [text.get_text() for text in ax.texts if text.get_visible()]
    assert words == ["enforced", "refused", "ignored", "isolation process"]
    assert len({patch.get_facecolor() for patch in ax.patches}) == 3
    told = summary(ax)
    each = "function enforced, warm script refused, fresh script ignored with process"
    assert told == f"1 of 3 enforced, 1 refused, 1 ignored. max_disk = 1 MiB: {each}."
    assert summary(lab.Matrix(cells("refused", "refused")).plot()).endswith("max_disk = 1 MiB: refused with process.")


@pytest.mark.parametrize("wrong", [{"limits": ["max_luck"]}, {"kinds": ["wish"]}, {"isolations": ["none"]}])
def test_unknown_names_are_refused(wrong: dict[str, Any]) -> None:
    """A limit, kind or isolation that nobody knows is an error with its name, before anything is started."""
    (name,) = next(iter(wrong.values()))
    with pytest.raises(InvalidValueError, match=name):
        asyncio.run(lab.matrix(**wrong))


@pytest.mark.slow
def test_a_small_matrix() -> None:
    """Chosen limits and kinds are run for real, in their order, and every cell is told of."""
    told: list[tuple[int, int]] = []
    asked = ["max_open_files", "max_disk"]
    found = asyncio.run(
        lab.matrix(
            ["process"], limits=asked, kinds=["fresh script", "command"], on_progress=lambda *at: told.append(at)
        )
    )
    places = [(cell.limit, cell.kind, cell.outcome) for cell in found.cells]
    assert places == [
        ("max_open_files", "fresh script", "enforced"),
        ("max_open_files", "command", "enforced"),
        ("max_disk", "fresh script", "refused"),
        ("max_disk", "command", "refused"),
    ]
    assert found.reasons == {"only bubblewrap bounds what all files together take": ("max_disk",)}
    assert told == [(done, 4) for done in range(1, 5)]


@pytest.mark.slow
def test_no_limit_is_ignored() -> None:
    """Every limit, in every way to run a skill, is enforced or refused; notebook 03 looks at every isolation."""
    isolation = ways.here()[-1]
    found = asyncio.run(lab.matrix([isolation]))
    assert [cell for cell in found.cells if cell.outcome == "ignored"] == []
    assert len(found.cells) == len(LIMITS) * len(ways.KINDS)
    refused = {cell.limit for cell in found.cells if cell.outcome == "refused"}
    assert refused <= {"max_processes"} | ({"max_disk", "max_network_requests"} if isolation == "process" else set())


@pytest.mark.slow
def test_a_missing_bubblewrap_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bubblewrap is asked for and is not there, every call is refused, and `here` does not name it."""
    nothing = Machine(None, "", {}, False)
    for module in ("ways", "attempts"):
        monkeypatch.setattr(f"skilllab.experiments.limits.{module}.this_machine", lambda: nothing)
    monkeypatch.setattr(LayeredExecutionEngine, "__init__", _on(LayeredExecutionEngine.__init__, nothing))
    assert ways.here() == ("process",)
    found = asyncio.run(lab.matrix(["bubblewrap"], limits=["max_duration"]))
    assert found.counts == {"enforced": 0, "refused": len(ways.KINDS), "ignored": 0}
    assert "no bubblewrap on this machine" in next(iter(found.reasons))


def _on(init: Callable[..., None], machine: Machine) -> Callable[..., None]:
    """Returns an engine's __init__ after which it takes the machine for another one."""

    def made(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self._supervision._machine = lambda: machine

    return made


# latencies


def times(**seconds: float) -> lab.Latencies:
    columns: Mapping[lab.Arm, list[float]] = {
        FUNCTION: [seconds["function"]],
        lab.Arm("sandbox", "bubblewrap", "cold"): [seconds["cold"]],
        lab.Arm("sandbox", "bubblewrap", "fresh"): [seconds["fresh"]],
        lab.Arm("sandbox", "bubblewrap", "warm"): [seconds["warm"]],
    }
    return lab.Latencies({arm: np.array(values * 7) for arm, values in columns.items()})


def test_what_latencies_say() -> None:
    """The sentence holds the ratios of the strongest isolation, and the table is sorted with the fastest first."""
    made = times(function=1e-5, warm=2e-4, fresh=2e-3, cold=0.1)
    assert made.finding == "A warm sandbox answers in 200 µs; a fresh one takes 10×, a cold one 500× as long"
    frame = made.frame()
    assert list(frame["seconds"]) == pytest.approx([1e-5, 2e-4, 2e-3, 0.1])
    assert list(frame["state"]) == ["", "warm", "fresh", "cold"]
    assert set(frame["rounds"]) == {7}
    assert "sandbox, cold (bubblewrap): 100 ms" in str(made)


@pytest.mark.slow
def test_latencies_for_real() -> None:
    """Every way is timed once a round, and a sandbox that is kept is the faster one."""
    told: list[tuple[int, int]] = []
    made = asyncio.run(lab.latencies(2, isolations=("process",), on_progress=lambda *at: told.append(at)))
    assert {FUNCTION, PROCESS, API} < set(made.seconds)
    assert {arm.state for arm in made.seconds if arm.what == "sandbox"} == {"cold", "fresh", "warm"}
    assert all(len(values) == 2 and np.all(values > 0) for values in made.seconds.values())
    assert told[-1] == (2 * len(made.seconds), 2 * len(made.seconds))
    assert made.warm < made.fresh < made.cold
    made.plot().figure.draw_without_rendering()


def test_rounds_below_one_are_refused() -> None:
    """Nothing is started for no rounds."""
    with pytest.raises(InvalidValueError, match="rounds"):
        asyncio.run(lab.latencies(0))


# attempts


def test_a_setting_knows_what_is_allowed() -> None:
    """The limit is a share of what the skill wants, in its unit; network requests are never allowed."""
    assert lab.Setting("max_memory", 0.25).allowed == 32 * MIB
    assert lab.Setting("max_cpu_time", 0.5).allowed == 1.0
    assert lab.Setting("max_processes", 0.001).allowed == 1
    assert lab.Setting("max_network_requests", 2.0).allowed == 0
    for wrong in ({"limit": "max_luck"}, {"share": 0.0}):
        with pytest.raises(InvalidValueError):
            lab.Setting(**wrong)


@pytest.mark.parametrize(
    ("isolation", "root", "missing"),
    [
        ("bubblewrap", True, {"max_processes"}),
        ("process", True, {"max_disk", "max_network_requests", "max_processes"}),
        ("process", False, {"max_disk", "max_network_requests"}),
    ],
)
def test_other_limits_are_asked_for_where_they_hold(
    isolation: Isolation, root: bool, missing: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits beside its own are those that the machine holds; its own is always asked for."""
    machine = Machine("bwrap", "", {}, root)
    monkeypatch.setattr("skilllab.experiments.limits.attempts.this_machine", lambda: machine)
    assert set(ROOM) - set(lab.Setting("max_memory", isolation=isolation).limits.asked()) == missing
    assert "max_disk" in lab.Setting("max_disk", isolation=isolation).limits.asked()


@pytest.mark.slow
def test_attempts_for_real() -> None:
    """One is stopped, one gets what it wants, one is refused; each says what was used where that is known."""
    stopped = asyncio.run(lab.attempt(lab.Setting("max_open_files", 0.25)))
    assert (stopped.outcome, "stopped at max_open_files" in stopped.words) == ("stopped", True)
    used = {use.limit: use.used for use in stopped.uses}
    assert used["max_open_files"] == 16
    assert used["max_duration"] is not None
    assert used["max_file_size"] is None
    finished = asyncio.run(lab.attempt(lab.Setting("max_file_size", 1.0)))
    assert (finished.outcome, finished.words) == ("finished", "it got the 8 MiB that it wanted")
    assert {use.limit: use.used for use in finished.uses}["max_file_size"] == 8 * MIB
    refused = asyncio.run(lab.attempt(lab.Setting("max_disk", 1.0)))
    assert refused.outcome == "refused"
    assert list(refused.frame()["limit"]) == list(LIMITS)


@pytest.mark.slow
def test_a_cancelled_attempt_ends_at_once() -> None:
    """Whoever cancels does not wait for the script, and nothing of it is left."""
    from skilllab.experiments.limits.inside import _started

    async def main() -> float:
        told: list[str] = []
        begun = asyncio.Event()

        def on_progress(doing: str) -> None:
            told.append(doing)
            if doing == "running …":
                begun.set()

        task = asyncio.create_task(lab.attempt(lab.Setting("max_duration", 2.0), on_progress=on_progress))
        await begun.wait()
        begin = asyncio.get_running_loop().time()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return asyncio.get_running_loop().time() - begin

    before = _started()
    assert asyncio.run(main()) < 1.5  # it would sleep for 2 s
    assert _started() == before


# inside


@pytest.mark.slow
def test_what_is_shut_out(needs: Callable[[str], str]) -> None:
    """From inside bubblewrap nothing of what is tried works."""
    needs("bwrap")
    tried = asyncio.run(lab.shut_out())
    assert len(tried) == 8
    assert [each for each in tried if each.refusal is None] == []
    assert list(lab.shut_out_table(tried).columns) == ["tried inside", "what the system said"]


@pytest.mark.slow
def test_what_is_tried_would_work_outside(tmp_path: Any) -> None:
    """The harmless tries work where nothing is shut in: what refuses them is the sandbox, not a mistake in them."""
    (tmp_path / "file").write_text("hello")
    source = _TRYING.handler.source.partition("def run")[0]  # type: ignore[union-attr]
    space: dict[str, Any] = {}
    exec(source, space)
    space["TRIES"]["read a file of yours"]({"file": str(tmp_path / "file")})
    space["find"]("PATH=")
    space["write"](str(tmp_path))

    with Door() as at:
        space["TRIES"]["connect to a server here"]({"port": at.port}).close()
        assert at.visits == 1


@pytest.mark.slow
def test_a_fork_bomb_is_contained() -> None:
    """It never has more processes than allowed, or is refused, and nothing of it is left."""
    bomb = asyncio.run(lab.fork_bomb(ResourceLimits(max_processes=8, max_duration=0.3)))
    assert isinstance(bomb.error, LimitExceededError | LimitNotEnforceableError)
    assert bomb.most <= 8
    assert bomb.left == 0
