"""Layer 3: requests to APIs over one pool of connections. aiohttp is imported when the first one is sent."""

from skilllab.engine.http.runner import HttpOptions, HttpRunner

__all__ = ["HttpOptions", "HttpRunner"]
