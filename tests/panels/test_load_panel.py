"""LoadPanel: it shows a test while it runs, Stop keeps what was measured, a moved control does not, and nothing is left."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from jupyter_client.manager import KernelManager

from skilllab import InMemorySkillRegistry, LayeredExecutionEngine, skill
from skilllab.errors import InvalidValueError, SkilllabError
from skilllab.experiments.failures import registry_of
from skilllab.experiments.loadtest import LoadTestResult, Requests, Scenario
from skilllab.experiments.loadtest.arrivals import schedule
from skilllab.experiments.loadtest.generator import Ending
from skilllab.panels import LoadPanel
from skilllab.panels.load import MODELS, Setting
from tests.panels.conftest import turns

pytestmark = pytest.mark.slow  # each lays a picture out

SLO = "p95 < 50 ms and errors < 1 %"


class Testing:
    """Stands in for a child: tells of the first half of the requests, then waits for `go_on` or for `stop`."""

    __test__ = False

    def __init__(self, response: float = 0.02, failure: Exception | None = None) -> None:
        self.response, self.failure, self.step = response, failure, 0.01
        self.asked: list[Scenario] = []
        self.started, self.go_on = asyncio.Event(), asyncio.Event()
        self.cancelled = 0

    async def __call__(
        self, engine: Any, scenario: Scenario, *, stop: asyncio.Event | None, on_progress: Any
    ) -> LoadTestResult:
        self.asked.append(scenario)
        assert stop is not None
        duration = scenario.duration or 1.0
        on_progress(duration / 2, self.requests(scenario, duration / 2))
        self.started.set()
        ways = [asyncio.ensure_future(event.wait()) for event in (stop, self.go_on)]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            for way in ways:
                way.cancel()
        if self.failure is not None:
            raise self.failure
        until = duration / 2 if stop.is_set() else duration
        ending = Ending("stopped" if stop.is_set() else "duration", until)
        return LoadTestResult(scenario, self.requests(scenario, until), ending)

    def requests(self, scenario: Scenario, until: float) -> Requests:
        """All that was answered until then, in random times around `response` (s)."""
        random, requests = np.random.default_rng(0), Requests()
        due = (
            [due for due, _ in schedule(scenario)] if scenario.open else np.arange(0, scenario.duration or 1, self.step)
        )
        for each in due:
            end = each + self.response * random.uniform(0.5, 1.5)
            if end <= until:
                requests.append(each, each, end, 0.8 * (end - each), warm=each < scenario.warmup)
        return requests


def panel_of(measure: Any = None, **first: Any) -> LoadPanel:
    first = {"load": 100, "duration": 10.0, "slo": SLO, **first}
    engine = LayeredExecutionEngine(InMemorySkillRegistry())
    return LoadPanel(engine, {"user-v1": {"user_id": 7}, "weather-v1": {}}, measure=measure or Testing(), **first)


def test_the_first_picture_says_what_start_would_do() -> None:
    """Before a run the words name skill, load, model, duration and SLO, and ask to press Start."""
    panel = panel_of()
    assert panel.summary == f"user-v1, 100 /s at random times (Poisson), 10 s: not run yet. Asked: {SLO}. Press Start."
    assert panel.run.description == "Start"
    assert panel.png.startswith(b"\x89PNG")
    figure, title = panel._picture.figure, panel._drawing._curves._title
    assert title.get_window_extent().y1 < figure.bbox.y1


def test_every_control_is_part_of_the_scenario() -> None:
    """Skill, arrivals, load, duration and SLO reach the test as they stand; each is in the words."""

    async def main() -> None:
        measure = Testing()
        measure.go_on.set()
        panel = panel_of(measure)
        seen = {panel.summary}
        changes = ((panel.skill, "weather-v1"), (panel.model, "ramp"), (panel.load, 200), (panel.duration, 5.0))
        for control, value in (*changes, (panel.slo, "p99 < 2 s")):
            control.value = value
            seen.add(panel.summary)
        assert len(seen) == 6
        panel.run.click()
        await measure.started.wait()
        (scenario,) = measure.asked
        (stage,) = scenario.stages
        assert (scenario.skill_id, scenario.params, scenario.slo) == ("weather-v1", {}, "p99 < 2 s")
        assert (stage.arrivals, stage.rate, stage.to, stage.duration) == ("ramp", 20.0, 200.0, 5.0)
        assert scenario.warmup == pytest.approx(0.5)

    asyncio.run(main())


@pytest.mark.parametrize("model", MODELS)
def test_the_load_is_the_most_that_a_model_sends(model: str) -> None:
    """Whatever the arrivals, the load is the highest rate, or the number of users."""
    stage = Setting("s", model, 50, 10.0, "").stage
    assert 50 in (stage.rate, stage.to, stage.concurrency)
    assert all(rate <= 50 for rate in (stage.rate, stage.to) if rate is not None)


def test_a_run_is_watched_and_judged() -> None:
    """While it runs title and words say how it stands; at its end they give the verdict with value and interval."""

    async def main() -> None:
        measure = Testing()
        panel = panel_of(measure)
        panel.settle()
        panel.run.click()
        await measure.started.wait()
        await turns()
        assert panel.run.description == "Stop"
        assert "5.0 of 10 s" in panel._status.value
        assert panel._progress.value == pytest.approx(0.5)
        assert f"so far. Asked: {SLO}." in panel.summary
        assert "0 failed; p50 " in panel.summary
        assert panel._drawing._curves._title.get_text().startswith("So far p95 2")
        measure.go_on.set()
        await turns()
        assert panel.run.description == "Start"
        assert "p95 < 50 ms: pass, 2" in panel.summary
        assert panel._drawing._curves._title.get_text().startswith("Pass: p95 < 50 ms, measured 2")
        panel.load.value = 200
        assert panel.summary.endswith("Press Start.")
        panel.load.value = 100
        assert "p95 < 50 ms: pass" in panel.summary

    asyncio.run(main())


def test_start_can_be_awaited() -> None:
    """In a cell, `await panel.start()` runs the test that the button would run, and returns when it has ended."""

    async def main() -> None:
        measure = Testing()
        panel = panel_of(measure)
        running = asyncio.ensure_future(panel.start())
        await measure.started.wait()
        again = asyncio.ensure_future(panel.start())
        await turns()
        assert not running.done()
        measure.go_on.set()
        await asyncio.gather(running, again)
        assert "p95 < 50 ms: pass" in panel.summary
        assert len(measure.asked) == 1

    asyncio.run(main())


def test_a_control_moved_right_before_start_is_what_is_run() -> None:
    """A change whose picture is still pending does not end the run that was started with it."""

    async def main() -> None:
        measure = Testing()
        measure.go_on.set()
        panel = panel_of(measure)
        panel.load.value = 200
        await panel.start()
        assert panel.summary.startswith("user-v1, 200 /s")
        assert "p95 < 50 ms: pass" in panel.summary
        assert measure.cancelled == 0

    asyncio.run(main())


def test_a_broken_slo_is_the_title() -> None:
    """Where one condition fails the title is that condition, whatever the others say."""

    async def main() -> None:
        measure = Testing(response=0.2)
        measure.go_on.set()
        panel = panel_of(measure)
        panel.run.click()
        await measure.started.wait()
        await turns()
        assert panel.png
        assert panel._drawing._curves._title.get_text().startswith("Fail: p95 < 50 ms, measured 2")

    asyncio.run(main())


def test_a_percentile_of_too_few_is_no_number() -> None:
    """A p99.9 of nine hundred requests is "n too small" in title and words."""

    async def main() -> None:
        measure = Testing()
        measure.go_on.set()
        panel = panel_of(measure, slo="p99.9 < 50 ms")
        await panel.start()
        assert panel.png
        assert panel._drawing._curves._title.get_text() == "Inconclusive: p99.9 < 50 ms, n too small"
        assert "p99.9 < 50 ms: inconclusive, n too small." in panel.summary

    asyncio.run(main())


def test_stop_keeps_what_was_measured() -> None:
    """A second press ends the run early: nothing is cancelled, and words and picture are those of the first half."""

    async def main() -> None:
        measure = Testing()
        panel = panel_of(measure)
        panel.run.click()
        await measure.started.wait()
        panel.run.click()
        await turns()
        assert measure.cancelled == 0
        assert panel.run.description == "Start"
        assert "stopped after 5.00 s" in panel.summary
        half = len(measure.requests(measure.asked[0], 5.0))
        assert f"{half} requests" in panel.summary

    asyncio.run(main())


def test_stop_right_after_start_ends_the_run() -> None:
    """Two presses before the loop has come round are a start and a stop, the second time as well."""

    async def main() -> None:
        panel = panel_of(Testing())
        panel.settle()
        for _ in range(2):
            panel.run.click()
            panel.run.click()
            await turns(20)
            assert panel.run.description == "Start"
            assert "stopped after" in panel.summary

    asyncio.run(main())


def test_a_moved_control_ends_a_run() -> None:
    """What is shown is always what the controls say: moving one ends the run and keeps nothing of it."""

    async def main() -> None:
        measure = Testing()
        panel = panel_of(measure)
        panel.settle()
        panel.run.click()
        await measure.started.wait()
        panel.load.value = 200
        await turns()
        assert measure.cancelled == 1
        panel.load.value = 100
        assert panel.summary.endswith("Press Start.")

    asyncio.run(main())


def test_a_control_moved_right_after_start_leaves_the_button_working() -> None:
    """A run that is ended before it has begun is over as well: the next press starts one."""

    async def main() -> None:
        measure = Testing()
        measure.go_on.set()
        panel = panel_of(measure)
        panel.settle()
        panel._start_or_stop()
        panel.load.value = 200
        panel.settle()
        await turns()
        assert measure.asked == []
        assert panel.run.description == "Start"
        await panel.start()
        assert panel.summary.startswith("user-v1, 200 /s")
        assert "p95 < 50 ms: pass" in panel.summary

    asyncio.run(main())


def test_an_slo_that_does_not_parse_is_pointed_at_and_nothing_starts() -> None:
    """The banner holds the message and points at the character; Start does nothing until it is mended."""

    async def main() -> None:
        measure = Testing()
        panel = panel_of(measure)
        words = panel.summary
        panel.slo.widget.value = "p95 < 50 bananas"
        assert "does not parse at character 10" in panel.error
        assert "<pre>" in panel._banner.value
        assert "^</pre>" in panel._banner.value
        panel.run.click()
        await turns()
        assert measure.asked == []
        panel.slo.widget.value = SLO
        assert (panel.error, panel.summary) == ("", words)

    asyncio.run(main())


def test_no_slo_gives_no_verdict() -> None:
    """With an empty line a test is measured and not judged."""

    async def main() -> None:
        measure = Testing()
        measure.go_on.set()
        panel = panel_of(measure, slo="")
        panel.settle()
        assert min(ax.get_position().height for ax in panel._picture.figure.axes) > 0.08
        panel.run.click()
        await measure.started.wait()
        await turns()
        assert measure.asked[0].slo is None
        assert "pass" not in panel.summary
        assert panel._drawing._curves._title.get_text().startswith("P95 2")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("failure", "words"),
    [(SkilllabError("the process is gone"), "the process is gone"), (KeyError("city"), "KeyError: 'city'")],
)
def test_a_run_that_fails_says_so(failure: Exception, words: str) -> None:
    """An error goes to the banner, one of the user's own code too, and the next change clears it."""

    async def main() -> None:
        measure = Testing(failure=failure)
        measure.go_on.set()
        panel = panel_of(measure)
        panel.settle()
        panel.run.click()
        await measure.started.wait()
        await turns()
        assert panel.error == words
        panel.load.value = 200
        assert panel.error == ""

    asyncio.run(main())


