"""Late and corrected usage of issued invoices (F14): the period is rated again by what it was rated by, and only the
difference is booked. More to pay is a line on the next invoice, less is a credit note. Nothing is dropped: what is not
booked yet is found again at the next look.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded
from django.db import OperationalError, connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now

from billing import credits
from billing.bill import BillLine, Correction, from_json
from billing.cover import BASELINE
from billing.drafting import Draft, compute_segments
from billing.models import Contract, Invoice, InvoiceLineItem
from billing.rating import decimal
from billing.segments import Segment
from customers.models import Customer
from storms.models import StormEvent

logger = logging.getLogger(__name__)

_Key = tuple[str, str, str, bool]  # service, path, CDN; whether of requests


@dataclass(frozen=True, slots=True)
class Difference:
    """What one line of an issued invoice should say more (or less, below 0), beyond what was booked already."""

    invoice: Invoice
    line: InvoiceLineItem
    amount_minor: int
    details: dict[str, Any]

    @property
    def description(self) -> str:
        return f"Correction of {self.invoice.number} ({self.invoice.period_start:%Y-%m}): {self.line.description}"


def to_bill(customers: Collection[int], as_of: datetime) -> dict[tuple[int, str], list[Correction]]:
    """By customer and currency, what is to be billed more for issued periods."""
    found = defaultdict[tuple[int, str], list[Correction]](list)
    for difference in differences(_affected(customers), as_of):
        if difference.amount_minor > 0:
            invoice = difference.invoice
            found[invoice.customer_id, invoice.currency].append(_correction(difference))
    return dict(found)


def credit_all(now: datetime) -> list[Invoice]:
    """Credit notes for issued invoices that say too much, and rest for those that say what they should.

    A customer whose rows nobody foresaw is logged, and the others go on.
    """
    notes = []
    for customer in _stale().order_by("customer_id").values_list("customer_id", flat=True).distinct():
        try:
            with transaction.atomic():
                Customer.objects.select_for_update(no_key=True).get(pk=customer)
                notes += _credit(_affected([customer]), now)
        except (OperationalError, SoftTimeLimitExceeded):
            raise  # a database that is away, and a task whose time is up, are everybody's
        except Exception:
            logger.exception("no credit notes of customer %s", customer)
    return notes


def _credit(invoices: Sequence[Invoice], now: datetime) -> list[Invoice]:
    """Of one customer, whose row is locked."""
    notes = []
    list(
        Invoice.objects.filter(pk__in=[row.pk for row in invoices]).order_by("pk").select_for_update().values_list("pk")
    )
    by_invoice = defaultdict[int, list[Difference]](list)
    for difference in differences(invoices, now):
        by_invoice[difference.invoice.pk].append(difference)
    for invoice in invoices:
        found = by_invoice[invoice.pk]
        # What is only told by samples waits until somebody looks at it, or better logs come.
        less = [_given(d) for d in found if d.amount_minor < 0 and not d.details.get("problem")]
        given = [credit for credit in less if credit.amount_minor]
        if given:
            reason = Invoice.Reason.LATE_USAGE
            notes.append(credits.write(invoice, given, reason, "late or corrected usage, or cover", "", now))
        if len(less) == len(found) and invoice.stale_at:
            # Unless something came in since it was read.
            Invoice.objects.filter(pk=invoice.pk, stale_at=invoice.stale_at).update(stale_at=None)
        elif len(less) < len(found) and not invoice.stale_at:
            # It was looked at because of an earlier month, which may be done with before this is billed.
            Invoice.objects.filter(pk=invoice.pk, stale_at=None).update(stale_at=Now())
    return notes


def _given(difference: Difference) -> credits.Credit:
    """What is given back, and no more than the customer was billed; but a payout has no such end, and bears no tax."""
    amount, is_payout = -difference.amount_minor, _is_payout(difference.invoice)
    if not is_payout:
        amount = min(amount, credits.left_of(difference.line))
    return credits.Credit(difference.line, amount, difference.description, difference.details, is_taxed=not is_payout)


def _is_payout(invoice: Invoice) -> bool:
    """Where the customer pays its CDNs itself, only cover can change after issuing."""
    return invoice.contract.kind == Contract.Kind.OWN_CDN


def _stale() -> QuerySet[Invoice]:
    rows = Invoice.objects.final().filter(kind=Invoice.Kind.INVOICE, stale_at__isnull=False)
    return _whole(rows)


def _whole(rows: QuerySet[Invoice]) -> QuerySet[Invoice]:
    return rows.select_related("contract__customer", "contract__rate_card", "prices").order_by(
        "customer_id", "period_start"
    )


def _affected(customers: Collection[int]) -> list[Invoice]:
    """Issued invoices that are to be rated again. Where limits count over a policy year, all of that year's: a later one
    follows from what the earlier ones use, as they are rated now.
    """
    stale = list(_stale().filter(customer__in=customers))
    since: dict[int, datetime] = {}
    for row in stale:
        if row.contract.layers or row.contract.aggregate_seconds is not None:
            began = segment_of(row).policy_year.start
            since[row.customer_id] = min(since.get(row.customer_id, began), began)
    if not since:
        return stale
    rest = Invoice.objects.final().filter(customer__in=since, kind=Invoice.Kind.INVOICE).exclude(sha256="")
    known = {row.pk for row in stale}
    rows = [row for row in _whole(rest) if row.pk not in known and row.period_start >= since[row.customer_id]]
    return sorted([*stale, *rows], key=lambda row: (row.customer_id, row.period_start))


def segment_of(invoice: Invoice) -> Segment:
    """What an issued invoice is of, by the terms that it was issued with."""
    share = from_json(invoice.extras).share
    return Segment(invoice.contract, invoice.prices, invoice.period_start, invoice.period_end, share)


def differences(invoices: Iterable[Invoice], as_of: datetime) -> list[Difference]:
    """What issued invoices should say otherwise, by line."""
    rows = list(invoices)
    segments = [segment_of(row) for row in rows]
    found = []
    # What an issued invoice itself corrected belongs to it, and is no usage of its period.
    corrected = [from_json(row.extras).corrections for row in rows]
    for invoice, draft in zip(rows, compute_segments(segments, as_of, corrected), strict=True):
        found += _of(invoice, draft)
    return found


def _of(invoice: Invoice, draft: Draft) -> list[Difference]:
    lines = list(invoice.lines.order_by("position"))
    should, told = defaultdict[_Key, int](int), defaultdict[_Key, int](int)
    for entry in (*draft.bill.lines, *(BillLine(line) for line in draft.bill.excess)):
        should[_key(entry.line.service, entry.line.path, entry.line.cdn, entry.line.kind)] += _signed(
            entry.line.kind, entry.line.amount_minor
        )
    for line in lines:
        told[_key(str(line.service_id or ""), line.path, line.cdn, line.kind)] += _signed(line.kind, line.amount_minor)
    net = defaultdict[int, int](int)
    by_id = {line.pk: line for line in lines}
    for key in should.keys() | told.keys():
        net[_anchor(key, lines).pk] += should[key] - told[key]
    for pk, booked in _booked(by_id):
        net[pk] -= booked
    usage = ({"problem": draft.problem} if draft.problem else {}) | {
        "bytes_now": {f"{u.path} {u.cdn}".strip(): u.bytes for u in draft.usage},
        "rated_again_at": draft.as_of.isoformat(),
        "sha256": draft.sha256,
    }
    details = usage | {
        "invoice": invoice.number,
        "period": [invoice.period_start.isoformat(), invoice.period_end.isoformat()],
    }
    return [Difference(invoice, by_id[pk], amount, details) for pk, amount in sorted(net.items()) if amount]


def _key(service: str, path: str, cdn: str, kind: str) -> _Key:
    """Cover is of the backup path that it reduces; requests, fees and the commitment stand apart."""
    return (service, path, cdn, kind == InvoiceLineItem.Kind.REQUESTS) if service else ("", "", kind, False)


def _signed(kind: str, amount: int) -> int:
    return -amount if kind == InvoiceLineItem.Kind.COVER else amount


def _anchor(key: _Key, lines: Sequence[InvoiceLineItem]) -> InvoiceLineItem:
    """The line that a difference is booked on: the charge of that path, or the nearest there is."""
    service, path, cdn, is_requests = key
    charges = [line for line in lines if line.kind != InvoiceLineItem.Kind.COVER] or list(lines)

    def distance(line: InvoiceLineItem) -> tuple[bool, bool, bool, bool, int]:
        is_other = (line.kind == InvoiceLineItem.Kind.REQUESTS) != is_requests
        return str(line.service_id or "") != service, line.path != path, is_other, line.cdn != cdn, line.position

    return min(charges, key=distance)


def _booked(lines: Collection[int]) -> list[tuple[int, int]]:
    """What later documents said about these lines: corrections that were issued, less what was credited for the reason."""
    rows = InvoiceLineItem.objects.filter(corrects__in=lines).exclude(
        invoice__state__in=[Invoice.State.DRAFT, Invoice.State.VOID]
    )
    automatic = Q(kind=InvoiceLineItem.Kind.CORRECTION) | Q(
        invoice__reason__in=[Invoice.Reason.LATE_USAGE, Invoice.Reason.COVER]
    )
    return [
        (row.corrects_id or 0, row.amount_minor if row.kind == InvoiceLineItem.Kind.CORRECTION else -row.amount_minor)
        for row in rows.filter(automatic)
    ]


def _correction(difference: Difference) -> Correction:
    line = difference.line
    rate = Fraction(0) if _is_payout(difference.invoice) else Fraction(line.details.get("tax_rate", "0"))
    return Correction(
        line=line.pk,
        service=str(line.service_id or ""),
        path=line.path,
        amount_minor=difference.amount_minor,
        tax_category=line.tax_category,
        tax_rate=rate,
        description=difference.description[:300],
        details=difference.details | {"tax_rate": decimal(rate)},
    )


_MARK = """
UPDATE invoices SET stale_at = clock_timestamp()
WHERE state IN ('open', 'paid', 'uncollectible') AND kind = 'invoice' AND customer_id = ANY(%s)
    AND period_start < %s AND period_end > %s
    AND sha256 <> ''  -- of an earlier release, which had other rules: what it issued stays
