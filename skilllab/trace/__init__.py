"""Traces of accesses: read, write, record, and make them from a seed."""

from __future__ import annotations

from skilllab.trace.synthetic import loop, scan, shifting_working_set, zipf
from skilllab.trace.trace import Trace

__all__ = ["Trace", "loop", "scan", "shifting_working_set", "zipf"]
