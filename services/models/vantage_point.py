"""Places that probes run from."""

from __future__ import annotations

from datetime import timedelta

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

SILENT = timedelta(seconds=15)
"""A vantage point that has recorded nothing for so long is silent, and sees anew from its next sample on."""


class VantagePoint(models.Model):
    """A place probes run from, with a Celery queue of its own for each of its shards."""

    class State(models.TextChoices):
        ACTIVE = "active", "active: probes and votes"
        SHADOW = "shadow", "shadow: probes without a vote"
        OFF = "off", "off"

    name = models.SlugField(unique=True)
    region = models.SlugField()
    network = models.CharField(max_length=100, help_text="Whose network it probes from, for example “AS64500”.")
    state = models.CharField(max_length=10, choices=State, default=State.ACTIVE)
    source_address = models.GenericIPAddressField(
        null=True, blank=True, help_text="Probes leave from this local address; empty lets the system choose."
    )
    shards = models.PositiveSmallIntegerField(
        default=1,
        db_default=1,
        validators=[MinValueValidator(1), MaxValueValidator(64)],
        help_text="Probe workers that share its targets: one makes some thousand probes a second.",
    )
    last_probe_at = models.DateTimeField(null=True, blank=True, editable=False)
    sees_since = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Since when it probes without having been silent or blind."
    )
    blind_since = models.DateTimeField(null=True, blank=True, editable=False)
    blind_reason = models.CharField(max_length=300, blank=True, editable=False)
    blind_shards = models.JSONField(default=dict, db_default={}, editable=False)
    """Why each shard is blind that is; one blind shard takes the vote from all of them."""

    class Meta:
        db_table = "vantage_points"
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(condition=Q(shards__gte=1, shards__lte=64), name="vantage_points_shards_range")
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def queues(self) -> list[str]:
        """The Celery queue of each shard."""
        return [queue_of(self.name, shard) for shard in range(self.shards)]


def queue_of(vantage_point: str, shard: int = 0) -> str:
    return f"probe.{vantage_point}.{shard}" if shard else f"probe.{vantage_point}"
