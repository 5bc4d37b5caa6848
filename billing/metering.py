"""Counts the logs that CDNs deliver into usage buckets: each object once, however often and by whomever this is run."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from celery.exceptions import SoftTimeLimitExceeded
from django.db import DataError, OperationalError, connection, transaction
from django.db.models.functions import Coalesce, Greatest

from billing import corrections, logs
from billing.logs import HostMinute, LogReading, LogUnreadable, ReaderUnavailable
from billing.models import LogObject, UsageSource
from billing.owners import owner_at, owners_of
from billing.sources import ListedObject, ObjectGone, SourceUnavailable, place_of
from customers.models import Event
from tranche_site.floor.faults import fault_point

logger = logging.getLogger(__name__)

TRIES = 3
_LOCK = 7_726_402  # with the CDN's id: sources of one CDN may touch the same hour of the same path


class Action(StrEnum):
    COUNT = "count"
    REPLACE = "replace"
    RETRY = "retry"


class Outcome(StrEnum):
    COUNTED = "counted"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    SKIPPED = "skipped"  # another run was faster, or the object changed meanwhile


@dataclass
class ObjectReport:
    """One new object: what is to be done with it, and after `--apply` what became of it."""

    key: str
    size_bytes: int
    action: Action
    sha256: str = ""
    outcome: Outcome | None = None
    reason: str = ""
    rows: int = 0
    bad_rows: int = 0
    excluded: int = 0
    duplicates: int = 0
    requests: int = 0
    bytes: int = 0
    unknown_requests: int = 0
    unknown_bytes: int = 0


@dataclass
class CollectReport:
    """One source: how many objects it lists, and those that were not counted before. `error`: it could not be read."""

    source: str
    listed: int = 0
    objects: list[ObjectReport] = field(default_factory=list)
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def collect_all(*, apply: bool, now: datetime, names: Iterable[str] = ()) -> list[CollectReport]:
    """Look at every enabled source, or those of these names. A source that can't be read holds up no other."""
    sources = UsageSource.objects.logs().filter(enabled=True).select_related("cdn")
    if names:
        sources = sources.filter(name__in=names)
    return [_apart(source, apply, now) for source in sources if not apply or source.claim_look(now)]


def _apart(source: UsageSource, apply: bool, now: datetime) -> CollectReport:
    """What nobody foresaw of one source is logged, and the others go on."""
    try:
        return collect(source, apply=apply, now=now)
    except (OperationalError, SoftTimeLimitExceeded):
        raise  # a database that is away, and a task whose time is up, are everybody's
    except Exception as error:
        logger.exception("usage source %s", source.name)
        said = f"{type(error).__name__}: {error}"[:300]
        if apply:
            UsageSource.objects.filter(pk=source.pk).update(last_error=said)
        return CollectReport(source.name, error=said)


def collect(source: UsageSource, *, apply: bool, now: datetime) -> CollectReport:
    """List the source's new objects; with `apply`, count them. Counting an object is one transaction."""
    report = CollectReport(source.name)
    changes: dict[str, Any] = {}
    newest: datetime | None = None
    since = source.listing_since(now)
    try:
        place = place_of(source, now)
        for work in _new(source, _counted(place.objects(since), report, changes)):
            entry = ObjectReport(work.item.key, work.item.size_bytes, work.action)
            report.objects.append(entry)
            if apply:
                try:
                    with place.fetched(work.item) as path:
                        result, entry.sha256 = _read_whole(source, path, work)
                except ObjectGone:
                    entry.outcome, entry.reason = Outcome.SKIPPED, "deleted or replaced since it was listed"
                    continue
                _settle(source, work, result, entry, now)
                if entry.outcome == Outcome.COUNTED and isinstance(result, LogReading):
                    newest = _newest(result.usage, newest, now)
        changes |= {"listed_at": now} if since else {"listed_at": now, "listed_whole_at": now}
    except SourceUnavailable as error:
        report.error = str(error)
        logger.warning("usage source %s: %s", source.name, error)
        if apply:
            source.put_off(now, error.retry_seconds)
    if apply:
        if newest:
            changes["newest_usage_at"] = Greatest(Coalesce("newest_usage_at", newest), newest)
        UsageSource.objects.filter(pk=source.pk).update(**changes, last_error=report.error)
    return report


