"""Panels: controls, a picture that follows them, and a text that says what it shows; for notebooks, and headless."""

from __future__ import annotations

from skilllab.panels.batching import BatchingPanel
from skilllab.panels.cache import CachePanel
from skilllab.panels.controls import Control, amount, durations, named, steps, text, whole_numbers
from skilllab.panels.failures import FailuresPanel
from skilllab.panels.limits import LimitsPanel
from skilllab.panels.load import LoadPanel
from skilllab.panels.panel import Panel
from skilllab.panels.picture import Curve, Marker, Picture

__all__ = [
    "BatchingPanel",
    "CachePanel",
    "Control",
    "Curve",
    "FailuresPanel",
    "LimitsPanel",
    "LoadPanel",
    "Marker",
    "Panel",
    "Picture",
    "amount",
    "durations",
    "named",
    "steps",
    "text",
    "whole_numbers",
]
