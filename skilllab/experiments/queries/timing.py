"""Fair timings of who answers queries: all arms in one interleaved run, with medians and intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from skilllab import format as fmt
from skilllab.errors import InvalidValueError
from skilllab.experiments.queries.peers import FORMULATIONS, Peer, SqliteSkills
from skilllab.model import SkillQuery
from skilllab.stats import Array, Comparison, Interval, interleave, paired_bootstrap, quantile, quantile_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class QueryTimes:
    """Seconds a query, one number a round, by (who answered, point: a number of skills, a page, a kind of query)."""

    seconds: Mapping[tuple[str, Any], Array]

    @property
    def names(self) -> tuple[str, ...]:
        """Who answered, in order."""
        return tuple(dict.fromkeys(name for name, _ in self.seconds))

    @property
    def points(self) -> tuple[Any, ...]:
        """What was varied, in order."""
        return tuple(dict.fromkeys(point for _, point in self.seconds))

    def median(self, name: str, point: Any) -> float:
        """Returns the median over the rounds, in seconds a query."""
        return quantile(self.seconds[name, point], 0.5)

    def interval(self, name: str, point: Any) -> Interval | None:
        """Returns the 95 % interval of the median, None with fewer rounds than it takes (6)."""
        return quantile_interval(self.seconds[name, point], 0.5)

    def compare(self, one: str, other: str, point: Any) -> Comparison:
        """Returns how many times as long `other` takes as `one`, paired by round."""
        return paired_bootstrap(self.seconds[one, point], self.seconds[other, point])

    def frame(self) -> pd.DataFrame:
        """Returns one row for each point and each who, with the median and its interval in seconds."""
        import pandas as pd

        rows = []
        for (name, point), values in self.seconds.items():
            one = self.interval(name, point)
            ends = (one.low, one.high) if one else (None, None)
            rows.append((point, name, self.median(name, point), *ends, len(values)))
        return pd.DataFrame(rows, columns=["point", "who", "median", "low", "high", "rounds"])

    def table(self) -> pd.DataFrame:
        """Returns medians as text, a row for each point and a column for each who."""
        frame = self.frame()
        frame["text"] = frame["median"].map(fmt.duration)
        table = frame.pivot_table(index="point", columns="who", values="text", aggfunc="first", sort=False)
        return table[list(self.names)].rename_axis(index=None, columns=None).fillna(fmt.NOT_MEASURED)

    def plot(self, *, title: str = "", x_label: str = "Skills", ax: Axes | None = None) -> Axes:
        """Draws the medians and their intervals against the points, which are numbers, on log axes."""
        from skilllab import plots

        known = self.seconds
        series = {n: [self.median(n, p) if (n, p) in known else math.nan for p in self.points] for n in self.names}
        bands = {n: [self.interval(n, p) if (n, p) in known else None for p in self.points] for n in self.names}
        return plots.growth(
            self.points, series, intervals=bands, title=title, x_label=x_label, y_label="Time a query", ax=ax
        )


def time_queries(
    arms: Mapping[tuple[str, Any], tuple[Peer, Sequence[SkillQuery]]], *, rounds: int, seed: int = 0
) -> QueryTimes:
    """Times all arms in one interleaved run: in each round every peer answers each of its queries, in random order.

    arms: by (name, point), who answers and what is asked. Raises InvalidValueError for no arms, no queries or no rounds.
    """
    calls = {key: [peer.prepare(query) for query in queries] for key, (peer, queries) in arms.items()}
    for key, prepared in calls.items():
        if not prepared:
            raise InvalidValueError(f"arms[{key!r}] must ask at least one query")
    batches = {str(number): partial(_ask_all, prepared) for number, prepared in enumerate(calls.values())}
    seconds = interleave(batches, rounds, seed=seed)
    return QueryTimes({key: values / len(calls[key]) for key, values in zip(calls, seconds.values(), strict=True)})


def tuned(database: SqliteSkills, queries: Sequence[SkillQuery], *, rounds: int = 9) -> SqliteSkills:
    """Returns the variant of the database whose formulation answers the queries fastest, by the median of the rounds."""
    variants = {name: database.variant(formulation=name) for name in FORMULATIONS}
    times = time_queries({(name, 0): (peer, queries) for name, peer in variants.items()}, rounds=rounds)
    return variants[min(FORMULATIONS, key=lambda name: times.median(name, 0))]


def _ask_all(calls: Sequence[Callable[[], object]]) -> None:
    for call in calls:
        call()
