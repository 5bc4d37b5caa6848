"""Partitions, made ahead and dropped behind: the samples by day, their minutes by month."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta

from django.conf import settings
from django.db import connection, transaction

DAYS_AHEAD = 3
LOCK = 7_726_302
MINUTES_LOCK = 7_726_304
"""Also held by `services.rollups`: what it writes must not be routed to the default partition while that is emptied."""

LOCK_PATIENCE = "10s"
_NAME = re.compile(r"probe_samples_(\d{4})(\d{2})(\d{2})")
_MONTH_NAME = re.compile(r"sample_minutes_(\d{4})(\d{2})")


def maintain(now: datetime) -> tuple[list[str], list[str]]:
    """Make the partitions of today and the next days, drop those older than SAMPLE_DAYS_KEPT. Returns (made, dropped)."""
    today = now.astimezone(UTC).date()
    oldest = today - timedelta(days=settings.SAMPLE_DAYS_KEPT)
    with transaction.atomic(), connection.cursor() as cursor:
        # Rather fail and be run again than make every probe's recording wait behind a long read.
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_PATIENCE}'")
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        there = _existing()
        made = [day for day in (today + timedelta(days=n) for n in range(DAYS_AHEAD + 1)) if day not in there]
        dropped = sorted(day for day in there if day < oldest)
        if made:  # no row may slip into the default partition between its emptying and the attaching
            cursor.execute("LOCK TABLE probe_samples_default IN SHARE ROW EXCLUSIVE MODE")
        for day in made:
            _make(cursor, day)
        for day in dropped:
            cursor.execute(f"DROP TABLE {_table(day)}")
        # Rows of a day that never got its partition.
        cursor.execute("DELETE FROM probe_samples_default WHERE slot_at < %s", [datetime.combine(oldest, time(), UTC)])
    return [_table(day) for day in made], [_table(day) for day in dropped]


def maintain_months(now: datetime) -> tuple[list[str], list[str]]:
    """The same for the minutes: this month and the next; a month goes when all of it is older than ROLLUP_DAYS_KEPT."""
    today = now.astimezone(UTC).date()
    this, oldest = today.replace(day=1), today - timedelta(days=settings.ROLLUP_DAYS_KEPT)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_PATIENCE}'")
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [MINUTES_LOCK])
        there = _dates("sample_minutes", _MONTH_NAME)
        made = [month for month in (this, _next_month(this)) if month not in there]
        dropped = sorted(month for month in there if _next_month(month) <= oldest)
        for month in made:
            _attach(cursor, "sample_minutes", "minute_at", _month_table(month), month, _next_month(month))
        for month in dropped:
            cursor.execute(f"DROP TABLE {_month_table(month)}")
        cursor.execute(
            "DELETE FROM sample_minutes_default WHERE minute_at < %s", [datetime.combine(oldest, time(), UTC)]
        )
        cursor.execute("DELETE FROM sample_hours WHERE hour_at < %s", [datetime.combine(oldest, time(), UTC)])
    return [_month_table(month) for month in made], [_month_table(month) for month in dropped]


def _make(cursor: object, day: date) -> None:
    _attach(cursor, "probe_samples", "slot_at", _table(day), day, day + timedelta(days=1))


def _attach(cursor: object, parent: str, column: str, table: str, first: date, after: date) -> None:
    """Rows that the default partition caught meanwhile move into the new one."""
    start, end = f"{first}T00:00Z", f"{after}T00:00Z"
    cursor.execute(  # type: ignore[attr-defined]
        f"""
        CREATE TABLE IF NOT EXISTS {table} (LIKE {parent} INCLUDING DEFAULTS INCLUDING INDEXES);
        WITH moved AS (
            DELETE FROM {parent}_default WHERE {column} >= '{start}' AND {column} < '{end}' RETURNING *
        ) INSERT INTO {table} SELECT * FROM moved;
        ALTER TABLE {parent} ATTACH PARTITION {table} FOR VALUES FROM ('{start}') TO ('{end}');
        """  # noqa: S608
    )


def _existing() -> set[date]:
    return _dates("probe_samples", _NAME)


def _dates(parent: str, name: re.Pattern[str]) -> set[date]:
    """The first days of a table's partitions, read from their names."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = %s::regclass",
            [parent],
        )
        names = [row[0] for row in cursor.fetchall()]
    parts = [[int(part) for part in match.groups()] for found in names if (match := name.fullmatch(found))]
    return {date(*(numbers if len(numbers) == 3 else [*numbers, 1])) for numbers in parts}


def _table(day: date) -> str:
    return f"probe_samples_{day:%Y%m%d}"


def _month_table(month: date) -> str:
    return f"sample_minutes_{month:%Y%m}"


def _next_month(month: date) -> date:
    return (month + timedelta(days=31)).replace(day=1)
