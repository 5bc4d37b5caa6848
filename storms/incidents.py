"""What fails at one CDN for many services is one incident: one story, one alert, and the word that cover asks for.

    storms, bad verdicts, blocked probes, reference sites ─ gather ─► Evidence by CDN ─ begins, witnesses ─► what changes

An incident is *suspected* as soon as one storm rages, and *confirmed* by what no single customer can
bring about: a reference site of ours, three customers that have nothing to do with each other, or a person.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Count, Q

from customers.models import Event
from services.models import Target
from storms.models import CdnIncident, Finding, IncidentEntry, PathVerdict, StormEvent
from storms.verdicts import Verdict

WINDOW = timedelta(minutes=15)
"""Trouble at a CDN within this time of the last is the same incident; after as much quiet it is over."""
UNRELATED_CUSTOMERS = 3
FRESH = timedelta(minutes=2)
_GROWING = ("last_bad_at", "regions", "services_total", "started_at", "services_hit")
FAULT, BLOCKED = CdnIncident.Kind.FAULT, CdnIncident.Kind.BLOCKED
Key = tuple[int, str]
"""A CDN's id and a kind of incident."""


@dataclass(slots=True)
class Evidence:
    """What speaks of one kind of trouble at one CDN just now."""

    services: set[int] = field(default_factory=set)
    customers: set[int] = field(default_factory=set)
    regions: set[str] = field(default_factory=set)
    storms: list[StormEvent] = field(default_factory=list)
    reference_sites: set[str] = field(default_factory=set)
    started_at: datetime | None = None

    def note(self, at: datetime) -> None:
        self.started_at = min(self.started_at or at, at)


def witnesses(evidence: Evidence) -> list[str]:
    """What bears witness beyond any one customer, in words."""
    said = [f"reference site {site} is DOWN" for site in sorted(evidence.reference_sites)]
    if len(evidence.customers) >= UNRELATED_CUSTOMERS:
        said.append(f"{len(evidence.customers)} unrelated customers are hit")
    return said


def begins(kind: str, evidence: Evidence) -> bool:
    """Whether this is an incident, where none is open. One customer's blocked probes or unfit path is that customer's."""
    enough = len(evidence.customers) >= UNRELATED_CUSTOMERS
    return enough if kind == BLOCKED else bool(evidence.storms or evidence.reference_sites) or enough


# --- the shell -------------------------------------------------------------------------------------------------------


def tend(now: datetime) -> None:
    """Open, extend, confirm and end incidents. A fixed number of queries while nothing changes; call it under the lock."""
    with transaction.atomic():
        _tend(now)


def _tend(now: datetime) -> None:
    current = {
        (incident.cdn_id, incident.kind): incident for incident in CdnIncident.objects.open().select_for_update()
    }
    found = _gather(now, {key: incident.started_at for key, incident in current.items()})
    fresh = {key for key, evidence in found.items() if key not in current and begins(key[1], evidence)}
    totals = _totals({cdn for cdn, _ in fresh | set(current)})
    for cdn, kind in sorted(fresh):
        current[cdn, kind] = _open(cdn, kind, found[cdn, kind], totals.get(cdn, 0), now)
    extended = []
    for key, incident in current.items():
        evidence = found.get(key)
        if evidence is None:
            if now - incident.last_bad_at > WINDOW:
                _end(incident, now)
        elif key not in fresh:
            _extend(incident, evidence, totals.get(key[0], 0), now)
            extended.append(incident)
        if evidence and not incident.confirmed_at and (said := witnesses(evidence)):
            confirm(incident, said, now)
    CdnIncident.objects.bulk_update(extended, _GROWING)


def confirm(incident: CdnIncident, said: list[str], now: datetime, by: str = "") -> None:
    """Somebody beyond the customers' own paths bears witness: a machine's words, or a person's (`by`)."""
    incident.confirmed_at = now
    incident.witnesses = [*incident.witnesses, *(f"{by}: {word}" if by else word for word in said)]
    incident.save(update_fields=["confirmed_at", "witnesses"])
    _tell(incident, "confirmed", "; ".join(said), now, by)


def note(incident: CdnIncident, text: str, now: datetime, by: str) -> None:
    IncidentEntry.objects.create(incident=incident, at=now, action="note", reason=text, by=by)


