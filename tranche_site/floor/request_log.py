"""One line a request, with its ids: who asked for what, how it ended, how long it took; and figures of the same."""

from __future__ import annotations

import time
from typing import Any

import structlog
from django.http import HttpRequest
from django_structlog import signals
from django_structlog.middlewares import RequestMiddleware

from tranche_site.floor import http_metrics

UNSAID = "/beacon/"
"""Vendors' checkers ask every few seconds for every domain, and what they ask for is a token: that is in no log."""


class RequestLog(RequestMiddleware):
    """django-structlog's middleware. The request id is that of `request.request_id`, where something has set one."""

    def prepare(self, request: HttpRequest) -> None:
        request._tranche_began = time.perf_counter()  # type: ignore[attr-defined]
        if request.path.startswith(UNSAID):
            return
        super().prepare(request)
        if given := getattr(request, "request_id", None):
            structlog.contextvars.bind_contextvars(request_id=str(given))

    def handle_response(self, request: HttpRequest, response: Any) -> None:
        if response.status_code < 500 and hasattr(request, "request_id"):
            structlog.contextvars.bind_contextvars(request_id=str(request.request_id))
        http_metrics.observe(request, response.status_code, _seconds(request))
        if request.path.startswith(UNSAID):
            structlog.contextvars.clear_contextvars()
        else:
            super().handle_response(request, response)


def _seconds(request: HttpRequest) -> float:
    return time.perf_counter() - getattr(request, "_tranche_began", time.perf_counter())


def add_outcome(request: HttpRequest, response: Any = None, log_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
    """What django-structlog's lines lack. Asks the database nothing: a session that nobody has read stays unread."""
    if log_kwargs is None:
        return
    log_kwargs |= {"ms": round(_seconds(request) * 1000, 1), "view": http_metrics.view_of(request)}
    if response is not None and not response.streaming:
        log_kwargs["bytes"] = len(response.content)
    key = getattr(request, "auth", None)
    if key is not None and hasattr(key, "prefix"):
        log_kwargs |= {"key": key.prefix, "customer_id": key.customer_id}
    if (person := getattr(request, "_cached_user", None)) is not None and person.pk:
        log_kwargs["user_id"] = person.pk


def connect() -> None:
    """Once, when the apps are ready."""
    signals.bind_extra_request_finished_metadata.connect(add_outcome, dispatch_uid="tranche.request_log")
    signals.bind_extra_request_failed_metadata.connect(add_outcome, dispatch_uid="tranche.request_log")
