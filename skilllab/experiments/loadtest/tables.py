"""A load test as tables and text: figures, stages, one row a second, and what an open client would have seen."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from skilllab import format as fmt
from skilllab import series
from skilllab.experiments.loadtest.arrivals import cumulative
from skilllab.experiments.loadtest.metrics import known_quantile
from skilllab.experiments.loadtest.open_client import OpenClient
from skilllab.experiments.loadtest.records import Columns
from skilllab.experiments.loadtest.scenario import Stage
from skilllab.experiments.loadtest.slo import TOO_FEW
from skilllab.stats import Array, Interval

if TYPE_CHECKING:
    import pandas as pd

    from skilllab.experiments.loadtest.result import LoadTestResult

_SHORT = "run too short"
_BEYOND = "more than was answered"
_STAGES = (
    *("stage", "name", "begin", "end", "offered", "concurrency", "requests", "rate", "success_rate"),
    *("dropped", "unfinished", "mean", "p50", "p95", "p99", "p95_low", "p95_high"),
)


def timeline(result: LoadTestResult) -> pd.DataFrame:
    """Returns one row a second of the test, the warm-up among them.

    Columns: second (its begin), stage, warm; due, started, finished, failed, dropped (requests in it); in_flight (at its
    end, those due and not answered); p50, p95, max (s) of the successes that were due in it, NaN where too few.
    """
    import pandas as pd

    scenario, columns, until = result.scenario, result.finished, result.ending.seconds
    dropped, unfinished = result.requests.lost("dropped")[0], result.requests.lost("unfinished")[0]
    edges = np.arange(math.ceil(until) + 1, dtype=np.float64) if until > 0 else np.zeros(1)
    begins = edges[:-1]
    due = _counts(edges, columns.intended, dropped, unfinished)
    gone = _counts(edges, columns.end, dropped)
    cuts = np.searchsorted(columns.intended, edges)
    seconds = [columns.where(slice(begin, end)) for begin, end in pairwise(cuts.tolist())]
    answered = [second.response[second.ok] for second in seconds]
    return pd.DataFrame(
        {
            "second": begins,
            "stage": np.searchsorted(scenario.bounds, begins, side="right").clip(1, len(scenario.stages)) - 1,
            "warm": begins < scenario.warmup,
            "due": due,
            "started": _counts(edges, columns.start),
            "finished": _counts(edges, columns.end),
            "failed": _counts(edges, columns.end[~columns.ok]),
            "dropped": _counts(edges, dropped),
            "in_flight": np.cumsum(due - gone),
            **{f"p{100 * q:g}": [known_quantile(column, q) for column in answered] for q in (0.5, 0.95)},
            "max": [float(column.max()) if len(column) else math.nan for column in answered],
        }
    )


def stages(result: LoadTestResult) -> pd.DataFrame:
    """Returns one row a stage, of its requests after the warm-up.

    Columns: stage, name, begin, end (s), offered (requests a second that were meant to begin, NaN when closed),
    concurrency (NaN when open), requests, rate (successes that ended in it, a second), success_rate, dropped, unfinished,
    mean, p50, p95, p99 (s) with p95_low and p95_high; NaN where too few. A stage that was not reached has no row.
    """
    import pandas as pd

    scenario, columns, until = result.scenario, result.finished, result.ending.seconds
    lost = {which: result.requests.lost(which) for which in ("dropped", "unfinished")}
    rows = []
    for number, stage in enumerate(scenario.stages):
        begin = max(scenario.bounds[number], scenario.warmup)
        end = min(scenario.bounds[number + 1], until)
        if begin >= end:
            continue
        inside = columns.where((columns.stage == number) & ~columns.warm)
        ended = int((columns.ok & (columns.end > begin) & (columns.end <= end)).sum())
        counts = {which: int(((places == number) & ~warm).sum()) for which, (_, places, warm) in lost.items()}
        rows.append(
            {
                "stage": number,
                "name": stage.name,
                "begin": begin,
                "end": end,
                "offered": _offered(stage, begin - scenario.bounds[number], end - scenario.bounds[number]),
                "concurrency": math.nan if stage.concurrency is None else stage.concurrency,
                "requests": len(inside.ok),
                "rate": ended / (end - begin),
                "success_rate": float(inside.ok.mean()) if len(inside.ok) else math.nan,
                **counts,
                **_latencies(inside),
            }
        )
    return pd.DataFrame(rows, columns=list(_STAGES))


def figures(result: LoadTestResult) -> pd.DataFrame:
    """Returns the figures of a result as text, a row each: value, and its 95 % interval."""
    import pandas as pd

    rows: dict[str, tuple[str, str]] = {}
    measured, ok = result.measured, result.measured.where(result.measured.ok)
    found = result.metrics()
    for name, (value, spread) in found.items():
        if name in ("errors", "rate"):
            continue
        small = math.isnan(value) and len(result.responses) > 0
        rows[f"response {name}"] = (TOO_FEW if small else fmt.duration(value), _spread(spread, fmt.duration, value))
    for part in ("lag", "waiting", "service"):
        column = getattr(ok, part)
        column = column[~np.isnan(column)]
        mean = float(column.mean()) if len(column) else None
        tail = known_quantile(column, 0.95)
        rows[f"{'generator ' if part == 'lag' else ''}{part} mean"] = (fmt.duration(mean), f"p95 {fmt.duration(tail)}")
    errors, rate = found["errors"], found["rate"]
    kinds = ", ".join(f"{kind} {fmt.count(count)}" for kind, count in list(result.errors.items())[:3])
    rows["requests"] = (fmt.count(len(measured.ok)), kinds)
    rows["errors"] = (fmt.ratio(errors[0], 2), _spread(errors[1], lambda share: fmt.ratio(share, 2), errors[0]))
    rows["rate of successes"] = (fmt.rate(rate[0]), _spread(rate[1], fmt.rate, rate[0]))
    if errors[0] > 0:
        rows["rate with failures"] = (fmt.rate(result.requests_per_second), "")
    rows["from kept results"] = (fmt.ratio(result.cached_share), "")
    if result.scenario.open:
        rows["dropped, unfinished"] = (f"{fmt.count(result.dropped)}, {fmt.count(result.unfinished)}", "")
    else:
        gap, at = result.longest_gap
        rows["longest gap without an answer"] = (fmt.duration(gap), f"{fmt.duration(at)} after the begin")
        for client in result.open_clients:
            name = f"an open client's mean at {fmt.rate(client.rate)} (assumed)"
            rows[name] = (_seen(client), "" if math.isnan(client.p95) else f"p95 {fmt.duration(client.p95)}")
    for judgement in result.judgements:
        rows[str(judgement.condition)] = (judgement.outcome, str(judgement).partition(", ")[2])
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "95 % interval"])
    return table.rename_axis(result.scenario.skill_id)


def open_clients(result: LoadTestResult) -> pd.DataFrame:
    """Returns what open clients would have seen, by assumption, as text: a row a rate."""
    import pandas as pd

    rows = []
    for client in result.open_clients:
        beyond = math.isnan(client.mean)
        texts = [_BEYOND if beyond else TOO_FEW if math.isnan(each) else fmt.duration(each) for each in client[1:]]
        rows.append((fmt.rate(client.rate), *texts))
    names = ["an open client at", "mean (assumed)", "p50 (assumed)", "p95 (assumed)", "p99 (assumed)"]
    return pd.DataFrame(rows, columns=names).set_index(names[0])


def finding(result: LoadTestResult) -> str:
    """Returns in a sentence what the test found; its rate is that of all that finished, failures among them."""
    p95, share = result.percentile(95), result.measured.error_share
    verdict = "" if result.verdict is None else f", SLO: {result.verdict}"
    rate = fmt.rate(result.requests_per_second)
    if not len(result.responses):
        return f"No request succeeded: {fmt.count(len(result.measured.ok))} failed{verdict}"
    tail = f"p95 of the response is {fmt.duration(p95)}" if p95 is not None else f"p95: {TOO_FEW}"
    failed = f", {fmt.ratio(share)} failed" if share else ""
    return f"{tail} at {rate}{failed}{verdict}"


def paragraph(result: LoadTestResult, *, warnings: bool = True) -> str:
    """Returns the result in one paragraph."""
    model = ", then ".join(_model(stage) for stage in result.scenario.stages)
    parts = [f"{result.scenario.skill_id}, {model}. {finding(result)}."]
    if len(result.responses):
        values = [
            f"p{100 * q:g} {TOO_FEW if value is None else fmt.duration(value)}"
            for q in (0.5, 0.95, 0.99)
            for value in [result.percentile(100 * q)]
        ]
        spread = result.percentile_interval(95)
        interval = "run too short for an interval" if spread is None else f"p95 {_ends(spread, fmt.duration)} at 95 %"
        values.insert(0, f"mean {fmt.duration(result.average_response_time)}")
        parts.append(f"Response from the intended start: {', '.join(values)} ({interval}).")
    counts = f"{fmt.count(len(result.measured.ok))} requests, {fmt.ratio(result.cached_share)} from kept results"
    if result.dropped or result.unfinished:
        counts += f", {fmt.count(result.dropped)} dropped, {fmt.count(result.unfinished)} unfinished"
    parts.append(f"{counts}.")
    if result.errors:
        parts.append(f"Errors: {', '.join(f'{kind} {fmt.count(count)}' for kind, count in result.errors.items())}.")
    if result.open_clients:
        gap = fmt.duration(result.longest_gap[0])
        seen = ", ".join(f"{_seen(client)} at {fmt.rate(client.rate)}" for client in result.open_clients)
        parts.append(f"Longest gap {gap}: an open client would have seen a mean of {seen} (assumed).")
    if warnings:
        parts += [f"Warning: {warning}" for warning in result.warnings]
    return " ".join(parts)


def _seen(client: OpenClient) -> str:
    return _BEYOND if math.isnan(client.mean) else fmt.duration(client.mean)


def _model(stage: Stage) -> str:
    length = "" if stage.duration is None else f" for {fmt.trimmed(fmt.duration(stage.duration))}"
    if stage.rate is None:
        return f"closed with {fmt.count(stage.concurrency)} workers{length}"
    to = "" if stage.to is None else f" to {fmt.rate(stage.to)}"
    return f"open at {fmt.rate(stage.rate)}{to} ({stage.arrivals}){length}"


def _offered(stage: Stage, begin: float, end: float) -> float:
    if not stage.open:
        return math.nan
    first, last = cumulative(stage, np.array([begin, end])).tolist()
    return float(last - first) / (end - begin)


def _latencies(requests: Columns) -> dict[str, Any]:
    responses = requests.response[requests.ok]
    spread = series.quantile_interval(responses, 0.95) if len(responses) else None
    return {
        "mean": float(responses.mean()) if len(responses) else math.nan,
        **{f"p{100 * q:g}": known_quantile(responses, q) for q in (0.5, 0.95, 0.99)},
        "p95_low": math.nan if spread is None else spread.low,
        "p95_high": math.nan if spread is None else spread.high,
    }


def _counts(edges: Array, *columns: Array) -> Any:
    return sum(np.histogram(column[column < edges[-1]], edges)[0] for column in columns) if len(edges) > 1 else []


def _spread(interval: Interval | None, show: Any, value: float) -> str:
    if interval is not None:
        return _ends(interval, show)
    return "" if math.isnan(value) else _SHORT


def _ends(interval: Interval, show: Any) -> str:
    return fmt.interval(interval.low, interval.high, show)
