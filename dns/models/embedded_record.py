"""Records of the embedded authoritative server."""

from __future__ import annotations

from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import Q


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
