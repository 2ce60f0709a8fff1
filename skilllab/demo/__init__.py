"""A small real API server on this machine, with latencies, queues, errors, stalls and limits that are set and known."""

from skilllab.demo.counters import DemoStatistics, Served
from skilllab.demo.process import DemoProcess
from skilllab.demo.server import DemoServer
from skilllab.demo.settings import Constant, DemoSettings, Exponential, Latency, Lognormal, RateLimit, Stall

__all__ = [
    "Constant",
    "DemoProcess",
    "DemoServer",
    "DemoSettings",
    "DemoStatistics",
    "Exponential",
    "Latency",
    "Lognormal",
    "RateLimit",
    "Served",
    "Stall",
]
