"""What the detector thinks of each target now."""

from __future__ import annotations

from django.db import models

from customers.models import Customer
from services.models import Target
from storms import verdicts


class PathVerdict(models.Model):
    """The newest verdict on a target, with its reason: what the console shows and what steering reads."""

    customer = models.ForeignKey(Customer, models.CASCADE, null=True, related_name="+")
    target = models.OneToOneField(Target, models.CASCADE, related_name="verdict")
    verdict = models.CharField(max_length=10, choices=[(v.value, v.value) for v in verdicts.Verdict])
    availability = models.FloatField(null=True, help_text="Good share of the window's judged samples, 0 to 1.")
    reason = models.TextField()
    votes = models.JSONField(default=dict, help_text="The verdict of each vantage point.")
    is_calm = models.BooleanField(
        default=False, db_default=False, editable=False, help_text="Everybody who sees found nothing but good."
    )
    newest_good_at = models.DateTimeField(null=True)
    certificate_expires_at = models.DateTimeField(null=True)
    since = models.DateTimeField()
    evaluated_at = models.DateTimeField()

    class Meta:
        db_table = "path_verdicts"

    def __str__(self) -> str:
        return f"{self.target}: {self.verdict}"
