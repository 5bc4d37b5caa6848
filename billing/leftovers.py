"""Months before the last one of which something is still to be billed: what was voided, and logs that came after all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import connection

from billing import invoicing
from billing.models import Invoice
from billing.segments import Month
from customers.models import Customer

VOIDED_DAYS, LATE_DAYS = 60, 3
"""How long after voiding, and after late usage came in, its month is drafted again."""
_AROUND = timedelta(hours=14)
"""No zone's month begins further from UTC's."""

_VOIDED = """
SELECT v.customer_id, v.period_start FROM invoices v
WHERE v.kind = 'invoice' AND v.state = 'void' AND v.settled_at > %(since)s AND v.period_start < %(before)s
    AND NOT EXISTS (
        SELECT FROM invoices i WHERE i.customer_id = v.customer_id AND i.kind = 'invoice' AND i.state <> 'void'
            AND i.period_start < v.period_end AND i.period_end > v.period_start)
"""
_LATE = """
SELECT u.customer_id, date_trunc('day', u.window_start, 'UTC') FROM usage_snapshots u
WHERE u.updated_at > %(since)s AND u.window_start < %(before)s AND (u.bytes > 0 OR u.requests > 0)
    AND NOT EXISTS (
        SELECT FROM invoices i WHERE i.customer_id = u.customer_id AND i.kind = 'invoice' AND i.state <> 'void'
            AND i.period_start <= u.window_start AND i.period_end > u.window_start)
GROUP BY 1, 2
"""


def draft_voided(now: datetime) -> list[str]:
    """Draft again what was voided and has no other in its place. Returns problems."""
    return _draft(_VOIDED, now, timedelta(days=VOIDED_DAYS))


def draft_late(now: datetime) -> list[str]:
    """Draft months that had no invoice, and have usage now. Reads all usage, so it is for the night. Returns problems."""
    return _draft(_LATE, now, timedelta(days=LATE_DAYS))


def _draft(statement: str, now: datetime, back: timedelta) -> list[str]:
    last = Month.at(now).before
    with connection.cursor() as cursor:
        cursor.execute(statement, {"since": now - back, "before": last.span().start})
        rows = cursor.fetchall()
    problems: list[str] = []
    for month, customers in sorted(_months(rows, last).items()):
        problems += invoicing.draft_all(month, now, Customer.objects.filter(pk__in=customers).order_by("pk"))[1]
    return problems


def _months(rows: Iterable[tuple[int, datetime]], last: Month) -> dict[Month, set[int]]:
    """The months that these moments may lie in, whatever the zone; of the last one and this one others take care."""
    found = defaultdict[Month, set[int]](set)
    for customer, at in rows:
        for month in {Month.at(at - _AROUND), Month.at(at + _AROUND)}:
            if month < last:
                found[month].add(customer)
    return found


def uncorrected(now: datetime, days: int) -> Iterable[str]:
    """Issued invoices whose correction has waited for so long that no later one seems to be there to carry it."""
    rows = Invoice.objects.final().filter(kind=Invoice.Kind.INVOICE, stale_at__lt=now - timedelta(days=days))
    for invoice in rows.order_by("stale_at").select_related("customer")[:100]:
        yield (
            f"{invoice.number} of {invoice.customer} is to be corrected since {invoice.stale_at:%Y-%m-%d}, and no later invoice "
            "carries it: a person must bill or credit it by hand"
        )
