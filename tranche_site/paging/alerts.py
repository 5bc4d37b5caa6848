"""What burns now, asked of the tables: nothing here remembers. Few alerts whatever there is, since each calls people."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, F, Min
from django.urls import reverse

from customers.models import Event
from dns.models import WeightChange
from services.models import VantagePoint
from storms.models import CdnIncident

HELD_FOR = timedelta(seconds=15)
"""A plan whose doubt goes away by itself, such as a backup that nobody has judged yet, wakes nobody."""
DARK_FOR = timedelta(minutes=1)
"""A vantage point that was blind for less is nobody's sleep worth."""
SILENT_FOR = timedelta(minutes=2)
AUDIT_AGE = timedelta(hours=26)
"""The audit runs once a day: what it did not find again is over."""
MOST_SERVICES = 10
"""Services whose held plans have an alert each; the rest share one."""
NAMED = 5
"""How many things a summary names."""


@dataclass(frozen=True, slots=True)
class Alert:
    """`key` is what it is about and stays the same while it burns; the rest may change meanwhile."""

    key: str
    severity: str
    summary: str
    path: str


def burning(now: datetime) -> list[Alert]:
    """All that burns, by five queries."""
    return [*_incidents(), *_held(now), *_dark(now), *_violated(now)]


def _incidents() -> list[Alert]:
    return [
        Alert(
            key=f"incident:{row.pk}",
            severity="critical" if row.confirmed_at else "warning",
            summary=f"CDN incident at {row.cdn}, {row.state}: {row.reason}",
            path=reverse("admin:storms_cdnincident_change", args=[row.pk]),
        )
        for row in CdnIncident.objects.open().select_related("cdn")
    ]


def _held(now: datetime) -> list[Alert]:
    """Plans that wait for a person: one alert an incident, however many services it hits; else one a service."""
    held = WeightChange.objects.filter(state=WeightChange.State.HELD, wanted_at__lte=now - HELD_FOR).order_by()
    by_incident = (
        held.filter(storm__incident__isnull=False)
        .values("storm__incident", cdn=F("storm__incident__cdn__name"))
        .annotate(services=Count("service", distinct=True), why=Min("held_reason"))
    )
    alerts = [
        Alert(
            key=f"held:incident:{row['storm__incident']}",
            severity="critical",
            summary=f"Plans of {_count(row['services'], 'service')} wait for a person (incident at {row['cdn']}): "
            + row["why"],
            path=reverse("admin:plan"),
        )
        for row in by_incident
    ]
    others = list(
        held.filter(storm__incident__isnull=True)
        .values("service", name=F("service__name"), owner=F("service__customer__name"))
        .annotate(since=Min("wanted_at"), why=Min("held_reason"))
        .order_by("since", "service")[: MOST_SERVICES + 1]
    )
    for row in others[:MOST_SERVICES]:
        summary = f"A plan of {row['owner']}: {row['name']} waits for a person: {row['why']}"
        alerts.append(Alert(f"held:service:{row['service']}", "error", summary, reverse("admin:plan")))
    if len(others) > MOST_SERVICES:
        summary = f"Plans of more than {MOST_SERVICES} services wait for a person"
        alerts.append(Alert("held:more", "critical", summary, reverse("admin:plan")))
    return alerts


def _dark(now: datetime) -> list[Alert]:
    """Active vantage points that are blind or silent: one alert a region, critical where half of its votes are gone."""
    regions: dict[str, list[VantagePoint]] = defaultdict(list)
    for point in VantagePoint.objects.filter(state=VantagePoint.State.ACTIVE).order_by("name"):
        regions[point.region].append(point)
    alerts = []
    for region, points in sorted(regions.items()):
        dark = [text for point in points if (text := _darkness(point, now))]
        if dark:
            most = len(dark) * 2 >= len(points)
            listed = "; ".join(dark[:NAMED]) + (f"; and {len(dark) - NAMED} more" if len(dark) > NAMED else "")
            summary = f"{len(dark)} of {_count(len(points), 'vantage point')} in {region} without a vote: {listed}"
            path = reverse("admin:services_vantagepoint_changelist")
            alerts.append(Alert(f"sight:{region}", "critical" if most else "error", summary, path))
    return alerts


def _darkness(point: VantagePoint, now: datetime) -> str:
    if point.blind_since:
        return f"{point.name} is blind: {point.blind_reason}" if now - point.blind_since >= DARK_FOR else ""
    if point.last_probe_at is None:
        return ""  # it is being set up; the dashboard shows it
    return f"{point.name} is silent" if now - point.last_probe_at >= SILENT_FOR else ""


def _violated(now: datetime) -> list[Alert]:
    rows = Event.objects.filter(
        subject_type="invariant", subject_id=0, kind="selfcheck.violated", created_at__gte=now - AUDIT_AGE
    ).order_by("id")  # fmt: skip
    newest = {str(row.payload.get("id", "")): row for row in rows}
    return [
        Alert(f"selfcheck:{id_}", "error", row.summary, reverse("admin:customers_event_change", args=[row.pk]))
        for id_, row in newest.items()
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
