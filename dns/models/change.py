"""Weight changes, and every attempt to write them."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import Q
from django.utils import timezone

from customers.models import Customer
from dns.models.account import DnsAccount
from dns.models.record_set import RecordSet
from dns.weights import Refusal
from services.models import Service
from storms.models import StormEvent


class WeightChangeQuerySet(models.QuerySet["WeightChange"]):
    def live(self) -> WeightChangeQuerySet:
        return self.filter(state__in=WeightChange.LIVE)

    def let_go(self) -> WeightChangeQuerySet:
        """Those that were wanted and not held back, whether or not they came to be."""
        return self.exclude(state__in=[WeightChange.State.HELD, WeightChange.State.SUPERSEDED])

    def sent(self) -> WeightChangeQuerySet:
        """Those of which their vendor may know: it has them, or nobody knows whether it has, overtaken or not."""
        there = Q(state__in=[*WeightChange.UNDER_WAY, WeightChange.State.OBSERVED]) | Q(confirmed_at__isnull=False)
        surely_not = [WriteAttempt.Outcome.REFUSED, WriteAttempt.Outcome.FAILED]
        overtaken = Q(state=WeightChange.State.SUPERSEDED, attempt__isnull=False) & ~Q(attempt__outcome__in=surely_not)
        return self.exclude(state=WeightChange.State.HELD).filter(there | overtaken)


class WeightChange(models.Model):
    """One plan's life for one domain: wanted → submitted → confirmed → observed; or held, unknown, failed, superseded."""

    class State(models.TextChoices):
        WANTED = "wanted"
        HELD = "held"
        SUBMITTED = "submitted"
        UNKNOWN = "unknown", "unknown outcome"
        CONFIRMED = "confirmed"
        OBSERVED = "observed"
        FAILED = "failed"
        SUPERSEDED = "superseded"

    LIVE = (State.WANTED, State.HELD, State.SUBMITTED, State.UNKNOWN, State.CONFIRMED)
    UNDER_WAY = (State.SUBMITTED, State.UNKNOWN, State.CONFIRMED)

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    service = models.ForeignKey(Service, models.PROTECT, related_name="weight_changes")
    record_set = models.ForeignKey(RecordSet, models.PROTECT, related_name="changes")
    storm = models.ForeignKey(StormEvent, models.PROTECT, null=True, blank=True, related_name="weight_changes")
    region = models.SlugField(null=True, blank=True, help_text="Null: everywhere.")
    generation = models.PositiveBigIntegerField()
    weights = models.JSONField(help_text="Wanted integer percent by target id; the sum is 100.")
    previous_weights = models.JSONField(default=dict)
    ttl_seconds = models.PositiveIntegerField(null=True, help_text="Null: of an earlier release, which kept none.")
    is_urgent = models.BooleanField(default=False, db_default=False, help_text="It protects: it is written first.")
    is_reversal = models.BooleanField(default=False, help_text="A change of direction back to the primary.")
    state = models.CharField(max_length=10, choices=State, default=State.WANTED)
    reason = models.TextField()
    refusal = models.CharField(
        max_length=20, blank=True, default="", db_default="", choices=[(r.value, r.value) for r in Refusal]
    )
    held_reason = models.TextField(blank=True)
    approved_by = models.ForeignKey(User, models.PROTECT, null=True, blank=True, related_name="+")
    trouble = models.CharField(max_length=20, blank=True, default="", db_default="")
    error = models.TextField(blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    attempt = models.ForeignKey(
        "dns.WriteAttempt", models.PROTECT, null=True, blank=True, related_name="+", help_text="The newest."
    )
    next_attempt_at = models.DateTimeField(default=timezone.now)
    receipt = models.JSONField(default=dict)
    drain = models.JSONField(
        default=list,
        db_default=[],
        help_text="What resolvers answered after it was observed: seconds since then, answers by target id.",
    )
    next_drain_at = models.DateTimeField(null=True, blank=True)
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
                condition=Q(state__in=["wanted", "held", "submitted", "unknown", "confirmed"]),
                name="weight_changes_one_live",
            ),
        ]
        indexes = [
            models.Index(
                fields=["next_attempt_at"],
                condition=Q(state__in=["wanted", "submitted", "unknown", "confirmed"]),
                name="weight_changes_due",
            ),
            models.Index(fields=["service", "-id"], name="weight_changes_by_service"),
            models.Index(fields=["wanted_at"], name="weight_changes_wanted_at"),
            models.Index(
                fields=["next_drain_at"], condition=Q(next_drain_at__isnull=False), name="weight_changes_draining"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.record_set.domain} generation {self.generation}: {self.state}"


class WriteAttempt(models.Model):
    """One call that wrote, or tried to: a batch of changes in one zone, and what the vendor said."""

    class Outcome(models.TextChoices):
        ACCEPTED = "accepted"
        REFUSED = "refused", "refused for good"
        FAILED = "failed", "not done, to be tried again"
        UNKNOWN = "unknown", "nobody knows"

    account = models.ForeignKey(DnsAccount, models.PROTECT, related_name="attempts")
    zone = models.CharField(max_length=253)
    zone_id = models.CharField(max_length=64, blank=True)
    change_ids = ArrayField(models.BigIntegerField(), help_text="Ids of the weight changes in the batch.")
    started_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True, help_text="Null: its worker never came back.")
    outcome = models.CharField(max_length=10, choices=Outcome, blank=True)
    trouble = models.CharField(max_length=20, blank=True)
    error = models.TextField(blank=True)
    receipt = models.JSONField(default=dict)
    polls = models.PositiveSmallIntegerField(default=0)
    next_poll_at = models.DateTimeField(null=True, blank=True, help_text="When the vendor is asked whether it is live.")
    live_at = models.DateTimeField(
        null=True, blank=True, help_text="When the vendor said that all its servers have it."
    )

    class Meta:
        db_table = "write_attempts"
        ordering = ["-id"]
        indexes = [
            GinIndex(fields=["change_ids"], name="write_attempts_changes"),
            models.Index(
                fields=["next_poll_at"], condition=Q(next_poll_at__isnull=False), name="write_attempts_polled"
            ),
            models.Index(fields=["-started_at"], name="write_attempts_newest"),
        ]

    def __str__(self) -> str:
        return f"{len(self.change_ids)} changes in {self.zone}: {self.outcome or 'no word'}"
