"""Load tests: closed and open models, every request from its intended start, intervals that know of autocorrelation."""

from skilllab.experiments.loadtest.advice import LoadWarning
from skilllab.experiments.loadtest.records import Requests
from skilllab.experiments.loadtest.result import LoadTestResult
from skilllab.experiments.loadtest.running import load_test
from skilllab.experiments.loadtest.scenario import Abort, Scenario, Stage

__all__ = [
    "Abort",
    "LoadTestResult",
    "LoadWarning",
    "Requests",
    "Scenario",
    "Stage",
    "load_test",
]