def _gather(now: datetime, started: Mapping[Key, datetime]) -> dict[Key, Evidence]:
    """What began within a window: of now, or of the incident that is open. What is bad for weeks is somebody's own trouble."""

    def is_news(key: Key, since: datetime) -> bool:
        return since > min(started.get(key, now), now) - WINDOW

    found: dict[Key, Evidence] = defaultdict(Evidence)
    for storm in StormEvent.objects.filter(ended_at__isnull=True, cdn__isnull=False).exclude(kind="manual"):
        key: Key = (storm.cdn_id or 0, FAULT)
        since = datetime.fromisoformat(storm.spells[-1][0]) if storm.spells else storm.started_at
        if not is_news(key, since) and storm.incident_id is None:
            continue
        evidence = found[key]
        _hit(evidence, storm.service_id, storm.customer_id, since)
        evidence.regions |= set(storm.regions)
        evidence.storms.append(storm)
    # A path is no witness against its CDN where the origin fails, or where it never worked.
    own_fault = Finding.objects.open().filter(kind__in=["origin_fault", "always_failing"]).values("service")
    down = (
        PathVerdict.objects.filter(verdict=Verdict.DOWN, evaluated_at__gt=now - FRESH, target__cdn__isnull=False)
        .filter(target__enabled=True, target__domain__deleted_at__isnull=True)
        .filter(Q(target__role__in=Target.PATH_ROLES) | Q(target__role=Target.Role.REFERENCE))
        .exclude(target__domain__service__in=own_fault)
        .values_list(
            "target__cdn", "target__role", "target__hostname", "target__domain__service", "target__customer", "since"
        )
    )
    for cdn, role, hostname, service, customer, since in down:
        if not is_news((cdn, FAULT), since):
            continue
        if role == Target.Role.REFERENCE:
            found[cdn, FAULT].reference_sites.add(hostname)
            found[cdn, FAULT].note(since)
        else:
            _hit(found[cdn, FAULT], service, customer, since)
    blocked = (
        Finding.objects.open().filter(kind="blocked", target__role__in=Target.PATH_ROLES, target__cdn__isnull=False)
        .values_list("target__cdn", "service", "customer", "first_seen_at")
    )  # fmt: skip
    for cdn, service, customer, since in blocked:
        if is_news((cdn, BLOCKED), since):
            _hit(found[cdn, BLOCKED], service, customer, since)
    return dict(found)


def _hit(evidence: Evidence, service: int, customer: int, at: datetime) -> None:
    evidence.services.add(service)
    evidence.customers.add(customer)
    evidence.note(at)


def _totals(cdns: Iterable[int]) -> Mapping[int, int]:
    """Services with a path on each CDN."""
    rows = (
        Target.objects.live().paths().filter(cdn__in=cdns).values("cdn")
        .annotate(services=Count("domain__service", distinct=True))
    )  # fmt: skip
    return {row["cdn"]: row["services"] for row in rows.order_by()}


def _open(cdn: int, kind: str, evidence: Evidence, total: int, now: datetime) -> CdnIncident:
    reason = _reason(evidence)
    incident = CdnIncident.objects.create(
        cdn_id=cdn, kind=kind, started_at=evidence.started_at or now, detected_at=now, last_bad_at=now,
        regions=sorted(evidence.regions), services_hit=len(evidence.services), services_total=total, reason=reason,
    )  # fmt: skip
    _join(incident, evidence)
    _tell(incident, "opened", reason, now)
    return incident


def _extend(incident: CdnIncident, evidence: Evidence, total: int, now: datetime) -> None:
    joined = _join(incident, evidence)
    regions = sorted({*incident.regions, *evidence.regions})
    if joined or regions != incident.regions:
        text = f"storms joined: {joined}; " if joined else ""
        reason = f"{text}{_reason(evidence)}"
        IncidentEntry.objects.create(incident=incident, at=now, action="grew", reason=reason)
    incident.last_bad_at, incident.regions, incident.services_total = now, regions, total
    incident.started_at = min(incident.started_at, evidence.started_at or now)
    incident.services_hit = max(incident.services_hit, len(evidence.services))


def _join(incident: CdnIncident, evidence: Evidence) -> int:
    mine = [storm.pk for storm in evidence.storms if storm.incident_id != incident.pk]
    return StormEvent.objects.filter(pk__in=mine).update(incident=incident) if mine else 0


def _end(incident: CdnIncident, now: datetime) -> None:
    incident.ended_at = max(incident.last_bad_at, incident.started_at)
    incident.save(update_fields=["ended_at"])
    _tell(incident, "over", f"nothing was hit for {WINDOW.total_seconds() / 60:.0f} minutes", now)


def _reason(evidence: Evidence) -> str:
    parts = [f"{_count(evidence.services, 'service')} of {_count(evidence.customers, 'customer')} hit"]
    if evidence.regions:
        parts.append(f"in {', '.join(sorted(evidence.regions))}")
    sites = [f"reference site {site} is DOWN" for site in sorted(evidence.reference_sites)]
    return "; ".join([" ".join(parts), *sites])


def _count(things: Collection[object], noun: str) -> str:
    return f"{len(things)} {noun}" + ("" if len(things) == 1 else "s")


def _tell(incident: CdnIncident, action: str, reason: str, now: datetime, by: str = "") -> None:
    IncidentEntry.objects.create(incident=incident, at=now, action=action, reason=reason, by=by)
    Event.record(f"incident.{action}", incident, f"{incident.cdn}: incident {action}: {reason}", customer_id=None)
