"""One's own tool in a minute: what `skilllab try` does to a function, an MCP server or an address, and what it found."""

from __future__ import annotations

from skilllab.experiments.trial.plan import TrialPlan, planned
from skilllab.experiments.trial.result import ToolTrial, TrialResult
from skilllab.experiments.trial.run import trial
from skilllab.experiments.trial.target import Target, kind_of, opened

__all__ = ["Target", "ToolTrial", "TrialPlan", "TrialResult", "kind_of", "opened", "planned", "trial"]
