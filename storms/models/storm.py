"""Storms, and what is kept with each for ever: its entries, and the raw samples around it."""

from __future__ import annotations

from collections.abc import Collection

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import DateTimeRangeField, RangeBoundary, RangeOperators
from django.db import models
from django.db.models import F, Func, Q

from customers.models import Customer
from services.models import Cdn, Sample, Service
from storms import detector
from storms.models.incident import CdnIncident, Entry
from storms.models.policy import Kind, StormPolicy


class StormEventQuerySet(models.QuerySet["StormEvent"]):
    def open(self) -> StormEventQuerySet:
        """Storms that are not closed: raging, or over and waiting out their cooldown."""
        return self.filter(closed_at__isnull=True)

    def ids_of(self, service_ids: Collection[int]) -> list[int]:
        """Of the open storms of these services; asks nothing if there are none."""
        return list(self.open().filter(service__in=service_ids).values_list("pk", flat=True)) if service_ids else []

    def moving_traffic(self) -> StormEventQuerySet:
        return self.open().filter(is_armed=True)


class StormEvent(models.Model):
    """One storm of one service and kind, however it flickers.

    `started_at` is the first failing probe, `ended_at` the first probe of the good run (null while it rages),
    `closed_at` when cooldown, minimum length and hold-off had passed and traffic may go home.
    """

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    service = models.ForeignKey(Service, models.PROTECT, related_name="storms")
    policy = models.ForeignKey(StormPolicy, models.PROTECT, null=True, related_name="storms")
    policy_version = models.PositiveIntegerField(null=True)
    cdn = models.ForeignKey(Cdn, models.PROTECT, null=True, related_name="storms", verbose_name="CDN")
    kind = models.CharField(max_length=20, choices=Kind)
    regions = models.JSONField(default=list)
    is_armed = models.BooleanField(default=True, help_text="False: would have been a storm; moves and bills nothing.")
    attribution = models.CharField(max_length=30, choices=[(a.value, a.value) for a in detector.Attribution])
    started_at = models.DateTimeField()
    detected_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    closed_at = models.DateTimeField(null=True, blank=True)
    last_bad_at = models.DateTimeField(help_text="The newest evaluation that still found it raging.")
    spells = models.JSONField(
        default=list,
        help_text="Its bad stretches as [start, end]; a relapse begins a new one, quiet time between is none.",
    )
    relapses = models.PositiveIntegerField(default=0)
    reason = models.TextField(help_text="Why it was declared.")
    closing_reason = models.TextField(blank=True)
    incident = models.ForeignKey(CdnIncident, models.PROTECT, null=True, blank=True, related_name="storms")
    acknowledged_at = models.DateTimeField(null=True, blank=True, editable=False)
    evidence_sha256 = models.CharField(
        max_length=64,
        blank=True,
        default="",
        db_default="",
        editable=False,
        help_text="Of its evidence, once that can't change any more.",
    )
    samples_kept_until = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Raw samples up to here are kept with it for ever."
    )

    objects = StormEventQuerySet.as_manager()

    class Meta:
        db_table = "storm_events"
        ordering = ["-started_at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["service", "kind"], condition=Q(closed_at__isnull=True), name="storm_events_one_open"
            ),
            models.CheckConstraint(
                condition=Q(ended_at__isnull=True) | Q(ended_at__gte=F("started_at")),
                name="storm_events_end_after_start",
            ),
            models.CheckConstraint(
                condition=Q(closed_at__isnull=True) | Q(ended_at__isnull=False, closed_at__gte=F("ended_at")),
                name="storm_events_closed_after_end",
            ),
            ExclusionConstraint(
                name="storm_events_no_overlap",
                expressions=[
                    ("service", RangeOperators.EQUAL),
                    ("kind", RangeOperators.EQUAL),
                    (
                        Func(
                            F("started_at"),
                            F("ended_at"),
                            RangeBoundary(),
                            function="tstzrange",
                            output_field=DateTimeRangeField(),
                        ),
                        RangeOperators.OVERLAPS,
                    ),
                ],
            ),
        ]
        indexes = [models.Index(fields=["customer", "-started_at"], name="storm_events_by_customer")]

    def __str__(self) -> str:
        return f"storm {self.pk}: {self.service} {self.kind}"

    @property
    def state(self) -> str:
        if self.closed_at:
            return "closed"
        return "ended" if self.ended_at else "raging"


class StormEntry(Entry):
    """A transition of a storm with all that it was decided from, or what an operator did or noted.

    `case` is the `storms.cases.Case` of a transition as JSON: deciding it again gives the same transition.
    """

    class Action(models.TextChoices):
        OPEN = "open"
        REOPEN = "reopen"
        RELAPSE = "relapse"
        END = "end"
        CLOSE = "close"
        DECLARE = "declare", "declared by hand"
        FINISH = "finish", "ended by hand"
        ACKNOWLEDGE = "acknowledge", "acknowledged"
        NOTE = "note"

    storm = models.ForeignKey(StormEvent, models.PROTECT, related_name="entries")
    policy = models.ForeignKey(StormPolicy, models.PROTECT, null=True, related_name="+")
    policy_version = models.PositiveIntegerField(null=True)
    case = models.JSONField(null=True)

    class Meta:
        db_table = "storm_entries"
        ordering = ["id"]
        verbose_name_plural = "storm entries"


class StormSample(Sample):
    """A copy of a raw sample around a storm, kept with it when the partition of its day is dropped."""

    pk = models.CompositePrimaryKey("storm_id", "slot_at", "target_id", "vantage_point_id", "attempt")
    storm = models.ForeignKey(StormEvent, models.CASCADE, related_name="samples")

    class Meta:
        db_table = "storm_samples"
