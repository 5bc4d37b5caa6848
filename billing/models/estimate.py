"""What CDNs' own statistics say was delivered: to compare with what was metered, and never to bill."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from billing.models.source import UsageSource
from customers.models import Customer
from services.models import Service, Target


class UsageEstimate(models.Model):
    """Bytes and requests of one path and hour by one source's statistics: sampled (E4), never final, read by no invoice.

    Asking again replaces it. An hour without traffic has a row too, so that what was not asked can be told from it.
    """

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    service = models.ForeignKey(Service, models.PROTECT, related_name="+")
    target = models.ForeignKey(Target, models.PROTECT, related_name="+", verbose_name="path")
    source = models.ForeignKey(UsageSource, models.PROTECT, related_name="estimates")
    window_start = models.DateTimeField()
    window_end = models.DateTimeField()
    bytes = models.BigIntegerField()
    requests = models.BigIntegerField()
    low_bytes = models.BigIntegerField(
        null=True,
        blank=True,
        help_text="With high_bytes where the truth lies, 95 % sure; empty: the vendor says nothing.",
    )
    high_bytes = models.BigIntegerField(null=True, blank=True)
    sample_interval = models.FloatField(null=True, blank=True, help_text="10: one request in ten was looked at.")
    grade = models.CharField(max_length=2, default="E4", editable=False)
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "usage_estimates"
        ordering = ["-window_start", "service_id", "target_id"]
        constraints = [
            models.UniqueConstraint(fields=["source", "target", "window_start"], name="usage_estimates_unique"),
            models.CheckConstraint(
                condition=Q(window_end__gt=F("window_start")), name="usage_estimates_window_positive"
            ),
            models.CheckConstraint(condition=Q(bytes__gte=0, requests__gte=0), name="usage_estimates_not_negative"),
            models.CheckConstraint(condition=Q(grade="E4"), name="usage_estimates_are_e4"),
        ]
        indexes = [
            models.Index(fields=["customer", "-window_start"], name="usage_estimates_by_customer"),
            models.Index(fields=["source", "window_start"], name="usage_estimates_by_source"),
        ]

    def __str__(self) -> str:
        return f"estimate of {self.window_start:%Y-%m-%d %H:%M} UTC"
