"""Attempts: one misbehaviour, run for real within a full set of limits, and what each limit says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from skilllab.engine.workers.machine import Isolation, this_machine
from skilllab.errors import InvalidValueError, LimitExceededError
from skilllab.experiments.limits.loopback import Door
from skilllab.experiments.limits.matrix import judged
from skilllab.experiments.limits.misbehaviours import MIB, MISBEHAVIOURS, Misbehaviour
from skilllab.experiments.limits.ways import NETWORK, engine_for, limits_from, parameters, show, skill_id
from skilllab.model import ResourceLimits
from skilllab.outcome import ExecutionResult

if TYPE_CHECKING:
    import pandas as pd

ROOM: dict[str, float] = {
    "max_memory": 256 * MIB,
    "max_cpu_time": 10.0,
    "max_duration": 10.0,
    "max_file_size": 32 * MIB,
    "max_disk": 64 * MIB,
    "max_processes": 256,
    "max_open_files": 256,
    "max_network_requests": 0,
}
"""What the limits allow that are not against the misbehaviour: no network, and enough of everything else."""

_KIND = "warm script"


@dataclass(frozen=True, slots=True)
class Setting:
    """What to try. limit: that which is against the misbehaviour. share: what it allows, of what the skill wants; of network
    requests it always allows none."""

    limit: str = "max_memory"
    share: float = 0.25
    isolation: Isolation = "process"

    def __post_init__(self) -> None:
        if self.limit not in MISBEHAVIOURS:
            raise InvalidValueError(f"limit(={self.limit!r}) must be among {', '.join(MISBEHAVIOURS)}")
        if not self.share > 0:
            raise InvalidValueError(f"share(={self.share!r}) must be above 0")

    @property
    def misbehaviour(self) -> Misbehaviour:
        """What the skill does."""
        return MISBEHAVIOURS[self.limit]

    @property
    def allowed(self) -> float:
        """What the limit allows, in its unit."""
        if self.limit == NETWORK:
            return 0
        amount = self.misbehaviour.want * self.share
        return amount if isinstance(self.misbehaviour.want, float) else max(1, round(amount))

    @property
    def limits(self) -> ResourceLimits:
        """All limits of the call: its own, and those of ROOM that this machine can hold."""
        room = {name: amount for name, amount in ROOM.items() if name != self.limit}
        unheld = this_machine().unheld(limits_from(room), self.isolation)
        kept = {name: amount for name, amount in room.items() if name not in unheld}
        return limits_from({**kept, self.limit: self.allowed})


class Use(NamedTuple):
    """What one limit allowed (None: it was not asked for) and what was used (None: that is not measured)."""

    limit: str
    allowed: float | None
    used: float | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of it. outcome: "stopped" by its limit, "finished", "refused", or "failed" in another way; words: of
    the error, or what it took."""

    setting: Setting
    outcome: str
    words: str
    uses: tuple[Use, ...]

    def frame(self) -> pd.DataFrame:
        """Returns one row a limit: limit, allowed, used."""
        import pandas as pd

        return pd.DataFrame(self.uses, columns=list(Use._fields))

    def __str__(self) -> str:
        how = "" if self.outcome == "stopped" else f"{self.outcome}: "
        return f"A script that {self.setting.misbehaviour.words}, with isolation {self.setting.isolation}: {how}{self.words}"


async def attempt(setting: Setting, *, on_progress: Callable[[str], object] | None = None) -> Attempt:
    """Runs the misbehaviour in a new engine and returns what became of it. on_progress: told what is being done.

    Whoever cancels it ends the work: when it is over, nothing of it runs.
    """
    limit, told = setting.limit, on_progress or (lambda doing: None)
    told("starting a sandbox …")
    with Door() as at:
        async with engine_for(setting.isolation, [limit], [_KIND]) as engine:
            told("running …")
            result = await engine.execute(
                skill_id(limit, _KIND), parameters(setting.misbehaviour, at.port), resource_limits=setting.limits
            )
        outcome, words = judged(result, limit, reached=at.visits > 0)
    if result.error is None:
        outcome, words = "finished", f"it got the {show(limit, setting.misbehaviour.want)} that it wanted"
    else:
        outcome = {"enforced": "stopped", "ignored": "failed"}.get(outcome, outcome)
    return Attempt(setting, outcome, words, _uses(setting, result))


def _uses(setting: Setting, result: ExecutionResult) -> tuple[Use, ...]:
    usage, error = result.metadata.resource_usage, result.error
    used: dict[str, float | None] = {
        "max_memory": usage.memory_used,
        "max_cpu_time": usage.cpu_time,
        "max_duration": result.metadata.duration,
        NETWORK: usage.network_requests,
    }
    if isinstance(error, LimitExceededError):
        used[error.limit] = error.used
    elif error is None and setting.limit not in used:
        used[setting.limit] = result.output
    limits = setting.limits
    return tuple(Use(limit, getattr(limits, limit), used.get(limit)) for limit in MISBEHAVIOURS)
