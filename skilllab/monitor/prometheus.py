"""Prometheus text: the monitor's figures in the names and base units that Prometheus wants, made when it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Self
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from skilllab.errors import InvalidValueError
from skilllab.histogram import Histogram

if TYPE_CHECKING:
    from prometheus_client import Metric

    from skilllab.monitor.monitor import PerformanceMonitor

HOST = "127.0.0.1"

_SECONDS = (*(step * 10.0**power for power in range(-5, 2) for step in (1.0, 2.5, 5.0)), 100.0)
_BYTES = tuple(float(4**power) for power in range(8, 18))  # 64 KiB to 16 GiB
_HISTOGRAMS = {
    "duration": ("execution_duration", "seconds", "Time that successful executions ran.", _SECONDS),
    "queue_time": ("execution_queue", "seconds", "Time that executions waited for a place.", _SECONDS),
    "cpu_time": ("execution_cpu", "seconds", "CPU time of an execution.", _SECONDS),
    "memory_used": ("execution_memory", "bytes", "Memory that an execution took at most.", _BYTES),
}


class PrometheusEndpoint:
    """Serves a monitor's figures at `url`, on this machine only, until `close`. port: 0 takes a free one."""

    def __init__(
        self, monitor: PerformanceMonitor, port: int = 0, on_close: Callable[[PrometheusEndpoint], object] | None = None
    ) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
            raise InvalidValueError(f"port(={port!r}) must be 0 to 65535: 0 takes a free one")
        self._on_close = on_close
        registry = CollectorRegistry(auto_describe=False)  # what there is depends on what ran
        registry.register(MonitorCollector(monitor))
        self._server: WSGIServer
        self._thread: threading.Thread
        try:
            self._server, self._thread = start_http_server(port, HOST, registry)
        except OSError as error:
            raise InvalidValueError(f"port(={port}) cannot be served: {error}; 0 takes a free one") from error
        self.url = f"http://{HOST}:{self._server.server_port}/metrics"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops serving; a second time does nothing."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
        if self._on_close is not None:
            self._on_close(self)


class MonitorCollector(Collector):
    """Makes the metric families of a monitor when Prometheus asks for them."""

    def __init__(self, monitor: PerformanceMonitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        """Yields every metric family."""
        figures = self._monitor.figures()
        ended = CounterMetricFamily(
            "skilllab_executions", "Executions that ended.", labels=("skill_id", "layer", "outcome")
        )
        errors = CounterMetricFamily("skilllab_execution_errors", "Failed executions.", labels=("skill_id", "kind"))
        flying = GaugeMetricFamily("skilllab_executions_in_flight", "Executions under way.", labels=("skill_id",))
        opened = CounterMetricFamily("skilllab_breaker_opened", "Circuit breakers that opened.", labels=("skill_id",))
        for skill in figures:
            for outcome in ("succeeded", "cached", "failed"):
                ended.add_metric((skill.skill_id, str(skill.layer or ""), outcome), getattr(skill, outcome))
            for kind, count in skill.errors.items():
                errors.add_metric((skill.skill_id, kind), count)
            flying.add_metric((skill.skill_id,), skill.in_flight)
            opened.add_metric((skill.skill_id,), skill.opened)
        yield from (ended, errors, flying, opened)
        for metric, (name, unit, text, edges) in _HISTOGRAMS.items():
            family = HistogramMetricFamily(f"skilllab_{name}", text, labels=("skill_id",), unit=unit)
            for skill in figures:
                found = self._monitor.histogram(skill.skill_id, metric)
                if found.count:
                    _add(family, (skill.skill_id,), found, edges)
            yield family
        lag = HistogramMetricFamily("skilllab_event_loop_lag", "How late timers wake.", labels=(), unit="seconds")
        _add(lag, (), self._monitor.values("lag", None, window=False), _SECONDS)
        yield lag
        yield from self._result_cache()

    def _result_cache(self) -> Iterator[Metric]:
        results = self._monitor.result_cache()
        if results is None:
            return
        for name in ("hits", "misses", "evictions", "expirations"):
            value = getattr(results, name)
            yield CounterMetricFamily(f"skilllab_result_cache_{name}", f"Result cache: {name}.", value=value)
        yield GaugeMetricFamily("skilllab_result_cache_entries", "Result cache: entries now.", value=results.size)


def _add(family: HistogramMetricFamily, labels: Sequence[str], found: Histogram, edges: Sequence[float]) -> None:
    buckets = [
        (f"{edge:g}" if edge < 1e6 else f"{edge:.0f}", float(found.count - found.count_above(edge))) for edge in edges
    ]
    family.add_metric(labels, [*buckets, ("+Inf", float(found.count))], found.total)
