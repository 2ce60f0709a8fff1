"""Experiments on batches, pools and calls at once: what each buys in throughput, and what it costs in latency."""

from skilllab.experiments.batching.connections import Pooling, pooling
from skilllab.experiments.batching.limits import Parallel, parallel
from skilllab.experiments.batching.offered import Offered, offer, poisson
from skilllab.experiments.batching.sizes import BatchSizes, Cell, batch_sizes
from skilllab.experiments.batching.workloads import Workload, api_users, sqlite_inserts

__all__ = [
    "BatchSizes",
    "Cell",
    "Offered",
    "Parallel",
    "Pooling",
    "Workload",
    "api_users",
    "batch_sizes",
    "offer",
    "parallel",
    "poisson",
    "pooling",
    "sqlite_inserts",
]
