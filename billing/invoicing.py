"""Drafts stored, and issued: finalization takes the next number and freezes the money, many at a time."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded
from django.db import OperationalError, connection, transaction
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange, Jsonb
from django.db.models import F

from billing import bill as billing_bill
from billing import corrections, cover, credits, disputes
from billing.bill import BillLine
from billing.cover import zulu
from billing.drafting import Draft, Pending, Run, compute, stored_cost
from billing.models import Invoice, InvoiceLineItem
from billing.money import format_minor
from billing.numbers import take_numbers
from billing.problems import InvoiceError
from billing.rating import Line, decimal
from billing.segments import Month
from billing.wording import describe
from customers.models import Customer, Event
from storms.models import StormEvent
from tranche_site.floor.faults import fault_point

logger = logging.getLogger(__name__)

CUSTOMERS_AT_ONCE = 1000
SERIES = "INV"


# --- drafts ---------------------------------------------------------------------------------------------------------


def preview(customer: Customer, month: Month, as_of: datetime) -> Run:
    """The customer's drafts of a month as they would be stored, and what can't be billed. Nothing is written."""
    return compute(month, as_of, [customer], _pending(month, [customer], as_of))


def draft(customer: Customer, month: Month, as_of: datetime) -> list[Invoice]:
    """One customer's drafts of a month, stored in place of the earlier ones; what was issued stays as it is.

    Raises InvoiceError if there is usage that no contract says anything of.
    """
    with transaction.atomic():
        invoices, problems = _draft_some(month, as_of, [customer])
        if problems:
            raise InvoiceError("; ".join(problems.values()))
    return invoices


def draft_all(
    month: Month, as_of: datetime, customers: Iterable[Customer] | None = None
) -> tuple[list[Invoice], list[str]]:
    """Draft every customer's invoices of a month. One that can't be drafted is reported, and the others go on."""
    everybody = customers if customers is not None else Customer.objects.order_by("pk").iterator()
    drafts: list[Invoice] = []
    problems: list[str] = []
    for some in _batches(everybody):
        for made, found in _apart(some, lambda some: _draft_some(month, as_of, some), "drafted"):
            drafts += made
            problems += found.values()
    return drafts, problems


def _batches(customers: Iterable[Customer]) -> Iterator[list[Customer]]:
    rest = iter(customers)
    while some := list(islice(rest, CUSTOMERS_AT_ONCE)):
        yield some


_Done = tuple[list[Invoice], dict[int, str]]


def _apart(customers: list[Customer], work: Callable[[list[Customer]], _Done], done: str) -> Iterator[_Done]:
    """Do `work` for these customers in one transaction; where it breaks, for each half of them.

    So a customer whose rows nobody foresaw stands alone in the end, and is a problem of its own. A database that is away
    and a task whose time is up are everybody's.
    """
    try:
        with transaction.atomic():
            result = work(customers)
    except (OperationalError, SoftTimeLimitExceeded):
        raise
    except Exception as error:
        if len(customers) == 1:
            [customer] = customers
            logger.exception("%s can't be %s", customer, done)
            yield [], {customer.pk: f"{customer} can't be {done}: {type(error).__name__}: {error}"}
            return
        middle = len(customers) // 2
        yield from _apart(customers[:middle], work, done)
        yield from _apart(customers[middle:], work, done)
    else:
        yield result


def _draft_some(month: Month, as_of: datetime, customers: Sequence[Customer]) -> tuple[list[Invoice], dict[int, str]]:
    """Drafts of these customers, stored, and problems by customer. Call it in a transaction.

    One writer per customer: two runs at once give the same draft, not two. The lock leaves others free to refer to them.
    """
    ids = [customer.pk for customer in customers]
    list(Customer.objects.filter(pk__in=ids).order_by("pk").select_for_update(no_key=True).values_list("pk"))
    run = compute(month, as_of, customers, _pending(month, customers, as_of))
    return _store(month, as_of, run.drafts, ids), run.problems


def _pending(month: Month, customers: Sequence[Customer], as_of: datetime) -> Pending:
    """Corrections to bill now: with the customer's earliest month that is not issued yet."""
    ids = {customer.pk for customer in customers}
    earlier = Invoice.objects.drafts().filter(
        customer__in=ids, period_end__lte=month.span().start + timedelta(hours=14)
    )
    waiting = {
        row.customer_id for row in earlier.only("customer", "period_start", "time_zone") if _month_of(row) < month
    }
    return corrections.to_bill(ids - waiting, as_of)


