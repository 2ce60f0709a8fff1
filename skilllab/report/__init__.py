"""What an experiment found, and the offline page that shows it: findings here, `runner` and `page` beside."""

from skilllab.report.findings import FINDING_MIME, Finding, finding

__all__ = ["FINDING_MIME", "Finding", "finding"]
