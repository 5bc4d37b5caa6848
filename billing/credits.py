"""Credit notes: issued money is corrected by another document, never changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Sum

from billing import bill as billing_bill
from billing.bill import Tax
from billing.document import rate_document
from billing.models import Contract, Invoice, InvoiceLineItem
from billing.money import exponent, format_minor
from billing.numbers import take_numbers
from billing.problems import InvoiceError
from billing.rating import decimal, half_up
from customers.models import Customer, Event
from tranche_site.floor.faults import fault_point

SERIES = "CN"


@dataclass(frozen=True, slots=True)
class Credit:
    """What is given back on one line, without tax; `amount_minor` > 0."""

    line: InvoiceLineItem
    amount_minor: int
    description: str
    details: dict[str, Any] = field(default_factory=dict)
    is_taxed: bool = True


def credit_line(line: InvoiceLineItem, amount_minor: int, reason: str, text: str, by: str, now: datetime) -> Invoice:
    """Give back a part of one line by a person's word. Raises InvoiceError.

    `reason` is one of Invoice.Reason, `text` says it in words.
    """
    with transaction.atomic():
        Customer.objects.select_for_update(no_key=True).get(pk=line.customer_id)
        invoice = Invoice.objects.select_for_update().get(pk=line.invoice_id)
        if invoice.kind != Invoice.Kind.INVOICE or line.kind == InvoiceLineItem.Kind.COVER:
            raise InvoiceError("credit a charge of an invoice: neither storm cover nor a credit note can be credited")
        left = left_of(line)
        if not 0 < amount_minor <= left:
            can = format_minor(left, invoice.currency)
            raise InvoiceError(f"amount: more than 0 and at most {can} {invoice.currency}, what is left of the line")
        return write(invoice, [Credit(line, amount_minor, f"{text} ({line.description})")], reason, text, by, now)


def left_of(line: InvoiceLineItem) -> int:
    """What the customer was billed by a line, less what cover took off it and credit notes gave back."""
    lines = InvoiceLineItem.objects.filter(
        invoice=line.invoice_id, kind=InvoiceLineItem.Kind.COVER, service=line.service_id, path=line.path, cdn=line.cdn
    )
    is_usage = line.kind == InvoiceLineItem.Kind.USAGE  # which is all that cover takes something off
    covered = sum(lines.values_list("amount_minor", flat=True)) if is_usage else 0
    return max(line.amount_minor - covered - credited_of(line), 0)


def credited_of(line: InvoiceLineItem) -> int:
    """What credit notes gave back of a line."""
    return sum(
        InvoiceLineItem.objects.filter(corrects=line, kind=InvoiceLineItem.Kind.CREDIT)
        .exclude(invoice__state=Invoice.State.VOID)
        .values_list("amount_minor", flat=True)
    )


def credit_excess(invoice: Invoice, now: datetime) -> Invoice | None:
    """Where the customer pays its CDNs itself, cover may exceed all that we charge: the rest is a credit note."""
    if invoice.contract.kind != Contract.Kind.OWN_CDN:
        return None
    rated = rate_document(invoice.inputs)
    excess = billing_bill.bill(rated, billing_bill.from_json(invoice.extras), invoice.currency).excess
    if not excess:
        return None
    anchor = invoice.lines.exclude(kind=InvoiceLineItem.Kind.COVER).order_by("position").first()
    if anchor is None:
        return None
    credits = [
        Credit(anchor, line.amount_minor, "Storm cover beyond the charges", dict(line.details), is_taxed=False)
        for line in excess
    ]
    return write(invoice, credits, Invoice.Reason.COVER, "the customer pays its CDNs itself", "", now)


def write(invoice: Invoice, credits: Sequence[Credit], reason: str, text: str, by: str, now: datetime) -> Invoice:
    """Issue a credit note for these lines. Call it in a transaction that holds the customer's row and the invoice's, and
    read it after that. Raises InvoiceError for one that was never issued, or was taken back.
    """
    if invoice.state in (Invoice.State.DRAFT, Invoice.State.VOID):
        raise InvoiceError(f"only an issued invoice can be credited; {invoice} is {invoice.state}")
    subtotal = sum(credit.amount_minor for credit in credits)
    taxes = _taxes(invoice, credits)
    tax = sum(t.tax_minor for t in taxes)
    note = Invoice.objects.create(
        customer_id=invoice.customer_id, contract_id=invoice.contract_id, prices_id=invoice.prices_id,
        kind=Invoice.Kind.CREDIT_NOTE, corrects=invoice, reason=reason, currency=invoice.currency,
        time_zone=invoice.time_zone, period_start=invoice.period_start, period_end=invoice.period_end, as_of=now,
        subtotal_minor=subtotal, tax_minor=tax, total_minor=subtotal + tax, taxes=taxes_json(taxes),
        formula=invoice.formula, state_reason=text[:300], parties=parties(invoice.customer),
    )  # fmt: skip
    InvoiceLineItem.objects.bulk_create(
        InvoiceLineItem(
            customer_id=invoice.customer_id, invoice=note, position=position, kind=InvoiceLineItem.Kind.CREDIT,
            service_id=credit.line.service_id, path=credit.line.path, cdn=credit.line.cdn, description=credit.description[:300],
            amount_minor=credit.amount_minor, corrects=credit.line,
            tax_category=credit.line.tax_category if credit.is_taxed else "", details=credit.details,
        )
        for position, credit in enumerate(credits, 1)
    )  # fmt: skip
    [note.number] = take_numbers(SERIES, 1)
    note.state, note.finalized_at, note.settled_at = Invoice.State.OPEN, now, now
    note.save(update_fields=["number", "state", "finalized_at", "settled_at"])
    fault_point("billing.credited")
    recount(invoice.pk, now)
    Event.record(
        "credit_note.created", note, f"Credit note {note.number} for {invoice.number}: {text}",
        customer_id=invoice.customer_id, number=note.number, corrects=invoice.number, total_minor=note.total_minor,
        currency=note.currency, reason=reason, by=by,
    )  # fmt: skip
    return note


def recount(invoice_id: int, now: datetime) -> None:
    """Make an invoice's sums those of its documents: one with nothing left to pay is paid, and one that was is open again
    where something is due once more. Call it under its lock.
    """
    notes = Invoice.objects.filter(corrects=invoice_id).exclude(state=Invoice.State.VOID)
    credited = notes.aggregate(sum=Sum("total_minor"))["sum"] or 0
    paid = sum(Invoice.objects.get(pk=invoice_id).payments.values_list("amount_minor", flat=True))
    Invoice.objects.filter(pk=invoice_id).update(credited_minor=credited, paid_minor=paid)
    row = Invoice.objects.only("id", "number", "customer_id", "state", "kind", "total_minor").get(pk=invoice_id)
    if row.kind != Invoice.Kind.INVOICE:
        return
    is_due = row.total_minor > paid + credited
    if row.state == Invoice.State.OPEN and not is_due:
        Invoice.objects.filter(pk=invoice_id).update(state=Invoice.State.PAID, settled_at=now)
        Event.record("invoice.paid", row, f"{row.number} is paid", customer_id=row.customer_id, number=row.number)
    elif row.state == Invoice.State.PAID and is_due:
        Invoice.objects.filter(pk=invoice_id).update(state=Invoice.State.OPEN, settled_at=None)
        said = f"{row.number} is open again: something of it is due once more"
        Event.record("invoice.reopened", row, said, customer_id=row.customer_id, number=row.number)


def parties(customer: Customer) -> dict[str, str]:
    """Who bills whom, as they are called now."""
    return {"issuer": settings.INVOICE_ISSUER, "customer": customer.name, "email": customer.billing_email}


def taxes_json(taxes: Iterable[Tax]) -> list[dict[str, Any]]:
    return [
        {"category": t.category, "rate": decimal(t.rate), "taxable_minor": t.taxable_minor, "tax_minor": t.tax_minor}
        for t in taxes
    ]


def _taxes(invoice: Invoice, credits: Sequence[Credit]) -> list[Tax]:
    """By the rates that the lines were taxed by. Of all notes of an invoice together each tax is rounded once."""
    sums: dict[tuple[str, Fraction], int] = defaultdict(int)
    for credit in credits:
        if credit.is_taxed and (rate := credit.line.details.get("tax_rate")):
            sums[credit.line.tax_category, Fraction(rate)] += credit.amount_minor
    given: dict[tuple[str, Fraction], list[int]] = defaultdict(lambda: [0, 0])
    for note in invoice.corrections.exclude(state=Invoice.State.VOID):
        for tax in note.taxes:
            before = given[tax["category"], Fraction(tax["rate"])]
            before[0] += tax["taxable_minor"]
            before[1] += tax["tax_minor"]
    scale = Fraction(1, 10 ** exponent(invoice.currency))
    taxes = []
    for key, taxable in sorted(sums.items()):
        taxed, told = given[key]
        whole = half_up((taxed + taxable) * scale * key[1], invoice.currency)
        taxes.append(Tax(*key, taxable, max(whole - told, 0)))
    return taxes
