"""Accounts, their API keys, and the events that tell them what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils import timezone

from customers import keys

if TYPE_CHECKING:
    from datetime import datetime


class CustomerQuerySet(models.QuerySet["Customer"]):
    def live(self) -> CustomerQuerySet:
        return self.filter(deleted_at__isnull=True)


class Customer(models.Model):
    """An account. Everything a tenant owns carries its id."""

    name = models.CharField(max_length=200)
    billing_email = models.EmailField(blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = CustomerQuerySet.as_manager()

    class Meta:
        db_table = "customers"
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                Lower("name"),
                condition=Q(deleted_at__isnull=True),
                name="customers_name_unique",
                violation_error_message="A customer with this name exists.",
            )
        ]

    def __str__(self) -> str:
        return self.name


SCOPES = {
    "read": "Read everything the account owns",
    "write": "Create and change services, domains, paths and policies",
}


class ApiKey(models.Model):
    """A key of the v1 API. Only its digest is stored; the key itself is shown once, when it is made."""

    customer = models.ForeignKey(Customer, models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100, help_text="Where the key is used, for example “terraform”.")
    prefix = models.CharField(max_length=20, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    scopes = models.JSONField(default=list, help_text='A list: "read", "write".')
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "api_keys"
        ordering = ["customer_id", "id"]
        verbose_name = "API key"
        verbose_name_plural = "API keys"

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @classmethod
    def issue(cls, customer: Customer, name: str, scopes: list[str]) -> tuple[ApiKey, str]:
        """Make a key; the second value is the secret, and this is the only time it exists outside the customer's hands."""
        secret = keys.generate()
        key = cls.objects.create(
            customer=customer, name=name, scopes=scopes, prefix=keys.prefix(secret), digest=keys.digest(secret)
        )
        return key, secret

    def is_usable(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class Event(models.Model):
    """What happened to a customer, written in the transaction in which it happened. `customer` is null for the operator's own."""

    customer = models.ForeignKey(Customer, models.CASCADE, null=True, related_name="events")
    kind = models.CharField(max_length=60)
    subject_type = models.CharField(max_length=40)
    subject_id = models.BigIntegerField()
    summary = models.TextField()
    payload = models.JSONField(default=dict)
    created_at = models.DateTimeField(default=timezone.now)
    processed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "events"
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["customer", "-id"], name="events_by_customer"),
            models.Index(fields=["subject_type", "subject_id"], name="events_by_subject"),
            models.Index(fields=["id"], condition=Q(processed_at__isnull=True), name="events_unprocessed"),
        ]

    def __str__(self) -> str:
        return self.summary

    @classmethod
    def about(cls, kind: str, subject: models.Model, summary: str, *, customer_id: int | None, **payload: Any) -> Event:
        """One event about `subject`, not saved yet."""
        return cls(
            customer_id=customer_id,
            kind=kind,
            subject_type=subject._meta.model_name or "",
            subject_id=subject.pk,
            summary=summary,
            payload=payload,
        )

    @classmethod
    def record(
        cls, kind: str, subject: models.Model, summary: str, *, customer_id: int | None, **payload: Any
    ) -> Event:
        """Write one event about `subject`; call it inside the transaction that changes the subject."""
        event = cls.about(kind, subject, summary, customer_id=customer_id, **payload)
        event.save()
        return event
