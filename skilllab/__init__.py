"""skilllab: a performance lab for the skills (tools) that AI agents call.

Names load when first used, so that `import skilllab` stays cheap: numpy, pandas, matplotlib and Jupyter wait until needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skilllab.cache import (
        UNSET,
        CacheStats,
        LRUStore,
        SkillCache,
        canonical_key,
        single_flight,
    )
    from skilllab.define import skill
    from skilllab.engine import LayeredExecutionEngine
    from skilllab.errors import SkilllabError
    from skilllab.experiments.simulation import miss_ratio_curve, simulate
    from skilllab.model import (
        ExecutionResult,
        Page,
        ResourceLimits,
        SkillDefinition,
        SkillQuery,
    )
    from skilllab.panels import CachePanel
    from skilllab.registry import InMemorySkillRegistry
    from skilllab.report import finding
    from skilllab.skills import builtin
    from skilllab.skills.catalogue import read_catalogue
    from skilllab.trace import Trace

__version__ = "0.1.0"

__all__ = [
    "UNSET",
    "CachePanel",
    "CacheStats",
    "ExecutionResult",
    "InMemorySkillRegistry",
    "LRUStore",
    "LayeredExecutionEngine",
    "Page",
    "ResourceLimits",
    "SkillCache",
    "SkillDefinition",
    "SkillQuery",
    "SkilllabError",
    "Trace",
    "builtin",
    "canonical_key",
    "finding",
    "miss_ratio_curve",
    "read_catalogue",
    "simulate",
    "single_flight",
    "skill",
]

_HOME = {
    "CachePanel": "panels",
    "CacheStats": "cache",
    "ExecutionResult": "model",
    "InMemorySkillRegistry": "registry",
    "LRUStore": "cache",
    "LayeredExecutionEngine": "engine",
    "Page": "model",
    "ResourceLimits": "model",
    "SkillCache": "cache",
    "SkillDefinition": "model",
    "SkillQuery": "model",
    "SkilllabError": "errors",
    "Trace": "trace",
    "UNSET": "cache",
    "builtin": "skills",
    "canonical_key": "cache",
    "finding": "report",
    "miss_ratio_curve": "experiments.simulation",
    "read_catalogue": "skills.catalogue",
    "simulate": "experiments.simulation",
    "single_flight": "cache",
    "skill": "define",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'skilllab' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"skilllab.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
