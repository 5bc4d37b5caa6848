"""Samples → storm: the raw samples around a storm are copied beside it, before their partition is dropped."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import F, Q
from django.db.models.functions import Coalesce

from services import samples
from services.models import Target
from storms.models import StormEvent

AROUND = timedelta(hours=1)
"""How long before a storm's start and after its end samples are kept."""
LATE = timedelta(minutes=20)
"""Samples of the last so many minutes may still arrive: the spool holds them for a quarter of an hour."""
STEP = timedelta(hours=6)
"""How much of one storm is copied at a time; one that rages is copied on once there is so much."""

_COPY = f"""
INSERT INTO storm_samples (storm_id, {samples.COLUMNS})
SELECT %(storm)s, {samples.COLUMNS} FROM probe_samples
WHERE slot_at > %(after)s AND slot_at <= %(until)s
    AND (service_id = %(service)s OR service_id IS NULL AND target_id = ANY(%(own)s))
ON CONFLICT DO NOTHING
"""  # noqa: S608


def keep_samples(now: datetime) -> int:
    """Copy what is due, one step of each storm. Safe to run twice, at any time. Returns how many rows were copied."""
    settled = now - LATE
    storms = StormEvent.objects.annotate(done=Coalesce("samples_kept_until", F("started_at") - AROUND)).filter(
        Q(ended_at__isnull=True) | Q(done__lt=F("ended_at") + AROUND),
        Q(ended_at__lte=settled - AROUND) | Q(done__lte=settled - STEP),
    )
    return sum(_keep(pk, settled) for pk in storms.order_by("id").values_list("pk", flat=True))


def _keep(pk: int, settled: datetime) -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        storm = StormEvent.objects.select_for_update(of=("self",)).get(pk=pk)
        after = storm.samples_kept_until or storm.started_at - AROUND
        end = storm.ended_at + AROUND if storm.ended_at else settled
        until = min(after + STEP, end, settled)
        if until <= after:
            return 0
        own = Target.objects.filter(Q(role=Target.Role.CANARY) | Q(role=Target.Role.REFERENCE, cdn=storm.cdn_id))
        cursor.execute(
            _COPY,
            {
                "storm": storm.pk, "service": storm.service_id, "after": after, "until": until,
                "own": list(own.values_list("pk", flat=True)),
            },
        )  # fmt: skip
        copied: int = cursor.rowcount
        StormEvent.objects.filter(pk=pk).update(samples_kept_until=until)
        return copied
