"""Old minutes become quarters of an hour, except around storms, where money may hang on a minute.

A quarter is the sum of all objects' minutes, so what one object counted can't be told any more: it can't be replaced by a
later delivery either (`billing.metering` says so). Sums stay what they were.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, transaction

from billing.metering import lock_cdn
from services.models import Cdn
from tranche_site.floor.faults import fault_point

DAY = timedelta(days=1)
DAYS_AT_ONCE = 40
"""How far back a daily run looks, so that one after a long rest catches up, and late minutes are merged too."""

# Both ends of what is kept around a storm are on quarters, so that no quarter is half minutes and half a sum.
_MERGE = """
WITH moved AS (
    DELETE FROM usage_buckets b USING targets t
    WHERE t.id = b.target_id AND t.cdn_id IS NOT DISTINCT FROM %(cdn)s
        AND b.minute_at >= %(start)s AND b.minute_at < %(end)s AND b.minutes = 1
        AND NOT EXISTS (
            SELECT 1 FROM storm_events s WHERE s.service_id = b.service_id
                AND b.minute_at >= date_bin('15 minutes', s.started_at - interval '1 hour', 'epoch')
                AND b.minute_at < date_bin('15 minutes', coalesce(s.closed_at, 'infinity') + interval '2 hours', 'epoch'))
    RETURNING b.customer_id, b.service_id, b.target_id, b.log_object_id, b.minute_at, b.bytes, b.requests, b.grade
), marked AS (
    UPDATE log_objects SET merged_at = %(now)s
    WHERE id IN (SELECT log_object_id FROM moved) AND merged_at IS NULL
)
INSERT INTO usage_buckets (customer_id, service_id, target_id, minute_at, minutes, bytes, requests, grade)
SELECT customer_id, service_id, target_id, date_bin('15 minutes', minute_at, 'epoch'), 15, sum(bytes), sum(requests), max(grade)
FROM moved GROUP BY 1, 2, 3, 4
ON CONFLICT (target_id, minute_at) WHERE log_object_id IS NULL DO UPDATE
    SET bytes = usage_buckets.bytes + EXCLUDED.bytes, requests = usage_buckets.requests + EXCLUDED.requests,
        grade = greatest(usage_buckets.grade, EXCLUDED.grade)
"""


def compact(now: datetime) -> int:
    """Merge what is older than USAGE_MINUTES_DAYS, day by day and CDN by CDN, each in a transaction of its own.

    Returns how many quarters were written. Safe to run twice, and beside the meter.
    """
    until = (now - timedelta(days=settings.USAGE_MINUTES_DAYS)).replace(hour=0, minute=0, second=0, microsecond=0)
    cdns = [*Cdn.objects.order_by("pk").values_list("pk", flat=True), None]
    days = [until - back * DAY for back in range(DAYS_AT_ONCE, 0, -1)]
    return sum(_merge(cdn, day, now) for day in days for cdn in cdns)


def _merge(cdn: int | None, day: datetime, now: datetime) -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        lock_cdn(cursor, cdn or 0)
        cursor.execute(_MERGE, {"cdn": cdn, "start": day, "end": day + DAY, "now": now})
        fault_point("billing.merged")
        return cursor.rowcount
