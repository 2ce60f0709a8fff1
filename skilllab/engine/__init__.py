"""Runs skills: look up, guard, run, measure."""

from skilllab.engine.engine import LayeredExecutionEngine
from skilllab.engine.execution import Execution, Runner
from skilllab.engine.functions import FunctionOptions, FunctionRunner
from skilllab.engine.guard import CircuitBreaker, ConcurrencyLimit, GuardOptions
from skilllab.engine.http import HttpOptions, HttpRunner
from skilllab.engine.sandbox import SandboxOptions, SandboxRunner

__all__ = [
    "CircuitBreaker",
    "ConcurrencyLimit",
    "Execution",
    "FunctionOptions",
    "FunctionRunner",
    "GuardOptions",
    "HttpOptions",
    "HttpRunner",
    "LayeredExecutionEngine",
    "Runner",
    "SandboxOptions",
    "SandboxRunner",
]
