"""What came in. A payment is recorded once, by its reference, and stays as it was recorded."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from billing import credits
from billing.models import Invoice, Payment
from billing.money import format_minor
from billing.problems import InvoiceError
from customers.models import Customer, Event

_AHEAD = timedelta(days=1)
"""How far in the future a bank's date may lie."""
REFERENCE_LENGTH = 100


def record(invoice: Invoice, amount_minor: int, reference: str, received_at: datetime, by: str) -> Payment:
    """Record what was paid for one invoice, in minor units of its currency. Raises InvoiceError.

    The same again gives the first one back. An invoice that was given up is open again by a payment.
    """
    reference = reference.strip()
    if not 0 < len(reference) <= REFERENCE_LENGTH:
        raise InvoiceError(f"reference: give the bank's own, of at most {REFERENCE_LENGTH} characters")
    if received_at > timezone.now() + _AHEAD:
        raise InvoiceError("received_at: it lies in the future")
    with transaction.atomic():
        # One writer per customer, since a reference counts for all its invoices.
        Customer.objects.select_for_update(no_key=True).get(pk=invoice.customer_id)
        row = Invoice.objects.select_for_update().get(pk=invoice.pk)
        there = Payment.objects.filter(customer=row.customer_id, reference=reference).select_related("invoice").first()
        if there is not None:
            if (there.invoice_id, there.amount_minor) == (row.pk, amount_minor):
                return there
            said = f"{format_minor(there.amount_minor, there.invoice.currency)} {there.invoice.currency}"
            raise InvoiceError(f"reference: {reference} was recorded already, as {said} for {there.invoice}")
        _check(row, amount_minor)
        if row.state == Invoice.State.UNCOLLECTIBLE:
            row.state, row.settled_at, row.state_reason = Invoice.State.OPEN, None, ""
            row.save(update_fields=["state", "settled_at", "state_reason"])
        made = Payment.objects.create(
            customer_id=row.customer_id, invoice=row, amount_minor=amount_minor, reference=reference,
            received_at=received_at, recorded_by=by,
        )  # fmt: skip
        Event.record(
            "payment.recorded", made, f"{format_minor(amount_minor, row.currency)} {row.currency} came in for {row.number}",
            customer_id=row.customer_id, number=row.number, amount_minor=amount_minor, currency=row.currency,
            reference=reference, by=by,
        )  # fmt: skip
        credits.recount(row.pk, timezone.now())
    return made


def _check(row: Invoice, amount_minor: int) -> None:
    if row.kind != Invoice.Kind.INVOICE or row.state in (Invoice.State.DRAFT, Invoice.State.VOID):
        raise InvoiceError(f"only an issued invoice can be paid; {row} is {_what(row)}")
    due = max(row.total_minor - row.paid_minor - row.credited_minor, 0)
    if not 0 < amount_minor <= due:
        can = f"{format_minor(due, row.currency)} {row.currency}"
        raise InvoiceError(f"amount: more than 0 and at most {can}, what is due; a surplus is the customer's")


def _what(row: Invoice) -> str:
    return "a credit note" if row.kind == Invoice.Kind.CREDIT_NOTE else row.state
