"""What the database knows of a billing period: usage, and all that cover is decided from. Set-wise, and nothing is written.

Bytes are by time share exact: a bucket that a span cuts counts with the part of its time that lies within.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import Q

from billing import cover
from billing.cover import BASELINE, FOREVER, Change, Event, Excluded, Interval, Measured, Recorded, whole_hours
from billing.segments import Segment
from dns.models import Drill, Pin, WeightChange
from services import maintenance
from services.models import MaintenanceWindow, Target
from storms.models import StormEvent, StormPolicyVersion

QUIET = BASELINE * 2
"""How far before a period storms, shifts and the rest are read: an event may begin before it, and its baseline a week before."""
AHEAD = timedelta(days=1)
"""How far beyond a period: a storm that merges with one of its own tells how long that was."""


class PathUsage(NamedTuple):
    """What one service delivered over one CDN in a segment."""

    service_id: int
    path: str
    cdn: str
    bytes: int
    requests: int
    grade: str


_SUMS = """
SELECT sums.n, sums.service_id, t.role, coalesce(c.slug, ''), sum(sums.bytes)::bigint, sum(sums.requests)::bigint,
    max(sums.grade)
FROM (
    SELECT s.n, u.service_id, u.target_id, sum(u.bytes) AS bytes, sum(u.requests) AS requests, max(u.grade) AS grade
    FROM unnest(%s::int[], %s::bigint[], %s::timestamptz[], %s::timestamptz[]) AS s (n, customer_id, start, "end")
        JOIN services v ON v.customer_id = s.customer_id
        JOIN {table} u ON u.service_id = v.id AND u.{at} >= s.start AND u.{at} < s."end"
    WHERE u.{at} >= %s AND u.{at} < %s
    GROUP BY 1, 2, 3
) AS sums
    JOIN targets t ON t.id = sums.target_id
    LEFT JOIN cdns c ON c.id = t.cdn_id
GROUP BY 1, 2, 3, 4
"""
_HOURLY = _SUMS.format(table="usage_snapshots", at="window_start")
_BY_MINUTE = _SUMS.format(table="usage_buckets", at="minute_at")


def usage(segments: Sequence[Segment]) -> list[list[PathUsage]]:
    """The sums of each segment: of whole hours, which are kept as sums of their buckets, and of buckets at its edges."""
    hours, edges = [], []
    for n, segment in enumerate(segments):
        inner, rest = whole_hours(segment.span)
        hours += [(n, segment.contract.customer_id, inner)] if inner else []
        edges += [(n, segment.contract.customer_id, edge) for edge in rest]
    sums: list[dict[tuple[int, str, str], PathUsage]] = [{} for _ in segments]
    with connection.cursor() as cursor:
        for statement, spans in ((_HOURLY, hours), (_BY_MINUTE, edges)):
            if not spans:
                continue
            starts, ends = [i.start for _, _, i in spans], [i.end for _, _, i in spans]
            owners = [customer for _, customer, _ in spans]
            cursor.execute(statement, [[n for n, _, _ in spans], owners, starts, ends, min(starts), max(ends)])
            for n, *row in cursor.fetchall():
                _add_usage(sums[n], PathUsage(*row))
    return [sorted(found.values(), key=lambda u: (u.service_id, u.path != "primary", u.cdn)) for found in sums]


def _add_usage(sums: dict[tuple[int, str, str], PathUsage], row: PathUsage) -> None:
    key = row.service_id, row.path, row.cdn
    if there := sums.get(key):
        row = PathUsage(*key, there.bytes + row.bytes, there.requests + row.requests, max(there.grade, row.grade))
    sums[key] = row


_FIRST = """
SELECT s.customer_id, min(b.minute_at)
FROM unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[]) AS s (customer_id, start, "end")
    JOIN services v ON v.customer_id = s.customer_id
    JOIN usage_buckets b ON b.service_id = v.id AND b.minute_at >= s.start AND b.minute_at < s."end"
