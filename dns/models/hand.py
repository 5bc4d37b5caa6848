"""The operator's hand: pins and freezes."""

from __future__ import annotations

from datetime import datetime

from django.contrib.auth.models import User
from django.core.validators import MaxValueValidator
from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from customers.models import ApiKey, Customer, Event
from services.models import Service


class Pin(models.Model):
    """An operator's fixed weights for a service, until `expires_at`."""

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    service = models.ForeignKey(Service, models.PROTECT, related_name="pins")
    backup_percent = models.PositiveSmallIntegerField(
        validators=[MaxValueValidator(100)],
        help_text="Percent of traffic for the first fit backup; the primary has the rest.",
    )
    reason = models.CharField(max_length=300)
    expires_at = models.DateTimeField()
    created_by = models.ForeignKey(User, models.PROTECT, null=True, editable=False, related_name="+")
    made_with = models.ForeignKey(
        ApiKey, models.PROTECT, null=True, editable=False, related_name="+",
        help_text="The customer's key, where it is the customer's own.",
    )  # fmt: skip
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        db_table = "pins"
        ordering = ["-id"]
        constraints = [models.CheckConstraint(condition=Q(backup_percent__lte=100), name="pins_percent_range")]

    def __str__(self) -> str:
        return f"{self.service} pinned: backup {self.backup_percent} %"

    def clean(self) -> None:
        if self.service_id:
            self.customer_id = self.service.customer_id

    def is_in_force(self, now: datetime) -> bool:
        return self.expires_at > now

    def end(self, now: datetime) -> None:
        with transaction.atomic():
            self.expires_at = now
            self.save(update_fields=["expires_at"])
            Event.record("pin.ended", self, f"The pin of {self.service} is over", customer_id=self.customer_id)

    def tell(self) -> None:
        """That it was placed; call it in the transaction that places it."""
        Event.record(
            "pin.placed", self, f"{self} until {self.expires_at:%Y-%m-%d %H:%M} UTC: {self.reason}",
            customer_id=self.customer_id, service=self.service_id, backup_percent=self.backup_percent,
            expires_at=self.expires_at.isoformat(),
        )  # fmt: skip


class Freeze(models.Model):
    """No automatic change at all, for one service, one customer, or (with neither) for everything, until it is lifted."""

    customer = models.ForeignKey(Customer, models.PROTECT, null=True, blank=True, related_name="+")
    service = models.ForeignKey(Service, models.PROTECT, null=True, blank=True, related_name="freezes")
    reason = models.CharField(max_length=300)
    created_by = models.ForeignKey(User, models.PROTECT, null=True, editable=False, related_name="+")
    made_with = models.ForeignKey(
        ApiKey, models.PROTECT, null=True, editable=False, related_name="+",
        help_text="The customer's key, where it is the customer's own.",
    )  # fmt: skip
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    lifted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "freezes"
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"freeze of {self.service or self.customer or 'everything'}"

    def is_in_force(self, now: datetime) -> bool:
        return self.lifted_at is None

    def end(self, now: datetime) -> None:
        with transaction.atomic():
            self.lifted_at = now
            self.save(update_fields=["lifted_at"])
            Event.record("freeze.lifted", self, f"The {self} is lifted", customer_id=self.customer_id)

    def tell(self) -> None:
        """That it was placed; call it in the transaction that places it."""
        Event.record(
            "freeze.placed", self, f"The {self} is in force: {self.reason}", customer_id=self.customer_id,
            service=self.service_id,
        )  # fmt: skip

    def covers(self, service: Service) -> bool:
        return self.service_id in (None, service.pk) and self.customer_id in (None, service.customer_id)
