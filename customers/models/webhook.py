"""Where a customer is told, what it was told, and each time we tried."""

from __future__ import annotations

import base64
import secrets
from datetime import datetime, timedelta

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils import timezone

from customers import catalogue
from customers.models.customer import Customer
from customers.models.event import Event
from tranche_site.floor import sealed

ROTATION = timedelta(days=1)
"""Both secrets sign for so long after a rotation."""
MOST_KINDS = 50


def check_kinds(kinds: object) -> None:
    if not isinstance(kinds, list) or not 1 <= len(kinds) <= MOST_KINDS:
        raise ValidationError(f"Give a list of 1 to {MOST_KINDS} kinds.")
    if strange := [kind for kind in kinds if not isinstance(kind, str) or not catalogue.is_pattern(kind)]:
        raise ValidationError(f"{strange[0]} is no kind of event, nor the beginning of one such as storm.*, nor *.")


class WebhookEndpointQuerySet(models.QuerySet["WebhookEndpoint"]):
    def live(self) -> WebhookEndpointQuerySet:
        return self.filter(deleted_at__isnull=True)


class WebhookEndpoint(models.Model):
    """An address that events are sent to, one at a time and in order.

    `held_until`: the circuit is open, nothing is tried. `leased_until`: a worker is at it.
    """

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="webhook_endpoints")
    url = models.URLField(max_length=500)
    description = models.CharField(max_length=200, blank=True)
    kinds = models.JSONField(default=list, validators=[check_kinds])
    sealed_credentials = models.TextField(blank=True, default="", editable=False)
    previous_until = models.DateTimeField(null=True, editable=False)
    disabled_at = models.DateTimeField(null=True, editable=False)
    disabled_reason = models.CharField(max_length=300, blank=True, editable=False)
    failing_since = models.DateTimeField(null=True, editable=False)
    failures = models.PositiveIntegerField(default=0, editable=False, help_text="In a row.")
    held_until = models.DateTimeField(null=True, editable=False)
    leased_until = models.DateTimeField(null=True, editable=False)
    last_sequence = models.BigIntegerField(default=0, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    deleted_at = models.DateTimeField(null=True, editable=False)

    objects = WebhookEndpointQuerySet.as_manager()

    class Meta:
        db_table = "webhook_endpoints"
        ordering = ["customer_id", "id"]
        indexes = [models.Index(fields=["customer"], condition=Q(deleted_at=None), name="webhook_endpoints_live")]

    def __str__(self) -> str:
        return self.url

    @property
    def state(self) -> str:
        if self.disabled_at:
            return "disabled"
        return "failing" if self.failing_since else "enabled"

    # --- secrets ---

    def new_secret(self, now: datetime) -> str:
        """Make another secret and return it; the one before signs beside it for ROTATION. For a saved row, which it saves.
        Raises sealed.SealedError."""
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        before = self.secrets_at(now)[:1]
        self.sealed_credentials = sealed.seal({"secrets": [secret, *before]}, self.credentials_aad)
        self.previous_until = now + ROTATION if before else None
        self.save(update_fields=["sealed_credentials", "previous_until"])
        return secret

    def secrets_at(self, now: datetime) -> list[str]:
        """Those to sign with, the newest first. Raises sealed.SealedError."""
        if not self.sealed_credentials:
            return []
        found: list[str] = sealed.open_sealed(self.sealed_credentials, self.credentials_aad)["secrets"]
        return found if self.previous_until and now < self.previous_until else found[:1]

    @property
    def credentials_aad(self) -> str:
        """Binds the sealed text to this row: swapped with another's it can't be opened."""
        return f"webhook_endpoint:{self.pk}:credentials"


class WebhookDelivery(models.Model):
    """One event for one endpoint. `sequence` counts an endpoint's deliveries without a gap."""

    class State(models.TextChoices):
        PENDING = "pending"
        DELIVERED = "delivered"
        DEAD = "dead"

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    endpoint = models.ForeignKey(WebhookEndpoint, models.PROTECT, related_name="deliveries")
    event = models.ForeignKey(Event, models.CASCADE, related_name="deliveries")
    sequence = models.BigIntegerField()
    state = models.CharField(max_length=10, choices=State, default=State.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True)
    last_status = models.PositiveSmallIntegerField(null=True)
    last_error = models.CharField(max_length=300, blank=True)
    delivered_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "webhook_deliveries"
        verbose_name_plural = "webhook deliveries"
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["endpoint", "event"], name="webhook_deliveries_once"),
            models.UniqueConstraint(fields=["endpoint", "sequence"], name="webhook_deliveries_sequence"),
        ]
        indexes = [
            models.Index(
                fields=["endpoint", "sequence"], condition=Q(state="pending"), name="webhook_deliveries_pending"
            ),
            models.Index(fields=["next_attempt_at"], condition=Q(state="pending"), name="webhook_deliveries_due"),
            models.Index(fields=["customer", "-id"], name="webhook_deliveries_customer"),
            models.Index(fields=["-created_at"], condition=Q(state="dead"), name="webhook_deliveries_dead"),
        ]

    def __str__(self) -> str:
        return f"{self.event.kind} to {self.endpoint}"


class DeliveryAttempt(models.Model):
    """One try, and what came back."""

    delivery = models.ForeignKey(WebhookDelivery, models.CASCADE, related_name="tries")
    at = models.DateTimeField()
    milliseconds = models.PositiveIntegerField()
    status = models.PositiveSmallIntegerField(null=True)
    error = models.CharField(max_length=300, blank=True)
    answer = models.TextField(blank=True, help_text="How the body began, without control characters.")

    class Meta:
        db_table = "delivery_attempts"
        ordering = ["id"]

    def __str__(self) -> str:
        return self.error or str(self.status)
