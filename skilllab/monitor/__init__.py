"""What skills did, from the events of an engine: figures, alerts, recommendations, Prometheus text."""

from skilllab.monitor.monitor import PerformanceMonitor
from skilllab.monitor.recommendations import Recommendation
from skilllab.monitor.report import PerformanceReport
from skilllab.monitor.watch import Alert, Watch

__all__ = ["Alert", "PerformanceMonitor", "PerformanceReport", "Recommendation", "Watch"]
