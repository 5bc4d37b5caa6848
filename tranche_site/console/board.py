"""What the dashboard says. A fixed number of queries, each with a limit, whatever the number of customers.

A verdict that nobody renewed is shown as UNKNOWN: an old UP is not UP.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db.models import Case, Count, Exists, F, Max, Min, OuterRef, Q, When
from django.urls import reverse

from billing.models import Invoice
from billing.money import format_minor
from dns import readiness
from dns.models import DnsAccount, Drill, Freeze, Pin, RecordSet, WeightChange
from services.models import Service, Target, VantagePoint
from storms.models import CdnIncident, Finding, StormEvent, StormPolicy
from tranche_site.console import traffic
from tranche_site.console.changes import Change, named, with_shares
from tranche_site.console.traffic import Traffic
from tranche_site.console.verdicts import STALE, VERDICTS, severity
from tranche_site.floor.console_admin import percent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.contrib.auth.models import AnonymousUser, User

ROWS = 10
CANARY_NETWORKS = 3
"""Canaries on fewer networks could not tell our own trouble from one network's."""


@dataclass(frozen=True, slots=True)
class Path:
    """The worst of one role's targets of a service."""

    role: str
    rank: int
    cdn: str
    verdict: str
    availability: float | None
    certificate_days: int | None
    targets: int
    url: str

    @property
    def share(self) -> str:
        return percent(self.availability)

    @property
    def certificate_is_near(self) -> bool:
        return self.certificate_days is not None and self.certificate_days < 14


@dataclass(frozen=True, slots=True)
class ServicePaths:
    pk: int
    name: str
    customer: str
    severity: int
    paths: list[Path]


@dataclass(frozen=True, slots=True)
class Site:
    """A reference site or canary."""

    pk: int
    host: str
    role: str
    cdn: str
    verdict: str
    availability: float | None


@dataclass(frozen=True, slots=True)
class Point:
    row: VantagePoint
    sight: str

    @property
    def is_dark(self) -> bool:
        return self.row.state == VantagePoint.State.ACTIVE and self.sight != "sees"


@dataclass(frozen=True, slots=True)
class Bill:
    row: Invoice
    total: str
    discount: str


@dataclass(frozen=True, slots=True)
class Notice:
    """One sentence of the headline, with the page that has the rest."""

    tone: str
    text: str
    url: str


@dataclass(frozen=True, slots=True)
class Dns:
    """How many of each there are."""

    accounts_in_trouble: int = 0
    left_alone: int = 0
    """Record sets that a person edits."""
    unarmed: int = 0
    """Domains that an armed policy counts on, and that nothing may be written for."""
    undrilled: int = 0
    """Steered services whose backup no drill has proven lately."""


@dataclass(frozen=True, slots=True)
class Board:
    now: datetime
    notices: list[Notice]
    counts: dict[str, int]
    incidents: list[CdnIncident]
    storms: list[StormEvent]
    services: list[ServicePaths]
    sites: list[Site]
    points: list[Point]
    held: list[Change]
    changes: list[Change]
    bills: list[Bill]
    findings: list[Finding]
    freezes: list[Freeze]
    pins: list[Pin]
    traffic: Traffic | None
    may: frozenset[str]
    canary_networks: int
    dns: Dns

    @property
    def tone(self) -> str:
        """The worst of the notices: it colours the headline."""
        return max(
            (notice.tone for notice in self.notices), key=["quiet", "warning", "danger"].index, default="success"
        )

    @property
    def is_calm(self) -> bool:
        return not self.notices and bool(self.counts)

    @property
    def is_empty(self) -> bool:
        return not self.counts

    @property
    def seeing(self) -> int:
        return sum(1 for point in self.points if point.sight == "sees")


def read(user: User | AnonymousUser, now: datetime) -> Board:
    may = frozenset(name for name in _PANELS if user.has_perm(_PANELS[name]))
    held, changes = _changes() if "changes" in may else ([], [])
    points = _list(VantagePoint.objects.exclude(state=VantagePoint.State.OFF).order_by("name"), may, "points", 20)
    seen = [Point(row, _sight(row, now)) for row in points]
    counts = _counts(now) if "paths" in may else {}
    confirmed_first = F("confirmed_at").asc(nulls_last=True)
    incidents = _list(
        CdnIncident.objects.open().select_related("cdn").order_by(confirmed_first, "-started_at"), may, "incidents"
    )
    raging_first = F("ended_at").desc(nulls_first=True)
    storms = _list(
        StormEvent.objects.open().select_related("service__customer", "cdn").order_by(raging_first, "-started_at"),
        may,
        "storms",
    )
    findings = _list(Finding.objects.open().select_related("service__customer", "target__cdn"), may, "findings")
    freezes = _list(Freeze.objects.filter(lifted_at__isnull=True).select_related("service", "customer"), may, "freezes")
    pins = _list(Pin.objects.filter(expires_at__gt=now).select_related("service"), may, "pins")
    canaries = Target.objects.live().filter(role=Target.Role.CANARY).values_list("network", "address")
    networks = len({network or address for network, address in canaries}) if seen else CANARY_NETWORKS
    half = Board(
        now=now, notices=[], counts=counts, incidents=incidents, storms=storms, points=seen, held=held, changes=changes,
        services=_services(now) if "paths" in may else [],
        sites=_sites(now) if "paths" in may else [],
        bills=_bills() if "bills" in may else [],
        findings=findings, freezes=freezes, pins=pins, may=may, canary_networks=networks,
        traffic=traffic.read(now) if "usage" in may else None,
        dns=_dns(now, may),
    )  # fmt: skip
    half.notices.extend(_notices(half))
    return half


