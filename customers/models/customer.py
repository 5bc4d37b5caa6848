"""An account: what everything that a tenant owns belongs to."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils import timezone


class CustomerQuerySet(models.QuerySet["Customer"]):
    def live(self) -> CustomerQuerySet:
        return self.filter(deleted_at__isnull=True)


class Customer(models.Model):
    """An account. Everything a tenant owns carries its id."""

    name = models.CharField(max_length=200)
    billing_email = models.EmailField(blank=True)
    alert_email = models.EmailField(
        blank=True,
        default="",
        db_default="",
        help_text="Where storms and the like are mailed to; empty: as invoices are.",
    )
    wants_alerts = models.BooleanField(
        "alerts by mail", default=True, db_default=True, help_text="Webhooks are told either way."
    )
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

    @property
    def alert_address(self) -> str:
        """The address that alerts go to, or nothing."""
        return (self.alert_email or self.billing_email) if self.wants_alerts and self.deleted_at is None else ""
