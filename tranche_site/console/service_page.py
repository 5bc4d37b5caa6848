"""The page of one service: its timeline, and below it all that somebody on call asks next.

A fixed number of queries, each bounded, whatever the service has.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import TextField
from django.db.models.expressions import RawSQL
from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString, mark_safe

from billing.money import format_minor
from billing.timeline import drawing, reading
from billing.timeline.facts import shortly
from billing.timeline.span import USUAL, ZOOMS, zoomed
from services.models import Service, ServiceDomain, Target
from storms.models import StormEvent
from tranche_site.console.changes import Change, with_shares
from tranche_site.console.verdicts import VERDICTS, verdict_of
from tranche_site.floor.console_admin import percent

if TYPE_CHECKING:
    from django.http import HttpRequest

MOST_DOMAINS = 50
MOST_PATHS = 60
MOST_CHANGES = 8
MOST_STORMS = 8

_PAGES = {
    "storm": "storms_stormevent", "drill": "dns_drill", "pin": "dns_pin", "freeze": "dns_freeze",
    "maintenance": "services_maintenancewindow",
}  # fmt: skip

# What else hangs on a service, in one answer.
_ALSO = """(
SELECT jsonb_build_object(
    'policies', (SELECT coalesce(jsonb_agg(p ORDER BY p.kind), '[]') FROM (
        SELECT id, kind, mode, threshold_avail::float AS threshold, window_seconds AS window, cooldown_seconds AS cooldown,
            version
        FROM storm_policies WHERE service_id = services.id AND deleted_at IS NULL ORDER BY kind LIMIT 10) p),
    'findings', (SELECT coalesce(jsonb_agg(f ORDER BY f.id DESC), '[]') FROM (
        SELECT id, kind, reason FROM findings WHERE service_id = services.id AND resolved_at IS NULL
        ORDER BY id DESC LIMIT 8) f),
    'drill', (SELECT to_jsonb(d) FROM (
        SELECT id, state, ended_at FROM drills WHERE service_id = services.id AND ended_at IS NOT NULL
        ORDER BY ended_at DESC LIMIT 1) d),
    'money', (SELECT coalesce(jsonb_agg(m ORDER BY m.id DESC), '[]') FROM (
        SELECT i.id, i.number, i.state, i.currency, to_char(i.period_start AT TIME ZONE i.time_zone, 'YYYY-MM') AS month,
            sum(l.amount_minor) FILTER (WHERE l.kind NOT IN ('cover', 'credit'))::bigint AS charged,
            sum(l.amount_minor) FILTER (WHERE l.kind = 'cover')::bigint AS cover,
            sum(l.bytes) FILTER (WHERE l.kind = 'usage')::bigint AS bytes
        FROM invoice_line_items l JOIN invoices i ON i.id = l.invoice_id
        WHERE l.service_id = services.id AND i.kind = 'invoice' AND i.state <> 'void'
            AND i.period_start > now() - interval '7 months'
        GROUP BY i.id ORDER BY i.id DESC LIMIT 4) m)
))"""


@dataclass(frozen=True, slots=True)
class Path:
    target: Target
    name: str
    verdict: str
    share: str
    certificate_days: int | None
    weight: int | None
    """Percent that its domain's answers were seen to send there; None: not steered."""

    @property
    def certificate_is_near(self) -> bool:
        return self.certificate_days is not None and self.certificate_days < 14


@dataclass(frozen=True, slots=True)
class Domain:
    row: ServiceDomain
    state: str
    armed: str
    """Whether it may be steered, in words."""
    is_armed: bool
    missing: list[dict[str, Any]]
    """The lines of the check list that do not hold."""
    record_set: Any


@dataclass(frozen=True, slots=True)
class Bill:
    pk: int
    name: str
    month: str
    state: str
    charged: str
    cover: str
    currency: str
    traffic: str


@dataclass(frozen=True, slots=True)
class ServicePage:
    service: Service
    now: datetime
    zoom: str
    zooms: Sequence[str]
    wide: SafeString
    narrow: SafeString
    tone: str
    headline: str
    paths: list[Path]
    domains: list[Domain]
    policies: list[dict[str, Any]]
    findings: list[dict[str, Any]]
    drill: dict[str, Any] | None
    changes: list[Change]
    storms: list[StormEvent]
    bills: list[Bill]
    may_see_money: bool


def read(service_id: int, zoom: str, now: datetime, *, may_see_money: bool) -> ServicePage | None:
    """None if there is no such service."""
    also_of_it = RawSQL(_ALSO, [], output_field=TextField())  # noqa: S611  it has no parameters
    found = Service.objects.select_related("customer").annotate(also=also_of_it)
    service = found.filter(pk=service_id).first()
    if service is None:
        return None
    also = json.loads(service.also) if isinstance(service.also, str) else service.also
    seen = reading.of_service(service, zoomed(zoom, now), now)
    domains = list(
        ServiceDomain.objects.filter(service=service, deleted_at__isnull=True)
        .with_contest()
        .select_related("record_set__account")
        .order_by("id")[:MOST_DOMAINS]
    )
    record_sets = {domain.pk: getattr(domain, "record_set", None) for domain in domains}
    paths = [_path(target, record_sets, now) for target in seen.targets if _is_live(target)]
    # Whatever it says is escaped where it is drawn.
    wide, narrow = map(mark_safe, drawing.on_a_page(seen.timeline, page_of))
    tone, headline = _headline(service, seen.storms, paths, domains)
    return ServicePage(
        service=service, now=now, zoom=zoom, zooms=tuple(ZOOMS),
        wide=wide, narrow=narrow,
        tone=tone, headline=headline,
        paths=sorted(paths, key=_order)[:MOST_PATHS],
        domains=[_domain(domain, record_sets[domain.pk], now) for domain in domains],
        policies=[{**policy, "threshold": percent(policy["threshold"])} for policy in also["policies"]],
        findings=also["findings"], drill=also["drill"],
        changes=with_shares(seen.changes[:MOST_CHANGES], seen.targets),
        storms=seen.storms[:MOST_STORMS],
        bills=[_bill(row) for row in also["money"]] if may_see_money else [],
        may_see_money=may_see_money,
    )  # fmt: skip


