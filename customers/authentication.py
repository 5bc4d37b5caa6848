"""Who asks: a Bearer key stands for a customer, within the key's scopes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from django.db.models import Q
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import SAFE_METHODS, BasePermission

from customers import keys, throttling
from customers.models import ApiKey, Customer
from tranche_site.floor import audit_context

if TYPE_CHECKING:  # the views import this module while they are being made
    from rest_framework.request import Request
    from rest_framework.views import APIView

SCHEME = "Bearer"
LAST_USED_RESOLUTION = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Principal:
    """The user of an API request: a customer, not a person."""

    customer: Customer
    is_authenticated: bool = True


class ApiKeyAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[Principal, ApiKey] | None:
        scheme, _, secret = get_authorization_header(request).decode("latin-1").partition(" ")
        if not scheme:
            return None
        if scheme.lower() != SCHEME.lower():
            raise AuthenticationFailed("Send the key as “Authorization: Bearer <key>”.")
        key = _find(secret.strip())
        if key is None:
            throttling.note_bad_key(request._request)
            # One answer for all of them: what exactly is wrong with a key is the owner's business.
            raise AuthenticationFailed("This API key is unknown, expired or revoked.")
        audit_context.say(actor=f"API key {key.prefix}")
        return Principal(key.customer), key

    def authenticate_header(self, request: Request) -> str:
        return SCHEME


def _find(secret: str) -> ApiKey | None:
    now = timezone.now()
    # A key that can't be ours is refused before the database hears of it.
    key = (
        ApiKey.objects.select_related("customer")
        .filter(prefix=keys.prefix(secret), customer__deleted_at__isnull=True)
        .first()
        if keys.is_well_formed(secret)
        else None
    )
    if key is None or not keys.matches(secret, key.digest) or not key.is_usable(now):
        return None
    _note_use(key)
    return key


def _note_use(key: ApiKey) -> None:
    """At most one write a minute and key, however many requests and processes use it."""
    now = timezone.now()
    stale = now - LAST_USED_RESOLUTION
    if key.last_used_at is None or key.last_used_at <= stale:
        ApiKey.objects.filter(Q(last_used_at__isnull=True) | Q(last_used_at__lte=stale), pk=key.pk).update(
            last_used_at=now
        )


class HasScope(BasePermission):
    """The scope "read" for what only looks, "write" for everything else, unless a view's `scopes` names another by action."""

    message = "This API key's scopes do not allow this."

    def has_permission(self, request: Request, view: APIView) -> bool:
        usual = "read" if request.method in SAFE_METHODS else "write"
        wanted = getattr(view, "scopes", {}).get(getattr(view, "action", None), usual)
        return isinstance(request.auth, ApiKey) and wanted in request.auth.scopes