"""


def mark(customers: Collection[int], first: datetime, last: datetime) -> None:
    """Usage within [first, last] changed: issued invoices that it may have a part in are to be rated again.

    Usage of the week before an event tells what is normal, so it matters to the period after it as well.
    """
    with connection.cursor() as cursor:
        # Whoever drafts or issues holds the row for writing: what it issues meanwhile must be seen here.
        cursor.execute("SELECT id FROM customers WHERE id = ANY(%s) ORDER BY id FOR SHARE", [list(customers)])
        cursor.execute(_MARK, [list(customers), last + BASELINE + timedelta(days=1), first])


def mark_ruled(since: datetime) -> None:
    """A storm was corroborated, or ruled on, after its period was issued."""
    ruled = StormEvent.objects.filter(Q(incident__confirmed_at__gte=since) | Q(ruling__ruled_at__gte=since))
    for customer, started, ended in ruled.values_list("customer_id", "started_at", "ended_at"):
        rows = Invoice.objects.final().filter(customer=customer, kind=Invoice.Kind.INVOICE, period_end__gt=started)
        rows = rows.exclude(sha256="")
        rows.filter(period_start__lt=(ended or started) + timedelta(days=1)).update(stale_at=Now())


def mark_limited(since: datetime) -> None:
    """Issued since then under a limit of the policy year, of which a month was corrected: drafts count what earlier
    invoices said that they use, and only rating the whole year again tells what they do use.
    """
    said_more = InvoiceLineItem.objects.filter(corrects__invoice__customer=OuterRef("customer")).exclude(
        invoice__state__in=[Invoice.State.DRAFT, Invoice.State.VOID]
    )
    issued = Invoice.objects.final().filter(kind=Invoice.Kind.INVOICE, finalized_at__gte=since, stale_at=None)
    limited = issued.filter(Q(contract__aggregate_seconds__isnull=False) | ~Q(contract__layers=[])).exclude(sha256="")
    limited.filter(Exists(said_more)).update(stale_at=Now())
