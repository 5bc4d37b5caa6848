"""What there is of everything that wants a look: one statement, each count with a limit, each a sentence with a link."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import connection
from django.urls import reverse

from dns import readiness
from tranche_site.console.verdicts import STALE, VERDICTS

if TYPE_CHECKING:
    from django.contrib.auth.models import AnonymousUser, User

MOST = 1000
"""No list is counted further: whoever has a thousand of something looks at the list."""
CANARY_NETWORKS = 3
"""Canaries on fewer networks could not tell our own trouble from one network's."""
TONES = ("quiet", "warning", "danger")
_DAYS = readiness.GOOD_DRILL.days


@dataclass(frozen=True, slots=True)
class Notice:
    """One sentence of what wants a look, with the page that has the rest."""

    tone: str
    text: str
    url: str
    burns: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """Rows of one kind: `rows` follows SELECT 1. `may` is the permission to know of them."""

    name: str
    may: str
    tone: str
    one: str
    many: str
    view: str
    query: str
    rows: str
    burns: bool = False


KINDS = (
    Kind("incidents", "storms.view_cdnincident", "danger", "CDN incident is open", "CDN incidents are open",
         "storms_cdnincident", "?state=open", "FROM cdn_incidents WHERE ended_at IS NULL", burns=True),
    Kind("raging", "storms.view_stormevent", "danger", "storm is raging", "storms are raging",
         "storms_stormevent", "?state=raging", "FROM storm_events WHERE closed_at IS NULL AND ended_at IS NULL", burns=True),
    Kind("ended", "storms.view_stormevent", "warning", "storm is over and not closed", "storms are over and not closed",
         "storms_stormevent", "?state=ended", "FROM storm_events WHERE closed_at IS NULL AND ended_at IS NOT NULL",
         burns=True),
    Kind("pages", "tranche_site.view_page", "danger", "page has no answer", "pages have no answer",
         "tranche_site_page", "?state=burning", "FROM pages WHERE resolved_at IS NULL AND acknowledged_at IS NULL"),
    Kind("held", "dns.view_weightchange", "warning", "plan waits for an operator", "plans wait for an operator",
         "dns_weightchange", "?state__exact=held",
         "FROM weight_changes WHERE state IN ('wanted', 'held', 'submitted', 'unknown', 'confirmed') AND state = 'held'"),
    Kind("accounts", "dns.view_dnsaccount", "danger", "DNS account is in trouble", "DNS accounts are in trouble",
         "dns_dnsaccount", "?state=trouble", "FROM dns_accounts WHERE trouble <> ''"),
    Kind("left_alone", "dns.view_recordset", "warning", "record set is left alone: a person edits it",
         "record sets are left alone: people edit them", "dns_recordset", "?stands=alone",
         "FROM {steered} WHERE r.is_held"),
    Kind("unarmed", "dns.view_recordset", "warning", "domain of an armed policy is not armed",
         "domains of armed policies are not armed", "dns_recordset", "?armed=no",
         "FROM {steered} WHERE r.armed_at IS NULL AND EXISTS (SELECT 1 FROM storm_policies p WHERE p.service_id = d.service_id"
         " AND p.mode = 'armed' AND p.deleted_at IS NULL)"),
    Kind("findings", "storms.view_finding", "warning", "finding is open", "findings are open",
         "storms_finding", "?state=open", "FROM findings WHERE resolved_at IS NULL"),
    Kind("freezes", "dns.view_freeze", "warning", "freeze is in force", "freezes are in force",
         "dns_freeze", "?in_force=yes", "FROM freezes WHERE lifted_at IS NULL"),
    Kind("endpoints", "customers.view_webhookendpoint", "warning", "webhook endpoint is disabled",
         "webhook endpoints are disabled", "customers_webhookendpoint", "?state=disabled",
         "FROM webhook_endpoints WHERE deleted_at IS NULL AND disabled_at IS NOT NULL"),
    Kind("dead", "customers.view_webhookdelivery", "warning", "webhook of the last week came to nothing",
         "webhooks of the last week came to nothing", "customers_webhookdelivery", "?state__exact=dead",
         "FROM webhook_deliveries WHERE state = 'dead' AND created_at > %(now)s - interval '7 days'"),
    Kind("quarantined", "billing.view_logobject", "warning", "log object can’t be read", "log objects can’t be read",
         "billing_logobject", "?state__exact=quarantined", "FROM log_objects WHERE state = 'quarantined'"),
    Kind("overdue_drafts", "billing.view_invoice", "warning", "draft is past its grace period",
         "drafts are past their grace period", "billing_invoice", "?state__exact=draft",
         "FROM invoices i JOIN contracts c ON c.id = i.contract_id WHERE i.state = 'draft' AND i.kind = 'invoice'"
         " AND i.period_end + c.grace_hours * interval '1 hour' < %(now)s"),
    Kind("disputes", "billing.view_dispute", "warning", "dispute is open", "disputes are open",
         "billing_dispute", "?state__exact=open", "FROM disputes WHERE state = 'open'"),
    Kind("violations", "customers.view_event", "danger", "invariant did not hold in the last day",
         "invariants did not hold in the last day", "customers_event", "?kind__exact=selfcheck.violated",
         "FROM events WHERE subject_type = 'invariant' AND subject_id = 0 AND kind = 'selfcheck.violated'"
         " AND created_at > %(now)s - interval '1 day'"),
    Kind("pins", "dns.view_pin", "quiet", "pin is in force", "pins are in force",
         "dns_pin", "?in_force=yes", "FROM pins WHERE expires_at > %(now)s"),
    Kind("overdue", "billing.view_invoice", "quiet", "invoice is overdue", "invoices are overdue",
         "billing_invoice", "?payment=overdue",
         "FROM invoices WHERE kind = 'invoice' AND state = 'open' AND due_at <= %(now)s"
         " AND total_minor > paid_minor + credited_minor"),
    Kind("undrilled", "dns.view_drill", "quiet", f"service had no good drill in {_DAYS} days",
         f"services had no good drill in {_DAYS} days", "dns_drill", "",
         "FROM (SELECT DISTINCT d.service_id FROM {steered}) s WHERE NOT EXISTS (SELECT 1 FROM drills g"
         " WHERE g.service_id = s.service_id AND g.state = 'passed' AND g.ended_at > %(drilled)s)"),
)  # fmt: skip
"""In the order in which people should look."""

