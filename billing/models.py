"""Usage from CDN logs, the terms it is rated by, and the invoices that follow."""

from __future__ import annotations

from decimal import Decimal

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import DateTimeRangeField, RangeBoundary, RangeOperators
from django.contrib.postgres.indexes import BrinIndex
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Func, Q
from django.utils import timezone

from billing import logs
from customers.models import Customer
from services.models import Cdn, Service, Target

CURRENCIES = [("USD", "USD"), ("EUR", "EUR"), ("GBP", "GBP"), ("JPY", "JPY"), ("KWD", "KWD")]


class UsageSource(models.Model):
    """A place where a CDN leaves its logs: a directory or an S3 prefix."""

    class Kind(models.TextChoices):
        DIRECTORY = "directory"
        S3 = "s3", "S3 or compatible"

    customer = models.ForeignKey(
        Customer, models.PROTECT, null=True, blank=True, related_name="usage_sources",
        help_text="Hosts of other customers in its logs are quarantined. Empty: logs of many customers.",
    )  # fmt: skip
    name = models.CharField(max_length=100, unique=True)
    cdn = models.ForeignKey(Cdn, models.PROTECT, related_name="usage_sources", verbose_name="CDN")
    kind = models.CharField(max_length=10, choices=Kind)
    format = models.CharField(max_length=30, choices=[(name, name) for name in logs.FORMATS])
    location = models.CharField(
        max_length=500, help_text="A directory (/var/log/cdn), or bucket and prefix (my-logs/cloudflare/)."
    )
    endpoint_url = models.URLField(blank=True, help_text="For S3-compatible stores; empty for AWS.")
    enabled = models.BooleanField(default=True)
    listed_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_error = models.CharField(max_length=500, blank=True, editable=False)

    class Meta:
        db_table = "usage_sources"
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class LogObject(models.Model):
    """One log file as it was delivered. The same object twice counts once; a changed object replaces what it had counted."""

    class State(models.TextChoices):
        COUNTED = "counted"
        RETRY = "retry", "failed, to be tried again"
        QUARANTINED = "quarantined"
        REPLACED = "replaced", "replaced by a later delivery"

    source = models.ForeignKey(UsageSource, models.PROTECT, related_name="objects_read")
    key = models.CharField(max_length=1024)
    etag = models.CharField(max_length=128)
    size_bytes = models.BigIntegerField()
    state = models.CharField(max_length=12, choices=State)
    attempts = models.PositiveSmallIntegerField(default=0)
    rows = models.BigIntegerField(default=0, help_text="Data rows read, counted or bad.")
    bad_rows = models.BigIntegerField(default=0)
    bad = models.JSONField(default=list, help_text="The first bad rows, with line and reason.")
    reason = models.TextField(blank=True)
    first_seen_at = models.DateTimeField(default=timezone.now)
    processed_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "log_objects"
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["source", "key", "etag"], name="log_objects_unique"),
            models.UniqueConstraint(
                fields=["source", "key"], condition=Q(state="counted"), name="log_objects_one_counted"
            ),
        ]

    def __str__(self) -> str:
        return self.key


class UsageBucket(models.Model):
    """Bytes and requests of one minute (UTC), one path, from one log object. Every larger figure is a sum of these."""

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    service = models.ForeignKey(Service, models.PROTECT, related_name="+")
    target = models.ForeignKey(Target, models.PROTECT, related_name="+", verbose_name="path")
    log_object = models.ForeignKey(LogObject, models.CASCADE, related_name="buckets")
    minute_at = models.DateTimeField()
    bytes = models.BigIntegerField()
    requests = models.BigIntegerField()
    grade = models.CharField(max_length=2, default="E2")

    class Meta:
        db_table = "usage_buckets"
        constraints = [
            models.UniqueConstraint(fields=["log_object", "target", "minute_at"], name="usage_buckets_unique")
        ]
        indexes = [
            models.Index(fields=["service", "target", "minute_at"], name="usage_buckets_by_minute"),
            BrinIndex(fields=["minute_at"], name="usage_buckets_minutes"),
        ]