_Key = tuple[int, datetime, datetime, str]


def _store(month: Month, as_of: datetime, drafts: Sequence[Draft], customers: Sequence[int]) -> list[Invoice]:
    """Write these drafts in place of the month's earlier ones; those that say the same are left. What was issued stays."""
    around = month.span()
    rows = Invoice.objects.filter(
        customer__in=customers, kind=Invoice.Kind.INVOICE,
        period_start__lt=around.end + timedelta(hours=15), period_end__gt=around.start - timedelta(hours=15),
    ).exclude(state=Invoice.State.VOID)  # fmt: skip
    rows = rows.select_related("customer", "contract").select_for_update(of=["self"])
    there = {_key_of(row): row for row in rows.defer("inputs", "extras", "decisions")}
    wanted: dict[_Key, Draft] = {
        (d.segment.contract.customer_id, d.segment.start, d.segment.end, d.currency): d for d in drafts
    }
    is_draft = Invoice.State.DRAFT
    _drop(
        [row.pk for k, row in there.items() if row.state == is_draft and k not in wanted and _month_of(row) == month]
    )  # fmt: skip
    stored: list[Invoice] = []
    new: list[tuple[Invoice, Draft]] = []
    changed: list[tuple[Invoice, Draft]] = []
    kept: list[int] = []
    for key, drafted in wanted.items():
        row = there.get(key)
        sha256 = drafted.sha256
        if row and (row.state != is_draft or (row.sha256, row.problem) == (sha256, drafted.problem)):
            kept.append(row.pk)
            stored.append(row)
            continue
        invoice = _invoice(drafted, sha256, row)
        stored.append(invoice)
        (changed if row else new).append((invoice, drafted))
    if kept:
        Invoice.objects.filter(pk__in=kept, state=is_draft).update(as_of=as_of)
    _write(new, changed)
    fault_point("billing.drafted")
    return stored


def _key_of(row: Invoice) -> _Key:
    return row.customer_id, row.period_start, row.period_end, row.currency


def _month_of(row: Invoice) -> Month:
    return Month.at(row.period_start, row.time_zone)


def _drop(ids: Sequence[int]) -> None:
    """Drafts of terms that are not the month's any more, or without anything left to bill."""
    if ids:
        InvoiceLineItem.objects.filter(invoice__in=ids).delete()
        Invoice.objects.drafts().filter(pk__in=ids).delete()


_REWRITTEN = [
    "contract", "prices", "time_zone", "as_of", "subtotal_minor", "discount_minor", "tax_minor", "total_minor", "formula",
    "inputs", "extras", "decisions", "taxes", "covered_cost", "cover_used", "problem", "sha256",
]  # fmt: skip


def _invoice(drafted: Draft, sha256: str, there: Invoice | None) -> Invoice:
    segment, bill = drafted.segment, drafted.bill
    invoice = there or Invoice(
        customer=segment.customer, period_start=segment.start, period_end=segment.end, currency=drafted.currency
    )
    invoice.contract, invoice.prices = segment.contract, segment.prices
    invoice.time_zone, invoice.as_of = segment.contract.time_zone, drafted.as_of
    invoice.subtotal_minor, invoice.discount_minor = bill.subtotal_minor, bill.discount_minor
    invoice.tax_minor, invoice.total_minor = bill.tax_minor, bill.total_minor
    invoice.formula, invoice.inputs = drafted.rated.formula, drafted.document
    invoice.extras, invoice.decisions = billing_bill.to_json(drafted.charges), drafted.decisions_json()
    invoice.taxes = credits.taxes_json(bill.taxes)
    invoice.covered_cost = stored_cost(drafted.rated)
    invoice.cover_used, invoice.problem, invoice.sha256 = drafted.cover_used, drafted.problem, sha256
    return invoice


def _write(new: Sequence[tuple[Invoice, Draft]], changed: Sequence[tuple[Invoice, Draft]]) -> None:
    Invoice.objects.bulk_create([invoice for invoice, _ in new])
    if changed:
        rows = [invoice for invoice, _ in changed]
        Invoice.objects.bulk_create(rows, update_conflicts=True, unique_fields=["id"], update_fields=_REWRITTEN)
        InvoiceLineItem.objects.filter(invoice__in=rows).delete()
    InvoiceLineItem.objects.bulk_create(
        line for invoice, drafted in (*new, *changed) for line in lines_of(invoice, drafted)
    )
    Event.objects.bulk_create(
        Event.about("invoice.drafted", invoice, f"Draft for {_month_of(invoice)}", customer_id=invoice.customer_id)
        for invoice, _ in new
    )


