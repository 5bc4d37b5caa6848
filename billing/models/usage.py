"""What was delivered, by minute and by hour, and what nobody owns."""

from __future__ import annotations

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from billing.models.source import LogObject
from customers.models import Customer
from services.models import Service, Target


class UsageBucket(models.Model):
    """Bytes and requests of one path and minute (UTC) from one log object. Every larger figure is a sum of these.

    In the long run a quarter of an hour is one row of all its objects; minutes around storms stay as they are.
    """

    # The one index below finds them all; three more would cost as much as the rows.
    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+", db_index=False)
    service = models.ForeignKey(Service, models.PROTECT, related_name="+", db_index=False)
    target = models.ForeignKey(Target, models.PROTECT, related_name="+", db_index=False, verbose_name="path")
    log_object = models.ForeignKey(
        LogObject, models.CASCADE, null=True, related_name="buckets", help_text="Null: a quarter of an hour of many."
    )
    minute_at = models.DateTimeField()
    minutes = models.PositiveSmallIntegerField(default=1, db_default=1)
    bytes = models.BigIntegerField()
    requests = models.BigIntegerField()
    grade = models.CharField(max_length=2, default="E2")

    class Meta:
        db_table = "usage_buckets"
        constraints = [
            models.UniqueConstraint(
                fields=["log_object", "target", "minute_at"],
                condition=Q(log_object__isnull=False),
                name="usage_buckets_unique",
            ),
            models.UniqueConstraint(
                fields=["target", "minute_at"], condition=Q(log_object__isnull=True), name="usage_buckets_one_quarter"
            ),
            models.CheckConstraint(condition=Q(minutes__in=[1, 15]), name="usage_buckets_minute_or_quarter"),
        ]
        indexes = [
            models.Index(fields=["service", "target", "minute_at"], name="usage_buckets_by_minute"),
            BrinIndex(fields=["minute_at"], name="usage_buckets_minutes"),
        ]

    def __str__(self) -> str:
        return f"minute {self.minute_at:%Y-%m-%d %H:%M} UTC"


class UnknownHostUsage(models.Model):
    """Usage of a host that no verified domain claims: kept with its bytes, never dropped."""

    log_object = models.ForeignKey(LogObject, models.CASCADE, related_name="unknown_hosts")
    host = models.CharField(max_length=300)
    minute_at = models.DateTimeField()
    bytes = models.BigIntegerField()
    requests = models.BigIntegerField()
    reason = models.CharField(max_length=200)

    class Meta:
        db_table = "unknown_host_usage"
        ordering = ["-minute_at"]
        verbose_name_plural = "unknown host usage"
        constraints = [
            models.UniqueConstraint(fields=["log_object", "host", "minute_at"], name="unknown_host_usage_unique")
        ]

    def __str__(self) -> str:
        return self.host


class UsageSnapshot(models.Model):
    """Bytes and requests of one service, path and hour: the sum of its minute buckets, kept beside them for reading."""

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    service = models.ForeignKey(Service, models.PROTECT, related_name="usage_snapshots")
    target = models.ForeignKey(Target, models.PROTECT, related_name="usage_snapshots", verbose_name="path")
    window_start = models.DateTimeField()
    window_end = models.DateTimeField()
    bytes = models.BigIntegerField()
    requests = models.BigIntegerField()
    grade = models.CharField(
        max_length=2, default="E2", help_text="E1 request rows, E2 minutes, E3 time share, E4 sampled."
    )
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "usage_snapshots"
        ordering = ["-window_start", "service_id", "target_id"]
        constraints = [
            models.UniqueConstraint(fields=["service", "target", "window_start"], name="usage_snapshots_unique"),
            models.CheckConstraint(
                condition=Q(window_end__gt=F("window_start")), name="usage_snapshots_window_positive"
            ),
            models.CheckConstraint(condition=Q(bytes__gte=0, requests__gte=0), name="usage_snapshots_not_negative"),
        ]
        indexes = [models.Index(fields=["customer", "-window_start"], name="usage_snapshots_by_customer")]

    def __str__(self) -> str:
        return f"hour {self.window_start:%Y-%m-%d %H:%M} UTC"
