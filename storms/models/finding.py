"""What is no storm and must be heard all the same."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from customers.models import Customer
from services.models import Service, Target
from storms import detector


class FindingQuerySet(models.QuerySet["Finding"]):
    def open(self) -> FindingQuerySet:
        return self.filter(resolved_at__isnull=True)


class Finding(models.Model):
    """Something that is no storm but that people must hear: an origin fault, an unfit backup, blocked probes."""

    customer = models.ForeignKey(Customer, models.CASCADE, related_name="+")
    service = models.ForeignKey(Service, models.CASCADE, related_name="findings")
    kind = models.CharField(max_length=20, choices=[(k.value, k.value) for k in detector.FindingKind])
    target = models.ForeignKey(Target, models.CASCADE, null=True, related_name="findings")
    reason = models.TextField()
    first_seen_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True, blank=True)

    objects = FindingQuerySet.as_manager()

    class Meta:
        db_table = "findings"
        ordering = ["-last_seen_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["service", "kind", "target"],
                condition=Q(resolved_at__isnull=True),
                nulls_distinct=False,
                name="findings_one_open",
            )
        ]

    def __str__(self) -> str:
        return f"{self.service}: {self.kind}"