def _newest(usage: Iterable[HostMinute], so_far: datetime | None, now: datetime) -> datetime | None:
    """A minute that is still to come is a wrong clock's."""
    past = [line.minute_at for line in usage if line.minute_at <= now]
    return max([*past, *([so_far] if so_far else [])], default=None)


def _counted(listed: Iterable[ListedObject], report: CollectReport, changes: dict[str, Any]) -> Iterator[ListedObject]:
    """Passed on as they are listed: a bucket may hold more of them than memory does."""
    for item in listed:
        report.listed += 1
        changes["cursor"] = item.key
        yield item


class _Work(NamedTuple):
    item: ListedObject
    action: Action
    counted_id: int | None  # the object that counts for this key as yet
    attempts: int  # failed tries of this very object
    merged_at: datetime | None = None  # when the minutes of the one that counts went into sums, for good


_KEYS_AT_ONCE = 1_000


def _new(source: UsageSource, listed: Iterator[ListedObject]) -> Iterator[_Work]:
    """What is not counted yet, nor given up."""
    while batch := list(islice(listed, _KEYS_AT_ONCE)):
        known = defaultdict[str, list[LogObject]](list)
        rows = LogObject.objects.filter(source=source, key__in=[item.key for item in batch])
        for row in rows.exclude(state=LogObject.State.REPLACED).defer("bad", "reason"):
            known[row.key].append(row)
        for item in batch:
            if work := _work(item, known[item.key]):
                yield work


def _work(item: ListedObject, rows: list[LogObject]) -> _Work | None:
    same = next((row for row in rows if row.etag == item.etag), None)
    counted = next((row for row in rows if row.state == LogObject.State.COUNTED), None)
    if same and same.state in (LogObject.State.COUNTED, LogObject.State.QUARANTINED):
        return None
    action = Action.RETRY if same else Action.REPLACE if counted else Action.COUNT
    attempts = same.attempts if same else 0
    return _Work(item, action, counted.pk if counted else None, attempts, counted.merged_at if counted else None)


def _read(source: UsageSource, path: Path, work: _Work) -> LogReading | LogUnreadable:
    """A log that can't be read is a result: it is stored, and tried again."""
    if work.merged_at:
        return LogUnreadable(
            f"it replaces an object whose minutes were merged into sums on {work.merged_at:%Y-%m-%d}, and can't be told from"
            " others any more: bill or credit the difference by hand"
        )
    try:
        return logs.read(
            logs.FORMATS[source.format], path, fields=source.field_names or None, sample_rate=source.sample_rate
        )
    except LogUnreadable as error:
        return error
    except ValueError as error:  # of the field map: the source is wrong, not this object
        raise SourceUnavailable(str(error)) from error


def _read_whole(source: UsageSource, path: Path, work: _Work) -> tuple[LogReading | LogUnreadable, str]:
    """What it says, and its SHA-256, without which usage could not be proven. Raises SourceUnavailable where it is this
    machine that can't read.
    """
    try:
        result = _read(source, path, work)
        return result, _sha256(path)
    except ReaderUnavailable as error:
        raise SourceUnavailable(f"this machine can't read: {error}") from error
    except OSError as error:
        wrong = logs.unreadable(error)
        if isinstance(wrong, ReaderUnavailable):
            raise SourceUnavailable(f"this machine can't read: {wrong}") from error
        return wrong, ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _settle(
    source: UsageSource, work: _Work, result: LogReading | LogUnreadable, entry: ObjectReport, now: datetime
) -> None:
    if isinstance(result, LogReading):
        try:
            _count(source, work, result, entry, now)
            return
        except DataError as error:  # a sum beyond 64 bits: as poisonous as a broken file
            result = LogUnreadable(str(error).split("\n")[0])
    _fail(source, work, str(result), entry, now)


