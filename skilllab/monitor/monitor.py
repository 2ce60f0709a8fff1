"""PerformanceMonitor: listens to engines, counts what their executions took, and answers questions about it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import RLock, get_ident
from typing import TYPE_CHECKING, Any, Self

from skilllab import settings
from skilllab.engine import LayeredExecutionEngine
from skilllab.errors import InvalidValueError
from skilllab.histogram import Histogram
from skilllab.monitor.book import Book, Record
from skilllab.monitor.figures import ResultCache, SkillFigures, Spread
from skilllab.monitor.kinds import kind_of
from skilllab.monitor.lag import LoopLag
from skilllab.monitor.recommendations import recommendations
from skilllab.monitor.report import PerformanceReport
from skilllab.monitor.results import ResultCaches
from skilllab.monitor.tally import METRICS, SLOTS
from skilllab.monitor.watch import Alert, Watch
from skilllab.outcome import BreakerEvent, ExecutionEvent, ExecutionMetadata, LoopBlockedEvent, ResourceUsage

if TYPE_CHECKING:
    import pandas as pd

    from skilllab.monitor.prometheus import PrometheusEndpoint


class PerformanceMonitor:
    """Counts durations, queue times, CPU time, memory, errors and cached answers by skill, in bounded memory.

    window: seconds of the sliding window, which moves in sixths. batch: executions put aside before they are counted.
    clock: seconds since the epoch, the same as that of the engines. How many executions are under way is looked at ten
    times a second, and whenever something is asked for: a peak between two looks is not seen.
    `attach` it to engines, or tell it of executions with `start_tracking` and `record_execution`; not both of the same.
    """

    def __init__(
        self,
        *,
        window: float = settings.MONITOR_WINDOW,
        batch: int = settings.MONITOR_BATCH,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.window = checked(window, "window", "s")
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise InvalidValueError(f"batch(={batch!r}) must be a whole number of at least 1: {settings.MONITOR_BATCH}")
        self._clock = clock
        self._origin = clock()
        self._book = Book(self._origin, self.window / SLOTS)
        self._batch = batch
        self._records: list[Record] = []
        self._lock = RLock()
        self._readings = 0  # under way within one another
        self._lag = LoopLag(lambda: self._book.slot(clock()), self._lock, self._fold)
        self._thread = get_ident()
        self._attached: dict[LayeredExecutionEngine, list[Callable[[], None]]] = {}
        self._results = ResultCaches()
        self._watches: set[Watch] = set()
        self._endpoints: set[PrometheusEndpoint] = set()

    # what it hears

    def attach(self, engine: LayeredExecutionEngine) -> None:
        """Listens to an engine from now on, and measures how late the running event loop is."""
        if engine in self._attached:
            return
        self._thread = get_ident()
        heard: dict[str, Callable[[Any], object]] = {
            "execution-complete": self._listener(),
            "loop-blocked": self._blocked,
            "breaker-change": self._changed,
        }
        with self._lock:
            self._results.begin(engine.results)
            self._attached[engine] = [engine.on(name, callback) for name, callback in heard.items()]
        self._start_lag()

    def detach(self, engine: LayeredExecutionEngine) -> None:
        """Stops listening to an engine; what it heard stays, and what is under way is forgotten."""
        with self._lock:
            self._fold()
            removals = self._attached.pop(engine, None)
            if removals is None:
                return
            for remove in removals:
                remove()
            self._results.end(engine.results)
            self._fold()
        if not self._attached:
            self._lag.stop()

    def start_tracking(self, skill_id: str, execution_id: str = "") -> None:
        """Notes that an execution has begun; `record_execution` of the same skill ends it."""
        with self.reading() as book:
            book.begin(checked_id(skill_id), self._clock())

    def record_execution(
        self,
        skill_id: str,
        duration: float | None,
        memory_used: float | None = None,
        *,
        queue_time: float = 0.0,
        cpu_time: float | None = None,
        layer: int | None = None,
        cached: bool = False,
        error: BaseException | None = None,
    ) -> None:
        """Notes that an execution has ended: seconds and bytes, None for what was not measured or did not run."""
        given = {"duration": duration, "memory_used": memory_used, "queue_time": queue_time, "cpu_time": cpu_time}
        for name, value in given.items():
            if (value is None and name != "queue_time") or (isinstance(value, int | float) and 0 <= value < math.inf):
                continue
            raise InvalidValueError(f"{name}(={value!r}) must be 0 or more, or None when it was not measured")
        if cached and duration is not None:
            raise InvalidValueError(
                f"duration(={duration!r}) must be None with cached=True: a kept result runs nothing"
            )
        usage = ResourceUsage(cpu_time, None if memory_used is None else int(memory_used))
        began = self._clock() - (duration or 0.0) - queue_time
        metadata = ExecutionMetadata(
            "", checked_id(skill_id), layer, None, began, duration, queue_time, 0.0, 1, cached, None, usage
        )
        with self._lock:
            self._book.end(skill_id, began)
            self._book.note([metadata if error is None else (metadata, kind_of(error))])

    # what it says

    def get_average_execution_time(self, skill_id: str) -> float:
        """Returns the mean duration in seconds of the executions that succeeded and ran; NaN before the first."""
        return self.histogram(skill_id).mean

    def histogram(self, skill_id: str, metric: str = "duration", *, window: bool = False) -> Histogram:
        """Returns the values of a metric (duration, queue_time, cpu_time, memory_used), in all or in the window."""
        return self.values(checked_metric(metric), skill_id, window=window)

    def precision(self, skill_id: str | None, metric: str = "duration", *, window: bool = False) -> float:
        """Returns by how much, as a share, a quantile of a skill, or of all, may err: 1/256, and more where values spread.

        In the whole run that begins at 16 octaves. In the window it begins at 5, and 10 octaves, or three decades, make it
        3/256; at half as many octaves where one bucket of a slot holds more than 255 values. Count, mean, least and greatest
        are exact in both.
        """
        with self.reading() as book:
            return book.precision(_names(book, skill_id), checked_metric(metric), self._now(window))

    def figures(self, *, window: bool = False) -> tuple[SkillFigures, ...]:
        """Returns the figures of every skill of which something is known, in all or in the window."""
        found = []
        for skill_id in self.skill_ids:
            with self._lock:  # each for itself: others may note
                found.append(self._book.skill(skill_id, self._now(window)))
        return tuple(figures for figures in found if not window or figures.seen)

    def skill(self, skill_id: str, *, window: bool = False) -> SkillFigures:
        """Returns the figures of one skill."""
        with self.reading() as book:
            return book.skill(skill_id, self._now(window))

    def together(self, *, window: bool = False) -> SkillFigures:
        """Returns the figures of all skills together."""
        with self.reading() as book:
            return book.together(self._now(window))

    def layers(self, *, window: bool = False) -> tuple[SkillFigures, ...]:
        """Returns the figures of each layer that ran something."""
        with self.reading() as book:
            return tuple(book.layer(layer, self._now(window)) for layer in book.layers)

    def lag(self, *, window: bool = False) -> Spread:
        """Returns how late the event loop was, in seconds."""
        return Spread.of(self.values("lag", None, window=window))

    def values(self, metric: str, skill_id: str | None, *, window: bool = True) -> Histogram:
        """Returns the values of a metric, or of the "lag" of the event loop; of all skills together for None."""
        if metric == "lag":
            with self._lock:
                return self._lag.recent() if window else self._lag.whole.copy()
        with self.reading() as book:
            return book.histogram(_names(book, skill_id), metric, self._now(window))

    def share(self, metric: str, skill_id: str | None) -> float | None:
        """Returns "errors" or "cached" (0 to 1) or "rate" (executions a second) of the window, "in-flight" or "oldest" now.

        oldest: seconds for which the execution that began first is under way, its wait included. None where there is none.
        """
        with self.reading() as book:
            names, now = _names(book, skill_id), self._clock()
            if metric == "in-flight":
                return float(sum(map(book.in_flight, names)))
            if metric == "oldest":
                return book.oldest(names, now)
            succeeded, cached, failed = book.outcomes(names, now)
            ended = succeeded + cached + failed
            if metric == "rate":
                return ended / book.spanned(now)
            whole = ended if metric == "errors" else succeeded + cached
            return (failed if metric == "errors" else cached) / whole if whole else None

    @property
    def in_flight(self) -> int:
        """Executions under way."""
        with self.reading() as book:
            return sum(map(book.in_flight, book.tallies))

    @property
    def skill_ids(self) -> tuple[str, ...]:
        """The skills of which something is known."""
        with self.reading() as book:
            return tuple(book.tallies)

    @contextmanager
    def reading(self) -> Iterator[Book]:
        """Holds the lock, and looks once: all that is asked for inside is of that look, in this thread."""
        with self._lock:
            if not self._readings:
                self._fold()
            self._readings += 1
            try:
                yield self._book
            finally:
                self._readings -= 1

    def result_cache(self) -> ResultCache | None:
        """Returns what the result caches did while their engines were attached, whole run; None without any."""
        with self._lock:
            return self._results.figures()

    def get_performance_report(self, *, window: bool = False) -> PerformanceReport:
        """Returns slowest and hungriest skills, cached answers, error rates and recommendations; see PerformanceReport."""
        with self.reading() as book:
            figures, lag, results = self.figures(window=window), self.lag(window=window), self.result_cache()
            return PerformanceReport(
                elapsed=book.spanned(self._clock()) if window else self._clock() - self._origin,
                window=window,
                skills=figures,
                layers=self.layers(window=window),
                lag=lag,
                in_flight=self.in_flight,
                peak=book.peak(self._now(window)),
                results=results,
                recommendations=recommendations(figures, lag, None if window else results),
            )

    def frame(self, *, window: bool = False) -> pd.DataFrame:
        """Returns a row for each skill, as the report's frame has it."""
        return self.get_performance_report(window=window).frame()

    def error_frame(self, *, window: bool = False) -> pd.DataFrame:
        """Returns a row for each skill and kind of error, as the report's error_frame has it."""
        return self.get_performance_report(window=window).error_frame()

    # what it does by itself

    def watch(
        self,
        interval: float = settings.WATCH_INTERVAL,
        on_alert: Callable[[Alert], object] | None = None,
        *,
        rules: Iterable[str] = settings.WATCH_RULES,
        on_report: Callable[[PerformanceReport], object] | None = None,
    ) -> Watch:
        """Looks at rules every `interval` seconds, on the running event loop, until its `close` or the monitor's.

        rules: such as "p95 of fetch > 200 ms for 30 s", about the window; "any" stands for each skill. on_alert: told once
        when a rule is broken for as long as it says, and once when it no longer is. on_report: told the window's report.
        A call that hangs never ends and is in no p95: a rule such as "oldest of any > 30 s" or "in-flight of fetch > 50 for
        30 s" sees it. An alert stays while there is nothing to measure and calls that it is about are under way.
        A callback that fails is logged. Raises InvalidValueError for a rule that does not parse, before anything starts.
        """
        seconds = checked(interval, "interval", "s")
        watch = Watch(self, seconds, rules, on_alert, on_report, self._clock, self._watches.discard)
        self._start_lag()
        watch.start()
        self._watches.add(watch)
        return watch

    def serve_prometheus(self, port: int = 0) -> PrometheusEndpoint:
        """Serves the figures as Prometheus text on this machine only, at the `url` of what it returns, until its `close`."""
        from skilllab.monitor.prometheus import PrometheusEndpoint

        endpoint = PrometheusEndpoint(self, port, self._endpoints.discard)
        self._endpoints.add(endpoint)
        return endpoint

    def close(self) -> None:
        """Ends all watches and endpoints and listens to nothing any more; what it knows stays."""
        for watch in tuple(self._watches):
            watch.close()
        for endpoint in tuple(self._endpoints):
            endpoint.close()
        for engine in tuple(self._attached):
            self.detach(engine)
        self._lag.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # inside

    def _listener(self) -> Callable[[ExecutionEvent], None]:
        records, append, batch = self._records, self._records.append, self._batch

        def complete(event: ExecutionEvent) -> None:
            _, error, metadata = event[4]  # type: ignore[misc]  # an event of this name has a result
            append(metadata if error is None else (metadata, kind_of(error)))
            if len(records) >= batch:
                self._fold()

        return complete

    def _blocked(self, event: LoopBlockedEvent) -> None:
        with self._lock:
            self._fold()  # what ended before it comes before it
            self._book.blocked(event.skill_id, event.seconds, event.where, self._clock())

    def _changed(self, event: BreakerEvent) -> None:
        if event.after == "open":
            with self._lock:
                self._fold()
                self._book.opened(event.skill_id, self._clock())

    def _now(self, window: bool) -> float | None:
        """Returns the end of the window, None for the whole run."""
        return self._clock() if window else None

    def _start_lag(self) -> None:
        try:
            self._lag.start()
        except RuntimeError:  # no loop runs yet: `watch` starts it
            return

    def _fold(self) -> None:
        """Counts what was heard, and looks at what is under way."""
        with self._lock:
            records = self._records[:]
            del self._records[: len(records)]
            self._book.note(records)
            if get_ident() == self._thread:  # elsewhere the last look has to do: an engine is for one thread
                active, since = dict[str, int](), dict[str, float]()
                for run in (run for engine in self._attached for run in engine.active):
                    active[run.skill_id] = active.get(run.skill_id, 0) + 1
                    since[run.skill_id] = min(run.start, since.get(run.skill_id, run.start))
                self._book.look(active, since, self._clock())


def _names(book: Book, skill_id: str | None) -> Iterable[str]:
    """Returns that skill, or all for None."""
    return book.tallies if skill_id is None else (skill_id,)


def checked(value: float, name: str, unit: str) -> float:
    """Returns a number above 0; raises InvalidValueError for any other."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InvalidValueError(f"{name}(={value!r}) must be a number of {unit} above 0")
    return float(value)


def checked_id(skill_id: str) -> str:
    """Returns the id of a skill; raises InvalidValueError for what is no text or blank."""
    if not isinstance(skill_id, str) or not skill_id.strip():
        raise InvalidValueError(f"skill_id={skill_id!r} must be the id of a skill, as text")
    return skill_id


def checked_metric(metric: str) -> str:
    """Returns the name of a metric; raises InvalidValueError for what is not measured."""
    if metric not in METRICS:
        raise InvalidValueError(f"metric={metric!r} is not measured: there are {', '.join(METRICS)}")
    return metric
