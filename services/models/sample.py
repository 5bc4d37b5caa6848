"""What was seen: samples, and what they amount to by the minute."""

from __future__ import annotations

from django.db import models

from services.outcomes import Outcome


class Sample(models.Model):
    """One probe's outcome. No foreign keys, so that COPY is all that recording costs."""

    slot_at = models.DateTimeField()
    target_id = models.BigIntegerField()
    vantage_point_id = models.BigIntegerField()
    attempt = models.SmallIntegerField()
    at = models.DateTimeField(help_text="When the probe started.")
    customer_id = models.BigIntegerField(null=True)
    service_id = models.BigIntegerField(null=True)
    outcome = models.CharField(max_length=12, choices=[(o.value, o.value) for o in Outcome])
    status = models.SmallIntegerField(null=True)
    dns_ms = models.FloatField(null=True)
    connect_ms = models.FloatField(null=True)
    tls_ms = models.FloatField(null=True)
    first_byte_ms = models.FloatField(null=True)
    total_ms = models.FloatField(null=True)
    certificate_expires_at = models.DateTimeField(null=True)
    certificate_issuer = models.CharField(max_length=200, default="", db_default="")
    protocol = models.CharField(
        max_length=8, default="", db_default="", help_text="Of the answer, for example “HTTP/1.1”."
    )
    remote_address = models.GenericIPAddressField(null=True)
    reason = models.TextField(default="")
    is_blind = models.BooleanField(default=False, help_text="The vantage point was blind: kept, but without a vote.")
    is_late = models.BooleanField(
        default=False, db_default=False, help_text="Back-filled after Postgres was away: decides nothing."
    )
    in_maintenance = models.BooleanField(
        default=False, db_default=False, help_text="Work was done on its service or CDN."
    )

    class Meta:
        abstract = True


class ProbeSample(Sample):
    """Fresh ones, partitioned by day of `slot_at` and dropped after SAMPLE_DAYS_KEPT.

    The key makes a redelivered task or a back-fill add nothing. `attempt` 0 is the slot's own probe, 1… are burst shots.
    """

    pk = models.CompositePrimaryKey("slot_at", "target_id", "vantage_point_id", "attempt")

    class Meta:
        db_table = "probe_samples"


class SampleMinute(models.Model):
    """What one vantage point saw of one target in one minute, counted by `services.rollups`. Partitioned by month.

    Blind samples count as blind alone. Latency (`total_ms_…`, over `count_ms` samples) is that of the good ones.
    """

    pk = models.CompositePrimaryKey("minute_at", "target_id", "vantage_point_id")
    minute_at = models.DateTimeField()
    target_id = models.BigIntegerField()
    vantage_point_id = models.BigIntegerField()
    customer_id = models.BigIntegerField(null=True)
    service_id = models.BigIntegerField(null=True)
    good = models.IntegerField(default=0)
    bad = models.IntegerField(default=0)
    set_aside = models.IntegerField(default=0)
    blind = models.IntegerField(default=0)
    total_ms_sum = models.FloatField(default=0)
    total_ms_max = models.FloatField(null=True)
    count_ms = models.IntegerField(default=0)
    worst_outcome = models.CharField(
        max_length=12, choices=[(o.value, o.value) for o in Outcome], default="", blank=True
    )
    certificate_expires_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "sample_minutes"


class SampleHour(models.Model):
    """The minutes of one target and hour, of all vantage points together, added up by `services.rollups` once it is over:
    what pictures of weeks and months are read from."""

    pk = models.CompositePrimaryKey("target_id", "hour_at")
    target_id = models.BigIntegerField()
    hour_at = models.DateTimeField()
    good = models.BigIntegerField(default=0)
    bad = models.BigIntegerField(default=0)
    total_ms_sum = models.FloatField(default=0)
    count_ms = models.BigIntegerField(default=0)

    class Meta:
        db_table = "sample_hours"
        indexes = [models.Index(fields=["hour_at"], name="sample_hours_by_time")]
