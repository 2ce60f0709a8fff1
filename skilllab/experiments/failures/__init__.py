"""Experiments on failures: kinds of errors, retries, crowds that come back, outages with and without a breaker, cancellations."""

from skilllab.experiments.failures.apart import outage_apart
from skilllab.experiments.failures.causes import Kind, kinds
from skilllab.experiments.failures.cleanup import Left, Remains, cancellations, left_behind
from skilllab.experiments.failures.outages import Scenario, outage, predicted
from skilllab.experiments.failures.retries import RetryCosts, asked_to_wait, retry_costs
from skilllab.experiments.failures.skills import registry_of
from skilllab.experiments.failures.storms import Crowd, Storm, storm
from skilllab.experiments.failures.timeline import Call, Change, Outage, Timeline, spread

__all__ = [
    "Call",
    "Change",
    "Crowd",
    "Kind",
    "Left",
    "Outage",
    "Remains",
    "RetryCosts",
    "Scenario",
    "Storm",
    "Timeline",
    "asked_to_wait",
    "cancellations",
    "kinds",
    "left_behind",
    "outage",
    "outage_apart",
    "predicted",
    "registry_of",
    "retry_costs",
    "spread",
    "storm",
]