class UnknownHostUsage(models.Model):
    """Usage of a host that no verified domain claims: kept with its bytes, never dropped."""

    log_object = models.ForeignKey(LogObject, models.CASCADE, related_name="unknown_hosts")
    host = models.CharField(max_length=300)
    minute_at = models.DateTimeField()
    bytes = models.BigIntegerField()
    requests = models.BigIntegerField()
    reason = models.CharField(max_length=200)

    class Meta:
        db_table = "unknown_host_usage"
        ordering = ["-minute_at"]
        verbose_name_plural = "unknown host usage"
        constraints = [
            models.UniqueConstraint(fields=["log_object", "host", "minute_at"], name="unknown_host_usage_unique")
        ]

    def __str__(self) -> str:
        return self.host


class UsageSnapshot(models.Model):
    """Bytes and requests of one service, path and hour: the sum of its minute buckets, kept beside them for reading."""

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    service = models.ForeignKey(Service, models.PROTECT, related_name="usage_snapshots")
    target = models.ForeignKey(Target, models.PROTECT, related_name="usage_snapshots", verbose_name="path")
    window_start = models.DateTimeField()
    window_end = models.DateTimeField()
    bytes = models.BigIntegerField()
    requests = models.BigIntegerField()
    grade = models.CharField(
        max_length=2, default="E2", help_text="E1 request rows, E2 minutes, E3 time share, E4 sampled."
    )
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "usage_snapshots"
        ordering = ["-window_start", "service_id", "target_id"]
        constraints = [
            models.UniqueConstraint(fields=["service", "target", "window_start"], name="usage_snapshots_unique"),
            models.CheckConstraint(
                condition=Q(window_end__gt=F("window_start")), name="usage_snapshots_window_positive"
            ),
            models.CheckConstraint(condition=Q(bytes__gte=0, requests__gte=0), name="usage_snapshots_not_negative"),
        ]
        indexes = [models.Index(fields=["customer", "-window_start"], name="usage_snapshots_by_customer")]


class RateCard(models.Model):
    """Prices per unit of delivered bytes."""

    class Unit(models.TextChoices):
        GB = "GB", "GB (10⁹ bytes)"
        GIB = "GiB", "GiB (2³⁰ bytes)"

    class TierMode(models.TextChoices):
        GRADUATED = "graduated"
        VOLUME = "volume"

    name = models.CharField(max_length=100, unique=True)
    currency = models.CharField(max_length=3, choices=CURRENCIES, default="USD")
    unit = models.CharField(max_length=3, choices=Unit, default=Unit.GB)
    tier_mode = models.CharField(max_length=10, choices=TierMode, default=TierMode.GRADUATED)
    primary_tiers = models.JSONField(
        help_text='[{"up_to": "1000", "per_unit": "0.12"}, {"up_to": null, "per_unit": "0.10"}]'
    )
    backup_tiers = models.JSONField(help_text="Like primary_tiers. Amounts are strings, so that they stay exact.")
    version = models.PositiveIntegerField(default=1, editable=False)

    class Meta:
        db_table = "rate_cards"
        ordering = ["name"]

    def __str__(self) -> str:
        return f"{self.name} ({self.currency} per {self.unit})"


