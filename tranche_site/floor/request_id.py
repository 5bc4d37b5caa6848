"""Every answer has a request id: what a customer quotes to support, and what logs, audit and tasks are found by."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

HEADER = "X-Request-Id"
_SANE = re.compile(r"[A-Za-z0-9._-]{8,64}")

GetResponse = Callable[[HttpRequest], HttpResponse]


class RequestIdMiddleware:
    """Takes the caller's id where it is a sane one, else makes one. Stands first, so that refusals bear it too."""

    def __init__(self, get_response: GetResponse) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        asked = request.headers.get(HEADER, "")
        request.request_id = asked if _SANE.fullmatch(asked) else uuid.uuid4().hex  # type: ignore[attr-defined]
        response = self._get_response(request)
        response[HEADER] = of(request)
        return response


def of(request: HttpRequest) -> str:
    """The id of a request; empty where no middleware saw it, as in a test of a single view."""
    return getattr(request, "request_id", "")
