"""Benchmarks: any number of candidates timed side by side, and verdicts on who is faster that hold."""

from skilllab.experiments.benchmark.arms import Arm
from skilllab.experiments.benchmark.bench import Progress, benchmark
from skilllab.experiments.benchmark.comparing import Compared
from skilllab.experiments.benchmark.pyperf import read_pyperf
from skilllab.experiments.benchmark.result import BenchmarkResult
from skilllab.experiments.benchmark.runs import ArmTimes

__all__ = ["Arm", "ArmTimes", "BenchmarkResult", "Compared", "Progress", "benchmark", "read_pyperf"]