_STEERED = """record_sets r JOIN service_domains d ON d.id = r.domain_id AND d.deleted_at IS NULL AND r.released_at IS NULL
    JOIN services v ON v.id = d.service_id AND v.deleted_at IS NULL"""

# Of targets that are probed: domains' paths by verdict, and how many of our own are not UP.
_PATHS = """(SELECT coalesce(jsonb_object_agg(verdict, n), '{}') FROM (
    SELECT CASE WHEN p.verdict IS NULL OR p.evaluated_at < %(fresh)s OR NOT p.verdict = ANY(%(verdicts)s) THEN 'UNKNOWN'
        ELSE p.verdict END AS verdict, count(*) AS n
    FROM targets t JOIN service_domains d ON d.id = t.domain_id AND d.deleted_at IS NULL
    JOIN services v ON v.id = d.service_id AND v.deleted_at IS NULL
    LEFT JOIN path_verdicts p ON p.target_id = t.id
    WHERE t.enabled AND t.role IN ('primary', 'backup') GROUP BY 1) x)"""
_OWN = """(SELECT jsonb_build_object('all', count(*),
        'up', count(*) FILTER (WHERE p.verdict = 'UP' AND p.evaluated_at >= %(fresh)s),
        'networks', count(DISTINCT coalesce(nullif(t.network, ''), t.address)) FILTER (WHERE t.role = 'canary'))
    FROM targets t LEFT JOIN path_verdicts p ON p.target_id = t.id
    WHERE t.enabled AND t.role IN ('reference', 'canary'))"""
_POINTS = """(SELECT coalesce(jsonb_agg(p ORDER BY p.is_dark DESC, p.name), '[]') FROM (
    SELECT id, name, region, network, state, blind_reason, blind_since IS NOT NULL AS is_blind,
        EXTRACT(epoch FROM %(now)s - last_probe_at) AS age,
        state = 'active' AND (blind_since IS NOT NULL OR last_probe_at IS NULL OR last_probe_at < %(fresh)s) AS is_dark
    FROM vantage_points WHERE state <> 'off' ORDER BY is_dark DESC, name LIMIT 30) p)"""
