"""Open incidents of CDNs and open storms, with what each has cost up to now. Two queries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db.models import F, TextField
from django.db.models.expressions import RawSQL

from billing.money import format_minor
from storms.models import CdnIncident, StormEvent
from tranche_site.floor.console_admin import data_size

if TYPE_CHECKING:
    from django.contrib.auth.models import AnonymousUser, User

MOST = 10

# Bytes by role since the storm began, from CDNs' logs so far; and the cover of its service in this month's drafts, all
# storms of the month together, as they were last computed.
_COST = """(SELECT jsonb_build_object(
    'moved', (SELECT coalesce(sum(u.bytes) FILTER (WHERE t.role = 'backup'), 0)::bigint
        FROM service_domains d JOIN targets t ON t.domain_id = d.id
        CROSS JOIN LATERAL (SELECT sum(b.bytes) AS bytes FROM usage_buckets b
            WHERE b.service_id = storm_events.service_id AND b.target_id = t.id
                AND b.minute_at >= date_trunc('minute', storm_events.started_at)) u
        WHERE d.service_id = storm_events.service_id AND t.role = 'backup'),
    'cover', (SELECT coalesce(jsonb_object_agg(currency, minor), '{}') FROM (
        SELECT i.currency, sum(l.amount_minor)::bigint AS minor
        FROM invoice_line_items l JOIN invoices i ON i.id = l.invoice_id
        WHERE l.service_id = storm_events.service_id AND l.kind = 'cover' AND i.state = 'draft' AND i.kind = 'invoice'
            AND i.period_end > storm_events.started_at
        GROUP BY 1) c)
))"""


@dataclass(frozen=True, slots=True)
class Storm:
    row: StormEvent
    minutes: int
    """How long it has raged, or did."""
    moved: str
    """On backups since it began, as far as logs tell; empty where the user may not know, or nothing was."""
    cover: str


def incidents(user: User | AnonymousUser) -> list[CdnIncident]:
    if not user.has_perm("storms.view_cdnincident"):
        return []
    confirmed_first = F("confirmed_at").asc(nulls_last=True)
    return list(CdnIncident.objects.open().select_related("cdn").order_by(confirmed_first, "-started_at")[:MOST])


def storms(user: User | AnonymousUser, now: datetime) -> list[Storm]:
    if not user.has_perm("storms.view_stormevent"):
        return []
    raging_first = F("ended_at").desc(nulls_first=True)
    rows = StormEvent.objects.open().select_related("service__customer", "cdn").order_by(raging_first, "-started_at")
    cost = RawSQL(_COST, [], output_field=TextField())  # noqa: S611  it has no parameters
    sees_usage, sees_money = user.has_perm("billing.view_usagesnapshot"), user.has_perm("billing.view_invoice")
    if sees_usage or sees_money:
        rows = rows.annotate(cost=cost)
    return [_storm(row, now, sees_usage, sees_money) for row in rows[:MOST]]


def _storm(row: Any, now: datetime, sees_usage: bool, sees_money: bool) -> Storm:
    cost: dict[str, Any] = json.loads(row.cost) if sees_usage or sees_money else {}
    cover = [
        f"{format_minor(minor, currency)} {currency}" for currency, minor in cost.get("cover", {}).items() if minor
    ]
    return Storm(
        row=row,
        minutes=int(((row.ended_at or now) - row.started_at).total_seconds() // 60),
        moved=data_size(cost["moved"]) if sees_usage and cost["moved"] else "",
        cover=" and ".join(cover) if sees_money else "",
    )
