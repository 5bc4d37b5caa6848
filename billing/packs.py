"""An invoice line's evidence out of the database: one document with everything that the line follows from, and its hash.

Of an issued invoice it is what was known when it was issued: what log objects counted later, and what was witnessed or
ruled later, is left out. What was replaced or merged since can't be told any more, and then `replay` says what differs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from django.db import connection
from django.db.models import Q

from billing import cover, evidence, facts
from billing.cover import FOREVER, Interval, Recorded, whole_hours, zulu
from billing.evidence import Bucket, Difference, canonical, replay
from billing.models import Invoice, InvoiceLineItem, LogObject
from billing.problems import InvoiceError
from billing.rating import decimal
from billing.segments import Segment
from dns.models import WeightChange
from services.models import Target
from storms.evidence import plain
from storms.models import StormEvent, StormPolicyVersion

__all__ = ["Difference", "dumps", "of_line", "replay"]

_Line = InvoiceLineItem.Kind


def of_line(line: InvoiceLineItem) -> dict[str, Any]:
    """The evidence of a cover or usage line, sealed with its hash. Raises InvoiceError for any other."""
    if line.kind not in (_Line.COVER, _Line.USAGE) or line.service_id is None:
        raise InvoiceError("evidence is of usage and of storm cover: this line has its whole arithmetic in its details")
    invoice = Invoice.objects.select_related("contract__rate_card", "prices").get(pk=line.invoice_id)
    issued = invoice.finalized_at or FOREVER
    contract, prices, service = invoice.contract, invoice.prices, line.service_id
    segment = Segment(contract, prices, invoice.period_start, invoice.period_end, Fraction(invoice.extras["share"]))
    until = max(min(invoice.period_end + facts.AHEAD, invoice.as_of), invoice.period_start)
    span = Interval(invoice.period_start, until)
    rows = facts.storm_rows(span, [invoice.customer_id]).get(service, [])
    touched, since = [service] if rows else [], facts.seen_since(span, rows)
    changes = facts.weight_changes(touched, since)
    excluded = facts.excluded_times(touched, Interval(since, until))[service]
    told = [facts.recorded(row, issued) for row in rows]
    drain = contract.drain_seconds
    shifts = cover.shifts(
        (facts.change_of(row, changes.backups) for row in changes.rows[service]), timedelta(seconds=drain)
    )
    usage, objects = _around_events(service, invoice, issued)
    frame = {
        "customer": invoice.customer_id, "contract": contract.pk, "prices": prices.pk,
        "period": [zulu(invoice.period_start), zulu(invoice.period_end)],
    }  # fmt: skip
    return evidence.seal(
        {
            "type": evidence.TYPE,
            "format": evidence.FORMAT,
            "invoice": _invoice(invoice),
            "line": _line(line),
            "content": evidence.content(frame, invoice.inputs, invoice.extras, invoice.decisions),
            "cover": {"drain_seconds": drain, "earlier": _earlier(segment, invoice, str(service))},
            "policies": _policies(rows),
            "storms": [_storm(row, recorded, issued) for row, recorded in zip(rows, told, strict=True)],
            "targets": _targets(changes.rows[service]),
            "changes": [_change(row) for row in changes.rows[service]],
            "shifts": evidence.spans_json(cover.union(shifts)),
            "excluded": [
                {"start": zulu(e.start), "end": zulu(e.end), "reason": e.reason}
                for e in sorted(excluded, key=lambda e: (e.start, e.end, e.reason))
            ],
            "usage": [bucket.as_json() for bucket in usage],
            "log_objects": _log_objects(objects, invoice.customer_id),
            "period_usage": [bucket.as_json() for bucket in _period_usage(service, segment.span, issued)],
            "period_objects": _period_objects(service, segment.span, issued),
        }
    )


def dumps(pack: Mapping[str, Any]) -> str:
    """The document as it is hashed and handed out."""
    return canonical(pack)


def _invoice(invoice: Invoice) -> dict[str, Any]:
    contract, prices = invoice.contract, invoice.prices
    return {
        "id": invoice.pk, "number": invoice.number, "state": invoice.state, "currency": invoice.currency,
        "period": [zulu(invoice.period_start), zulu(invoice.period_end)], "time_zone": invoice.time_zone,
        "as_of": zulu(invoice.as_of), "issued_at": _moment(invoice.finalized_at), "sha256": invoice.sha256,
        "contract": {"id": contract.pk, "version": contract.version},
        "rate_card": {"id": prices.rate_card_id, "name": contract.rate_card.name, "version": prices.version},
    }  # fmt: skip


def _line(line: InvoiceLineItem) -> dict[str, Any]:
    return {
        "id": line.pk, "position": line.position, "kind": line.kind, "service": line.service_id, "path": line.path,
        "cdn": line.cdn, "description": line.description, "bytes": line.bytes, "amount_minor": line.amount_minor,
        "details": line.details,
    }  # fmt: skip


def _moment(at: datetime | None) -> str | None:
    return zulu(at) if at else None


def _earlier(segment: Segment, invoice: Invoice, service: str) -> list[dict[str, Any]]:
    """What invoices of the policy year before this one used of its cover."""
    rows = Invoice.objects.filter(
        customer=invoice.customer_id, kind=Invoice.Kind.INVOICE,
        period_start__gte=segment.policy_year.start, period_start__lt=invoice.period_start,
    )  # fmt: skip
    if invoice.finalized_at:
        void = Q(state=Invoice.State.VOID, settled_at__lte=invoice.finalized_at)
        rows = rows.filter(finalized_at__lte=invoice.finalized_at).exclude(void)
    else:
        rows = rows.exclude(state=Invoice.State.VOID)
    return [
        {
            "invoice": row.number, "period": [zulu(row.period_start), zulu(row.period_end)], "sha256": row.sha256,
            # Layers are of one currency: what another contract's cover cost fills none of them.
            "covered_cost": decimal(Fraction(row.covered_cost) if row.currency == invoice.currency else Fraction(0)),
            "used_microseconds": row.cover_used.get(service, 0),
        }
        for row in rows.defer("inputs", "extras", "decisions").order_by("period_start", "pk")
        if row.covered_cost or service in row.cover_used
    ]  # fmt: skip


# --- storms and steering ---------------------------------------------------------------------------------------------


def _policies(rows: Sequence[StormEvent]) -> dict[str, Any]:
    used = {(row.policy_id, row.policy_version) for row in rows}
    versions = StormPolicyVersion.objects.filter(policy__in={policy for policy, _ in used if policy})
    return {
        f"{version.policy_id}/{version.version}": {
            name: plain(Decimal(str(value)) if isinstance(value, float) else value) for name, value in version.terms.items()
        }
        for version in versions if (version.policy_id, version.version) in used
    }  # fmt: skip


def _storm(row: StormEvent, recorded: Recorded, issued: datetime) -> dict[str, Any]:
    ruling = getattr(row, "ruling", None)
    return {
        "id": row.pk, "kind": row.kind, "attribution": row.attribution, "is_armed": row.is_armed, "reason": row.reason,
        "start": zulu(row.started_at), "end": _moment(row.ended_at),
        "spells": [[zulu(start), _moment(end)] for start, end in recorded.spells],
        "last_bad_at": zulu(row.last_bad_at), "policy": row.policy_id, "policy_version": row.policy_version,
        "witness": recorded.witness, "incident": row.incident_id,
        "ruling": {
            "is_covered": ruling.is_covered, "reason": ruling.reason, "by": ruling.ruled_by, "at": zulu(ruling.ruled_at),
        } if ruling and ruling.ruled_at <= issued else None,
        "evidence": {"path": f"/v1/storms/{row.pk}/evidence", "sha256": row.evidence_sha256 or None},
    }  # fmt: skip


def _targets(changes: Iterable[WeightChange]) -> list[dict[str, Any]]:
    ids = {int(target) for change in changes for target in (*change.weights, *change.previous_weights)}
    rows = Target.objects.filter(pk__in=ids).select_related("cdn").order_by("pk")
    return [{"target": row.pk, "role": row.role, "cdn": row.cdn.slug if row.cdn else ""} for row in rows]


def _change(row: WeightChange) -> dict[str, Any]:
    return {
        "record_set": row.record_set_id, "generation": row.generation, "region": row.region, "weights": row.weights,
        "previous": row.previous_weights, "storm": row.storm_id, "state": row.state, "reason": row.reason,
        "wanted_at": zulu(row.wanted_at), "submitted_at": _moment(row.submitted_at),
        "confirmed_at": _moment(row.confirmed_at), "observed_at": _moment(row.observed_at),
    }  # fmt: skip


# --- usage -----------------------------------------------------------------------------------------------------------

# Of a path's minutes and quarters that touch some spans, what each object counted that was there by `issued`.
_BUCKETS = """
SELECT t.role, coalesce(c.slug, ''), b.minute_at, b.minutes, b.log_object_id, sum(b.bytes)::bigint
FROM (
    SELECT DISTINCT b.id
    FROM unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[]) AS s (start, "end")
        JOIN usage_buckets b ON b.service_id = %(service)s AND b.minute_at > s.start - interval '15 minutes'
            AND b.minute_at < s."end" AND b.minute_at + b.minutes * interval '1 minute' > s.start
) AS touched
    JOIN usage_buckets b ON b.id = touched.id
    JOIN targets t ON t.id = b.target_id LEFT JOIN cdns c ON c.id = t.cdn_id
    LEFT JOIN log_objects o ON o.id = b.log_object_id
