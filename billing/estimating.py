"""Asks CDNs' statistics what they delivered, and says where that differs from what was metered. No invoice reads it."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from django.db import connection, transaction
from django.db.models.functions import Coalesce, Greatest

from billing.models import UsageEstimate, UsageSource
from billing.owners import NOBODY, Owner, owner_throughout, owners_of
from billing.sources import Estimator, HostHour, SourceUnavailable, estimator_of, one_line

if TYPE_CHECKING:
    from customers.models import Customer

logger = logging.getLogger(__name__)

HOUR = timedelta(hours=1)
READY = timedelta(minutes=20)
"""Fastly's hours are there some 15 minutes after their end, and Cloudflare's sooner."""
LOOK_BACK = timedelta(hours=3)
"""Hours that are asked for once more each time: their first sums were early ones."""
_FIRST = timedelta(hours=24)
_MOST = timedelta(days=7)
"""Of one turn, where a source was not asked for long."""
_ROWS_AT_ONCE = 1000


@dataclass
class EstimateReport:
    """One source: how many hours of hosts were stored, and which hosts were left out and why. `error`: it was not asked
    to the end."""

    source: str
    since: datetime | None = None
    until: datetime | None = None
    stored: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate_all(now: datetime) -> list[EstimateReport]:
    """Ask every enabled source that is due. One that can't be read holds up no other."""
    sources = UsageSource.objects.estimates().filter(enabled=True).select_related("cdn")
    return [estimate(source, now) for source in sources if source.claim_look(now)]


def estimate(source: UsageSource, now: datetime) -> EstimateReport:
    """Ask for the hours since the last time and some before it; each span is stored before the next is asked for."""
    report = EstimateReport(source.name)
    start, until = _asked(source, now)
    changes: dict[str, Any] = {}
    try:
        estimator = estimator_of(source, now)
        owners = owners_of(source)
        hosts = _hosts(estimator, owners, report)
        report.since = start
        while start < until:
            end = min(start + estimator.span, until)
            rows = [*estimator.hours(hosts, start, end)] if hosts else []
            _store(source, rows, hosts, owners, report, now)
            source.cursor = end.isoformat()
            UsageSource.objects.filter(pk=source.pk).update(cursor=source.cursor)
            start = report.until = end
            if estimator.is_spent:
                break
        changes["listed_at"] = now
    except SourceUnavailable as error:
        report.error = str(error)
        source.put_off(now, error.retry_seconds)
        logger.warning("usage source %s: %s", source.name, error)
    note = "; ".join(f"{host}: {reason}" for host, reason in sorted(report.left_out.items()))
    changes |= {"last_error": report.error, "note": one_line(f"left out: {note}" if note else "")}
    UsageSource.objects.filter(pk=source.pk).update(**changes)
    return report


def _asked(source: UsageSource, now: datetime) -> tuple[datetime, datetime]:
    """The hours to ask for: complete ones, from where the last time ended and a little before."""
    until = _hour(now - READY)
    try:
        asked = _hour(datetime.fromisoformat(source.cursor)) if source.cursor else None
    except ValueError:
        asked = None
    since = min(asked, until) - LOOK_BACK if asked else until - _FIRST
    return since, min(until, since + _MOST)


