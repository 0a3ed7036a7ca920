"""Requests that are no HTTP are answered by the server before any of our code runs; here they are counted."""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from agentworld_node.metrics import Metrics


class MalformedRequests(logging.Filter):
    """Counts requests that the HTTP server cannot parse, and drops its tracebacks of those and of clients that left."""

    def __init__(self, metrics: Metrics | None):
        super().__init__()
        self._metrics = metrics

    def filter(self, record: logging.LogRecord) -> bool:
        """Passes everything else on to the log."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, BadHttpMessage | web.RequestPayloadError) and self._metrics is not None:
            self._metrics.count("agentworld_http_malformed_total")
        return not isinstance(error, BadHttpMessage | web.RequestPayloadError | ConnectionError)


def server_log(metrics: Metrics | None = None) -> logging.Logger:
    """Returns the logger for one HTTP server; without metrics nothing is counted."""
    # Not one of the shared loggers, because a process may hold several nodes with metrics of their own.
    logger = logging.Logger("agentworld_node.http", logging.WARNING)  # noqa: LOG001
    logger.parent = logging.getLogger("agentworld_node")
    logger.addFilter(MalformedRequests(metrics))
    return logger