WHERE b.minute_at >= %s AND b.minute_at < %s
GROUP BY 1 ORDER BY 1
"""


def first_usage(spans: Sequence[tuple[int, Interval]]) -> list[tuple[int, datetime]]:
    """The first usage of each customer within these spans of its own, of those who have some."""
    if not spans:
        return []
    starts, ends = [i.start for _, i in spans], [i.end for _, i in spans]
    with connection.cursor() as cursor:
        cursor.execute(_FIRST, [[customer for customer, _ in spans], starts, ends, min(starts), max(ends)])
        return list(cursor.fetchall())


@dataclass(frozen=True, slots=True)
class CoverFacts:
    """All that cover is decided from for one service, besides bytes."""

    storms: list[Recorded]
    changes: list[Change]
    excluded: list[Excluded]
    factors: Mapping[str, Decimal]
    """The customer's own factor by storm, as it stood in the policy's version that the storm began under."""

    def shifts(self, drain_seconds: int) -> list[Interval]:
        """When DNS was seen to send more than normal to the backups, each with the drain that the terms in force allow."""
        return cover.shifts(self.changes, timedelta(seconds=drain_seconds))

    def near(self, span: Interval, as_of: datetime) -> list[Recorded]:
        """The storms that an invoice of `span` may know of: the same whoever else is billed in the same run."""
        until = min(span.end + AHEAD, as_of)
        return [
            storm for storm in self.storms
            if storm.spells[0][0] < until and not (storm.ended_at and storm.ended_at <= span.start - QUIET)
        ]  # fmt: skip

    def factor(self, storms: Collection[str]) -> Decimal | None:
        """The lowest of these storms; None: no policy said one."""
        return min((factor for storm, factor in self.factors.items() if storm in storms), default=None)


def cover_facts(span: Interval, customers: Iterable[int]) -> dict[int, CoverFacts]:
    """By service, of those with a storm that may touch `span`."""
    storms = storm_rows(span, customers)
    since = seen_since(span, (row for rows in storms.values() for row in rows))
    changes = weight_changes(storms, since)
    excluded = excluded_times(storms, Interval(since, span.end))
    factors = _factors([row for rows in storms.values() for row in rows])
    return {
        service: CoverFacts(
            [recorded(row) for row in rows],
            [change_of(row, changes.backups) for row in changes.rows[service]],
            excluded[service],
            {f"storm-{row.pk}": factors[row.pk] for row in rows if row.pk in factors},
        )
        for service, rows in storms.items()
    }


def seen_since(span: Interval, rows: Iterable[StormEvent]) -> datetime:
    """From when on shifts and exclusions matter: long storms began before the two weeks that are read anyway."""
    return min([span.start - QUIET, *(row.started_at for row in rows)])


def storm_rows(span: Interval, customers: Iterable[int]) -> dict[int, list[StormEvent]]:
    """By service, of those with a storm that may touch `span`: its storms from two weeks before on, in order of time."""
    storms = defaultdict[int, list[StormEvent]](list)
    rows = StormEvent.objects.filter(
        Q(ended_at__isnull=True) | Q(ended_at__gt=span.start - QUIET),
        customer__in=list(customers),
        started_at__lt=span.end,
    )
    for row in rows.select_related("incident", "ruling").order_by("started_at", "pk"):
        storms[row.service_id].append(row)
    around = span.start - timedelta(days=1)
    return {service: found for service, found in storms.items() if any(_ends_after(row, around) for row in found)}


def _ends_after(row: StormEvent, at: datetime) -> bool:
    return row.ended_at is None or row.ended_at > at


def recorded(row: StormEvent, known_by: datetime = FOREVER) -> Recorded:
    """With the witnesses and the ruling that were there by then."""
    spells = row.spells or [[row.started_at.isoformat(), row.ended_at.isoformat() if row.ended_at else None]]
    incident, ruling = row.incident, getattr(row, "ruling", None)
    is_confirmed = incident and incident.confirmed_at and incident.confirmed_at <= known_by
    ruling = ruling if ruling and ruling.ruled_at <= known_by else None
    return Recorded(
        id=f"storm-{row.pk}",
        kind=row.kind,
        attribution=row.attribution,
        is_armed=row.is_armed,
        spells=tuple(
            (datetime.fromisoformat(start), datetime.fromisoformat(end) if end else None) for start, end in spells
        ),
        last_bad_at=row.last_bad_at,
        witness="; ".join(incident.witnesses) or "confirmed" if incident and is_confirmed else "",
        ruling=ruling.is_covered if ruling else None,
        ruling_reason=f"{ruling.reason} ({ruling.ruled_by})" if ruling else "",
    )


@dataclass(frozen=True, slots=True)
class WeightChanges:
    """What DNS was seen to have, by service in order, and which targets are backups."""

    rows: defaultdict[int, list[WeightChange]]
    backups: set[int]


def weight_changes(services: Iterable[int], since: datetime) -> WeightChanges:
    wanted = list(services)
    backups = Target.objects.filter(domain__service__in=wanted, role=Target.Role.BACKUP).values_list("pk", flat=True)
    found = defaultdict[int, list[WeightChange]](list)
    changes = WeightChange.objects.filter(service__in=wanted, observed_at__gt=since)
    for row in changes.defer("receipt", "drain").order_by("record_set_id", "generation"):
        found[row.service_id].append(row)
    return WeightChanges(found, set(backups))


def change_of(row: WeightChange, backups: Collection[int]) -> Change:
    if row.observed_at is None:
        raise ValueError(f"{row} was not observed yet")
    percent = sum(int(share) for target, share in row.weights.items() if int(target) in backups)
    return Change(row.record_set_id, row.generation, row.region, percent, row.storm_id is not None, row.observed_at)


def excluded_times(services: Collection[int], span: Interval) -> defaultdict[int, list[Excluded]]:
    """By service, the time that never pays.

    Maintenance counts from when it was planned until it was lifted: a customer can neither plan nor lift what is past.
    """
    found = defaultdict[int, list[Excluded]](list)
    pins = Pin.objects.filter(service__in=services, created_at__lt=span.end, expires_at__gt=span.start)
    for pin in pins:
        found[pin.service_id].append(Excluded(pin.created_at, pin.expires_at, f"pinned: {pin.reason}"))
    drills = Drill.objects.filter(service__in=services, started_at__lt=span.end).exclude(ended_at__lt=span.start)
    for drill in drills:
        if drill.started_at:
            found[drill.service_id].append(Excluded(drill.started_at, drill.ended_at or span.end, "a drill"))
    cdns = defaultdict[int, set[int]](set)
    primaries = Target.objects.filter(domain__service__in=services, role=Target.Role.PRIMARY, cdn__isnull=False)
    for service, cdn in primaries.values_list("domain__service_id", "cdn_id"):
        cdns[cdn].add(service)
    not_over = Q(over_at__isnull=True) | Q(over_at__gt=span.start)
    windows = MaintenanceWindow.objects.filter(not_over, Q(service__in=services) | Q(cdn__in=cdns))
    for window in windows:
        of = [window.service_id] if window.service_id else cdns[window.cdn_id or 0]
        planned = Interval(window.created_at, window.lifted_at or FOREVER)
        times = (Interval(t.start, t.end) for t in maintenance.next_spans(window.terms, span.start, span.end))
        for time in cover.clip(times, planned):
            for service in of:
                found[service].append(Excluded(time.start, time.end, f"maintenance: {window.reason}"))
    return found


def _factors(rows: Sequence[StormEvent]) -> dict[int, Decimal]:
    """By storm, the customer's own factor as it stood when it began. It can only lower what is paid."""
    versions = StormPolicyVersion.objects.filter(policy__in={row.policy_id for row in rows if row.policy_id})
    told = {(v.policy_id, v.version): Decimal(str(v.terms["max_coverage_factor"])) for v in versions}
    return {row.pk: told[key] for row in rows if (key := (row.policy_id or 0, row.policy_version or 0)) in told}