_PANELS = {
    "incidents": "storms.view_cdnincident",
    "storms": "storms.view_stormevent",
    "paths": "storms.view_pathverdict",
    "points": "services.view_vantagepoint",
    "changes": "dns.view_weightchange",
    "findings": "storms.view_finding",
    "freezes": "dns.view_freeze",
    "pins": "dns.view_pin",
    "accounts": "dns.view_dnsaccount",
    "record_sets": "dns.view_recordset",
    "drills": "dns.view_drill",
    "bills": "billing.view_invoice",
    "usage": "billing.view_usagesnapshot",
}


def _list(rows: Any, may: frozenset[str], panel: str, most: int = ROWS) -> list[Any]:
    return list(rows[:most]) if panel in may else []


def _sight(point: VantagePoint, now: datetime) -> str:
    if point.blind_since:
        return "blind"
    return "sees" if point.last_probe_at and point.last_probe_at >= now - STALE else "silent"


# --- paths ----------------------------------------------------------------------------------------------------------


def _domain_targets() -> Any:
    return Target.objects.live().filter(role__in=Target.DOMAIN_ROLES, domain__isnull=False)


def _counts(now: datetime) -> dict[str, int]:
    """Domain targets by verdict, without origin witnesses; empty when there is none."""
    rows = _domain_targets().filter(role__in=Target.PATH_ROLES).values(severity=severity(now)).annotate(n=Count("id"))
    return {VERDICTS[row["severity"]]: row["n"] for row in rows.order_by()}


def _services(now: datetime) -> list[ServicePaths]:
    """The services that are worst off, each role's targets rolled up to the worst of them."""
    worst = (
        _domain_targets().values("domain__service").annotate(severity=Max(severity(now)))
        .order_by("-severity", "domain__service").values("domain__service")[:ROWS]
    )  # fmt: skip
    rows = (
        _domain_targets()
        .filter(domain__service__in=worst)
        .values(
            "domain__service", "domain__service__name", "domain__service__customer__name", "role", "rank", "cdn__name"
        )
        .annotate(
            severity=Max(severity(now)),
            availability=Min("verdict__availability"),
            certificate=Min("verdict__certificate_expires_at"),
            targets=Count("id"),
        )
        .order_by("domain__service", "role", "rank")
    )
    services: dict[int, ServicePaths] = {}
    for row in rows[: ROWS * 10]:
        pk = row["domain__service"]
        entry = services.setdefault(
            pk, ServicePaths(pk, row["domain__service__name"], row["domain__service__customer__name"], 0, [])
        )
        entry.paths.append(_path(row, now))
    order = ["primary", "backup", "origin"]
    for entry in services.values():
        entry.paths.sort(key=lambda path: (order.index(path.role), path.rank))
    return sorted(services.values(), key=lambda entry: (-max(VERDICTS.index(p.verdict) for p in entry.paths), entry.pk))


def _path(row: dict[str, Any], now: datetime) -> Path:
    query = f"?target__domain__service__id__exact={row['domain__service']}&target__role__exact={row['role']}"
    return Path(
        role=row["role"],
        rank=row["rank"],
        cdn=row["cdn__name"] or "",
        verdict=VERDICTS[row["severity"]],
        availability=row["availability"],
        certificate_days=(row["certificate"] - now).days if row["certificate"] else None,
        targets=row["targets"],
        url=reverse("admin:storms_pathverdict_changelist") + query,
    )


def _sites(now: datetime) -> list[Site]:
    rows = (
        Target.objects.live().filter(role__in=[Target.Role.REFERENCE, Target.Role.CANARY])
        .annotate(severity=severity(now)).select_related("cdn", "verdict").order_by("-severity", "role", "id")
    )  # fmt: skip
    return [
        Site(
            pk=row.pk,
            host=row.hostname,
            role=row.role,
            cdn=str(row.cdn or ""),
            verdict=VERDICTS[row.severity],
            availability=row.verdict.availability if hasattr(row, "verdict") else None,
        )
        for row in rows[:ROWS]
    ]


# --- changes and bills ----------------------------------------------------------------------------------------------


def _changes() -> tuple[list[Change], list[Change]]:
    """Held plans, and the last changes of any other state."""
    rows = list(
        WeightChange.objects.select_related("service__customer", "record_set__domain", "storm")
        .order_by(Case(When(state=WeightChange.State.HELD, then=0), default=1), "-id")[: 2 * ROWS]
    )  # fmt: skip
    changes = with_shares(rows, named(rows))
    held = [change for change in changes if change.row.state == WeightChange.State.HELD]
    return held[:ROWS], [change for change in changes if change.row.state != WeightChange.State.HELD][:ROWS]


