"""Accounts at DNS vendors: whose API is called, how often, and by which credentials."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from customers.models import Customer
from dns.providers import VENDORS
from tranche_site.floor import sealed


class DnsAccount(models.Model):
    """One account at one vendor. Roles where the vendor has them; else credentials that are sealed and never shown."""

    class Compare(models.TextChoices):
        """What makes an older plan harmless at a vendor that can compare and set."""

        READ_BACK = "read_back", "read back: UPSERT only, a late write is seen and repaired"
        SET = "set", "compare and set: a late write is refused, at the price of a right to DELETE the beacon"

    customer = models.ForeignKey(Customer, models.PROTECT, null=True, blank=True, related_name="dns_accounts")
    name = models.CharField(max_length=100, unique=True)
    vendor = models.CharField(max_length=20, choices=[(vendor, vendor) for vendor in VENDORS])
    options = models.JSONField(
        default=dict,
        blank=True,
        help_text='The vendor’s own fields, nothing secret: {"role_arn": "…", "external_id": "…"} for Route 53, '
        '{"api_url": "https://…"} for PowerDNS.',
    )
    sealed_credentials = models.TextField(blank=True, default="", db_default="", editable=False)
    fencing = models.CharField(max_length=10, choices=Compare, default=Compare.READ_BACK, db_default=Compare.READ_BACK)
    calls_per_second = models.FloatField(
        default=5,
        db_default=5,
        validators=[MinValueValidator(0.1), MaxValueValidator(100)],
        help_text="API calls that refill the bucket; the customer’s own tools share the vendor’s limit.",
    )
    burst_calls = models.PositiveSmallIntegerField(
        default=50, db_default=50, validators=[MinValueValidator(5), MaxValueValidator(1000)]
    )
    calls_left = models.FloatField(default=50, db_default=50, editable=False, help_text="As of `calls_left_at`.")
    calls_left_at = models.DateTimeField(default=timezone.now, db_default=Now(), editable=False)
    writing_until = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="One writer at a time; a lease that a dead one lets go."
    )
    trouble = models.CharField(max_length=20, blank=True, default="", db_default="", editable=False)
    trouble_text = models.CharField(max_length=300, blank=True, default="", db_default="", editable=False)
    trouble_since = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        db_table = "dns_accounts"
        ordering = ["name"]
        verbose_name = "DNS account"
        verbose_name_plural = "DNS accounts"
        constraints = [
            models.CheckConstraint(condition=Q(calls_per_second__gt=0), name="dns_accounts_rate_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.vendor})"

    @property
    def credentials_aad(self) -> str:
        """Binds the sealed text to this row: swapped with another's it can't be opened."""
        return f"dns_account:{self.pk}:credentials"

    def seal(self, credentials: dict[str, Any]) -> None:
        """Keep these credentials, encrypted. The row must have been saved before."""
        if self.pk is None:
            raise ValueError("save the account before its credentials: they are bound to its row")
        self.sealed_credentials = sealed.seal(credentials, self.credentials_aad) if credentials else ""

    def credentials(self) -> dict[str, Any]:
        """Raises SealedError."""
        return sealed.open_sealed(self.sealed_credentials, self.credentials_aad) if self.sealed_credentials else {}

    def clean(self) -> None:
        strangers = self.record_sets.exclude(customer=self.customer_id) if self.pk and self.customer_id else None
        if strangers is not None and strangers.exists():
            raise ValidationError({"customer": "Record sets of other customers hang on this account: move them first."})
        secret = [key for key in self.options if any(word in key.lower() for word in ("secret", "password", "api_key"))]
        if secret:
            raise ValidationError({"options": f"{secret[0]} is a secret: set it as credentials, which are sealed."})
