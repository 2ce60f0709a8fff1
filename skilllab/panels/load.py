"""LoadPanel: a load test that can be watched and stopped; it runs in a process of its own, and ends with this one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from skilllab import format as fmt
from skilllab import plots
from skilllab.engine import LayeredExecutionEngine
from skilllab.errors import InvalidValueError
from skilllab.experiments.loadtest import LoadTestResult, Requests, Scenario, Stage
from skilllab.experiments.loadtest.child import run_in_child
from skilllab.experiments.loadtest.live import Live, View
from skilllab.experiments.loadtest.records import Progress
from skilllab.experiments.loadtest.scenario import Params, counted, positive
from skilllab.experiments.loadtest.slo import parse_slo, worst
from skilllab.panels.controls import Control, durations, named, steps, text, whole_numbers
from skilllab.panels.load_picture import LoadDrawing
from skilllab.panels.measuring import MeasuringPanel
from skilllab.panels.picture import Picture

_WARMUP, _LONGEST_WARMUP = 0.1, 1.0  # of a test, and s at most, that are kept apart
_STEPS = 5
MODELS = {
    "random": "at random times (Poisson)",
    "even": "evenly spaced",
    "ramp": "at the end of a ramp from a tenth of that",
    "steps": f"at the end of {_STEPS} steps",
    "spike": "in a spike, a fifth of that before and after",
    "wave": "in a wave from a tenth of that and back",
    "closed": "who wait for their answers",
}
"""Every arrival model of the panel, and how its load is meant."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What the controls say. load: requests a second, at most; in the closed model users. duration: seconds."""

    skill_id: str
    model: str
    load: int
    duration: float
    slo: str

    @property
    def stage(self) -> Stage:
        """The one stage of the test."""
        load, duration = float(self.load), self.duration
        if self.model == "closed":
            return Stage(duration, concurrency=self.load)
        if self.model == "even":
            return Stage(duration, rate=load, arrivals="constant")
        if self.model == "ramp":
            return Stage(duration, rate=load / 10, to=load, arrivals="ramp")
        if self.model == "steps":
            return Stage(duration, rate=load / _STEPS, to=load, arrivals="step", steps=_STEPS)
        if self.model == "spike":
            return Stage(duration, rate=load / 5, to=load, arrivals="spike")
        if self.model == "wave":
            return Stage(duration, rate=load / 10, to=load, arrivals="sine")
        return Stage(duration, rate=load)

    def __str__(self) -> str:
        users = self.model == "closed"
        load = f"{fmt.count(self.load)} {'user' if self.load == 1 else 'users'}" if users else fmt.rate(self.load)
        return f"{self.skill_id}, {load} {MODELS[self.model]}, {_time(self.duration)}"


class Measure(Protocol):
    """Runs a load test, tells how it stands, and ends it early when `stop` is set, as `run_in_child` does."""

    async def __call__(
        self,
        engine: LayeredExecutionEngine,
        scenario: Scenario,
        *,
        stop: asyncio.Event | None,
        on_progress: Progress | None,
    ) -> LoadTestResult: ...


@dataclass(frozen=True, slots=True)
class Found:
    """A test that was run, and how it stood at its end."""

    result: LoadTestResult
    view: View


