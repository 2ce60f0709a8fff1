"""Conditions on measured values, as text: "p95 < 50 ms and errors < 0.1 %", "p95 of fetch > 200 ms for 30 s".

    conditions = condition { "and" condition }
    condition  = metric [ "of" [ "skill" ] id ] ( "<" | "<=" | ">" | ">=" ) number unit [ "for" number unit ]

Every bound carries its unit, so that nobody has to guess whether 50 are seconds. A message points at the character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn

from skilllab import format as fmt
from skilllab.errors import InvalidValueError

Kind = Literal["duration", "share", "rate", "size", "count"]
Sense = Literal["<", "<=", ">", ">="]

UNITS: Mapping[Kind, Mapping[str, float]] = {
    "duration": {"ns": 1e-9, "µs": 1e-6, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0},
    "share": {"%": 0.01},
    "rate": {"/s": 1.0, "/min": 1 / 60},
    "size": {"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40},
    "count": {"": 1.0},
}
"""The units of a bound by the kind of its metric, in s, shares of one, 1/s, and bytes."""

METRICS: Mapping[str, Kind] = {"mean": "duration", "max": "duration", "errors": "share", "rate": "rate"}
"""What a condition may be about besides quantiles (p50, p99.9, ...), which are durations."""

_EXACT = 9  # digits of a bound: it reads as it was written
_SENSES: Mapping[str, Sense] = {"<": "<", "<=": "<=", "≤": "<=", ">": ">", ">=": ">=", "≥": ">="}
_QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?)")
_TOKEN = re.compile(
    r"(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<quoted>'[^']*'|\"[^\"]*\")|(?P<sense><=|>=|[<>≤≥])"
    r"|(?P<word>[^\W\d][\w.:\-]*)|(?P<sign>%|/\w+|\S)"
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One metric and its bound, in s, shares of one, 1/s, bytes; `skill` is the id it is about, None for all together.

    lasting: seconds for which it has to hold before it counts.
    """

    metric: str
    kind: Kind
    sense: Sense
    bound: float
    skill: str | None = None
    lasting: float = 0.0

    @property
    def q(self) -> float | None:
        """The quantile that the metric is, 0 to 1: 0.95 for p95; None for any other metric."""
        return quantile_of(self.metric)

    @property
    def upper(self) -> bool:
        """Whether the bound is one from above, as a latency has it."""
        return self.sense in ("<", "<=")

    def holds(self, value: float) -> bool:
        """Tells whether a value meets the condition; what was not measured (NaN) does not."""
        if self.sense == "<":
            return value < self.bound
        if self.sense == "<=":
            return value <= self.bound
        return value > self.bound if self.sense == ">" else value >= self.bound

    def show(self, value: float | None, digits: int = 3) -> str:
        """Returns a value of the metric as text with its unit."""
        return _SHOW[self.kind](value, digits)

    def __str__(self) -> str:
        whose = "" if self.skill is None else f" of {_quoted(self.skill)}"
        lasting = f" for {_written(fmt.duration(self.lasting, _EXACT))}" if self.lasting else ""
        return f"{self.metric}{whose} {self.sense} {_written(self.show(self.bound, _EXACT))}{lasting}"


def _share(value: float | None, digits: int = 3) -> str:
    """Returns a share with significant digits: 0.1 % and 0.05 % are not the same promise."""
    text = fmt.number(None if value is None else 100 * value, digits)
    return text if text == fmt.NOT_MEASURED else f"{text} %"


_SHOW: Mapping[Kind, Callable[[float | None, int], str]] = {
    "duration": fmt.duration,
    "share": _share,
    "rate": fmt.rate,
    "size": fmt.size,
    "count": fmt.number,
}


