"""Prices and cover, by customer and time. Every range is half open, in UTC, and bound to quarters of an hour."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import DateTimeRangeField, RangeBoundary, RangeOperators
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Func, Q
from django.utils import timezone

from billing import pricing
from customers.models import Customer
from services.models.maintenance_window import validate_time_zone

CURRENCIES = [("USD", "USD"), ("EUR", "EUR"), ("GBP", "GBP"), ("JPY", "JPY"), ("KWD", "KWD")]
QUARTER_SECONDS = 900


def _no_overlap(owner: str, name: str, message: str) -> ExclusionConstraint:
    span = Func(
        F("valid_from"), F("valid_until"), RangeBoundary(), function="tstzrange", output_field=DateTimeRangeField()
    )
    return ExclusionConstraint(
        name=name,
        expressions=[(owner, RangeOperators.EQUAL), (span, RangeOperators.OVERLAPS)],
        violation_error_message=message,
    )


def _positive(table: str) -> models.CheckConstraint:
    return models.CheckConstraint(
        condition=Q(valid_until__isnull=True) | Q(valid_until__gt=F("valid_from")), name=f"{table}_range_positive"
    )


def check_range(start: datetime, end: datetime | None) -> dict[str, str]:
    """What is wrong with a range, by field. Usage is kept by quarters of an hour in the long run, so no terms may change
    within one; the database refuses it as well.
    """
    errors = {}
    for field, at in (("valid_from", start), ("valid_until", end)):
        if at and at.timestamp() % QUARTER_SECONDS:
            errors[field] = "Choose a quarter of an hour, such as 10:15 UTC."
    if end and end <= start:
        errors["valid_until"] = "It must end after it begins."
    return errors


class RateCard(models.Model):
    """A price list: its currency and unit. The prices themselves are versions, each with its time."""

    class Unit(models.TextChoices):
        GB = "GB", "GB (10⁹ bytes)"
        GIB = "GiB", "GiB (2³⁰ bytes)"

    name = models.CharField(max_length=100, unique=True)
    currency = models.CharField(max_length=3, choices=CURRENCIES, default="USD")
    unit = models.CharField(max_length=3, choices=Unit, default=Unit.GB)

    class Meta:
        db_table = "rate_cards"
        ordering = ["name"]

    def __str__(self) -> str:
        return f"{self.name} ({self.currency} per {self.unit})"


class Prices(models.Model):
    """One version of a rate card. Once an invoice was issued by it, it can't change any more; the database refuses."""

    class TierMode(models.TextChoices):
        GRADUATED = "graduated", "graduated: each tier at its own price"
        VOLUME = "volume", "volume: everything at the price of the tier that is reached"

    rate_card = models.ForeignKey(RateCard, models.PROTECT, related_name="versions")
    version = models.PositiveIntegerField(default=1, editable=False)
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField(null=True, blank=True)
    tier_mode = models.CharField(max_length=10, choices=TierMode, default=TierMode.GRADUATED)
    primary_tiers = models.JSONField(
        help_text='[{"up_to": "1000", "per_unit": "0.12"}, {"up_to": null, "per_unit": "0.10"}]'
    )
    backup_tiers = models.JSONField(help_text="Like primary_tiers. Amounts are strings, so that they stay exact.")
    cdn_tiers = models.JSONField(
        default=dict,
        blank=True,
        help_text="Prices of single CDNs, which go before the others: "
        '{"fastly": {"backup": [{"up_to": null, "per_unit": "0.15"}]}}.',
    )
    per_10k_requests = models.JSONField(
        default=dict,
        blank=True,
        help_text='By path: {"primary": "0.0075", "backup": "0.0090"}. Empty: requests are free.',
    )

    class Meta:
        db_table = "rate_card_versions"
        ordering = ["rate_card_id", "-valid_from"]
        verbose_name_plural = "prices"
        constraints = [
            models.UniqueConstraint(fields=["rate_card", "version"], name="rate_card_versions_unique"),
            _no_overlap("rate_card", "rate_card_versions_no_overlap", "The card has prices for part of this time."),
            _positive("rate_card_versions"),
        ]

    def __str__(self) -> str:
        return f"{self.rate_card}, version {self.version}"

    def clean(self) -> None:
        errors = check_range(self.valid_from, self.valid_until) if self.valid_from else {}
        for field, check in (
            ("primary_tiers", pricing.check_tiers),
            ("backup_tiers", pricing.check_tiers),
            ("cdn_tiers", pricing.check_cdn_tiers),
            ("per_10k_requests", pricing.check_requests),
        ):
            if problem := check(getattr(self, field)):
                errors[field] = problem
        if errors:
            raise ValidationError(errors)

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self._state.adding:
            newest = Prices.objects.filter(rate_card=self.rate_card_id).aggregate(n=models.Max("version"))["n"]
            self.version = (newest or 0) + 1
        super().save(*args, **kwargs)


