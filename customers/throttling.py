"""Who may ask how much: a key, all keys of a customer together, and addresses that bring no good key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings
from django.http import HttpRequest
from rest_framework.exceptions import Throttled
from rest_framework.throttling import BaseThrottle

from customers.models import ApiKey
from tranche_site.floor import rate_limit
from tranche_site.floor.addresses import network_of
from tranche_site.floor.rate_limit import Quota, Verdict

if TYPE_CHECKING:
    from rest_framework.request import Request
    from rest_framework.views import APIView


class QuotaThrottle(BaseThrottle):
    """Leaves its verdict on the request, so that every answer can tell what is left (see `headers_of`)."""

    def allow_request(self, request: Request, view: APIView) -> bool:
        verdict = rate_limit.take(_quotas(request))
        _remember(request._request, verdict)
        self._wait = verdict.after_seconds
        return verdict.is_allowed

    def wait(self) -> float:
        return self._wait


def _quotas(request: Request) -> list[Quota]:
    key = request.auth
    if not isinstance(key, ApiKey):
        return [_of_address(request._request)]
    return [
        Quota("key", str(key.pk), settings.API_RATE_PER_KEY),
        Quota("customer", str(key.customer_id), settings.API_RATE_PER_CUSTOMER),
    ]


def note_bad_key(request: HttpRequest) -> None:
    """Raises Throttled where an address brings too many keys that are none: each costs us a look."""
    verdict = rate_limit.take([_of_address(request)])
    _remember(request, verdict)
    if not verdict.is_allowed:
        raise Throttled(verdict.after_seconds)


def _of_address(request: HttpRequest) -> Quota:
    return Quota("address", network_of(request), settings.API_RATE_PER_ADDRESS)


def _remember(request: HttpRequest, verdict: Verdict) -> None:
    request.rate_verdict = verdict  # type: ignore[attr-defined]


def headers_of(request: HttpRequest) -> dict[str, str]:
    verdict: Verdict | None = getattr(request, "rate_verdict", None)
    return verdict.headers if verdict else {}
