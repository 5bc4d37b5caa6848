"""The nightly audit of money: questions that have no answer while all is well. Set-wise, and nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.db import connection

from billing import bill as billing_bill
from billing import leftovers
from billing.document import DocumentError, rate_document
from billing.models import Invoice

DAYS = 40
"""How far back usage is summed again: the month that may still be issued, and the one before."""

# What was merged into quarters, and what was sampled and scaled up, can't be told by object any more.
_ROWS = """
SELECT o.id, o.key, o.rows - o.bad_rows - o.excluded_rows - o.duplicate_rows AS told,
    coalesce((SELECT sum(requests) FROM usage_buckets b WHERE b.log_object_id = o.id), 0)
    + coalesce((SELECT sum(requests) FROM unknown_host_usage u WHERE u.log_object_id = o.id), 0) AS stored
FROM log_objects o
WHERE o.state = 'counted' AND o.merged_at IS NULL AND o.processed_at > %s
    AND NOT EXISTS (SELECT 1 FROM usage_buckets b WHERE b.log_object_id = o.id AND b.grade = 'E4')
"""
_HOURS = """
WITH minutes AS (
    SELECT service_id, target_id, date_trunc('hour', minute_at, 'UTC') AS hour, sum(bytes) AS bytes, sum(requests) AS requests
    FROM usage_buckets WHERE minute_at >= %(since)s GROUP BY 1, 2, 3
)
SELECT coalesce(m.service_id, s.service_id), coalesce(m.target_id, s.target_id), coalesce(m.hour, s.window_start),
    coalesce(m.bytes, 0), coalesce(s.bytes, 0)
FROM minutes m FULL JOIN (SELECT * FROM usage_snapshots WHERE window_start >= %(since)s) s
    ON s.service_id = m.service_id AND s.target_id = m.target_id AND s.window_start = m.hour
WHERE coalesce(m.bytes, 0) <> coalesce(s.bytes, 0) OR coalesce(m.requests, 0) <> coalesce(s.requests, 0)
"""
# Invoices whose usage changed since they were issued wait for their correction, and are not looked at.
_BILLED = """
SELECT i.number, i.service_id, i.path, i.bytes AS billed, coalesce(sum(u.bytes), 0) AS used
FROM (
    SELECT i.number, l.service_id, l.path, l.claim, sum(l.bytes) AS bytes
    FROM invoice_line_items l JOIN invoices i ON i.id = l.invoice_id
    WHERE l.kind = 'usage' AND l.claim IS NOT NULL AND i.state IN ('open', 'paid', 'uncollectible')
        AND i.stale_at IS NULL AND i.finalized_at > %s
        AND extract(epoch FROM i.period_start)::bigint %% 3600 = 0 AND extract(epoch FROM i.period_end)::bigint %% 3600 = 0
        AND NOT EXISTS (SELECT 1 FROM invoice_line_items c WHERE c.corrects_id = l.id)
    GROUP BY 1, 2, 3, 4
) i
    LEFT JOIN (SELECT u.*, t.role FROM usage_snapshots u JOIN targets t ON t.id = u.target_id) u
        ON u.service_id = i.service_id AND u.role = i.path AND i.claim @> u.window_start
GROUP BY 1, 2, 3, 4 HAVING i.bytes <> coalesce(sum(u.bytes), 0)
"""
_SUMS = """
SELECT coalesce(i.number, 'draft ' || i.id) || ': lines sum to ' || coalesce(l.added, 0) || ' less ' || coalesce(l.cover, 0)
    || ', the invoice says ' || i.subtotal_minor || ' less ' || i.discount_minor
FROM invoices i LEFT JOIN (
    SELECT invoice_id, sum(amount_minor) FILTER (WHERE kind <> 'cover') AS added,
        sum(amount_minor) FILTER (WHERE kind = 'cover') AS cover
    FROM invoice_line_items GROUP BY 1
) l ON l.invoice_id = i.id
WHERE coalesce(l.added, 0) <> i.subtotal_minor OR coalesce(l.cover, 0) <> i.discount_minor
UNION ALL
SELECT number || ': payments sum to ' || coalesce(p.sum, 0) || ', the invoice says ' || paid_minor
FROM invoices i LEFT JOIN (SELECT invoice_id, sum(amount_minor) FROM payments GROUP BY 1) p ON p.invoice_id = i.id
WHERE coalesce(p.sum, 0) <> paid_minor
UNION ALL
SELECT i.number || ': credit notes sum to ' || coalesce(n.sum, 0) || ', the invoice says ' || credited_minor
FROM invoices i LEFT JOIN (
    SELECT corrects_id, sum(total_minor) FROM invoices WHERE kind = 'credit_note' AND state <> 'void' GROUP BY 1
) n ON n.corrects_id = i.id
WHERE i.kind = 'invoice' AND i.state <> 'draft' AND coalesce(n.sum, 0) <> credited_minor
UNION ALL
SELECT 'series ' || c.series || ': ' || c.last_number || ' numbers taken, ' || count(i.id) || ' documents bear one'
FROM invoice_counters c LEFT JOIN invoices i ON i.number LIKE c.series || '-%'
GROUP BY c.series, c.last_number HAVING count(i.id) <> c.last_number
"""


def _since(now: datetime) -> datetime:
    return (now - timedelta(days=DAYS)).replace(hour=0, minute=0, second=0, microsecond=0)


def uncounted_rows(now: datetime) -> Iterator[str]:
    """I11: what an object's rows were told to be, and what is stored of them."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM ({_ROWS}) AS o WHERE told <> stored", [_since(now)])  # noqa: S608
        for pk, key, told, stored in cursor:
            yield f"log object {pk} ({key}): {told} requests counted, {stored} stored"


def unsummed(now: datetime) -> Iterator[str]:
    """I12: hours that are not the sum of their minutes, and bills that are not the sum of their hours, or wait in vain to be."""
    with connection.cursor() as cursor:
        cursor.execute(_HOURS, {"since": _since(now)})
        for service, target, hour, minutes, told in cursor:
            yield f"service {service}, path {target}, {hour:%Y-%m-%d %H:%M}: minutes sum to {minutes} bytes, the hour has {told}"
    with connection.cursor() as cursor:
        cursor.execute(_BILLED, [_since(now)])
        for number, service, path, billed, used in cursor:
            yield f"{number}, service {service}, {path}: {billed} bytes billed, {used} used"
    yield from leftovers.uncorrected(now, DAYS)


def unfounded_money(now: datetime) -> Iterator[str]:
    """I13: the documents that invoices keep, rated again, say what the invoices say."""
    rows = Invoice.objects.exclude(state=Invoice.State.DRAFT).filter(
        kind=Invoice.Kind.INVOICE, finalized_at__gt=_since(now)
    )
    for invoice in rows.prefetch_related("lines").iterator(chunk_size=500):
        try:
            rated = rate_document(invoice.inputs)
        except DocumentError as error:
            yield f"{invoice.number} can't be rated again: {error}"
            continue
        whole = billing_bill.bill(rated, billing_bill.from_json(invoice.extras), invoice.currency)
        should = [(entry.line.kind, entry.line.path, entry.line.amount_minor) for entry in whole.lines]
        told = [(line.kind, line.path, line.amount_minor) for line in invoice.lines.all()]
        if should != told or whole.total_minor != invoice.total_minor:
            yield f"{invoice.number}: rated again it is {whole.total_minor}, issued were {invoice.total_minor} (minor units)"


def sums_that_differ(now: datetime) -> Iterator[str]:
    """I14."""
    with connection.cursor() as cursor:
        cursor.execute(_SUMS)
        for (text,) in cursor:
            yield text
