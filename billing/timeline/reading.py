"""Reads a timeline: a fixed number of queries, whatever there is, each bounded."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

from django.conf import settings
from django.db import connection
from django.db.models import F, OuterRef, Q, Subquery, Sum
from django.db.models.functions import Coalesce

from billing.models import UsageBucket, UsageSnapshot
from billing.timeline.facts import Band, Lane, Mark, Moment, Shares, Timeline, Way, in_order, shortly, together
from billing.timeline.span import Span, covering
from dns.models import RecordSet, WeightChange
from services import maintenance
from services.availability import Point, series
from services.models import Service, Target
from services.outcomes import BAD, Outcome
from storms.keeping import AROUND
from storms.models import StormEvent, StormPolicyVersion

MOST_TARGETS = 400
MOST_LANES = 6
MOST_STORMS = 100
MOST_CHANGES = 2000
MOST_MARKS = 40
MOST_SPANS = 60
"""Of one maintenance window that recurs."""
_HOUR = timedelta(hours=1)

# What the minutes of a month that was dropped would have counted.
_KEPT = """
SELECT target_id, date_bin(make_interval(secs => %(step)s), slot_at, %(start)s),
    count(*) FILTER (WHERE outcome = %(ok)s), count(*) FILTER (WHERE outcome = ANY(%(bad)s))
FROM storm_samples
WHERE storm_id = ANY(%(storms)s) AND target_id = ANY(%(targets)s) AND slot_at >= %(start)s AND slot_at < %(end)s
    AND NOT is_blind