_SPANS = """
SELECT s.n, s.is_baseline, t.role, coalesce(c.slug, ''), b.minutes, sum(
    b.bytes::numeric * (1000000 * extract(epoch FROM
        least(b.minute_at + b.minutes * interval '1 minute', s."end") - greatest(b.minute_at, s.start)))::bigint)
FROM unnest(%s::int[], %s::bool[], %s::bigint[], %s::timestamptz[], %s::timestamptz[])
        AS s (n, is_baseline, service_id, start, "end")
    JOIN usage_buckets b ON b.service_id = s.service_id
        AND b.minute_at > s.start - b.minutes * interval '1 minute' AND b.minute_at > s.start - interval '15 minutes'
        AND b.minute_at < s."end"
    JOIN targets t ON t.id = b.target_id LEFT JOIN cdns c ON c.id = t.cdn_id
GROUP BY 1, 2, 3, 4, 5
"""
_HOURS = """
SELECT s.n, true, t.role, coalesce(c.slug, ''), 0, sum(u.bytes)
FROM unnest(%s::int[], %s::bigint[], %s::timestamptz[], %s::timestamptz[]) AS s (n, service_id, start, "end")
    JOIN usage_snapshots u ON u.service_id = s.service_id AND u.window_start >= s.start AND u.window_start < s."end"
    JOIN targets t ON t.id = u.target_id LEFT JOIN cdns c ON c.id = t.cdn_id
GROUP BY 1, 2, 3, 4, 5
"""


