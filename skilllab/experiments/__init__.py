"""Experiments: questions put to traces, skills and engines, answered with numbers."""