WHERE o.processed_at IS NULL OR o.processed_at <= %(issued)s
GROUP BY 1, 2, 3, 4, 5
ORDER BY 3, 1, 2, 4, 5
"""
# An hour that changed later is summed again without what came later.
_HOURS = """
SELECT t.role, coalesce(c.slug, ''), u.window_start, 60, sum(
    CASE WHEN u.updated_at <= %(issued)s THEN u.bytes ELSE (
        SELECT sum(b.bytes) FROM usage_buckets b LEFT JOIN log_objects o ON o.id = b.log_object_id
        WHERE b.service_id = u.service_id AND b.target_id = u.target_id
            AND b.minute_at >= u.window_start AND b.minute_at < u.window_end
            AND (o.processed_at IS NULL OR o.processed_at <= %(issued)s)
    ) END)::bigint AS bytes
FROM (
    SELECT DISTINCT u.id
    FROM unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[]) AS s (start, "end")
        JOIN usage_snapshots u ON u.service_id = %(service)s AND u.window_start >= s.start AND u.window_start < s."end"
) AS touched
    JOIN usage_snapshots u ON u.id = touched.id
    JOIN targets t ON t.id = u.target_id LEFT JOIN cdns c ON c.id = t.cdn_id
GROUP BY 1, 2, 3
ORDER BY 3, 1, 2
"""
_PERIOD_OBJECTS = """
WITH counted AS (
    SELECT b.log_object_id, coalesce(c.slug, '') AS cdn, sum(b.bytes)::bigint AS bytes
    FROM usage_buckets b JOIN targets t ON t.id = b.target_id LEFT JOIN cdns c ON c.id = t.cdn_id
    WHERE b.service_id = %(service)s AND b.minute_at >= %(start)s AND b.minute_at < %(end)s
    GROUP BY 1, 2
)
SELECT n.cdn, o.source_id, count(o.id), sum(n.bytes)::bigint, encode(sha256(convert_to(
    string_agg(o.key || E'\\t' || o.etag || E'\\t' || n.bytes, E'\\n' ORDER BY o.key COLLATE "C", o.etag COLLATE "C"),
    'UTF8')), 'hex')