def parse(
    text: str,
    *,
    name: str = "condition",
    metrics: Mapping[str, Kind] = METRICS,
    skills: bool = True,
    lasting: bool = True,
) -> tuple[Condition, ...]:
    """Reads one or more conditions joined by "and".

    name: of the argument, for messages. metrics: that are known besides quantiles. skills, lasting: whether "of" and
    "for" may be said. Raises InvalidValueError, whose message shows the text and points at the first character that does
    not fit.
    """
    if not isinstance(text, str):
        raise InvalidValueError(f"{name}={text!r} must be text such as 'p95 < 50 ms and errors < 0.1 %'")
    reader = _Reader(text, name)
    found = [_condition(reader, metrics, skills, lasting)]
    while reader.kind != "end":
        if reader.word != "and":
            reader.fail('"and" or the end')
        reader.move()
        found.append(_condition(reader, metrics, skills, lasting))
    return tuple(found)


def quantile_of(metric: str) -> float | None:
    """Returns 0.95 for "p95", None for what names no quantile; "p0" names none."""
    match = _QUANTILE.fullmatch(metric)
    return float(match[1]) / 100 or None if match else None


class _Reader:
    """The tokens of a text, one at a time: `kind`, `word` (its text) and `at` (where it begins)."""

    def __init__(self, text: str, name: str) -> None:
        self._text, self._name = text, name
        self._tokens = iter([(str(m.lastgroup), m[0], m.start()) for m in _TOKEN.finditer(text)])
        self.move()

    def move(self) -> None:
        self.kind, self.word, self.at = next(self._tokens, ("end", "", len(self._text)))

    def take(self) -> str:
        word = self.word
        self.move()
        return word

    def fail(self, expected: str) -> NoReturn:
        """Raises the error that points at the present token."""
        got = f"not {self.word!r}" if self.word else "but the text ends"
        lead = f"{self._name}="
        pointer = " " * (len(lead) + 1 + self.at) + "^"
        raise InvalidValueError(
            f"{self._name} does not parse at character {self.at + 1}: expected {expected}, {got}\n"
            f"{lead}'{self._text}'\n{pointer}"
        )


def _condition(reader: _Reader, metrics: Mapping[str, Kind], skills: bool, lasting: bool) -> Condition:
    metric = reader.word
    kind: Kind | None = "duration" if quantile_of(metric) is not None else metrics.get(metric)
    if kind is None:
        reader.fail(f"a metric (p50, p99.9, {', '.join(metrics)})")
    reader.move()
    skill = _skill(reader) if skills and reader.word == "of" else None
    if reader.kind != "sense":
        reader.fail("one of < <= > >=")
    sense = _SENSES[reader.take()]
    bound = _amount(reader, kind)
    seconds = 0.0
    if lasting and reader.word == "for":
        reader.move()
        seconds = _amount(reader, "duration")
    return Condition(metric, kind, sense, bound, skill, seconds)


def _skill(reader: _Reader) -> str:
    reader.move()
    if reader.word == "skill":
        reader.move()
    if reader.kind not in ("word", "quoted"):
        reader.fail("the id of a skill, in quotes where it has other characters than letters, digits and _ - . :")
    word = reader.take()
    return word[1:-1] if word[0] in "'\"" else word


def _amount(reader: _Reader, kind: Kind) -> float:
    """Returns a number with its unit, in the unit of the kind."""
    if reader.kind != "number":
        reader.fail("a number")
    number, units = float(reader.word), UNITS[kind]
    if number > (100 if kind == "share" else 1e15):
        reader.fail("a share of at most 100 %" if kind == "share" else "a number below 1e15")
    reader.move()
    if "" in units:
        return number
    unit = reader.word.replace("\u03bc", "µ")  # the Greek letter looks the same
    if unit not in units or reader.kind == "end":
        reader.fail(f"a unit ({', '.join(units)})")
    reader.move()
    return number * units[unit]


def _written(amount: str) -> str:
    """Returns an amount as `parse` reads it: without the zeros at its end and the separators of its thousands."""
    return fmt.trimmed(amount).replace(",", "")


def _quoted(skill: str) -> str:
    return skill if re.fullmatch(r"[^\W\d][\w.:\-]*", skill) else repr(skill)