def lines_of(invoice: Invoice, drafted: Draft) -> list[InvoiceLineItem]:
    period = DateTimeTZRange(invoice.period_start, invoice.period_end)
    return [
        InvoiceLineItem(
            customer_id=invoice.customer_id,
            invoice=invoice,
            position=position,
            kind=entry.line.kind,
            service_id=int(entry.line.service) if entry.line.service else None,
            path=entry.line.path,
            cdn=entry.line.cdn,
            description=entry.description or describe(entry.line, drafted.names, drafted.currency),
            bytes=entry.line.bytes,
            amount_minor=entry.line.amount_minor,
            tax_category=entry.tax_category,
            claim=period if entry.line.kind == "usage" else None,
            corrects_id=entry.corrects,
            details=_details(entry, drafted),
        )
        for position, entry in enumerate(drafted.bill.lines, 1)
    ]


def _details(entry: BillLine, drafted: Draft) -> dict[str, Any]:
    """The arithmetic, with the versions that it used."""
    contract, prices, line = drafted.segment.contract, drafted.segment.prices, entry.line
    details = dict(line.details) | {
        "formula": drafted.rated.formula,
        "contract": {"id": contract.pk, "version": contract.version},
        "rate_card": {"id": prices.rate_card_id, "name": contract.rate_card.name, "version": prices.version},
    }
    if entry.tax_rate:
        details["tax_rate"] = decimal(entry.tax_rate)
    if line.kind == "cover":
        details |= _cover_details(line, drafted)
    return details


def _cover_details(line: Line, drafted: Draft) -> dict[str, Any]:
    events = [covered.as_json() for covered in drafted.events if str(covered.service) == line.service]
    names = sorted({name for event in events for name in event["storms"]})
    return {
        "grade": max((u.grade for u in drafted.usage if str(u.service_id) == line.service), default="E2"),
        "events": events,
        "storms": [
            {
                "id": name,
                "start": zulu(row.started_at),
                "end": zulu(row.ended_at) if row.ended_at else None,
                "policy": row.policy_id,
                "policy_version": row.policy_version,
                "attribution": row.attribution,
                "reason": row.reason,
            }
            for name in names
            if (row := drafted.storms.get(name))
        ],
    }


# --- issuing --------------------------------------------------------------------------------------------------------


def finalize(invoice: Invoice, now: datetime | None = None, approved_by: str = "") -> Invoice:
    """Issue one draft: recompute it, take the next number and freeze it, in one transaction. Raises InvoiceError.

    `approved_by`: the person who answers for a draft with a problem, such as sampled logs.
    """
    now = now or datetime.now(UTC)
    if now < invoice.period_end:
        raise InvoiceError(f"the period ends only at {invoice.period_end:%Y-%m-%d %H:%M} UTC")
    with transaction.atomic():
        fresh, problems = _draft_some(_month_of(invoice), now, [invoice.customer])
        mine = next((row for row in fresh if row.pk == invoice.pk), None)
        if mine is None:
            mine = Invoice.objects.select_for_update().filter(pk=invoice.pk).first()
            if mine is None or mine.state == Invoice.State.DRAFT:
                raise InvoiceError("there is nothing left to invoice")
        if mine.state != Invoice.State.DRAFT:
            return mine
        if problems:
            raise InvoiceError("; ".join(problems.values()))
        if reason := _unready([mine], approved_by).get(mine.pk):
            raise InvoiceError(reason)
        _issue([mine], now, approved_by)
    return mine


def finalize_due(now: datetime) -> tuple[list[Invoice], list[str]]:
    """Issue every draft whose grace period is over, in order of time, and credit what issued ones say too much."""
    due = defaultdict[Month, dict[int, Customer]](dict)
    drafts = Invoice.objects.drafts().filter(kind=Invoice.Kind.INVOICE, period_end__lte=now)
    for invoice in drafts.select_related("contract", "customer").defer("inputs", "extras", "decisions"):
        if _is_due(invoice, now):
            due[_month_of(invoice)][invoice.customer_id] = invoice.customer
    issued: list[Invoice] = []
    problems: list[str] = []
    for month in sorted(due):
        for some in _batches(due[month].values()):
            for ready, found in _apart(some, lambda some: _issue_ready(month, some, now), "invoiced"):  # noqa: B023
                issued += ready
                problems += found.values()
    return issued, problems