def test_axes_grow_with_what_they_show_and_fit_the_next_test() -> None:
    """An answered rate above the axis makes it grow; another setting brings an axis of its own."""

    async def main() -> None:
        measure = Testing(response=0.001)
        measure.go_on.set()
        panel = panel_of(measure, model="closed", load=1)
        panel.settle()
        axis = panel._drawing._rates._ax
        before = axis.get_ylim()[1]
        panel.run.click()
        await measure.started.wait()
        await turns()
        assert panel.png
        assert before == 200
        assert axis.get_ylim()[1] == 200
        panel.load.value = 2
        measure.step = 0.001
        await panel.start()
        assert panel.png
        assert axis.get_ylim()[1] >= 2000
        panel.model.value, panel.load.value = "even", 2000
        assert panel.png
        assert axis.get_ylim()[1] == 5000

    asyncio.run(main())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"load": 0}, "load"),
        ({"duration": float("nan")}, "duration"),
        ({"slo": "p95 << 1"}, "slo"),
        ({"model": "sometimes"}, "Arrivals"),
    ],
)
def test_a_bad_first_value_is_refused(change: dict[str, Any], words: str) -> None:
    """A load of 0, no duration, an SLO that does not parse and an unknown model raise InvalidValueError."""
    with pytest.raises(InvalidValueError, match=words):
        panel_of(**change)


