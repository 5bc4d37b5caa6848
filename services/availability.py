"""Availability and latency over time, from the counted minutes alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import connection


@dataclass(frozen=True, slots=True)
class Point:
    """One step of one target. `vantage_point_id` None: all of them together."""

    target_id: int
    vantage_point_id: int | None
    at: datetime
    good: int
    bad: int
    availability: float | None
    """The share of good among good and bad; None when no sample had a vote."""
    mean_ms: float | None
    """Of the good samples."""


_SQL = """
SELECT target_id, {point}, date_bin(make_interval(secs => %(step)s), minute_at, %(start)s),
    sum(good), sum(bad), sum(total_ms_sum), sum(count_ms)
FROM sample_minutes
WHERE target_id = ANY(%(targets)s) AND minute_at >= %(start)s AND minute_at < %(end)s
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
"""


def series(
    target_ids: Collection[int], start: datetime, end: datetime, step_seconds: int, *, by_vantage_point: bool = False
) -> list[Point]:
    """The steps of [start, end) in which anything was probed, by target and time. Steps are counted from `start`.

    A minute belongs to the step in which it begins, so give `start` in whole minutes, and `step_seconds` as well.
    """
    sql = _SQL.format(point="vantage_point_id" if by_vantage_point else "NULL::bigint")
    with connection.cursor() as cursor:
        cursor.execute(sql, {"targets": list(target_ids), "start": start, "end": end, "step": step_seconds})
        return [
            Point(
                target, point, at.astimezone(UTC), good, bad,
                good / (good + bad) if good + bad else None,
                total / count if count else None,
            )
            for target, point, at, good, bad, total, count in cursor.fetchall()
        ]  # fmt: skip
