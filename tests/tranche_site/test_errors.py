from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import structlog
from django.core.exceptions import ImproperlyConfigured

from customers import keys
from tranche_site.floor import errors, logs


def test_nothing_is_reported_unless_somebody_says_where() -> None:
    errors.report_to("", "production")


@pytest.mark.skipif(find_spec("sentry_sdk") is not None, reason="sentry-sdk is installed here")
def test_an_address_without_the_package_is_an_error_that_names_both() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"SENTRY_DSN is set, and the package sentry-sdk is not installed"):
        errors.report_to("https://public@sentry.example/1", "production")


def test_who_asked_and_what_they_sent_is_not_reported() -> None:
    secret = keys.generate()
    event: dict[str, Any] = {
        "message": f"refused {secret}",
        "user": {"id": 7, "email": "a@example.com", "ip_address": "192.0.2.1"},
        "server_name": "web-1",
        "request": {
            "url": "https://tranche.example/v1/services",
            "query_string": "name=x",
            "data": {"hostname": "shop.example"},
            "cookies": {"sessionid": "abc"},
            "env": {"REMOTE_ADDR": "192.0.2.1"},
            "headers": {"Authorization": f"Bearer {secret}", "Cookie": "sessionid=abc", "User-Agent": "curl/8"},
        },
        "extra": {"password": "hunter2hunter2", "count": 3},
    }
    structlog.contextvars.bind_contextvars(request_id="r-1", storm_ids=[7])
    try:
        sent = errors.scrub(event, {})
    finally:
        structlog.contextvars.clear_contextvars()
    assert sent == {
        "message": f"refused {keys.prefix(secret)}_{logs.HIDDEN}",
        "request": {"url": "https://tranche.example/v1/services", "headers": {"User-Agent": "curl/8"}},
        "extra": {"password": logs.HIDDEN, "count": 3},
        "tags": {"request_id": "r-1", "storm_ids": "[7]"},
    }
