"""Asking for skills: a made-up catalogue, the registry and its peers, fair timings of all, and memory."""

from skilllab.experiments.queries.made_up import (
    build_registry,
    filled,
    finished,
    make_skills,
    register_all,
    specific_queries,
)
from skilllab.experiments.queries.memory import brief_peak, index_memory, memory_by_line
from skilllab.experiments.queries.peers import FORMULATIONS, Answer, Indexed, LinearScan, Peer, SqliteSkills
from skilllab.experiments.queries.timing import QueryTimes, time_queries, tuned

__all__ = [
    "FORMULATIONS",
    "Answer",
    "Indexed",
    "LinearScan",
    "Peer",
    "QueryTimes",
    "SqliteSkills",
    "brief_peak",
    "build_registry",
    "filled",
    "finished",
    "index_memory",
    "make_skills",
    "memory_by_line",
    "register_all",
    "specific_queries",
    "time_queries",
    "tuned",
]