def _issue_ready(month: Month, customers: Sequence[Customer], now: datetime) -> _Done:
    """Draft these customers' month once more and issue what is ready. Call it in a transaction."""
    fresh, problems = _draft_some(month, now, customers)
    due = [row for row in fresh if row.state == Invoice.State.DRAFT and _is_due(row, now)]
    unready = _unready(due)
    ready = [row for row in due if row.pk not in unready and row.customer_id not in problems]
    _issue(ready, now)
    for row in due:
        if row.pk in unready:
            told = f"{row.customer}, {month}: {unready[row.pk]}"
            problems[row.customer_id] = "; ".join(filter(None, (problems.get(row.customer_id), told)))
    return ready, problems


def _is_due(invoice: Invoice, now: datetime) -> bool:
    return now >= invoice.period_end + timedelta(hours=invoice.contract.grace_hours)


def _unready(invoices: Sequence[Invoice], approved_by: str = "") -> dict[int, str]:
    """Why some can't be issued yet, by invoice."""
    reasons = {row.pk: row.problem for row in invoices if row.problem and not approved_by}
    owners = {row.customer_id for row in invoices}
    open_storms = StormEvent.objects.filter(
        customer__in=owners, ended_at__isnull=True, is_armed=True, kind__in=cover.PAYING_KINDS
    ).select_related("service")
    raging = defaultdict[int, list[StormEvent]](list)
    for storm in open_storms:
        raging[storm.customer_id].append(storm)
    earlier = defaultdict[int, list[datetime]](list)
    for owner, start in Invoice.objects.drafts().filter(customer__in=owners).values_list("customer", "period_start"):
        earlier[owner].append(start)
    batch = {(row.customer_id, row.period_start) for row in invoices}
    for row in invoices:
        for storm in raging[row.customer_id]:
            if storm.started_at < row.period_end:
                reasons.setdefault(row.pk, f"{storm} still rages: what it covers is not known yet")
        counts = row.contract.layers or row.contract.aggregate_seconds is not None
        before = [at for at in earlier[row.customer_id] if at < row.period_start and (row.customer_id, at) not in batch]
        if counts and before:
            reasons.setdefault(
                row.pk, f"the draft from {min(before):%Y-%m-%d} goes first: cover counts on over the policy year"
            )
    return reasons


_NUMBER = """
UPDATE invoices SET number = given.number, state = 'open', finalized_at = %s, due_at = given.due_at,
    parties = given.parties
FROM unnest(%s::bigint[], %s::text[], %s::timestamptz[], %s::jsonb[]) AS given (id, number, due_at, parties)
WHERE invoices.id = given.id AND invoices.state = 'draft'
"""


def _issue(invoices: Sequence[Invoice], now: datetime, approved_by: str = "") -> None:
    """Number, freeze and tell. The counter's row is locked until the transaction ends, so a number that is not used is
    not lost: no gaps.
    """
    if not invoices:
        return
    ordered = sorted(invoices, key=lambda row: (row.period_start, row.customer_id, row.pk))
    for row, number in zip(ordered, take_numbers(SERIES, len(ordered)), strict=True):
        row.number, row.state, row.finalized_at = number, Invoice.State.OPEN, now
        row.due_at = now + timedelta(days=row.contract.payment_days)
        row.parties = credits.parties(row.customer)
    fault_point("billing.numbered")
    with connection.cursor() as cursor:
        cursor.execute(
            _NUMBER,
            [
                now, [r.pk for r in ordered], [r.number for r in ordered], [r.due_at for r in ordered],
                [Jsonb(r.parties) for r in ordered],
            ],
        )  # fmt: skip
        if cursor.rowcount != len(ordered):
            raise InvoiceError("a draft was issued or dropped meanwhile")
    Event.objects.bulk_create(
        Event.about(
            "invoice.finalized", row, f"Invoice {row.number}: {format_minor(row.total_minor, row.currency)} {row.currency}",
            customer_id=row.customer_id, number=row.number, total_minor=row.total_minor, currency=row.currency,
            due_at=row.due_at and row.due_at.isoformat(), approved_by=approved_by,
        )
        for row in ordered
    )  # fmt: skip
    for row in ordered:
        credits.credit_excess(row, now)
        if row.total_minor <= 0:  # nobody will pay it
            credits.recount(row.pk, now)
            row.refresh_from_db(fields=["state", "settled_at"])
    fault_point("billing.finalized")


