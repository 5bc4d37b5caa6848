"""Requests counted by view, for /metrics. gunicorn's workers share the counts by files (`tranche_site.gunicorn_conf`)."""

from __future__ import annotations

import os

from django.http import HttpRequest
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_UNKNOWN = "none"
"""Of addresses that lead nowhere: what strangers type must not become a label."""

_here = CollectorRegistry()
_requests = Counter(
    "tranche_http_requests", "Requests answered, by view, method and status.", ["view", "method", "status"], registry=_here
)  # fmt: skip
_time = Histogram(
    "tranche_http_request_duration_seconds", "From a request to its answer, by view.", ["view"], buckets=_SECONDS,
    registry=_here,
)  # fmt: skip


def view_of(request: HttpRequest) -> str:
    """The name of the view, of which there are as many as the project has; "none" for unknown addresses."""
    match = getattr(request, "resolver_match", None)
    return str(match.view_name or match.route or "root") if match else _UNKNOWN


def observe(request: HttpRequest, status: int, seconds: float) -> None:
    view = view_of(request)
    _requests.labels(view, request.method if request.method in _METHODS else "other", str(status)).inc()
    _time.labels(view).observe(seconds)


def registry() -> CollectorRegistry:
    """What all workers of this web server have counted, or this process alone where nothing is shared."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return _here
    shared = CollectorRegistry()
    MultiProcessCollector(shared)
    return shared
