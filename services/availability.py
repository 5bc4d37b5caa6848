"""Availability and latency over time, from the counted minutes alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import connection


@dataclass(frozen=True, slots=True)
class Point:
    """One step of one target. `vantage_point_id` None: of all vantage points that are not told apart, together."""

    target_id: int
    vantage_point_id: int | None
    at: datetime
    good: int
    bad: int
    total_ms: float = 0
    """Summed up over the `timed` samples among the good ones."""
    timed: int = 0

    @property
    def availability(self) -> float | None:
        """The share of good among good and bad; None when no sample had a vote."""
        return self.good / (self.good + self.bad) if self.good + self.bad else None

    @property
    def mean_ms(self) -> float | None:
        return self.total_ms / self.timed if self.timed else None


@dataclass(frozen=True, slots=True)
class Certificate:
    expires_at: datetime
    issuer: str
    """Empty when the samples that told it are gone."""


# Not sorted here: Postgres would sort the minutes rather than the few points that they add up to.
_SERIES = """
SELECT target_id, CASE WHEN vantage_point_id = ANY(%(apart)s) THEN vantage_point_id END,
    date_bin(make_interval(secs => %(step)s), minute_at, %(start)s), sum(good), sum(bad), sum(total_ms_sum), sum(count_ms)
FROM sample_minutes
WHERE target_id = ANY(%(targets)s) AND minute_at >= %(start)s AND minute_at < %(end)s
GROUP BY 1, 2, 3
"""

# The same from whole hours as far as they are added up, and from minutes after that.
_HOURLY = """
WITH added AS (SELECT coalesce(max(hour_at) + interval '1 hour', '-infinity') AS until FROM sample_hours)
SELECT target_id, NULL, date_bin(make_interval(secs => %(step)s), at, %(start)s), sum(good), sum(bad), sum(total_ms_sum),
    sum(count_ms)
FROM (
    SELECT target_id, hour_at AS at, good, bad, total_ms_sum, count_ms FROM sample_hours
    WHERE target_id = ANY(%(targets)s) AND hour_at >= %(start)s AND hour_at < %(end)s
    UNION ALL
    SELECT target_id, minute_at, good, bad, total_ms_sum, count_ms FROM sample_minutes
    WHERE target_id = ANY(%(targets)s) AND minute_at >= greatest(%(start)s, (SELECT until FROM added)) AND minute_at < %(end)s
) AS seen
GROUP BY 1, 2, 3
"""

# The newest minute that knows one. Its issuer stands in that minute's samples alone: few enough to look through.
_CERTIFICATES = """
SELECT newest.target_id, newest.certificate_expires_at, coalesce((
    SELECT x.certificate_issuer FROM probe_samples x
    WHERE x.service_id = newest.service_id AND x.slot_at >= newest.minute_at
        AND x.slot_at < newest.minute_at + interval '1 minute' AND x.target_id = newest.target_id
        AND x.certificate_expires_at = newest.certificate_expires_at
    LIMIT 1
), '')
FROM unnest(%(targets)s::bigint[]) wanted (target_id) CROSS JOIN LATERAL (
    SELECT m.target_id, m.service_id, m.minute_at, m.certificate_expires_at FROM sample_minutes m
    WHERE m.target_id = wanted.target_id AND m.minute_at >= %(start)s AND m.minute_at < %(end)s
        AND m.certificate_expires_at IS NOT NULL
    ORDER BY m.minute_at DESC, m.certificate_expires_at
    LIMIT 1
) newest
"""


def series(
    target_ids: Collection[int], start: datetime, end: datetime, step_seconds: int, apart: Collection[int] = ()
) -> list[Point]:
    """The steps of [start, end) in which anything was probed, by target, vantage point and time.

    Steps are counted from `start`. A minute belongs to the step in which it begins, so give `start` in whole minutes,
    and `step_seconds` as well. Vantage points of which the ids are in `apart` have points of their own.
    """
    is_hourly = step_seconds % 3600 == 0 and start.timestamp() % 3600 == 0 and end.timestamp() % 3600 == 0 and not apart
    with connection.cursor() as cursor:
        cursor.execute(
            _HOURLY if is_hourly else _SERIES,
            {"targets": list(target_ids), "start": start, "end": end, "step": step_seconds, "apart": list(apart)},
        )
        points = [Point(target, place, at.astimezone(UTC), *sums) for target, place, at, *sums in cursor.fetchall()]
    return sorted(points, key=lambda point: (point.target_id, point.vantage_point_id or 0, point.at))


def certificates(target_ids: Collection[int], start: datetime, end: datetime) -> dict[int, Certificate]:
    """The newest that was seen in [start, end) of each target, the one that expires first if they differ."""
    with connection.cursor() as cursor:
        cursor.execute(_CERTIFICATES, {"targets": list(target_ids), "start": start, "end": end})
        return {target: Certificate(at.astimezone(UTC), issuer) for target, at, issuer in cursor.fetchall()}
