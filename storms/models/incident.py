"""CDN incidents: what fails at one CDN for many services is one story, with one alert."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from services.models import Cdn


class Entry(models.Model):
    """One line of a timeline: what a machine decided, or what a person said. Never changed, never deleted."""

    at = models.DateTimeField()
    action = models.CharField(max_length=20)
    reason = models.TextField()
    by = models.CharField(max_length=150, blank=True, help_text="Who, where it was a person.")

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.action}: {self.reason}"


class CdnIncidentQuerySet(models.QuerySet["CdnIncident"]):
    def open(self) -> CdnIncidentQuerySet:
        return self.filter(ended_at__isnull=True)


class CdnIncident(models.Model):
    """Storms, bad verdicts and reference sites of one CDN, within a window of time.

    `confirmed_at`: when something beyond the customers' own paths bore witness (`witnesses` says what): a reference
    site of ours, three unrelated customers, or a person. Cover may ask for it before it pays.
    """

    class Kind(models.TextChoices):
        FAULT = "fault", "fault: it does not serve"
        BLOCKED = "blocked", "blocked: it refuses our probes, perhaps everybody"

    cdn = models.ForeignKey(Cdn, models.PROTECT, related_name="incidents", verbose_name="CDN")
    kind = models.CharField(max_length=10, choices=Kind, default=Kind.FAULT)
    started_at = models.DateTimeField()
    detected_at = models.DateTimeField()
    last_bad_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    witnesses = models.JSONField(default=list)
    regions = models.JSONField(default=list)
    services_hit = models.PositiveIntegerField(default=0, help_text="The most at once.")
    services_total = models.PositiveIntegerField(default=0, help_text="Services with a path on this CDN.")
    reason = models.TextField()

    objects = CdnIncidentQuerySet.as_manager()

    class Meta:
        db_table = "cdn_incidents"
        ordering = ["-started_at", "-id"]
        verbose_name = "CDN incident"
        constraints = [
            models.UniqueConstraint(
                fields=["cdn", "kind"], condition=Q(ended_at__isnull=True), name="cdn_incidents_one_open"
            ),
            models.CheckConstraint(
                condition=Q(ended_at__isnull=True) | Q(ended_at__gte=F("started_at")),
                name="cdn_incidents_end_after_start",
            ),
        ]

    def __str__(self) -> str:
        return f"incident {self.pk}: {self.cdn}"

    @property
    def state(self) -> str:
        if self.ended_at:
            return "over"
        return "confirmed" if self.confirmed_at else "suspected"

    @property
    def share_hit(self) -> float | None:
        """The share (0 to 1) of the CDN's services that were hit at once, at worst."""
        return min(self.services_hit / self.services_total, 1.0) if self.services_total else None


class IncidentEntry(Entry):
    """A line of an incident's timeline."""

    incident = models.ForeignKey(CdnIncident, models.PROTECT, related_name="entries")

    class Meta:
        db_table = "incident_entries"
        ordering = ["id"]
        verbose_name_plural = "incident entries"