def _bills() -> list[Bill]:
    rows = Invoice.objects.select_related("customer").order_by("-id")[:6]
    return [
        Bill(row, format_minor(row.total_minor, row.currency), format_minor(-row.discount_minor, row.currency))
        for row in rows
    ]


def _dns(now: datetime, may: frozenset[str]) -> Dns:
    steered = RecordSet.objects.live()
    armed = StormPolicy.objects.live().filter(mode=StormPolicy.Mode.ARMED, service=OuterRef("domain__service"))
    found = {"left_alone": 0, "unarmed": 0}
    if "record_sets" in may:
        found = steered.aggregate(
            left_alone=Count("pk", filter=Q(is_held=True)),
            unarmed=Count("pk", filter=Q(Exists(armed), armed_at__isnull=True)),
        )
    undrilled = 0
    if "drills" in may:
        good = Drill.objects.filter(
            service=OuterRef("pk"), state=Drill.State.PASSED, ended_at__gt=now - readiness.GOOD_DRILL
        )
        services = Service.objects.live().filter(Exists(steered.filter(domain__service=OuterRef("pk"))))
        undrilled = services.exclude(Exists(good)).count()
    accounts = DnsAccount.objects.exclude(trouble="").count() if "accounts" in may else 0
    return Dns(accounts, found["left_alone"], found["unarmed"], undrilled)


# --- the headline ---------------------------------------------------------------------------------------------------


def _notices(board: Board) -> Iterable[Notice]:
    def told(
        tone: str, count: int, one: str, many: str, view: str, query: str = "", *, is_exact: bool = False
    ) -> Iterable[Notice]:
        if count:
            some = str(count) if is_exact or count < ROWS else f"{count} or more"
            text = f"1 {one}" if count == 1 else f"{some} {many}"
            yield Notice(tone, text, reverse(f"admin:{view}_changelist") + query)

    yield from told(
        "danger",
        len(board.incidents),
        "CDN incident is open",
        "CDN incidents are open",
        "storms_cdnincident",
        "?state=open",
    )
    raging = sum(1 for storm in board.storms if storm.ended_at is None)
    yield from told("danger", raging, "storm is raging", "storms are raging", "storms_stormevent", "?state=raging")
    yield from told(
        "warning", len(board.storms) - raging, "storm is over and not closed", "storms are over and not closed",
        "storms_stormevent", "?state=ended",
    )  # fmt: skip
    for verdict, tone in (("DOWN", "danger"), ("DEGRADED", "warning"), ("UNKNOWN", "quiet")):
        if count := board.counts.get(verdict, 0):
            text = f"{count} {'path is' if count == 1 else 'paths are'} {verdict}"
            url = reverse("admin:storms_pathverdict_changelist")
            yield Notice(tone, text, url if verdict == "UNKNOWN" else f"{url}?verdict__exact={verdict}")
    dark = sum(1 for point in board.points if point.is_dark)
    yield from told(
        "danger",
        dark,
        "vantage point is blind or silent",
        "vantage points are blind or silent",
        "services_vantagepoint",
    )
    if board.counts and "points" in board.may and not board.points:
        yield Notice("danger", "No vantage point probes", reverse("admin:services_vantagepoint_changelist"))
    if board.canary_networks < CANARY_NETWORKS:
        text = f"Canaries stand on {board.canary_networks} of the {CANARY_NETWORKS} networks that blindness is told by"
        yield Notice("warning", text, reverse("admin:services_target_changelist") + "?role__exact=canary")
    yield from told(
        "danger", board.dns.accounts_in_trouble, "DNS account is in trouble", "DNS accounts are in trouble",
        "dns_dnsaccount", "?state=trouble", is_exact=True,
    )  # fmt: skip
    yield from told(
        "warning", board.dns.left_alone, "record set is left alone: a person edits it",
        "record sets are left alone: people edit them", "dns_recordset", "?stands=alone", is_exact=True,
    )  # fmt: skip
    yield from told(
        "warning", board.dns.unarmed, "domain of an armed policy is not armed",
        "domains of armed policies are not armed", "dns_recordset", "?armed=no", is_exact=True,
    )  # fmt: skip
    yield from told(
        "warning", len(board.held), "plan waits for an operator", "plans wait for an operator", "dns_weightchange",
        "?state__exact=held",
    )  # fmt: skip
    yield from told(
        "warning", len(board.findings), "finding is open", "findings are open", "storms_finding", "?state=open"
    )
    yield from told(
        "warning", len(board.freezes), "freeze is in force", "freezes are in force", "dns_freeze", "?in_force=yes"
    )
    yield from told("quiet", len(board.pins), "pin is in force", "pins are in force", "dns_pin", "?in_force=yes")
    days = readiness.GOOD_DRILL.days
    yield from told(
        "quiet", board.dns.undrilled, f"service had no good drill in {days} days",
        f"services had no good drill in {days} days", "dns_drill", is_exact=True,
    )  # fmt: skip