def _share(**kw: Any) -> Any:
    return models.DecimalField(
        max_digits=5, decimal_places=4, validators=[MinValueValidator(Decimal(0)), MaxValueValidator(Decimal(1))], **kw
    )


def _amount(help_text: str, **kw: Any) -> Any:
    return models.DecimalField(
        max_digits=20, decimal_places=6, validators=[MinValueValidator(Decimal(0))], help_text=help_text, **kw
    )


class Contract(models.Model):
    """Which prices and which cover a customer has, and from when to when. Staff only; a change is a new version."""

    class Kind(models.TextChoices):
        RESALE = "resale", "resale: we sell the delivery"
        OWN_CDN = "own_cdn", "own CDN: the customer pays its CDNs, we bill fees and premium"

    class CoverageMode(models.TextChoices):
        MULTIPLY = "multiply"
        CAP = "cap"

    class WaitingMode(models.TextChoices):
        EXCESS = "excess", "excess: the waiting time itself is not paid"
        FRANCHISE = "franchise", "franchise: a storm that is long enough is paid whole"

    # What a customer is insured by. It changes with notice only, and never while an incident is open.
    COVER_FIELDS = (
        "discount_rate", "max_coverage_factor", "coverage_mode", "waiting_seconds", "waiting_mode", "hours_clause_seconds",
        "aggregate_seconds", "merge_gap_seconds", "drain_seconds", "layers", "kind", "policy_from",
    )  # fmt: skip

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="contracts")
    version = models.PositiveIntegerField(default=1, editable=False)
    kind = models.CharField(max_length=10, choices=Kind, default=Kind.RESALE)
    rate_card = models.ForeignKey(
        RateCard, models.PROTECT, related_name="contracts", help_text="For “own CDN” the declared rates of its CDNs."
    )
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField(null=True, blank=True)
    time_zone = models.CharField(
        max_length=64, default="UTC", validators=[validate_time_zone], help_text="Of its months, such as Europe/Berlin."
    )

    discount_rate = _share(
        default=Decimal("0.5"), help_text="Share of the covered backup charge that we bear (0 to 1)."
    )
    max_coverage_factor = models.DecimalField(
        max_digits=6, decimal_places=4, default=Decimal(1),
        validators=[MinValueValidator(Decimal(0)), MaxValueValidator(Decimal(10))],
    )  # fmt: skip
    coverage_mode = models.CharField(max_length=10, choices=CoverageMode, default=CoverageMode.MULTIPLY)
    waiting_seconds = models.PositiveIntegerField(default=0)
    waiting_mode = models.CharField(max_length=10, choices=WaitingMode, default=WaitingMode.EXCESS)
    hours_clause_seconds = models.PositiveIntegerField(
        null=True, blank=True, help_text="The most that one event is paid."
    )
    aggregate_seconds = models.PositiveIntegerField(
        null=True, blank=True, help_text="The most that is paid in a policy year, for each service."
    )
    merge_gap_seconds = models.PositiveIntegerField(
        default=3600, help_text="Storms less than this apart are one event: one waiting time, one limit."
    )
    drain_seconds = models.PositiveIntegerField(
        default=900, help_text="How long after failback was observed visitors may still come to the backup."
    )
    layers = models.JSONField(
        default=list, blank=True,
        help_text='Tranches of covered cost in a policy year: [{"attachment": "0", "limit": "100", "share": "0.5"}]; a '
        "limit of null has no end. Empty: discount rate and factor alone.",
    )  # fmt: skip
    policy_from = models.DateTimeField(
        null=True, blank=True, help_text="Policy years begin on this day of the year; empty: with the first version."
    )

    fixed_fee = _amount("Each month.", default=Decimal(0))
    premium = _amount("For the cover, each month.", default=Decimal(0))
    minimum_commitment = _amount("Delivery is billed to at least this much a month.", default=Decimal(0))
    commit_on_net = models.BooleanField(default=False, help_text="The commitment is compared after cover.")
    tax_rates = models.JSONField(
        default=dict, blank=True,
        help_text='By category: {"delivery": "0.19", "fee": "0.19", "premium": "0"}. What is not named is not taxed.',
    )  # fmt: skip
    grace_hours = models.PositiveSmallIntegerField(
        default=24, validators=[MinValueValidator(1)], help_text="How long a draft waits for late logs."
    )
    payment_days = models.PositiveSmallIntegerField(default=30, help_text="From finalization to the due date.")
    notice_days = models.PositiveSmallIntegerField(default=14, help_text="Before a change of cover takes effect.")
    reason = models.CharField(max_length=300, blank=True, help_text="Why this version was made.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        db_table = "contracts"
        ordering = ["customer_id", "-valid_from"]
        constraints = [
            models.UniqueConstraint(fields=["customer", "version"], name="contracts_version_unique"),
            models.CheckConstraint(
                condition=Q(discount_rate__gte=0, discount_rate__lte=1), name="contracts_discount_range"
            ),
            models.CheckConstraint(
                condition=Q(max_coverage_factor__gte=0, max_coverage_factor__lte=10), name="contracts_coverage_range"
            ),
            models.CheckConstraint(
                condition=Q(fixed_fee__gte=0, premium__gte=0, minimum_commitment__gte=0),
                name="contracts_fees_not_negative",
            ),
            _no_overlap("customer", "contracts_no_overlap", "This customer has a contract for part of this time."),
            _positive("contracts"),
        ]

    def __str__(self) -> str:
        return f"{self.customer}: {self.rate_card.name} from {self.valid_from:%Y-%m-%d}"

    def clean(self) -> None:
        errors = check_range(self.valid_from, self.valid_until) if self.valid_from else {}
        for field, check in (("layers", pricing.check_layers), ("tax_rates", pricing.check_tax_rates)):
            if problem := check(getattr(self, field)):
                errors[field] = problem
        if errors:
            raise ValidationError(errors)

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self._state.adding:
            others = Contract.objects.filter(customer=self.customer_id)
            self.version = (others.aggregate(n=models.Max("version"))["n"] or 0) + 1
            if self.policy_from is None:
                first = others.order_by("valid_from").values_list("policy_from", flat=True).first()
                self.policy_from = first or self.valid_from
        super().save(*args, **kwargs)


class CoverRuling(models.Model):
    """A person's word on whether a storm pays, where the witnesses that cover asks for are silent or wrong."""

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+", editable=False)
    storm = models.OneToOneField("storms.StormEvent", models.PROTECT, related_name="ruling")
    is_covered = models.BooleanField(help_text="True: a CDN's fault, as a person found. False: it is not paid.")
    reason = models.CharField(max_length=500)
    ruled_by = models.CharField(max_length=150)
    ruled_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "cover_rulings"
        ordering = ["-ruled_at"]

    def __str__(self) -> str:
        return f"{self.storm}: {'covered' if self.is_covered else 'not covered'}"
