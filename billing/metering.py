"""Counts the logs that CDNs deliver into usage buckets: each object once, however often and by whomever this is run."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from django.db import DataError, connection, transaction

from billing import logs
from billing.logs import HostMinute, LogReading, LogUnreadable
from billing.models import LogObject, UsageSource
from billing.sources import ListedObject, ObjectGone, SourceUnavailable, place_of
from customers.models import Event
from services.models import ServiceDomain, Target
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
    sources = UsageSource.objects.filter(enabled=True).select_related("cdn")
    if names:
        sources = sources.filter(name__in=names)
    return [collect(source, apply=apply, now=now) for source in sources]


def collect(source: UsageSource, *, apply: bool, now: datetime) -> CollectReport:
    """List the source's new objects; with `apply`, count them. Counting an object is one transaction."""
    report = CollectReport(source.name)
    try:
        place = place_of(source)
        listed = list(place.objects())
        report.listed = len(listed)
        for work in _new(source, listed):
            entry = ObjectReport(work.item.key, work.item.size_bytes, work.action)
            report.objects.append(entry)
            if apply:
                try:
                    with place.fetched(work.item) as path:
                        result = _read(source, path)
                except ObjectGone:
                    entry.outcome, entry.reason = Outcome.SKIPPED, "deleted or replaced since it was listed"
                    continue
                _settle(source, work, result, entry, now)
    except SourceUnavailable as error:
        report.error = str(error)
        logger.warning("usage source %s: %s", source.name, error)
    if apply:
        changes: dict[str, Any] = {"last_error": report.error[:500]}
        if not report.error:
            changes["listed_at"] = now
        UsageSource.objects.filter(pk=source.pk).update(**changes)
    return report


class _Work(NamedTuple):
    item: ListedObject
    action: Action
    counted_id: int | None  # the object that counts for this key as yet
    attempts: int  # failed tries of this very object


_KEYS_AT_ONCE = 5_000


def _new(source: UsageSource, listed: list[ListedObject]) -> Iterator[_Work]:
    """What is not counted yet, nor given up."""
    for start in range(0, len(listed), _KEYS_AT_ONCE):
        batch = listed[start : start + _KEYS_AT_ONCE]
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
    return _Work(item, action, counted.pk if counted else None, same.attempts if same else 0)


def _read(source: UsageSource, path: Path) -> LogReading | LogUnreadable:
    """A log that can't be read is a result: it is stored, and tried again."""
    try:
        return logs.read(logs.FORMATS[source.format], path)
    except LogUnreadable as error:
        return error


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
        row.rows, row.bad_rows = reading.rows, reading.bad_rows
        row.bad = [asdict(bad) for bad in reading.bad]
        row.reason = _accounts(reading)
        row.processed_at = now
        row.save()
        with connection.cursor() as cursor:
            hours = _take_back(cursor, [row.pk, *earlier])
            unknown = _store(cursor, source, row, reading.usage)
            _sum_hours(cursor, hours | _hours(cursor, [row.pk]), now)
        fault_point("billing.counted")
    entry.outcome, entry.reason = Outcome.COUNTED, row.reason
    entry.rows, entry.bad_rows = reading.rows, reading.bad_rows
    entry.excluded, entry.duplicates = reading.excluded, reading.duplicates
    entry.requests, entry.bytes = reading.counted, sum(line.bytes for line in reading.usage)
    entry.unknown_requests = sum(line.requests for line in unknown)
    entry.unknown_bytes = sum(line.bytes for line in unknown)


def _accounts(reading: LogReading) -> str:
    """What of the rows is neither usage nor bad; there are no columns for it."""
    parts = [(reading.excluded, "excluded by rule"), (reading.duplicates, "duplicates")]
    return ", ".join(f"{count} {what}" for count, what in parts if count)


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
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [_LOCK, source.cdn_id])
    item = work.item
    rows = LogObject.objects.filter(source=source, key=item.key)
    counted = rows.filter(state=LogObject.State.COUNTED).values_list("pk", flat=True).first()
    row = rows.filter(etag=item.etag).first()
    if row is None:
        row = LogObject(source=source, key=item.key, etag=item.etag, size_bytes=item.size_bytes, first_seen_at=now)
    elif row.state == LogObject.State.REPLACED:
        row.attempts = 0  # an earlier version came back
    if counted != work.counted_id or row.attempts != work.attempts:
        return None
    row.attempts += 1
    return row


class _Path(NamedTuple):
    customer_id: int
    service_id: int
    target_id: int


@dataclass(frozen=True)
class _Owner:
    """Whose a hostname is from its proof until `until`, and over which path of this CDN; or why it has none."""

    since: datetime | None
    until: datetime | None
    path: _Path | None
    reason: str


_NOBODY = "no verified domain has this hostname"


def _owners(source: UsageSource, hosts: set[str]) -> dict[str, list[_Owner]]:
    """The owners of each hostname, earliest end first, the one without end last."""
    domains = ServiceDomain.objects.filter(verified_at__isnull=False).select_related("service")
    if len(hosts) <= _KEYS_AT_ONCE:  # more are made up by visitors; then all our domains are fewer
        domains = domains.filter(hostname__in=hosts)
    paths: dict[int | None, Target] = {}
    candidates = Target.objects.filter(domain__in=domains, cdn=source.cdn, role__in=Target.PATH_ROLES)
    # Of several paths over one CDN, the one in use counts, the primary before its backups.
    for target in sorted(candidates, key=lambda t: (t.enabled, t.role == Target.Role.PRIMARY, -t.rank, -t.pk)):
        paths[target.domain_id] = target
    owners = defaultdict[str, list[_Owner]](list)
    for domain in domains:
        ends = [end for end in (domain.deleted_at, domain.service.deleted_at) if end]
        target_or_none = paths.get(domain.pk)
        path, reason = None, ""
        if source.customer_id is not None and domain.customer_id != source.customer_id:
            reason = "the hostname belongs to another customer than this source"
        elif target_or_none is None:
            reason = f"the domain has no path over {source.cdn}"
        else:
            path = _Path(domain.customer_id, domain.service_id, target_or_none.pk)
        owners[domain.hostname].append(_Owner(domain.verified_at, min(ends, default=None), path, reason))
    for versions in owners.values():
        versions.sort(key=lambda owner: owner.until or datetime.max.replace(tzinfo=UTC))
    return owners


def _owner_at(owners: list[_Owner], at: datetime) -> _Owner:
    """Who had proven the hostname within that minute and not been deleted before it: of those, the one that ended first."""
    after = at + timedelta(minutes=1)
    return next(
        (o for o in owners if (o.until is None or at < o.until) and o.since is not None and o.since < after),
        _Owner(None, None, None, _NOBODY),
    )


def _store(cursor: Any, source: UsageSource, row: LogObject, usage: list[HostMinute]) -> list[HostMinute]:
    """Write the usage as buckets of its paths, and what has no path as unknown hosts, which are returned."""
    owners = _owners(source, {line.host for line in usage})
    buckets: list[tuple[Any, ...]] = []
    unknown: list[HostMinute] = []
    unknown_rows: list[tuple[Any, ...]] = []
    for line in usage:
        at = line.minute_at
        owner = _owner_at(owners.get(line.host, []), at)
        if owner.path:
            buckets.append((*owner.path, row.pk, at, line.bytes, line.requests, "E2"))
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


def _sum_hours(cursor: Any, hours: set[_Hour], now: datetime) -> None:
    """Make the snapshots of these hours the sums of their buckets again, in one statement."""
    if not hours:
        return
    customers, services, targets, starts = zip(*sorted(hours), strict=True)
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
