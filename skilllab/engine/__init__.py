"""Runs skills: look up, check, run, measure."""

from skilllab.engine.engine import LayeredExecutionEngine, Runner
from skilllab.engine.functions import FunctionOptions, FunctionRunner

__all__ = ["FunctionOptions", "FunctionRunner", "LayeredExecutionEngine", "Runner"]