def test_no_skills_are_refused() -> None:
    """A panel of nothing says what it wants."""
    with pytest.raises(InvalidValueError, match="parameters of one skill"):
        LoadPanel(LayeredExecutionEngine(InMemorySkillRegistry()), {})


# with a real process


@skill(id="slow-v1")
async def slow() -> int:
    """Takes 5 ms."""
    await asyncio.sleep(0.005)
    return 1


_CALLS = itertools.count()


@skill(id="stuck-v1")
async def stuck() -> int:
    """Takes 5 ms, and from the 200th call on keeps the event loop, which then hears of nothing any more."""
    if next(_CALLS) >= 200:
        time.sleep(600)  # noqa: ASYNC251 - that is what it is for
    await asyncio.sleep(0.005)
    return 1


def real_panel(skill_id: str = "slow-v1") -> LoadPanel:
    engine = LayeredExecutionEngine(registry_of(slow, stuck))
    return LoadPanel(engine, {skill_id: {}}, load=200, duration=60.0)


def children(process: psutil.Process) -> list[psutil.Process]:
    return [each for each in process.children(recursive=True) if "loadtest" in " ".join(each.cmdline())]


def ended(process: psutil.Process, within: float) -> bool:
    """Tells whether a process has ended; who has ended and whom nobody has asked for its status is a zombie."""
    end = time.monotonic() + within
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - the child tells nobody else
            await asyncio.sleep(0.01)