def _hour(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _hosts(estimator: Estimator, owners: dict[str, list[Owner]], report: EstimateReport) -> set[str]:
    """Those of the source that are its customer's; of no other host anything is asked."""
    own = set()
    for host in estimator.scope(owners.keys()):
        versions = owners.get(host, [])
        if any(owner.path for owner in versions):
            own.add(host)
        else:
            report.left_out[host] = versions[-1].reason if versions else NOBODY
    return own


def _store(
    source: UsageSource,
    rows: list[HostHour],
    hosts: set[str],
    owners: dict[str, list[Owner]],
    report: EstimateReport,
    now: datetime,
) -> None:
    """Put these hours in the place of what was stored of them before."""
    fresh: dict[tuple[int, datetime], UsageEstimate] = {}
    for row in rows:
        end = row.hour + HOUR
        owner = owner_throughout(owners.get(row.host, []), row.hour, end)
        if row.host not in hosts:
            report.left_out.setdefault(row.host, "nobody asked for this host")
        elif owner is None:
            continue  # the hour in which it was proven or deleted: part of it may be somebody else's
        elif owner.path is None:
            report.left_out.setdefault(row.host, owner.reason)
        else:
            fresh[owner.path.target_id, row.hour] = UsageEstimate(
                **owner.path._asdict(), source=source, window_start=row.hour, window_end=end, bytes=row.bytes,
                requests=row.requests, low_bytes=row.low_bytes, high_bytes=row.high_bytes,
                sample_interval=row.sample_interval, updated_at=now,
            )  # fmt: skip
    told = sorted({row.hour for row in rows if row.host in hosts})
    with transaction.atomic():
        list(UsageSource.objects.select_for_update().filter(pk=source.pk))  # one run of it at a time
        UsageEstimate.objects.bulk_create(
            [fresh[key] for key in sorted(fresh)],
            batch_size=_ROWS_AT_ONCE,
            update_conflicts=True,
            unique_fields=["source", "target", "window_start"],
            update_fields=[
                "customer", "service", "window_end", "bytes", "requests", "low_bytes", "high_bytes", "sample_interval",
                "updated_at",
            ],
        )  # fmt: skip
        # Of a host whose path or owner is another one now.
        UsageEstimate.objects.filter(source=source, window_start__in=told).exclude(
            target__in={target for target, _ in fresh}
        ).filter(target__domain__hostname__in=hosts).delete()
        if delivered := [row.window_end for row in fresh.values() if row.bytes]:
            newest = max(delivered) - timedelta(minutes=1)
            UsageSource.objects.filter(pk=source.pk).update(
                newest_usage_at=Greatest(Coalesce("newest_usage_at", newest), newest)
            )
    report.stored += len(fresh)


# --- what differs ---------------------------------------------------------------------------------------------------


class Period(Protocol):
    """[start, end), UTC."""

    @property
    def start(self) -> datetime: ...
    @property
    def end(self) -> datetime: ...


class Difference(NamedTuple):
    """One service over one CDN in one hour or day, of those hours that its source was asked about."""

    customer_id: int
    service_id: int
    service: str
    path: str
    """“primary over Fastly”."""
    source: str
    start: datetime
    end: datetime
    metered_bytes: int
    estimated_bytes: int
    low_bytes: int
    high_bytes: int
    """Where the vendor is 95 % sure that the truth lies; the estimate itself if it doesn't say."""
    share: Fraction
    """Of the larger figure, by which they differ."""
    is_alarm: bool
    """The share is too large, and sampling doesn't explain it."""
    reason: str


_STEPS = {"hour": HOUR, "day": timedelta(days=1)}
ALARM_ABOVE = Fraction(1, 100)


def differences(
    customer: Customer | None,
    period: Period,
    by: Literal["hour", "day"] = "day",
    alarm_above: Fraction = ALARM_ABOVE,
) -> list[Difference]:
    """What was metered beside what was estimated, by service, path and hour or day (UTC); the largest share first.

    Only hours with an estimate count, on both sides. Fastly's tells nothing of hosts, so it stands for all hosts of the
    service. Give a period whose late logs have come.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            _SQL,
            {
                "by": by,
                "start": period.start,
                "end": period.end,
                "customer": customer.pk if customer else None,
            },
        )
        found = [_difference(row, by, alarm_above) for row in cursor.fetchall()]
    return sorted(found, key=lambda d: (-d.share, d.start, d.service_id, d.source))


def _difference(row: tuple[Any, ...], by: Literal["hour", "day"], alarm_above: Fraction) -> Difference:
    customer_id, service_id, service, roles, cdn, source, start, *sums = row
    metered, estimated, low, high = map(int, sums)
    larger = max(metered, estimated)
    share = Fraction(abs(metered - estimated), larger) if larger else Fraction(0)
    is_sampling = low <= metered <= high
    is_alarm = share > alarm_above and not is_sampling
    what = "more" if metered > estimated else "less"
    text = f"{float(share):.2%} {what} was metered than {source} estimates" if metered != estimated else "the same"
    if share > alarm_above and is_sampling:
        text += ", which is within what sampling leaves open"
    return Difference(
        customer_id, service_id, service, f"{roles} over {cdn}", source, start, start + _STEPS[by], metered, estimated,
        low, high, share, is_alarm, text,
    )  # fmt: skip


_SQL = """
    WITH estimate AS (
        SELECT e.source_id, e.customer_id, e.service_id, t.cdn_id, t.role, e.window_start, e.bytes,
            coalesce(e.low_bytes, e.bytes) AS low, coalesce(e.high_bytes, e.bytes) AS high,
            CASE WHEN u.kind <> 'fastly_stats' THEN t.domain_id END AS domain_id
        FROM usage_estimates e
            JOIN targets t ON t.id = e.target_id
            JOIN usage_sources u ON u.id = e.source_id
        WHERE e.window_start >= %(start)s AND e.window_start < %(end)s
            AND (%(customer)s::bigint IS NULL OR e.customer_id = %(customer)s)
    ), estimated AS (
        SELECT source_id, customer_id, service_id, cdn_id, date_trunc(%(by)s, window_start, 'UTC') AS start,
            string_agg(DISTINCT role, ' and ' ORDER BY role DESC) AS roles,
            sum(bytes) AS bytes, sum(low) AS low, sum(high) AS high
        FROM estimate
        GROUP BY 1, 2, 3, 4, 5
    ), metered AS (
        SELECT h.source_id, h.service_id, h.cdn_id, date_trunc(%(by)s, h.window_start, 'UTC') AS start,
            sum(s.bytes) AS bytes
        FROM (SELECT DISTINCT source_id, service_id, cdn_id, domain_id, window_start FROM estimate) h
            JOIN usage_snapshots s ON s.service_id = h.service_id AND s.window_start = h.window_start
            JOIN targets t ON t.id = s.target_id AND t.cdn_id = h.cdn_id
                AND (h.domain_id IS NULL OR t.domain_id = h.domain_id)
        GROUP BY 1, 2, 3, 4
    )
    SELECT e.customer_id, e.service_id, v.name, e.roles, c.name, u.name, e.start,
        coalesce(m.bytes, 0), e.bytes, e.low, e.high
    FROM estimated e
        LEFT JOIN metered m USING (source_id, service_id, cdn_id, start)
        JOIN services v ON v.id = e.service_id
        JOIN cdns c ON c.id = e.cdn_id
        JOIN usage_sources u ON u.id = e.source_id
"""