def _count(source: UsageSource, work: _Work, reading: LogReading, entry: ObjectReport, now: datetime) -> None:
    with transaction.atomic():
        row = _claim(source, work, now)
        if row is None:
            entry.outcome, entry.reason = Outcome.SKIPPED, "another run was faster"
            return
        others = LogObject.objects.filter(source=source, key=work.item.key).exclude(pk=row.pk)
        earlier = [*others.exclude(state=LogObject.State.REPLACED).values_list("pk", flat=True)]
        others.filter(pk__in=earlier).update(state=LogObject.State.REPLACED)
        row.state = LogObject.State.COUNTED
        row.sha256 = entry.sha256
        row.rows, row.bad_rows = reading.rows, reading.bad_rows
        row.excluded_rows, row.duplicate_rows = reading.excluded, reading.duplicates
        row.bad = [asdict(bad) for bad in reading.bad]
        row.reason = ""
        row.processed_at = now
        row.save()
        with connection.cursor() as cursor:
            hours = _take_back(cursor, [row.pk, *earlier])
            unknown = _store(cursor, source, row, reading)
            sum_hours(cursor, hours | _hours(cursor, [row.pk]), now)
        fault_point("billing.counted")
    entry.outcome, entry.reason = Outcome.COUNTED, row.reason
    entry.rows, entry.bad_rows = reading.rows, reading.bad_rows
    entry.excluded, entry.duplicates = reading.excluded, reading.duplicates
    entry.requests = sum(line.requests for line in reading.usage)  # of a sampled log, what its rows stand for
    entry.bytes = sum(line.bytes for line in reading.usage)
    entry.unknown_requests = sum(line.requests for line in unknown)
    entry.unknown_bytes = sum(line.bytes for line in unknown)


def _fail(source: UsageSource, work: _Work, reason: str, entry: ObjectReport, now: datetime) -> None:
    """Note a failed try; after the last one the object is quarantined, and what its key counted before stays."""
    with transaction.atomic():
        row = _claim(source, work, now)
        if row is None:
            entry.outcome, entry.reason = Outcome.SKIPPED, "another run was faster"
            return
        is_last = row.attempts >= TRIES
        row.state = LogObject.State.QUARANTINED if is_last else LogObject.State.RETRY
        row.reason = reason
        row.processed_at = now
        row.save()
        if is_last:
            Event.record(
                "usage.object_quarantined",
                row,
                f"{source.name}: {row.key} was given up after {TRIES} tries: {reason}",
                customer_id=source.customer_id,
                source=source.name,
                key=row.key,
                reason=reason,
            )
        fault_point("billing.counted")
    entry.outcome = Outcome.QUARANTINED if is_last else Outcome.FAILED
    entry.reason = reason


def _claim(source: UsageSource, work: _Work, now: datetime) -> LogObject | None:
    """The object's row under lock, or None if another run changed meanwhile what this one started from."""
    with connection.cursor() as cursor:
        lock_cdn(cursor, source.cdn_id)
    item = work.item
    rows = LogObject.objects.filter(source=source, key=item.key)
    counted = rows.filter(state=LogObject.State.COUNTED).values_list("pk", "merged_at").first()
    row = rows.filter(etag=item.etag).first()
    if row is None:
        row = LogObject(source=source, key=item.key, etag=item.etag, size_bytes=item.size_bytes, first_seen_at=now)
    elif row.state == LogObject.State.REPLACED:
        row.attempts = 0  # an earlier version came back
    # What was merged into sums meanwhile can't be taken back any more.
    if (counted or (None, None)) != (work.counted_id, work.merged_at) or row.attempts != work.attempts:
        return None
    row.attempts += 1
    return row


def lock_cdn(cursor: Any, cdn_id: int) -> None:
    """Wait until nobody else changes usage of this CDN, and keep others waiting until the transaction ends."""
    cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [_LOCK, cdn_id])