def test_a_real_test_is_watched_and_stop_ends_its_process() -> None:
    """The requests of a child are shown while it runs; after Stop it is gone, and what it measured stays."""

    async def main() -> None:
        panel = real_panel()
        panel.settle()
        panel.run.click()
        await until(lambda: panel._view is not None and panel._view.finished > 250)
        assert panel._view is not None
        shown = panel._view.finished
        (child,) = children(psutil.Process())
        panel.run.click()
        await until(lambda: panel._task is None)
        assert ended(child, within=0)
        assert "stopped after" in panel.summary
        assert panel.result is not None
        assert panel.result.ending.reason == "stopped"
        assert panel.result.success_rate == 1.0
        assert len(panel.result.requests) >= shown

    asyncio.run(main())


def test_a_moved_control_ends_the_process() -> None:
    """A change of the load while a test runs leaves no process either."""

    async def main() -> None:
        panel = real_panel()
        panel.settle()
        panel.run.click()
        await until(lambda: panel._view is not None)
        (child,) = children(psutil.Process())
        panel.load.value = 100
        await until(lambda: panel._task is None)
        assert ended(child, within=0)
        assert panel.result is None

    asyncio.run(main())


WATCHED = """
import asyncio, sys
from tests.panels.test_load_panel import real_panel, until

async def main():
    panel = real_panel("stuck-v1")
    panel.run.click()
    await until(lambda: panel._view is not None)
    await asyncio.sleep(0.5)
    print("running", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_killed_notebook_leaves_no_load_test() -> None:
    """When the process with the panel is killed outright, a test whose skill keeps the event loop ends within 1 s."""
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", WATCHED], cwd=root, stdout=subprocess.PIPE, text=True) as kernel:
        try:
            assert kernel.stdout is not None
            assert kernel.stdout.readline() == "running\n"
            left = children(psutil.Process(kernel.pid))
            assert left
        finally:
            kernel.kill()
    assert [process for process in left if not ended(process, within=1.0)] == []


IN_A_KERNEL = """
import os, sys
os.chdir({root!r})
sys.path.insert(0, {root!r})
from tests.panels.test_load_panel import real_panel, until
panel = real_panel({skill!r})
panel.run.click()
await until(lambda: panel._view is not None)
"""


def test_a_restarted_kernel_leaves_no_load_test() -> None:
    """A kernel that is restarted while its panel runs a test takes the test's process with it, whatever that does."""
    code = IN_A_KERNEL.format(root=str(Path(__file__).parents[2]), skill="stuck-v1")
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        assert client.execute_interactive(code, timeout=60)["content"]["status"] == "ok"
        left = children(psutil.Process(manager.provisioner.pid))
        assert left
        manager.restart_kernel()
        assert [process for process in left if not ended(process, within=1.0)] == []
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