class Contract(models.Model):
    """Which prices and which cover a customer has, and from when to when. Staff only."""

    class CoverageMode(models.TextChoices):
        MULTIPLY = "multiply"
        CAP = "cap"

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="contracts")
    rate_card = models.ForeignKey(RateCard, models.PROTECT, related_name="contracts")
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField(null=True, blank=True)
    discount_rate = models.DecimalField(
        max_digits=5, decimal_places=4, default=Decimal("0.5"),
        validators=[MinValueValidator(Decimal(0)), MaxValueValidator(Decimal(1))],
        help_text="Share of the covered backup charge that we bear (0 to 1).",
    )  # fmt: skip
    max_coverage_factor = models.DecimalField(
        max_digits=6, decimal_places=4, default=Decimal(1),
        validators=[MinValueValidator(Decimal(0)), MaxValueValidator(Decimal(10))],
    )  # fmt: skip
    coverage_mode = models.CharField(max_length=10, choices=CoverageMode, default=CoverageMode.MULTIPLY)
    waiting_seconds = models.PositiveIntegerField(default=0)
    merge_gap_seconds = models.PositiveIntegerField(default=3600)
    grace_hours = models.PositiveSmallIntegerField(default=24, help_text="How long a draft waits for late logs.")
    version = models.PositiveIntegerField(default=1, editable=False)

    class Meta:
        db_table = "contracts"
        ordering = ["customer_id", "-valid_from"]
        constraints = [
            models.CheckConstraint(
                condition=Q(valid_until__isnull=True) | Q(valid_until__gt=F("valid_from")),
                name="contracts_range_positive",
            ),
            models.CheckConstraint(
                condition=Q(discount_rate__gte=0, discount_rate__lte=1), name="contracts_discount_range"
            ),
            models.CheckConstraint(
                condition=Q(max_coverage_factor__gte=0, max_coverage_factor__lte=10), name="contracts_coverage_range"
            ),
            ExclusionConstraint(
                name="contracts_no_overlap",
                expressions=[
                    ("customer", RangeOperators.EQUAL),
                    (
                        Func(
                            F("valid_from"),
                            F("valid_until"),
                            RangeBoundary(),
                            function="tstzrange",
                            output_field=DateTimeRangeField(),
                        ),
                        RangeOperators.OVERLAPS,
                    ),
                ],
                violation_error_message="This customer has a contract for part of this time.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.customer}: {self.rate_card} from {self.valid_from:%Y-%m-%d}"


class InvoiceCounter(models.Model):
    """The last number issued of a series; locked inside the transaction that finalizes, so numbers have no gaps."""

    series = models.CharField(max_length=20, primary_key=True)
    last_number = models.PositiveBigIntegerField(default=0)

    class Meta:
        db_table = "invoice_counters"


class Invoice(models.Model):
    """One month of one customer. A draft is recomputed whole; once finalized, the database refuses every change of its money."""

    class State(models.TextChoices):
        DRAFT = "draft"
        OPEN = "open", "finalized, to be paid"
        PAID = "paid"
        VOID = "void"
        UNCOLLECTIBLE = "uncollectible"

    class Kind(models.TextChoices):
        INVOICE = "invoice"
        CREDIT_NOTE = "credit_note", "credit note"

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="invoices")
    contract = models.ForeignKey(Contract, models.PROTECT, related_name="invoices")
    kind = models.CharField(max_length=12, choices=Kind, default=Kind.INVOICE)
    state = models.CharField(max_length=15, choices=State, default=State.DRAFT)
    number = models.CharField(max_length=30, null=True, blank=True, unique=True)
    currency = models.CharField(max_length=3, choices=CURRENCIES)
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    as_of = models.DateTimeField(help_text="Usage and storms were read as they stood then.")
    subtotal_minor = models.BigIntegerField(default=0)
    discount_minor = models.BigIntegerField(default=0)
    total_minor = models.BigIntegerField(default=0)
    formula = models.CharField(max_length=30)
    inputs = models.JSONField(
        default=dict, help_text="The document that was rated: `manage.py rate` gives the same lines."
    )
    created_at = models.DateTimeField(default=timezone.now)
    finalized_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "invoices"
        ordering = ["-period_start", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["customer", "period_start", "period_end", "currency", "kind"],
                condition=~Q(state="void"),
                name="invoices_one_per_period",
            ),
            models.CheckConstraint(
                condition=Q(total_minor=F("subtotal_minor") - F("discount_minor")), name="invoices_total_adds_up"
            ),
            models.CheckConstraint(
                condition=Q(state="draft", number__isnull=True, finalized_at__isnull=True)
                | Q(number__isnull=False, finalized_at__isnull=False) & ~Q(state="draft"),
                name="invoices_number_when_final",
            ),
        ]

    def __str__(self) -> str:
        return self.number or f"draft {self.pk}"


class InvoiceLineItem(models.Model):
    """One rounded amount with its arithmetic. Usage lines add up to the subtotal, cover lines to the discount."""

    class Kind(models.TextChoices):
        USAGE = "usage"
        COVER = "cover", "storm cover"

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    invoice = models.ForeignKey(Invoice, models.CASCADE, related_name="lines")
    position = models.PositiveIntegerField()
    kind = models.CharField(max_length=10, choices=Kind)
    service = models.ForeignKey(Service, models.PROTECT, related_name="+")
    path = models.CharField(max_length=10, choices=[("primary", "primary"), ("backup", "backup")])
    description = models.CharField(max_length=300)
    bytes = models.BigIntegerField()
    amount_minor = models.BigIntegerField()
    details = models.JSONField(help_text="How the amount follows: units, rates, storms and the versions used.")

    class Meta:
        db_table = "invoice_line_items"
        ordering = ["invoice_id", "position"]
        constraints = [
            models.UniqueConstraint(fields=["invoice", "position"], name="invoice_line_items_position_unique"),
            models.CheckConstraint(condition=Q(amount_minor__gte=0), name="invoice_line_items_not_negative"),
        ]

    def __str__(self) -> str:
        return self.description
