"""Keys of the v1 API, and what they allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from customers import keys
from customers.models.customer import Customer
from customers.models.event import Event

if TYPE_CHECKING:
    from datetime import datetime, timedelta

SCOPES = {
    "read": "Read everything the account owns",
    "write": "Create and change services, domains, paths and policies",
    "steer": "Pin weights, and freeze automatic changes",
    "keys": "Issue, rotate and revoke API keys",
}
STAFF_SCOPES = {
    "payments": "Record what was paid: for our own bookkeeping, never for the customer",
}
"""Beyond what a customer may do itself: no key has them unless somebody who may do so in the console ticks them."""


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def usable(self, now: datetime) -> ApiKeyQuerySet:
        return self.filter(Q(expires_at__isnull=True) | Q(expires_at__gt=now), revoked_at__isnull=True)


class ApiKey(models.Model):
    """A key of the v1 API. Only its digest is stored; the key itself is shown once, when it is made."""

    customer = models.ForeignKey(Customer, models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100, help_text="Where the key is used, for example “terraform”.")
    prefix = models.CharField(max_length=20, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    scopes = models.JSONField(default=list, help_text="A list of the words in SCOPES.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        db_table = "api_keys"
        ordering = ["customer_id", "id"]
        verbose_name = "API key"
        verbose_name_plural = "API keys"

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @classmethod
    def issue(
        cls, customer: Customer, name: str, scopes: list[str], expires_at: datetime | None = None
    ) -> tuple[ApiKey, str]:
        """Make a key; the second value is the secret, and this is the only time it exists outside the customer's hands."""
        secret = keys.generate()
        with transaction.atomic():
            key = cls.objects.create(
                customer=customer, name=name, scopes=scopes, expires_at=expires_at, prefix=keys.prefix(secret),
                digest=keys.digest(secret),
            )  # fmt: skip
            key._tell("issued", "is issued")
        return key, secret

    def rotate(self, now: datetime, overlap: timedelta) -> tuple[ApiKey, str]:
        """A new key in this one's place, and its secret; this one goes on for `overlap`, and never longer than it would
        have."""
        end = now + overlap
        with transaction.atomic():
            made = ApiKey.issue(self.customer, self.name, self.scopes, self.expires_at)
            self.expires_at = end if self.expires_at is None else min(self.expires_at, end)
            self.save(update_fields=["expires_at"])
            self._tell("rotated", f"is replaced, and goes on until {self.expires_at:%Y-%m-%d %H:%M} UTC")
        return made

    def revoke(self, now: datetime) -> None:
        if self.revoked_at:
            return
        with transaction.atomic():
            self.revoked_at = now
            self.save(update_fields=["revoked_at"])
            self._tell("revoked", "is revoked")

    def _tell(self, what: str, said: str) -> None:
        Event.record(
            f"api_key.{what}", self, f"API key {self} {said}", customer_id=self.customer_id, name=self.name,
            prefix=self.prefix, scopes=self.scopes,
        )  # fmt: skip

    def is_usable(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)
