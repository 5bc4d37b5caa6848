"""Samples → minutes → hours: what every vantage point saw of every target, counted. Pages read these, never samples."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from django.db import connection, transaction

from services.outcomes import BAD, SET_ASIDE, Outcome
from services.partitions import MINUTES_LOCK

logger = logging.getLogger(__name__)

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
HOURS_A_RUN = 24
LATE_MINUTES = 3
"""The newest minutes that are counted again in each run, since their samples may still arrive."""
MINUTES_A_RUN = 60

WORST_FIRST = (
    Outcome.CONNECT, Outcome.DNS, Outcome.TLS, Outcome.TIMEOUT, Outcome.EDGE_ERROR, Outcome.HTTP_5XX,
    Outcome.WRONG_BODY, Outcome.BLOCKED, Outcome.WRONG_STATUS, Outcome.OK, Outcome.UNKNOWN,
)  # fmt: skip
"""The earlier a probe ends, the worse; what is set aside says less than what is bad, and `unknown` says nothing."""


def _texts(outcomes: object) -> str:
    return ", ".join(f"'{outcome}'" for outcome in outcomes)  # type: ignore[attr-defined]


_COUNTED = (
    "customer_id", "service_id", "good", "bad", "set_aside", "blind", "total_ms_sum", "total_ms_max", "count_ms",
    "worst_outcome", "certificate_expires_at",
)  # fmt: skip

# A minute is that of the slot, which is the samples' partition key. A blind sample is counted as blind and as nothing
# else. Latency is that of good samples: a timeout's would be the length of the timeout. Minutes without a change are
# not written, so that counting them again costs no dead rows.
_ROLL_UP = f"""
INSERT INTO sample_minutes AS known (minute_at, target_id, vantage_point_id, {", ".join(_COUNTED)})
SELECT date_trunc('minute', slot_at, 'UTC'), target_id, vantage_point_id,
    max(customer_id),
    max(service_id),
    count(*) FILTER (WHERE NOT is_blind AND outcome = 'ok'),
    count(*) FILTER (WHERE NOT is_blind AND outcome IN ({_texts(sorted(BAD))})),
    count(*) FILTER (WHERE NOT is_blind AND outcome IN ({_texts(sorted(SET_ASIDE))})),
    count(*) FILTER (WHERE is_blind),
    coalesce(sum(total_ms) FILTER (WHERE NOT is_blind AND outcome = 'ok'), 0),
    max(total_ms) FILTER (WHERE NOT is_blind AND outcome = 'ok'),
    count(total_ms) FILTER (WHERE NOT is_blind AND outcome = 'ok'),
    coalesce(
        (ARRAY[{_texts(WORST_FIRST)}])[
            min(array_position(ARRAY[{_texts(WORST_FIRST)}], outcome::text)) FILTER (WHERE NOT is_blind)
        ],
        ''
    ),
    min(certificate_expires_at) FILTER (WHERE NOT is_blind)
FROM probe_samples
WHERE slot_at >= %(start)s AND slot_at < %(end)s
GROUP BY 1, 2, 3
ON CONFLICT (minute_at, target_id, vantage_point_id) DO UPDATE
SET {", ".join(f"{name} = excluded.{name}" for name in _COUNTED)}
WHERE ({", ".join(f"known.{name}" for name in _COUNTED)})
    IS DISTINCT FROM ({", ".join(f"excluded.{name}" for name in _COUNTED)})
"""  # noqa: S608


# Hours are counted whole, as minutes are, and written only where they changed.
_HOURS = """
INSERT INTO sample_hours AS known (target_id, hour_at, good, bad, total_ms_sum, count_ms)
SELECT target_id, date_trunc('hour', minute_at, 'UTC'), sum(good), sum(bad), sum(total_ms_sum), sum(count_ms)
FROM sample_minutes WHERE minute_at >= %(start)s AND minute_at < %(end)s
GROUP BY 1, 2
ON CONFLICT (target_id, hour_at) DO UPDATE
SET good = excluded.good, bad = excluded.bad, total_ms_sum = excluded.total_ms_sum, count_ms = excluded.count_ms
WHERE (known.good, known.bad, known.total_ms_sum, known.count_ms)
    IS DISTINCT FROM (excluded.good, excluded.bad, excluded.total_ms_sum, excluded.count_ms)
