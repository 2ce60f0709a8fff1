"""The Prometheus endpoint, read by Prometheus' own parser."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from skilllab.errors import InvalidValueError, SkillFailedError
from skilllab.monitor import PerformanceMonitor

Feed = Callable[..., None]


def scrape(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(family: Any) -> dict[Any, float]:
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples}


def test_what_is_served(monitor: PerformanceMonitor, ended: Feed) -> None:
    """Counters end in _total, durations are seconds, buckets add up, and the numbers are those that were counted."""
    ended(duration=0.004, waited=0.1, memory=2**20, times=30)
    ended(duration=0.4, times=10)
    ended(error=SkillFailedError("no"), times=5)
    endpoint = monitor.serve_prometheus()
    try:
        assert endpoint.url.startswith("http://127.0.0.1:")
        found = scrape(endpoint.url)
        ended(times=7)
        again = scrape(endpoint.url)
    finally:
        endpoint.close()
    counts = samples(found["skilllab_executions"])
    labels = (("layer", "1"), ("outcome", "succeeded"), ("skill_id", "a"))
    assert counts["skilllab_executions_total", labels] == 40
    assert samples(again["skilllab_executions"])["skilllab_executions_total", labels] == 47
    duration = samples(found["skilllab_execution_duration_seconds"])
    name = "skilllab_execution_duration_seconds"
    at = {key[1][0][1]: value for key, value in duration.items() if key[0] == f"{name}_bucket"}
    assert (at["0.001"], at["0.005"], at["0.1"], at["0.5"], at["+Inf"]) == (0, 30, 30, 40, 40)
    assert duration[f"{name}_sum", (("skill_id", "a"),)] == pytest.approx(30 * 0.004 + 10 * 0.4)
    memory = samples(found["skilllab_execution_memory_bytes"])
    assert memory["skilllab_execution_memory_bytes_count", (("skill_id", "a"),)] == 30
    errors = samples(found["skilllab_execution_errors"])
    assert errors["skilllab_execution_errors_total", (("kind", "SkillFailedError"), ("skill_id", "a"))] == 5
    for family in found.values():
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                assert float(sample.labels["le"]) > 0


def test_labels_are_escaped(monitor: PerformanceMonitor, ended: Feed) -> None:
    """A skill's id with quotes and line breaks is one label again."""
    ended('a"b\\c\nd')
    with monitor:
        found = scrape(monitor.serve_prometheus().url)
    assert {dict(key[1])["skill_id"] for key in samples(found["skilllab_executions"])} == {'a"b\\c\nd'}


def test_close_ends_it(monitor: PerformanceMonitor) -> None:
    """After `close` nobody listens and no thread is left, a second close does nothing, and the port can be taken again."""
    before = threading.active_count()
    endpoint = monitor.serve_prometheus()
    port = int(endpoint.url.split(":")[2].split("/")[0])
    monitor.close()
    endpoint.close()
    assert threading.active_count() == before
    with pytest.raises(OSError, match="refused"):
        scrape(endpoint.url)
    second = monitor.serve_prometheus(port)
    with pytest.raises(InvalidValueError, match=f"port.={port}"):
        monitor.serve_prometheus(port)
    second.close()


@pytest.mark.parametrize("port", [-1, 70_000, "80", True])
def test_bad_port(monitor: PerformanceMonitor, port: Any) -> None:
    """A port that is none is refused by name."""
    with pytest.raises(InvalidValueError, match="port"):
        monitor.serve_prometheus(port)


@pytest.mark.slow
def test_scrapes_while_it_counts(monitor: PerformanceMonitor, ended: Feed) -> None:
    """Reading from another thread while records come loses none of them."""
    endpoint = monitor.serve_prometheus()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(5):
                scrape(endpoint.url)
        except BaseException as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    fed = 0
    while reader.is_alive():
        ended(times=100)
        fed += 100
    reader.join()
    endpoint.close()
    assert failures == []
    assert monitor.skill("a").executions == fed
