"""Recommendations: what to change, with the figures that say so and the effect to expect; none without evidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skilllab import format as fmt
from skilllab.frozen import FrozenDict
from skilllab.monitor.figures import ResultCache, SkillFigures, Spread
from skilllab.stats import proportion_interval

ENGINE = "engine"
"""The subject of what concerns all skills."""

LEAST = 20  # executions that a rate or a mean is judged by
TOO_MANY_ERRORS = 0.01  # share that fails, for certain
WAITS_LONG = 0.001  # s in the queue; below, a turn of the loop explains it
BUSY = 0.5  # share of its duration that a skill computes; above, more places at once do not help it
HUNGRY = 64 * 2**20  # bytes of one execution; a worker itself takes 10 to 30 MiB
DOMINANT = 0.5  # share of the time of all skills
HEADROOM = 1.5  # by which a limit of memory lies above the most that was seen
LATE = 0.05  # s that timers wake late at p99
CROWDED = 0.1  # share of the look-ups after which something useful was thrown out


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One piece of advice about a `subject`: a skill's id, or "engine".

    problem: what was found, with its figures. change: what to do about it. effect: what that will do at most.
    evidence: the figures that it rests on, by name, in s, bytes, counts and shares of one.
    """

    subject: str
    problem: str
    change: str
    effect: str
    evidence: Mapping[str, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "evidence", FrozenDict(self.evidence))

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}. {self.change}. Expect: {self.effect}."

    def to_json(self) -> dict[str, Any]:
        """Returns plain values for `from_json`."""
        return {name: getattr(self, name) for name in ("subject", "problem", "change", "effect")} | {
            "evidence": dict(self.evidence)
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Recommendation:
        """Returns the recommendation of which `to_json` made this."""
        return cls(**saved)


def recommendations(
    skills: Sequence[SkillFigures], lag: Spread, results: ResultCache | None
) -> tuple[Recommendation, ...]:
    """Returns what these figures advise: failures first, then waiting, then memory and time."""
    found: list[Recommendation] = []
    for rule in (_errors, _blocking, _queueing, _memory):
        found += filter(None, map(rule, skills))
    return (*found, *_dominant(skills), *_cache(results), *_late(skills, lag))


_ADVICE: tuple[tuple[str, str], ...] = (
    ("ExecutionTimeoutError", "Find what it waits for; raise its timeout only if callers can wait that long"),
    ("LimitExceededError", "Raise that limit above what its honest calls need, or make it take less"),
    ("QueueFullError", "Call it less often, or give it more places at once"),
    ("CircuitOpenError", "Look at the failures that opened its breaker; the breaker only spares callers the waiting"),
    ("HttpStatusError: 429", "Call it less often: its server asks for that"),
    ("HttpStatusError: 4", "Look at what is asked for: its server refuses the requests"),
    ("HttpStatusError", "Let scattered retries and a circuit breaker stand before its server, and look at that"),
    ("TransportError", "Let scattered retries and a circuit breaker stand before its server, and look at that"),
    ("InvalidParametersError", "Mend the callers, whose parameters do not fit its schema"),
    ("SkillNotFoundError", "Register the skills that are asked for, or mend the callers"),
    ("InvalidOutputError", "Mend the skill, or its output schema"),
    ("SkillFailedError", "Mend the skill: its own code raised"),
)
"""What to do about a kind of error, by how its name begins; the first that fits."""


def _errors(skill: SkillFigures) -> Recommendation | None:
    if skill.executions < LEAST or not skill.failed:
        return None
    sure = proportion_interval(skill.failed, skill.executions)
    if sure.low <= TOO_MANY_ERRORS:
        return None
    kind, count = next(iter(skill.errors.items()))
    change = next((advice for begin, advice in _ADVICE if kind.startswith(begin)), "Look at what it raises")
    share = skill.failed / skill.executions
    between = fmt.interval(sure.low, sure.high, fmt.ratio)
    return Recommendation(
        skill.skill_id,
        f"{fmt.count(skill.failed)} of {fmt.count(skill.executions)} executions fail ({between}), "
        f"{fmt.count(count)} of them with {kind}",
        change,
        f"up to {fmt.ratio(count / skill.executions)} more of its executions succeed",
        {"failed": skill.failed, "executions": skill.executions, "error_rate": share, "low": sure.low, kind: count},
    )


def _blocking(skill: SkillFigures) -> Recommendation | None:
    if not skill.blocked:
        return None
    longest = fmt.duration(skill.longest_block)
    return Recommendation(
        skill.skill_id,
        f"it held up the event loop {_times(skill.blocked)}, for {longest} at most, at {skill.where}",
        "Make it a plain def, which runs in a thread, or await what takes so long",
        f"everything else on the loop waits up to {longest} less, each time",
        {"blocked": skill.blocked, "longest_block": skill.longest_block},
    )


def _queueing(skill: SkillFigures) -> Recommendation | None:
    waits, runs = skill.queue_time, skill.duration
    if waits.p95 is None or waits.mean is None or runs.p50 is None or waits.p95 <= max(runs.p50, WAITS_LONG):
        return None
    busy = _busy(skill)
    if busy is None or busy < BUSY:
        change = "Give it more places at once (max_concurrency, threads, workers or connections)"
    else:
        change = f"Send it fewer calls at once, or make it cheaper: it computes {fmt.ratio(busy, 0)} of its time"
    return Recommendation(
        skill.skill_id,
        f"5 % of its executions wait longer than {fmt.duration(waits.p95)} before they start, and half of them run "
        f"no longer than {fmt.duration(runs.p50)}",
        change,
        f"an execution waits up to {fmt.duration(waits.mean)} less on average",
        {"queue_p95": waits.p95, "queue_mean": waits.mean, "duration_p50": runs.p50, "n": waits.n}
        | ({} if busy is None else {"cpu_share": busy}),
    )


def _memory(skill: SkillFigures) -> Recommendation | None:
    used = skill.memory_used
    if used.n < 5 or used.max is None or used.mean is None or used.max < HUNGRY:
        return None
    at_once, limit = max(1, skill.peak), HEADROOM * used.max
    several = f", and {fmt.count(at_once)} were under way at once" if at_once > 1 else ""
    together = f", {fmt.size(at_once * used.max / 2)} off the {fmt.count(at_once)} together" if at_once > 1 else ""
    return Recommendation(
        skill.skill_id,
        f"one execution takes up to {fmt.size(used.max)} (mean {fmt.size(used.mean)}, n = {fmt.count(used.n)}){several}",
        f"Let it read and return its data in pieces, and set max_memory to hold it to {fmt.size(limit)}",
        f"pieces half as large take up to {fmt.size(used.max / 2)} off one execution{together}; one that would take more "
        f"than {fmt.size(limit)} fails alone",
        {"memory_max": used.max, "memory_mean": used.mean, "n": used.n, "at_once": at_once},
    )


def _dominant(skills: Iterable[SkillFigures]) -> Iterator[Recommendation]:
    ran = [skill for skill in skills if skill.ran > 0]
    if len(ran) < 2:
        return
    skill, total = max(ran, key=lambda skill: skill.ran), sum(skill.ran for skill in ran)
    share, busy = skill.ran / total, _busy(skill)
    if share < DOMINANT or skill.duration.n < LEAST:
        return
    if busy is None:
        change = "Profile it before all others; its CPU time was not measured, so it may compute or wait"
    elif busy < BUSY:
        change = f"It waits {fmt.ratio(1 - busy, 0)} of its time: batch its calls, keep its results, or ask for less"
    else:
        change = f"It computes {fmt.ratio(busy, 0)} of its time: profile it, or keep its results"
    yield Recommendation(
        skill.skill_id,
        f"it takes {fmt.ratio(share, 0)} of the time of all skills, {fmt.duration(skill.duration.mean)} a run "
        f"(n = {fmt.count(skill.duration.n)})",
        change,
        f"making it twice as fast takes {fmt.ratio(share / 2, 0)} off the time of all skills",
        {"share": share, "ran": skill.ran, "duration_mean": skill.duration.mean or 0.0, "n": skill.duration.n}
        | ({} if busy is None else {"cpu_share": busy}),
    )


def _cache(results: ResultCache | None) -> Iterator[Recommendation]:
    if results is None or results.hits + results.misses < 10 * LEAST:
        return
    lookups = results.hits + results.misses
    missed = min(results.evictions, results.misses) / lookups
    if missed < CROWDED:
        return
    yield Recommendation(
        ENGINE,
        f"its result cache of {fmt.count(results.max_size)} entries threw out {fmt.count(results.evictions)} in "
        f"{fmt.count(lookups)} look-ups (hit rate {fmt.ratio(results.hit_rate)})",
        f"Give it twice as many entries: LayeredExecutionEngine(results=SkillCache(max_size={2 * results.max_size}))",
        f"up to {fmt.ratio(missed)} more of the look-ups hit, if every entry thrown out is asked for again",
        {"evictions": results.evictions, "lookups": lookups, "hits": results.hits, "max_size": results.max_size},
    )


def _late(skills: Iterable[SkillFigures], lag: Spread) -> Iterator[Recommendation]:
    if lag.p99 is None or lag.max is None or lag.p99 < LATE or any(skill.blocked for skill in skills):
        return
    yield Recommendation(
        ENGINE,
        f"the event loop is {fmt.duration(lag.p99)} late at p99, {fmt.duration(lag.max)} at most "
        f"(n = {fmt.count(lag.n)}), and no skill was seen to hold it up",
        "Look for other code on the loop that computes or waits without await, and for a busy machine",
        f"99 of 100 steps on the loop begin up to {fmt.duration(lag.p99)} sooner",
        {"lag_p99": lag.p99, "lag_max": lag.max, "n": lag.n},
    )


def _times(number: int) -> str:
    return "once" if number == 1 else f"{fmt.count(number)} times"


def _busy(skill: SkillFigures) -> float | None:
    """Returns the share of its duration that a skill computes; None where CPU time was not measured."""
    if not skill.cpu_time.mean or not skill.duration.mean:
        return None if skill.cpu_time.mean is None or not skill.duration.mean else 0.0
    return skill.cpu_time.mean / skill.duration.mean
