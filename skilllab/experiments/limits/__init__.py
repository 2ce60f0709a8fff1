"""Experiments on limits: skills that want too much, the limit matrix, what layers and sandboxes cost, what is shut out."""

from skilllab.experiments.limits.attempts import Attempt, Setting, Use, attempt
from skilllab.experiments.limits.inside import Bomb, Tried, fork_bomb, shut_out, shut_out_table
from skilllab.experiments.limits.latencies import Arm, Latencies, latencies
from skilllab.experiments.limits.matrix import Cell, Matrix, matrix
from skilllab.experiments.limits.misbehaviours import MISBEHAVIOURS, Misbehaviour

__all__ = [
    "MISBEHAVIOURS",
    "Arm",
    "Attempt",
    "Bomb",
    "Cell",
    "Latencies",
    "Matrix",
    "Misbehaviour",
    "Setting",
    "Tried",
    "Use",
    "attempt",
    "fork_bomb",
    "latencies",
    "matrix",
    "shut_out",
    "shut_out_table",
]
