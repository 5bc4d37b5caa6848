"""Sentry, where SENTRY_DSN names one and its package is there: errors with their ids, and nothing of a person or a secret."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import structlog
from django.core.exceptions import ImproperlyConfigured

from tranche_site.floor import logs

_CONTEXT = ("request_id", "task_id", "service_ids", "storm_ids", "customer_id")


def report_to(dsn: str, environment: str) -> None:
    """Send errors there; "" sends nothing. Raises ImproperlyConfigured if the package isn't installed."""
    if not dsn:
        return
    if find_spec("sentry_sdk") is None:
        raise ImproperlyConfigured(
            "SENTRY_DSN is set, and the package sentry-sdk is not installed: install it beside requirements.txt "
            "(pip install 'sentry-sdk[django,celery]'), or unset SENTRY_DSN."
        )
    import sentry_sdk  # type: ignore[import-not-found,unused-ignore]

    sentry_sdk.init(
        dsn=dsn,
        environment=environment,
        send_default_pii=False,
        include_local_variables=False,  # of a frame that holds a key
        max_request_body_size="never",
        before_send=scrub,
        before_breadcrumb=lambda crumb, hint: logs.cleared(crumb),
    )


def scrub(event: dict[str, Any], hint: dict[str, Any]) -> dict[str, Any]:
    """Without who asked and what they sent: the ids that find it in our own log are enough."""
    clean: dict[str, Any] = logs.cleared(event)
    request = clean.get("request", {})
    for name in ("cookies", "data", "env", "query_string"):
        request.pop(name, None)
    kept = {"user-agent", "content-type", "x-request-id"}
    request["headers"] = {name: text for name, text in (request.get("headers") or {}).items() if name.lower() in kept}
    clean["request"] = request
    clean.pop("user", None)
    clean.pop("server_name", None)
    context = structlog.contextvars.get_contextvars()
    clean["tags"] = {**(clean.get("tags") or {}), **{name: str(context[name]) for name in _CONTEXT if name in context}}
    return clean