def page_of(kind: str, pk: int) -> str:
    """The console's page of a storm or mark of a timeline."""
    return reverse(f"admin:{_PAGES[kind]}_change", args=[pk])


def _is_live(target: Target) -> bool:
    return bool(target.enabled and target.domain and not target.domain.deleted_at)


def _path(target: Any, record_sets: dict[int, Any], now: datetime) -> Path:
    row, verdict = getattr(target, "verdict", None), verdict_of(target, now)
    record_set = record_sets.get(target.domain_id)
    is_path = target.role in Target.PATH_ROLES
    steered = record_set if record_set and record_set.observed_at and not record_set.released_at and is_path else None
    expires = row.certificate_expires_at if row else None
    return Path(
        target=target,
        name=target.get_facet_display() if target.facet else shortly((target.role, target.rank)),
        verdict=verdict,
        share=percent(row.availability if row and verdict != "UNKNOWN" else None),
        certificate_days=(expires - now).days if expires else None,
        weight=steered.observed_weights.get(str(target.pk), 0) if steered else None,
    )


def _order(path: Path) -> Any:
    target: Any = path.target
    return target.domain_id, ["primary", "backup", "origin"].index(target.looks_at), target.place, target.facet


def _domain(row: ServiceDomain, record_set: Any, now: datetime) -> Domain:
    if record_set is None:
        armed = "only watched: it has no record set"
    elif record_set.released_at:
        armed = "only watched: its records were given back"
    elif record_set.is_held:
        armed = "left alone: a person edits its records"
    elif record_set.armed_at:
        armed = f"armed since {record_set.armed_at:%Y-%m-%d %H:%M} UTC"
    else:
        armed = f"not armed: {record_set.unarmed_reason}"
    missing = [line for line in (record_set.checks if record_set else []) if not line.get("holds")]
    return Domain(row, row.proof_state(now), armed, bool(record_set and record_set.armed_at), missing, record_set)


def _bill(row: dict[str, Any]) -> Bill:
    currency = row["currency"]
    return Bill(
        pk=row["id"],
        name=row["number"] or "draft",
        month=row["month"],
        state=row["state"],
        charged=format_minor(row["charged"] or 0, currency),
        cover=format_minor(row["cover"], currency) if row["cover"] else "",
        currency=currency,
        traffic=drawing.size(row["bytes"] or 0),
    )


def _headline(
    service: Service, storms: Sequence[StormEvent], paths: Sequence[Path], domains: Sequence[ServiceDomain]
) -> tuple[str, str]:
    """What is so now, in one sentence, and how bad that is."""
    if service.deleted_at:
        return "quiet", "It was deleted: nothing is probed or steered."
    raging = [storm for storm in storms if storm.ended_at is None]
    if raging:
        return "danger", f"A storm rages since {raging[0].started_at:%Y-%m-%d %H:%M:%S} UTC: {raging[0].reason}"
    if any(storm.closed_at is None for storm in storms):
        return (
            "warning",
            "Its storm is over and not closed: traffic comes home once it has stayed good for long enough.",
        )
    if not domains:
        return "quiet", "It has no domain yet: add one, then its paths on the domain’s page."
    worst = max((VERDICTS.index(path.verdict) for path in paths if not path.target.facet), default=None)
    if worst is None:
        return "quiet", "No path of it is probed: add paths on its domain’s page."
    bad = [path.name for path in paths if path.verdict == VERDICTS[worst]]
    if worst == 0:
        return "success", f"All {len(paths)} paths are UP." if len(paths) > 1 else "Its path is UP."
    return ("danger" if worst == 3 else "warning" if worst == 2 else "quiet"), (
        f"{VERDICTS[worst]}: {', '.join(sorted(set(bad)))}. No storm is open."
    )


# --- the pages ------------------------------------------------------------------------------------------------------


def _found(request: HttpRequest, service_id: int) -> ServicePage:
    if not (request.user.has_perm("services.view_service") or request.user.has_perm("services.change_service")):
        raise PermissionDenied
    zoom = request.GET.get("zoom", USUAL)
    may_see_money = request.user.has_perm("billing.view_invoice")
    found = read(service_id, zoom if zoom in ZOOMS else USUAL, timezone.now(), may_see_money=may_see_money)
    if found is None:
        raise Http404
    return found


def page(request: HttpRequest, service_id: int) -> HttpResponse:
    found = _found(request, service_id)
    context = {**admin.site.each_context(request), "title": found.service.name, "page": found}
    return render(request, "console/service.html", context)


def live(request: HttpRequest, service_id: int) -> HttpResponse:
    """The part that refreshes itself. Not behind `admin_view`, as that of the operations room is not."""
    if not admin.site.has_permission(request):
        return HttpResponse(status=401, headers={"HX-Refresh": "true"})
    response = render(request, "console/service_live.html", {"page": _found(request, service_id)})
    response["Cache-Control"] = "no-store"
    return response
