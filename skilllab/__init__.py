"""skilllab: a performance lab for the skills (tools) that AI agents call.

Names load when first used, so that `import skilllab` stays cheap: numpy, pandas, matplotlib and Jupyter wait until needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skilllab.cache import UNSET, CacheStats, LRUStore, SkillCache, canonical_key, single_flight
    from skilllab.define import command_skill, http_skill, script_skill, skill
    from skilllab.demo import DemoProcess, DemoServer, DemoSettings
    from skilllab.engine import (
        CircuitBreaker,
        ConcurrencyLimit,
        FunctionOptions,
        GuardOptions,
        HttpOptions,
        LayeredExecutionEngine,
    )
    from skilllab.engine.batching import RequestBatcher
    from skilllab.engine.bulk import iter_batches, process_batch
    from skilllab.engine.pools import ConnectionPool
    from skilllab.engine.resources import ResourceManager, execute_with_cleanup
    from skilllab.engine.tracking import ResourceTracker
    from skilllab.errors import SkilllabError
    from skilllab.experiments.benchmark import Arm, BenchmarkResult, benchmark, read_pyperf
    from skilllab.experiments.history import History
    from skilllab.experiments.loadtest import LoadTestResult, Stage, load_test
    from skilllab.experiments.loadtest.capacity import CapacityResult, find_capacity
    from skilllab.experiments.simulation import miss_ratio_curve, simulate
    from skilllab.model import ResourceLimits, SkillDefinition
    from skilllab.monitor import PerformanceMonitor, Recommendation
    from skilllab.outcome import ExecutionEvent, ExecutionResult
    from skilllab.panels import BatchingPanel, CachePanel, FailuresPanel, LimitsPanel, LoadPanel
    from skilllab.query import Page, SkillQuery
    from skilllab.registry import InMemorySkillRegistry
    from skilllab.report import finding
    from skilllab.skills import builtin
    from skilllab.skills.catalogue import read_catalogue
    from skilllab.skills.mcp import from_mcp
    from skilllab.skills.module import from_module
    from skilllab.trace import Trace

__version__ = "0.1.0"

__all__ = [
    "UNSET",
    "Arm",
    "BatchingPanel",
    "BenchmarkResult",
    "CachePanel",
    "CacheStats",
    "CapacityResult",
    "CircuitBreaker",
    "ConcurrencyLimit",
    "ConnectionPool",
    "DemoProcess",
    "DemoServer",
    "DemoSettings",
    "ExecutionEvent",
    "ExecutionResult",
    "FailuresPanel",
    "FunctionOptions",
    "GuardOptions",
    "History",
    "HttpOptions",
    "InMemorySkillRegistry",
    "LRUStore",
    "LayeredExecutionEngine",
    "LimitsPanel",
    "LoadPanel",
    "LoadTestResult",
    "Page",
    "PerformanceMonitor",
    "Recommendation",
    "RequestBatcher",
    "ResourceLimits",
    "ResourceManager",
    "ResourceTracker",
    "SkillCache",
    "SkillDefinition",
    "SkillQuery",
    "SkilllabError",
    "Stage",
    "Trace",
    "benchmark",
    "builtin",
    "canonical_key",
    "command_skill",
    "execute_with_cleanup",
    "find_capacity",
    "finding",
    "from_mcp",
    "from_module",
    "http_skill",
    "iter_batches",
    "load_test",
    "miss_ratio_curve",
    "process_batch",
    "read_catalogue",
    "read_pyperf",
    "script_skill",
    "simulate",
    "single_flight",
    "skill",
]

_HOME = {
    "Arm": "experiments.benchmark",
    "BatchingPanel": "panels",
    "BenchmarkResult": "experiments.benchmark",
    "CachePanel": "panels",
    "CacheStats": "cache",
    "CapacityResult": "experiments.loadtest.capacity",
    "CircuitBreaker": "engine",
    "ConcurrencyLimit": "engine",
    "ConnectionPool": "engine.pools",
    "DemoProcess": "demo",
    "DemoServer": "demo",
    "DemoSettings": "demo",
    "ExecutionEvent": "outcome",
    "ExecutionResult": "outcome",
    "FailuresPanel": "panels",
    "FunctionOptions": "engine",
    "GuardOptions": "engine",
    "History": "experiments.history",
    "HttpOptions": "engine",
    "InMemorySkillRegistry": "registry",
    "LRUStore": "cache",
    "LayeredExecutionEngine": "engine",
    "LimitsPanel": "panels",
    "LoadPanel": "panels",
    "LoadTestResult": "experiments.loadtest",
    "Page": "query",
    "PerformanceMonitor": "monitor",
    "Recommendation": "monitor",
    "RequestBatcher": "engine.batching",
    "ResourceLimits": "model",
    "ResourceManager": "engine.resources",
    "ResourceTracker": "engine.tracking",
    "SkillCache": "cache",
    "SkillDefinition": "model",
    "SkillQuery": "query",
    "SkilllabError": "errors",
    "Stage": "experiments.loadtest",
    "Trace": "trace",
    "UNSET": "cache",
    "benchmark": "experiments.benchmark",
    "builtin": "skills",
    "canonical_key": "cache",
    "command_skill": "define",
    "execute_with_cleanup": "engine.resources",
    "find_capacity": "experiments.loadtest.capacity",
    "finding": "report",
    "from_mcp": "skills.mcp",
    "from_module": "skills.module",
    "http_skill": "define",
    "iter_batches": "engine.bulk",
    "load_test": "experiments.loadtest",
    "miss_ratio_curve": "experiments.simulation",
    "process_batch": "engine.bulk",
    "read_catalogue": "skills.catalogue",
    "read_pyperf": "experiments.benchmark",
    "script_skill": "define",
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
