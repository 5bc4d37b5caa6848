"""Break-glass scripts: what a customer runs when nothing of ours is left."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from customers.models import Customer
from dns.models.record_set import RecordSet


class BreakGlassScript(models.Model):
    """Plain commands of the vendor that move one domain, signed and dated."""

    class Direction(models.TextChoices):
        SHIFT = "shift"
        FAIL_BACK = "fail_back"

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    record_set = models.ForeignKey(RecordSet, models.PROTECT, related_name="scripts")
    direction = models.CharField(max_length=10, choices=Direction)
    text = models.TextField()
    signature = models.TextField(help_text="Ed25519 over the text, base64.")
    made_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "break_glass_scripts"
        ordering = ["record_set_id", "direction"]
        constraints = [
            models.UniqueConstraint(fields=["record_set", "direction"], name="break_glass_scripts_one_each"),
        ]

    def __str__(self) -> str:
        return f"{self.direction} {self.record_set.domain}"