def measure(events: Sequence[tuple[int, Event]]) -> list[Measured]:
    """The bytes of each (service, event): single buckets in its spans, whole hours where its baseline has them."""
    pieces = [(n, False, service, i) for n, (service, event) in enumerate(events) for i in event.spans]
    hours: list[tuple[int, int, Interval]] = []
    for n, (service, event) in enumerate(events):
        for span in event.baseline:
            inner, edges = whole_hours(span)
            hours += [(n, service, inner)] if inner else []
            pieces += [(n, True, service, edge) for edge in edges]
    sums = [defaultdict[tuple[bool, str, str], Fraction](Fraction) for _ in events]
    with connection.cursor() as cursor:
        if pieces:
            columns = list(zip(*((n, base, service, i.start, i.end) for n, base, service, i in pieces), strict=True))
            cursor.execute(_SPANS, [list(column) for column in columns])
            _add(sums, cursor.fetchall())
        if hours:
            columns = list(zip(*((n, service, i.start, i.end) for n, service, i in hours), strict=True))
            cursor.execute(_HOURS, [list(column) for column in columns])
            _add(sums, cursor.fetchall())
    return [_measured(found) for found in sums]


def _add(sums: list[defaultdict[tuple[bool, str, str], Fraction]], rows: Iterable[tuple[Any, ...]]) -> None:
    for n, is_baseline, role, cdn, minutes, size in rows:
        sums[n][is_baseline, role, cdn] += Fraction(size) / (minutes * 60_000_000 or 1)


def _measured(found: Mapping[tuple[bool, str, str], Fraction]) -> Measured:
    def total(is_baseline: bool, *roles: str) -> Fraction:
        return sum(
            (size for (base, role, _), size in found.items() if base == is_baseline and role in roles), Fraction(0)
        )

    return Measured(
        backup={cdn: size for (base, role, cdn), size in sorted(found.items()) if not base and role == "backup"},
        everything=total(False, "primary", "backup"),
        normal_backup=total(True, "backup"),
        normal_everything=total(True, "primary", "backup"),
    )