GROUP BY 1, 2
"""

_MARKS = """
SELECT * FROM (
    SELECT 'drill' AS kind, id, started_at AS begins, coalesce(ended_at, observed_at + minutes * interval '1 minute') AS ends,
        jsonb_build_object('state', state, 'percent', percent, 'why', '') AS told
    FROM drills WHERE service_id = %(service)s AND started_at < %(end)s AND (ended_at IS NULL OR ended_at > %(start)s)
    UNION ALL
    SELECT 'pin', id, created_at, expires_at, jsonb_build_object('percent', backup_percent, 'why', reason)
    FROM pins WHERE service_id = %(service)s AND created_at < %(end)s AND expires_at > %(start)s
    UNION ALL
    SELECT 'freeze', id, created_at, lifted_at,
        jsonb_build_object('why', reason, 'of', CASE WHEN service_id IS NOT NULL THEN 'service'
            WHEN customer_id IS NOT NULL THEN 'customer' ELSE 'everything' END)
    FROM freezes
    WHERE (service_id = %(service)s OR service_id IS NULL AND (customer_id = %(customer)s OR customer_id IS NULL))
        AND created_at < %(end)s AND (lifted_at IS NULL OR lifted_at > %(start)s)
    UNION ALL
    SELECT 'maintenance', w.id, NULL, NULL, to_jsonb(w) || jsonb_build_object('why', w.reason)
    FROM maintenance_windows w
    WHERE (w.service_id = %(service)s OR w.cdn_id = ANY(%(cdns)s)) AND w.lifted_at IS NULL
        AND (w.over_at IS NULL OR w.over_at > %(start)s)
) AS every ORDER BY begins DESC NULLS LAST, id DESC LIMIT %(most)s
"""


@dataclass(frozen=True, slots=True)
class Read:
    """The timeline, and the rows that it was made of, for pages that show them as well."""

    timeline: Timeline
    targets: Sequence[Target]
    """Paths, witnesses and facets, also those that are off, each with its verdict where it has one."""
    storms: list[StormEvent]
    changes: list[WeightChange]
    """The newest first; beside those of the span, the last one before it of every record set."""


def of_service(service: Service, span: Span, now: datetime, *, of_ours: bool = True) -> Read:
    """Six queries. `of_ours` False leaves out the words that are for our own people alone."""
    return _read(service, span, now, of_ours=of_ours)


def of_storm(storm: StormEvent, now: datetime, *, of_ours: bool = True) -> Read:
    """From an hour before it to an hour after it, or to now. Eight queries."""
    last = max(storm.ended_at + AROUND, storm.closed_at or storm.ended_at) if storm.ended_at else now
    first = storm.started_at - AROUND
    span = covering(first, max(min(last, now), storm.started_at))
    moments = [("detected", storm.detected_at), ("closed", storm.closed_at)]
    return _read(
        storm.service, span, now, of_ours=of_ours,
        moments=[Moment(at, word) for word, at in moments if at],
        threshold=_threshold(storm),
        title=f"Storm {storm.pk} of {storm.service.name}",
    )  # fmt: skip


def _read(
    service: Service,
    span: Span,
    now: datetime,
    *,
    of_ours: bool,
    title: str = "",
    moments: Sequence[Moment] = (),
    threshold: float | None = None,
) -> Read:
    targets = list(
        Target.objects.filter(domain__service=service)
        .annotate(looks_at=Coalesce("facet_of__role", "role"), place=Coalesce("facet_of__rank", "rank"))
        .select_related("cdn", "domain", "verdict")
        .order_by("-enabled", "domain_id", "id")[:MOST_TARGETS]
    )
    ways = {target.pk: _of(target) for target in targets}
    storms = list(
        StormEvent.objects.filter(Q(ended_at__isnull=True) | Q(ended_at__gt=span.start), service=service)
        .filter(started_at__lt=span.end)
        .select_related("cdn")[:MOST_STORMS]
    )
    changes = _changes(service, span)
    timeline = Timeline(
        span=span,
        now=now,
        title=title or service.name,
        lanes=_lanes(targets, ways, _points(list(ways), storms, span, now), span),
        bands=[band for storm in storms for band in _bands(storm) if span.holds(band.start, band.end)],
        wanted=together(
            (change.wanted_at, change.record_set_id, _shares(change.weights, ways))
            for change in changes
            if change.state not in (WeightChange.State.HELD, WeightChange.State.SUPERSEDED)
        ),
        observed=together(
            (change.observed_at, change.record_set_id, _shares(change.weights, ways))
            for change in changes
            if change.observed_at
        ),
        traffic=_traffic(service, ways, span),
        marks=_marks(service, targets, span, of_ours=of_ours),
        moments=moments,
        threshold=threshold,
    )
    return Read(timeline, targets, storms, changes)


def _of(target: Any) -> Way:
    return str(target.looks_at), target.place if target.looks_at == Target.Role.BACKUP else 1


# --- availability ---------------------------------------------------------------------------------------------------


def _points(targets: Sequence[int], storms: Sequence[StormEvent], span: Span, now: datetime) -> list[Point]:
    seconds = int(span.cell.total_seconds())
    if span.start > now - timedelta(days=settings.ROLLUP_DAYS_KEPT):
        return series(targets, span.start, span.end, seconds)
    with connection.cursor() as cursor:
        cursor.execute(
            _KEPT,
            {
                "storms": [storm.pk for storm in storms], "targets": list(targets), "start": span.start,
                "end": span.end, "step": seconds, "ok": Outcome.OK, "bad": sorted(BAD),
            },
        )  # fmt: skip
        return [Point(target, None, at.astimezone(UTC), *counts) for target, at, *counts in cursor.fetchall()]


def _lanes(targets: Sequence[Target], ways: Mapping[int, Way], points: Iterable[Point], span: Span) -> list[Lane]:
    worst: dict[Way, dict[int, float]] = defaultdict(dict)
    for point in points:
        if point.availability is not None:
            mine, place = worst[ways[point.target_id]], span.place(point.at)
            mine[place] = min(mine.get(place, 1.0), point.availability)
    count = len(span.cells)
    # A way that was switched off and saw nothing meanwhile is none.
    live = {ways[target.pk] for target in targets if target.enabled and target.domain and not target.domain.deleted_at}
    shown = in_order(live | set(worst))[:MOST_LANES]
    return [Lane(way, _name(way, targets, ways), [worst[way].get(n) for n in range(count)]) for way in shown]


def _name(way: Way, targets: Sequence[Target], ways: Mapping[int, Way]) -> str:
    mine = [target for target in targets if ways[target.pk] == way]
    cdns = sorted({str(target.cdn) for target in mine if target.cdn})
    domains = len({target.domain_id for target in mine})
    words = ["origin witness" if way[0] == Target.Role.ORIGIN else shortly(way)]
    words += [" and ".join(cdns)] if 0 < len(cdns) < 3 else []
    return " ".join(words) + (f", the worst of {domains} domains" if domains > 1 else "")


# --- storms ---------------------------------------------------------------------------------------------------------


def _bands(storm: StormEvent) -> Iterable[Band]:
    spells: list[tuple[datetime, datetime | None]] = [
        (datetime.fromisoformat(start), datetime.fromisoformat(end) if end else None) for start, end in storm.spells
    ] or [(storm.started_at, storm.ended_at)]
    name = f"storm {storm.pk}" + ("" if storm.is_armed else " (watch only)")
    for start, end in spells:
        began = f"{start.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        text = (
            f"{name} from {began} to {end.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
            if end
            else f"{name} since {began} UTC"
        )
        yield Band(storm.pk, start, end, text, storm.is_armed)


def _threshold(storm: StormEvent) -> float | None:
    """As its policy had it when it began; a storm by hand has none."""
    if storm.policy_version is None:
        return None
    version = StormPolicyVersion.objects.filter(policy=storm.policy_id, version=storm.policy_version).first()
    return float(version.terms["threshold_avail"]) if version else None


# --- weights and traffic --------------------------------------------------------------------------------------------


def _changes(service: Service, span: Span) -> list[WeightChange]:
    """Those of the span, and of every record set the last one that was observed before it, which it begins with."""
    before = WeightChange.objects.filter(record_set=OuterRef("pk"), observed_at__lte=span.start).order_by("-id")
    last = RecordSet.objects.filter(domain__service=service).annotate(last=Subquery(before.values("pk")[:1]))
    during = Q(wanted_at__gte=span.start) | Q(observed_at__gte=span.start)
    found = WeightChange.objects.filter(during | Q(pk__in=last.values("last")), service=service, region__isnull=True)
    rows = found.filter(wanted_at__lt=span.end).select_related("record_set__domain").order_by("-id")
    return list(rows.defer("receipt", "drain")[:MOST_CHANGES])


def _shares(weights: Mapping[str, Any], ways: Mapping[int, Way]) -> Shares:
    shares: dict[Way, float] = defaultdict(float)
    for target, percent in weights.items():
        shares[ways.get(int(target), (Target.Role.BACKUP.value, 1))] += percent
    return dict(shares)


def _traffic(service: Service, ways: Mapping[int, Way], span: Span) -> dict[Way, list[int]]:
    """By the minute where cells are short; hours are sums of them that are kept beside them."""
    if span.cell % _HOUR:
        rows = UsageBucket.objects.filter(service=service, target__in=list(ways)).annotate(at=F("minute_at"))
    else:
        rows = UsageSnapshot.objects.filter(service=service).annotate(at=F("window_start"))  # type: ignore[assignment]
    found = rows.filter(at__gte=span.start, at__lt=span.end).values_list("target", "at").annotate(sum=Sum("bytes"))
    count = len(span.cells)
    traffic: dict[Way, list[int]] = {}
    for target, at, size in found.order_by():
        if target in ways:
            traffic.setdefault(ways[target], [0] * count)[span.place(at)] += int(size)
    return {way: traffic[way] for way in in_order(traffic)}


# --- what people did ------------------------------------------------------------------------------------------------


def _marks(service: Service, targets: Sequence[Target], span: Span, *, of_ours: bool) -> list[Mark]:
    # Work on a CDN is our own people's business.
    cdns = {target.cdn_id for target in targets if of_ours and target.role == Target.Role.PRIMARY and target.enabled}
    with connection.cursor() as cursor:
        cursor.execute(
            _MARKS,
            {
                "service": service.pk, "customer": service.customer_id, "cdns": sorted(cdns - {None}),
                "start": span.start, "end": span.end, "most": MOST_MARKS,
            },
        )  # fmt: skip
        rows = cursor.fetchall()
    marks = [mark for row in rows for mark in _mark(*row, span=span, of_ours=of_ours)]
    return sorted(marks, key=lambda mark: (mark.start, mark.kind, mark.row))


def _mark(
    kind: str, row: int, start: datetime, end: datetime | None, told: Any, *, span: Span, of_ours: bool
) -> Iterable[Mark]:
    told = json.loads(told)  # Django's cursors leave JSON as text
    why = f": {told['why']}" if told["why"] and (of_ours or told.get("of") != "everything") else ""
    match kind:
        case "drill":
            yield Mark(kind, row, start, end, f"drill of {told['percent']} %, {told['state']}")
        case "pin":
            yield Mark(kind, row, start, end, f"pinned, backup {told['percent']} %{why}")
        case "freeze":
            yield Mark(kind, row, start, end, f"freeze of {told['of'] if of_ours else 'all changes'}{why}")
        case _:
            for each in _maintenance(told, span):
                yield Mark(kind, row, each.start, each.end, f"maintenance{why}")


def _maintenance(told: Mapping[str, Any], span: Span) -> Sequence[maintenance.Span]:
    window = maintenance.Window(
        first_day=date.fromisoformat(told["first_day"]),
        local_time=time.fromisoformat(told["local_time"]),
        time_zone=told["time_zone"],
        duration_seconds=told["duration_seconds"],
        recurrence=maintenance.Recurrence(told["recurrence"]),
        weekdays=frozenset(maintenance.Weekday(day) for day in told["weekdays"]),
        until=date.fromisoformat(told["until"]) if told["until"] else None,
        reason=told["reason"],
    )
    try:
        return maintenance.next_spans(window, span.start, span.end)[:MOST_SPANS]
    except ZoneInfoNotFoundError:  # of another machine's tzdata, as where storms are watched
        return ()