_FREEZES = """(SELECT coalesce(jsonb_agg(f ORDER BY f.id), '[]') FROM (
    SELECT f.id, f.reason, to_char(f.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') AS since,
        coalesce(s.name, c.name, 'everything') AS of
    FROM freezes f LEFT JOIN services s ON s.id = f.service_id LEFT JOIN customers c ON c.id = f.customer_id
    WHERE f.lifted_at IS NULL ORDER BY f.service_id IS NULL DESC, f.id LIMIT 5) f)"""

_MORE: dict[str, tuple[str, str]] = {
    "paths": ("storms.view_pathverdict", _PATHS),
    "own": ("storms.view_pathverdict", _OWN),
    "points": ("services.view_vantagepoint", _POINTS),
    "freezes_in_force": ("dns.view_freeze", _FREEZES),
}


@dataclass(frozen=True, slots=True)
class Counted:
    """`paths`: domains' paths by verdict. `own`: reference sites and canaries. Empty where the user may not know."""

    notices: list[Notice]
    paths: dict[str, int]
    own: dict[str, int]
    points: list[dict[str, Any]]
    freezes: list[dict[str, Any]]


def read(user: User | AnonymousUser, now: datetime) -> Counted:
    """One query."""
    kinds = [kind for kind in KINDS if user.has_perm(kind.may)]
    parts = {kind.name: _limited(kind.rows) for kind in kinds}
    parts |= {name: sql for name, (may, sql) in _MORE.items() if user.has_perm(may)}
    if not parts:
        return Counted([], {}, {}, [], [])
    fields = ", ".join(f"'{name}', {sql}" for name, sql in parts.items())
    with connection.cursor() as cursor:
        asked: dict[str, Any] = {
            "now": now,
            "fresh": now - STALE,
            "drilled": now - readiness.GOOD_DRILL,
            "verdicts": list(VERDICTS),
        }
        cursor.execute(f"SELECT jsonb_build_object({fields})", asked)
        found: dict[str, Any] = json.loads(cursor.fetchone()[0])
    paths, points, own = found.get("paths", {}), found.get("points", []), found.get("own", {})
    notices = [_told(kind, found[kind.name]) for kind in kinds if found[kind.name]]
    notices += _of_paths(paths)
    if "points" in found:
        notices += _of_points(points, own, bool(paths))
    notices.sort(key=lambda notice: (not notice.burns, -TONES.index(notice.tone)))
    return Counted(notices, paths, own, points, found.get("freezes_in_force", []))


def _limited(rows: str) -> str:
    return f"(SELECT count(*) FROM (SELECT 1 {rows.format(steered=_STEERED)} LIMIT {MOST}) x)"  # noqa: S608


def _told(kind: Kind, count: int) -> Notice:
    return Notice(kind.tone, said(count, kind.one, kind.many), _list(kind.view, kind.query), kind.burns)


def said(count: int, one: str, many: str) -> str:
    return f"1 {one}" if count == 1 else f"{count:,}{' or more' if count >= MOST else ''} {many}"


def _list(view: str, query: str = "") -> str:
    return reverse(f"admin:{view}_changelist") + query


def _of_paths(paths: dict[str, int]) -> Iterable[Notice]:
    for verdict, tone in (("DOWN", "danger"), ("DEGRADED", "warning"), ("UNKNOWN", "quiet")):
        if count := paths.get(verdict, 0):
            text = f"{count:,} {'path is' if count == 1 else 'paths are'} {verdict}"
            query = "" if verdict == "UNKNOWN" else f"?verdict__exact={verdict}"  # an old one is UNKNOWN, too
            yield Notice(tone, text, _list("storms_pathverdict", query), burns=verdict != "UNKNOWN")


def _of_points(points: list[dict[str, Any]], own: dict[str, int], is_probing: bool) -> Iterable[Notice]:
    url = _list("services_vantagepoint")
    if dark := sum(point["is_dark"] for point in points):
        words = "vantage point is blind or silent", "vantage points are blind or silent"
        yield Notice("danger", said(dark, *words), url)
    if is_probing and not points:
        yield Notice("danger", "No vantage point probes", url)
    if points and (networks := own.get("networks", 0)) < CANARY_NETWORKS:
        text = f"Canaries stand on {networks} of the {CANARY_NETWORKS} networks that blindness is told by"
        yield Notice("warning", text, _list("services_target", "?role__exact=canary"))