def _store(cursor: Any, source: UsageSource, row: LogObject, reading: LogReading) -> list[HostMinute]:
    """Write the usage as buckets of its paths, and what has no path as unknown hosts, which are returned."""
    owners = owners_of(source, {line.host for line in reading.usage})
    buckets: list[tuple[Any, ...]] = []
    unknown: list[HostMinute] = []
    unknown_rows: list[tuple[Any, ...]] = []
    for line in reading.usage:
        at = line.minute_at
        owner = owner_at(owners.get(line.host, []), at)
        if owner.path:
            buckets.append((*owner.path, row.pk, at, line.bytes, line.requests, reading.grade))
        else:
            unknown.append(line)
            unknown_rows.append((row.pk, line.host, at, line.bytes, line.requests, owner.reason[:200]))
    _copy(
        cursor, "usage_buckets (customer_id, service_id, target_id, log_object_id, minute_at, bytes, requests, grade)",
        buckets,
    )  # fmt: skip
    _copy(cursor, "unknown_host_usage (log_object_id, host, minute_at, bytes, requests, reason)", unknown_rows)
    return unknown


def _copy(cursor: Any, table: str, rows: list[tuple[Any, ...]]) -> None:
    if rows:
        with cursor.copy(f"COPY {table} FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)


_Hour = tuple[int, int, int, datetime]  # customer, service, target, and its beginning


def _hours(cursor: Any, object_ids: list[int]) -> set[_Hour]:
    """The hours of paths that these objects have part in."""
    cursor.execute(
        """
        SELECT DISTINCT customer_id, service_id, target_id, date_trunc('hour', minute_at, 'UTC')
        FROM usage_buckets WHERE log_object_id = ANY(%s)
        """,
        [object_ids],
    )
    return set(cursor.fetchall())


def _take_back(cursor: Any, object_ids: list[int]) -> set[_Hour]:
    """Drop what these objects had counted, and say which hours that changes."""
    hours = _hours(cursor, object_ids)
    cursor.execute("DELETE FROM usage_buckets WHERE log_object_id = ANY(%s)", [object_ids])
    cursor.execute("DELETE FROM unknown_host_usage WHERE log_object_id = ANY(%s)", [object_ids])
    return hours


def sum_hours(cursor: Any, hours: set[_Hour], now: datetime) -> None:
    """Make the snapshots of these hours the sums of their buckets again, in one statement.

    Invoices that were issued of this time are to be rated again.
    """
    if not hours:
        return
    customers, services, targets, starts = zip(*sorted(hours), strict=True)
    corrections.mark(set(customers), min(starts), max(starts) + timedelta(hours=1))
    cursor.execute(
        """
        INSERT INTO usage_snapshots
            (customer_id, service_id, target_id, window_start, window_end, bytes, requests, grade, updated_at)
        SELECT h.customer_id, h.service_id, h.target_id, h.start, h.start + interval '1 hour',
            coalesce(sum(b.bytes), 0), coalesce(sum(b.requests), 0), coalesce(max(b.grade), 'E2'), %s
        FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::timestamptz[])
                AS h (customer_id, service_id, target_id, start)
            LEFT JOIN usage_buckets b
                ON b.service_id = h.service_id AND b.target_id = h.target_id
                AND b.minute_at >= h.start AND b.minute_at < h.start + interval '1 hour'
        GROUP BY h.customer_id, h.service_id, h.target_id, h.start
        ON CONFLICT (service_id, target_id, window_start) DO UPDATE
            SET bytes = EXCLUDED.bytes, requests = EXCLUDED.requests, grade = EXCLUDED.grade,
                updated_at = EXCLUDED.updated_at
        """,
        [now, list(customers), list(services), list(targets), list(starts)],
    )


def read_again(rows: Iterable[LogObject]) -> int:
    """Try objects again that were given up, with the next look at their sources. Returns how many."""
    wanted = LogObject.objects.filter(pk__in=[row.pk for row in rows], state=LogObject.State.QUARANTINED)
    with transaction.atomic():
        sources = set(wanted.values_list("source_id", flat=True))
        count = wanted.update(state=LogObject.State.RETRY, attempts=0)
        # They may be older than what a look goes back to.
        UsageSource.objects.filter(pk__in=sources).update(listed_whole_at=None)
    return count