FROM counted n LEFT JOIN log_objects o ON o.id = n.log_object_id
WHERE o.processed_at IS NULL OR o.processed_at <= %(issued)s
GROUP BY 1, 2 ORDER BY 1, 2 NULLS LAST
"""


def _around_events(service: int, invoice: Invoice, issued: datetime) -> tuple[list[Bucket], dict[int, int]]:
    """The minutes and quarters in the events' spans and at the edges of their baselines, with the hours within these; and
    what each log object counted of the minutes.
    """
    pieces, hours = [], []
    for event in invoice.decisions["events"]:
        if event["service"] == str(service):
            pieces += _intervals(event["spans"])
            for span in _intervals(event["baseline"]):
                inner, edges = whole_hours(span)
                hours += [inner] if inner else []
                pieces += edges
    buckets, objects = _read_buckets(service, pieces, issued)
    return [*buckets, *_read_hours(service, hours, issued)], objects


def _period_usage(service: int, span: Interval, issued: datetime) -> list[Bucket]:
    inner, edges = whole_hours(span)
    hours = _read_hours(service, [inner] if inner else [], issued)
    return [*hours, *_read_buckets(service, edges, issued)[0]]


def _intervals(spans: Iterable[Mapping[str, str]]) -> list[Interval]:
    return [Interval(datetime.fromisoformat(s["start"]), datetime.fromisoformat(s["end"])) for s in spans]


def _read_buckets(service: int, spans: Sequence[Interval], issued: datetime) -> tuple[list[Bucket], dict[int, int]]:
    sums, objects = defaultdict[tuple[str, str, datetime, int], int](int), defaultdict[int, int](int)
    for role, cdn, at, minutes, log_object, size in _read(_BUCKETS, service, spans, issued):
        sums[role, cdn, at, minutes] += size
        if log_object is not None:
            objects[log_object] += size
    return [Bucket(*key, size) for key, size in sums.items()], objects


def _read_hours(service: int, spans: Sequence[Interval], issued: datetime) -> list[Bucket]:
    return [Bucket(*row) for row in _read(_HOURS, service, spans, issued) if row[-1] is not None]


def _read(statement: str, service: int, spans: Sequence[Interval], issued: datetime) -> list[tuple[Any, ...]]:
    if not spans:
        return []
    starts, ends = [i.start for i in spans], [i.end for i in spans]
    with connection.cursor() as cursor:
        cursor.execute(statement, {"service": service, "starts": starts, "ends": ends, "issued": issued})
        return list(cursor.fetchall())


def _log_objects(counted: Mapping[int, int], customer: int) -> list[dict[str, Any]]:
    """Of a source that others share only what is the customer's own: how large it is would tell of them."""
    rows = LogObject.objects.filter(pk__in=counted).select_related("source__cdn").order_by("source_id", "key", "etag")
    found = []
    for row in rows.defer("bad"):
        is_own = row.source.customer_id == customer
        found.append({
            "source": row.source_id, "cdn": row.source.cdn.slug, "key": row.key, "etag": row.etag,
            "sha256": row.sha256 or None, "bytes": counted[row.pk], "size_bytes": row.size_bytes if is_own else None,
            "rows": row.rows if is_own else None, "bad_rows": row.bad_rows if is_own else None,
        })  # fmt: skip
    return found


def _period_objects(service: int, span: Interval, issued: datetime) -> list[dict[str, Any]]:
    """How many log objects the period's usage is from, by source, and the digest of their list: a month has too many to
    name. Without a source: quarters of an hour, into which many were merged.
    """
    with connection.cursor() as cursor:
        cursor.execute(_PERIOD_OBJECTS, {"service": service, "start": span.start, "end": span.end, "issued": issued})
        return [
            {"cdn": cdn, "source": source, "objects": objects, "bytes": size, "sha256": digest}
            for cdn, source, objects, size, digest in cursor.fetchall()
        ]