"""


def roll_up_hours(now: datetime) -> int:
    """Add up the minutes of hours that are over and not added up yet, a day of them a run. Returns how many rows it wrote."""
    until = _hour(now - (LATE_MINUTES + 2) * MINUTE)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [MINUTES_LOCK])
        if not cursor.fetchone()[0]:
            return 0  # another run is at it
        newest = _one(cursor, "SELECT max(hour_at) FROM sample_hours WHERE hour_at < %s", until)
        begin = newest + HOUR if newest else datetime.min.replace(tzinfo=UTC)
        if begin >= until:
            return 0
        first = _one(
            cursor, "SELECT min(minute_at) FROM sample_minutes WHERE minute_at >= %s AND minute_at < %s", begin, until
        )
        if first is None:
            return 0
        start = _hour(first)
        cursor.execute(_HOURS, {"start": start, "end": min(until, start + HOURS_A_RUN * HOUR)})
        written: int = cursor.rowcount
    return written


def _hour(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def roll_up(now: datetime) -> int:
    """Count the samples of complete minutes that are not counted yet, and of the newest ones again.

    A minute is always counted whole, so that any number of runs ends in the same rows. At most an hour a run: the next
    one goes on. Returns how many rows it wrote.
    """
    until = now.astimezone(UTC).replace(second=0, microsecond=0)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [MINUTES_LOCK])
        if not cursor.fetchone()[0]:
            return 0  # another run is at it
        span = _span(cursor, until)
        if span is None:
            return 0
        start, end = span
        cursor.execute(_ROLL_UP, {"start": start, "end": end})
        written: int = cursor.rowcount
    if end < until:
        behind = (until - end) // MINUTE
        logger.info("sample minutes: counted to %s, at most %d minutes to go", end.isoformat(), behind)
    return written


def count_again(first: datetime, last: datetime, now: datetime) -> None:
    """Count the complete minutes from `first` to `last` again, since samples of theirs came late.

    What lies between them and the newest counted minute is counted too: `roll_up` only goes on from the newest.
    """
    until = now.astimezone(UTC).replace(second=0, microsecond=0)
    start, end = first.astimezone(UTC).replace(second=0, microsecond=0), min(last + MINUTE, until)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [MINUTES_LOCK])
        newest = _one(cursor, "SELECT max(minute_at) FROM sample_minutes WHERE minute_at < %s", until)
        start = min(start, newest + MINUTE) if newest else start
        end = end.replace(second=0, microsecond=0)
        cursor.execute(_ROLL_UP, {"start": start, "end": end})
        if (newest_hour := _one(cursor, "SELECT max(hour_at) FROM sample_hours WHERE hour_at < %s", until)) is not None:
            # Those that were added up already; the others are to come.
            cursor.execute(_HOURS, {"start": _hour(start), "end": min(_hour(end) + HOUR, newest_hour + HOUR)})


def _span(cursor: object, until: datetime) -> tuple[datetime, datetime] | None:
    """The minutes to count now. Times without any sample are leapt over."""
    newest = _one(cursor, "SELECT max(minute_at) FROM sample_minutes WHERE minute_at < %s", until)
    if newest is None:
        first = _one(cursor, "SELECT min(slot_at) FROM probe_samples WHERE slot_at < %s", until)
    else:
        first = _one(
            cursor,
            "SELECT min(slot_at) FROM probe_samples WHERE slot_at >= %s AND slot_at < %s",
            newest + MINUTE,
            until,
        )
    if first is None:
        return None if newest is None else (newest - (LATE_MINUTES - 1) * MINUTE, newest + MINUTE)
    start = first.replace(second=0, microsecond=0)
    if newest is not None and start - newest < (MINUTES_A_RUN - LATE_MINUTES) * MINUTE:
        start = newest - (LATE_MINUTES - 1) * MINUTE
    return start, min(until, start + MINUTES_A_RUN * MINUTE)


def _one(cursor: object, sql: str, *parameters: datetime) -> datetime | None:
    cursor.execute(sql, parameters)  # type: ignore[attr-defined]
    found: datetime | None = cursor.fetchone()[0]  # type: ignore[attr-defined]
    return found and found.astimezone(UTC)