class LoadPanel(MeasuringPanel[Setting, Found]):
    """Percentiles, rates and requests in flight of a load test while it runs, and its verdict on an SLO.

    engine: whose skills are called, by its options, in a process of their own. skills: the parameters of each by its id,
    as a Scenario takes them. model, load, duration, slo: where the controls start. measure: what Start does.
    Start runs a test, Stop ends it and keeps what was measured; to change a control ends it and keeps nothing.

    Controls: .skill (shown where there are several), .model, .load, .duration, .slo; and .run, the button that starts and
    stops. What was measured is .result.
    Raises InvalidValueError for no skills, and for a value that no test can have.
    """

    _starting = "starting a process …"
    _begin = "Start"

    def __init__(
        self,
        engine: LayeredExecutionEngine,
        skills: Mapping[str, Params],
        *,
        model: str = "random",
        load: int = 100,
        duration: float = 10.0,
        slo: str = "p95 < 50 ms and errors < 1 %",
        measure: Measure = run_in_child,
    ) -> None:
        if not skills:
            raise InvalidValueError("skills(={}) must hold the parameters of one skill at least, by its id")
        self._engine, self._skills, self._run_test = engine, dict(skills), measure
        self._prepare(self._test)
        self._stop = asyncio.Event()
        self._view: View | None = None
        self._live: Live | None = None
        self._fitted: Setting | None = None
        counted("load", load, "requests a second, or users")
        positive("duration", duration, "seconds")
        _checked(slo)
        names, models = named(self._skills, str), named(MODELS, str)
        loads, lengths = named(whole_numbers(1, 2000, load), fmt.count), named(durations(2.0, 300.0, duration), _time)
        self.skill = steps("Skill", names, next(iter(skills)), "Which skill is called")
        self.model = steps("Arrivals", models, model, "When requests come")
        self.load = steps("Rate or users", loads, load, "Requests a second at most; users, where they wait for answers")
        self.duration = steps("Duration", lengths, duration, "How long a test lasts")
        self.slo = text("SLO", slo, _checked, hint="What must hold, such as p95 < 50 ms and errors < 0.1 %")
        controls: list[Control[Any]] = [self.model, self.load, self.duration, self.slo]
        if len(self._skills) > 1:
            controls.insert(0, self.skill)
        fig = plots.figure(6.0, 5.8)
        self._drawing = LoadDrawing(fig)
        picture = Picture(fig, [self._drawing.artists])
        picture.lay_out()
        super().__init__(controls, picture, _NOTE)
        self._add_run_button("Start the test, or stop it and keep what it has measured")

    @property
    def result(self) -> LoadTestResult | None:
        """What was measured with the values that the controls have, None where nothing was."""
        found = self._measured.get(self._chosen())
        return None if found is None else found.result

    def update(self) -> Iterator[str]:
        """Draws the test under way, or one that was run with these values, or none."""
        setting = self._chosen()
        self._may_draw(setting)
        running = setting == self._running
        found = None if running else self._measured.get(setting)
        view = self._view if running else None if found is None else found.view
        conditions = parse_slo(setting.slo) if setting.slo else ()
        changed = setting != self._fitted and self._fit(setting)
        grown = self._drawing.show(view, conditions, _title(view, found))
        self._picture.draw(0 if changed or grown else 1)
        yield _words(setting, view, found)

    def _fit(self, setting: Setting) -> bool:
        """Fits the axes to a test that was not drawn yet; returns whether they changed."""
        self._fitted = setting
        closed = setting.model == "closed"
        rate, in_flight = (100.0, setting.load) if closed else (setting.load, 10.0)
        return self._drawing.fit(setting.duration, 1.2 * rate, 1.2 * in_flight)

    def _chosen(self) -> Setting:
        return Setting(self.skill.value, self.model.value, self.load.value, self.duration.value, self.slo.value)

    def _scenario(self, setting: Setting) -> Scenario:
        return Scenario(
            setting.skill_id,
            self._skills[setting.skill_id],
            (setting.stage,),
            warmup=min(_WARMUP * setting.duration, _LONGEST_WARMUP),
            slo=setting.slo or None,
        )

    # running

    async def _test(self, setting: Setting, *, on_progress: Progress) -> Found:
        scenario = self._scenario(setting)
        self._live = Live(scenario)
        try:
            result = await self._run_test(self._engine, scenario, stop=self._stop, on_progress=on_progress)
        finally:
            self._stop, self._view = asyncio.Event(), None  # for the next run, whose Stop may be pressed at once
        return Found(result, self._live.take(result.requests, result.ending.seconds))

    def _end(self, task: asyncio.Task[None]) -> None:
        self._stop.set()

    def _on_progress(self, elapsed: float, requests: Requests) -> None:
        assert self._live is not None
        assert self._running is not None
        self._view = self._live.take(requests, elapsed)
        whole = self._running.duration
        self._show_progress("Stop", f"{min(elapsed, whole):.1f} of {_time(whole)}", min(1.0, elapsed / whole))
        self._changed()


_NOTE = (
    "The test runs in a process of its own. Response counts from when a request was due, service is the skill's own time. "
    "The begin, a tenth of the time and at most a second, is warm-up: in the rates, but not in the percentiles."
)


def _title(view: View | None, found: Found | None) -> str:
    if view is None:
        return "Not run yet: press Start"
    p95 = view.quantile(0.95)
    measured = f"p95 {fmt.duration(p95)}" if not math.isnan(p95) else _count(view.finished)
    if found is None:
        return f"So far {measured}"
    judged = worst(found.result.judgements)
    if judged is None:
        return measured.capitalize()
    number = judged.value is not None and math.isfinite(judged.value)
    measured = f"measured {judged.shown}" if number else judged.shown
    return f"{judged.outcome.capitalize()}: {judged.condition}, {measured}"


def _words(setting: Setting, view: View | None, found: Found | None) -> str:
    """Returns the summary: what is asked, what was measured, what that says about the SLO, and what limits it most."""
    asked = f" Asked: {setting.slo}." if setting.slo else ""
    if view is None:
        return f"{setting}: not run yet.{asked} Press Start."
    shown = {name: view.quantile(share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
    known = [f"{name} {fmt.duration(value)}" for name, value in shown.items() if not math.isnan(value)]
    counts = [_count(view.finished), f"{fmt.count(view.failures)} failed"]
    counts += [f"{fmt.count(view.dropped)} dropped"] if view.dropped else []
    measured = f"{setting}: {', '.join(counts)}; {', '.join(known) or 'too few for a percentile'}"
    if found is None:
        return f"{measured} so far.{asked}"
    verdict = "".join(f" {judgement}." for judgement in found.result.judgements)
    warnings = found.result.warnings
    first = f" {warnings[0]}" if warnings else ""
    rest = f" {len(warnings) - 1} more in .result.warnings." if len(warnings) > 1 else ""
    return f"{measured}.{verdict}{first}{rest}"


def _checked(slo: str) -> str:
    """Returns an SLO as it was typed, "" for none; raises InvalidValueError for one that does not parse."""
    if slo.strip():
        parse_slo(slo)
    return slo.strip()


def _count(requests: int) -> str:
    return f"{fmt.count(requests)} {'request' if requests == 1 else 'requests'}"


def _time(seconds: float) -> str:
    return fmt.trimmed(fmt.duration(seconds))
