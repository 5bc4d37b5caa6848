"""Who writes a domain's weighted records, which weights are wanted, and the life of each change."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from customers.models import Customer
from dns.providers import VENDORS
from services.models import Service, ServiceDomain
from storms.models import StormEvent


class DnsAccount(models.Model):
    """One account at a DNS provider. Secrets are not kept here: roles, or the worker's own environment."""

    customer = models.ForeignKey(Customer, models.PROTECT, null=True, blank=True, related_name="dns_accounts")
    name = models.CharField(max_length=100, unique=True)
    vendor = models.CharField(max_length=20, choices=[(vendor, vendor) for vendor in VENDORS])
    options = models.JSONField(
        default=dict, blank=True, help_text="The vendor's own fields, for example role_arn and external_id."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        db_table = "dns_accounts"
        ordering = ["name"]
        verbose_name = "DNS account"
        verbose_name_plural = "DNS accounts"

    def __str__(self) -> str:
        return f"{self.name} ({self.vendor})"


class RecordSet(models.Model):
    """The weighted record set that Tranche owns for one domain. Without this row a domain is watched, never steered."""

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    domain = models.OneToOneField(ServiceDomain, models.PROTECT, related_name="record_set")
    account = models.ForeignKey(DnsAccount, models.PROTECT, related_name="record_sets")
    zone = models.CharField(max_length=253, blank=True, help_text="The zone's name; empty until it was found.")
    zone_id = models.CharField(max_length=64, blank=True, editable=False)
    ttl_seconds = models.PositiveIntegerField(
        default=30,
        validators=[MinValueValidator(1), MaxValueValidator(300)],
        help_text="At most 300: a longer TTL makes failover useless.",
    )
    generation = models.PositiveBigIntegerField(default=0, editable=False)
    observed_weights = models.JSONField(default=dict, editable=False, help_text="Percent by target id, as DNS answers.")
    observed_generation = models.PositiveBigIntegerField(default=0, editable=False)
    observed_at = models.DateTimeField(null=True, editable=False)
    observation = models.CharField(max_length=300, blank=True, editable=False)

    class Meta:
        db_table = "record_sets"
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(condition=Q(ttl_seconds__gte=1, ttl_seconds__lte=300), name="record_sets_ttl_range")
        ]

    def __str__(self) -> str:
        return f"{self.domain} at {self.account}"

    def clean(self) -> None:
        if self.domain_id:
            self.customer_id = self.domain.customer_id


class WeightChangeQuerySet(models.QuerySet["WeightChange"]):
    def live(self) -> WeightChangeQuerySet:
        return self.filter(state__in=WeightChange.LIVE)


class WeightChange(models.Model):
    """One plan's life for one domain: wanted → submitted → confirmed → observed; or held, failed, superseded."""

    class State(models.TextChoices):
        WANTED = "wanted"
        HELD = "held"
        SUBMITTED = "submitted"
        CONFIRMED = "confirmed"
        OBSERVED = "observed"
        FAILED = "failed"
        SUPERSEDED = "superseded"

    LIVE = (State.WANTED, State.HELD, State.SUBMITTED, State.CONFIRMED)

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    service = models.ForeignKey(Service, models.PROTECT, related_name="weight_changes")
    record_set = models.ForeignKey(RecordSet, models.PROTECT, related_name="changes")
    storm = models.ForeignKey(StormEvent, models.PROTECT, null=True, blank=True, related_name="weight_changes")
    region = models.SlugField(null=True, blank=True, help_text="Null: everywhere.")
    generation = models.PositiveBigIntegerField()
    weights = models.JSONField(help_text="Wanted integer percent by target id; the sum is 100.")
    previous_weights = models.JSONField(default=dict)
    is_reversal = models.BooleanField(default=False, help_text="A change of direction back to the primary.")
    state = models.CharField(max_length=10, choices=State, default=State.WANTED)
    reason = models.TextField()
    held_reason = models.TextField(blank=True)
    approved_by = models.ForeignKey(User, models.PROTECT, null=True, blank=True, related_name="+")
    error = models.TextField(blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField(default=timezone.now)
    receipt = models.JSONField(default=dict)
    wanted_at = models.DateTimeField(default=timezone.now)
    submitted_at = models.DateTimeField(null=True, blank=True)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    observed_at = models.DateTimeField(null=True, blank=True)

    objects = WeightChangeQuerySet.as_manager()

    class Meta:
        db_table = "weight_changes"
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["record_set", "generation"], name="weight_changes_generation_unique"),
            models.UniqueConstraint(
                fields=["record_set"],
                condition=Q(state__in=["wanted", "held", "submitted", "confirmed"]),
                name="weight_changes_one_live",
            ),
        ]
        indexes = [
            models.Index(
                fields=["next_attempt_at"],
                condition=Q(state__in=["wanted", "submitted", "confirmed"]),
                name="weight_changes_due",
            ),
            models.Index(fields=["service", "-id"], name="weight_changes_by_service"),
        ]

    def __str__(self) -> str:
        return f"{self.record_set.domain} generation {self.generation}: {self.state}"


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


class Freeze(models.Model):
    """No automatic change at all, for one service, one customer, or (with neither) for everything, until it is lifted."""

    customer = models.ForeignKey(Customer, models.PROTECT, null=True, blank=True, related_name="+")
    service = models.ForeignKey(Service, models.PROTECT, null=True, blank=True, related_name="freezes")
    reason = models.CharField(max_length=300)
    created_by = models.ForeignKey(User, models.PROTECT, null=True, editable=False, related_name="+")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    lifted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "freezes"
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"freeze of {self.service or self.customer or 'everything'}"


class EmbeddedRecord(models.Model):
    """A record of the embedded authoritative server: what a provider's own database would hold.

    Weighted members share name and type, and answer in the proportion of their weights; a plain record has weight null.
    """

    zone = models.CharField(max_length=253)
    name = models.CharField(max_length=253, help_text="Lower case, without a trailing dot.")
    type = models.CharField(max_length=10, choices=[(t, t) for t in ("A", "CNAME", "TXT", "NS", "SOA")])
    value = models.TextField()
    ttl_seconds = models.PositiveIntegerField(default=5)
    weight = models.PositiveSmallIntegerField(null=True, blank=True, validators=[MaxValueValidator(255)])
    owner = models.CharField(max_length=100, blank=True, help_text="Which set identifier wrote it; empty: a person.")

    class Meta:
        db_table = "embedded_records"
        ordering = ["zone", "name", "type", "id"]
        constraints = [
            models.UniqueConstraint(fields=["name", "type", "value"], name="embedded_records_unique"),
            models.CheckConstraint(
                condition=Q(weight__isnull=True) | Q(weight__lte=255), name="embedded_records_weight_range"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.type} {self.value}"
