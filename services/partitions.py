"""Day partitions of the samples: made ahead, dropped behind."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta

from django.conf import settings
from django.db import connection, transaction

DAYS_AHEAD = 3
LOCK = 7_726_302
LOCK_PATIENCE = "10s"
_NAME = re.compile(r"probe_samples_(\d{4})(\d{2})(\d{2})")


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


def _make(cursor: object, day: date) -> None:
    """Rows that the default partition caught meanwhile move into the new one."""
    table, start, end = _table(day), f"{day}T00:00Z", f"{day + timedelta(days=1)}T00:00Z"
    cursor.execute(  # type: ignore[attr-defined]
        f"""
        CREATE TABLE IF NOT EXISTS {table} (LIKE probe_samples INCLUDING DEFAULTS INCLUDING INDEXES);
        WITH moved AS (
            DELETE FROM probe_samples_default WHERE slot_at >= '{start}' AND slot_at < '{end}' RETURNING *
        ) INSERT INTO {table} SELECT * FROM moved;
        ALTER TABLE probe_samples ATTACH PARTITION {table} FOR VALUES FROM ('{start}') TO ('{end}');
        """  # noqa: S608
    )


def _existing() -> set[date]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = 'probe_samples'::regclass"
        )
        names = [row[0] for row in cursor.fetchall()]
    return {date(*map(int, match.groups())) for name in names if (match := _NAME.fullmatch(name))}


def _table(day: date) -> str:
    return f"probe_samples_{day:%Y%m%d}"