# --- after issuing --------------------------------------------------------------------------------------------------


def void(invoice: Invoice, reason: str, by: str, now: datetime) -> Invoice:
    """Take an issued invoice back, as if it had never been; its number stays. Its usage can be billed again.

    Raises InvoiceError once it was paid, or has corrections of its own: those are settled by a credit note.
    """
    with transaction.atomic():
        # Whoever drafts or corrects holds it: what is billed or booked meanwhile must be seen here.
        Customer.objects.select_for_update(no_key=True).get(pk=invoice.customer_id)
        own = [pk for pk in (invoice.pk, invoice.corrects_id) if pk]
        row = {r.pk: r for r in Invoice.objects.filter(pk__in=own).order_by("pk").select_for_update()}[invoice.pk]
        if row.state != Invoice.State.OPEN:
            raise InvoiceError(f"only an open invoice can be voided; {row} is {row.state}")
        if row.paid_minor:
            raise InvoiceError(f"{row} has payments: credit it instead")
        if row.corrections.exclude(state=Invoice.State.VOID).exists():
            raise InvoiceError(f"{row} has credit notes: it can't be voided any more")
        if InvoiceLineItem.objects.filter(corrects__invoice=row).exclude(invoice__state=Invoice.State.VOID).exists():
            raise InvoiceError(f"a later invoice corrects {row}: it can't be voided any more")
        _settle(row, Invoice.State.VOID, reason, now)
        row.lines.filter(claim__isnull=False).update(claim=None)
        # What it corrected, or gave back, is to be booked again.
        Invoice.objects.final().filter(lines__corrections__invoice=row).exclude(pk=row.pk).update(stale_at=now)
        if row.corrects_id:
            credits.recount(row.corrects_id, now)
        disputes.close_all_of(row, by, now)
        _tell(row, "voided", f"{row} is void: {reason}", by)
    return row


def give_up(invoice: Invoice, reason: str, by: str, now: datetime) -> Invoice:
    """Mark an open invoice as uncollectible. Raises InvoiceError."""
    with transaction.atomic():
        row = Invoice.objects.select_for_update().get(pk=invoice.pk)
        if row.state != Invoice.State.OPEN or row.kind != Invoice.Kind.INVOICE:
            raise InvoiceError(f"only an open invoice can be given up; {row} is {row.state}")
        _settle(row, Invoice.State.UNCOLLECTIBLE, reason, now)
        _tell(row, "marked_uncollectible", f"{row} is given up: {reason}", by)
    return row


def _settle(row: Invoice, state: Invoice.State, reason: str, now: datetime) -> None:
    row.state, row.state_reason, row.settled_at = state, reason[:300], now
    row.save(update_fields=["state", "state_reason", "settled_at"])


def _tell(row: Invoice, what: str, summary: str, by: str) -> None:
    kind = "credit_note" if row.kind == Invoice.Kind.CREDIT_NOTE else "invoice"
    Event.record(f"{kind}.{what}", row, summary, customer_id=row.customer_id, number=row.number, by=by)


REMIND_AFTER = (timedelta(0), timedelta(days=7), timedelta(days=14))
"""Past the due date; the last one is repeated no more."""


def remind(now: datetime) -> int:
    """Events for open invoices that are past their due date, each step once. Returns how many."""
    told = 0
    for step, after in enumerate(REMIND_AFTER, 1):
        with transaction.atomic():
            late = Invoice.objects.filter(
                state=Invoice.State.OPEN, kind=Invoice.Kind.INVOICE, due_at__lte=now - after, reminders__lt=step,
                total_minor__gt=F("paid_minor") + F("credited_minor"),
            )  # fmt: skip
            rows = list(late.select_for_update(skip_locked=True).defer("inputs", "extras", "decisions"))
            Invoice.objects.filter(pk__in=[row.pk for row in rows]).update(reminders=step)
            Event.objects.bulk_create(
                Event.about(
                    "invoice.payment_overdue", row,
                    f"{row} is overdue: {format_minor(row.due_minor, row.currency)} {row.currency}",
                    customer_id=row.customer_id, number=row.number, due_minor=row.due_minor, reminder=step,
                )
                for row in rows
            )  # fmt: skip
            told += len(rows)
    return told
