"""skilllab: a performance lab for the skills (tools) that AI agents call.

Names load when first used, so that `import skilllab` stays cheap: numpy, pandas, matplotlib and Jupyter wait until needed.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = [
    "UNSET",
    "CacheStats",
    "ExecutionResult",
    "InMemorySkillRegistry",
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
    "read_catalogue",
    "simulate",
    "single_flight",
    "skill",
]

_HOME = {
    "UNSET": "cache",
    "CacheStats": "cache",
    "ExecutionResult": "model",
    "InMemorySkillRegistry": "registry",
    "LayeredExecutionEngine": "engine",
    "Page": "model",
    "ResourceLimits": "model",
    "SkillCache": "cache",
    "SkillDefinition": "model",
    "SkillQuery": "model",
    "SkilllabError": "errors",
    "Trace": "trace",
    "builtin": "skills",
    "canonical_key": "cache",
    "finding": "report",
    "read_catalogue": "skills",
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
