"""What the server did, for Prometheus and for the log; nothing that users sent."""

from __future__ import annotations

import json
import logging
import time

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

from mmtfrs.errors import ExportError

_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Metrics:
    """Counts requests by model, signature and gRPC code, and measures their latency."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("model", "signature")
        self._requests = Counter("mmtfrs_requests", "Requests by gRPC code.", (*labels, "code"), registry=self.registry)
        self._began = Counter("mmtfrs_calls", "Calls by gRPC; those that are no request came unread.", registry=self.registry)
        self._latency = Histogram("mmtfrs_latency_seconds", "Time to answer.", labels, registry=self.registry, buckets=_BUCKETS)

    def began(self) -> None:
        """Counts a call before its request is read: one that is too large, or whose client hangs up, is counted here alone."""
        self._began.inc()

    def observe(self, model: str, signature: str, code: str, seconds: float | None = None) -> None:
        """Counts a request; those that were not begun took no time."""
        self._requests.labels(model, signature, code).inc()
        if seconds is not None:
            self._latency.labels(model, signature).observe(seconds)

    def serve(self, port: int, host: str):
        """Answers `GET /metrics` on another thread; returns the HTTP server, whose `server_port` says where.

        Raises:
            ExportError: the port is taken or not allowed.
        """
        try:
            return start_http_server(port, host, self.registry)[0]
        except OSError as error:
            raise ExportError(f"{host}:{port} cannot be listened on ({error}). Use --metrics-port.") from None


class JsonLines(logging.Formatter):
    """One JSON object per record: time, level, event and whatever fields it has."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{stamp}.{int(record.msecs):03d}Z", "level": record.levelname.lower(), "event": record.getMessage()}
        if record.exc_info:
            line["error"] = record.exc_info[0].__name__
        return json.dumps({**line, **fields})
