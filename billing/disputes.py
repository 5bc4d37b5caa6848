"""Objections to single lines: opened by the customer, answered by a person, settled by a credit note."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from billing import credits
from billing.models import Dispute, Invoice, InvoiceLineItem
from billing.problems import InvoiceError
from customers.models import Customer, Event

State = Dispute.State


def open_on(line: InvoiceLineItem, reason: str, by: str, now: datetime) -> Dispute:
    """Object to a line of an issued invoice; one dispute of a line is open at a time. Raises InvoiceError."""
    with transaction.atomic():
        Customer.objects.select_for_update(no_key=True).get(pk=line.customer_id)
        invoice = Invoice.objects.get(pk=line.invoice_id)
        if invoice.kind != Invoice.Kind.INVOICE or invoice.state in (Invoice.State.DRAFT, Invoice.State.VOID):
            raise InvoiceError("only a line of an issued invoice can be disputed")
        if Dispute.objects.filter(line=line, state=State.OPEN).exists():
            raise InvoiceError("this line has an open dispute")
        made = Dispute.objects.create(
            customer_id=line.customer_id, line=line, reason=reason, opened_by=by, opened_at=now
        )  # fmt: skip
        _tell(made, "opened", f"{invoice.number}, line {line.position} is disputed: {reason[:200]}", by)
    return made


def accept(dispute: Dispute, amount_minor: int, text: str, by: str, now: datetime) -> Dispute:
    """The customer is right: give back so much (minor units, without tax) by a credit note. Raises InvoiceError.

    Cover that was too low is given back on the charge that it should have covered.
    """
    with transaction.atomic():
        row = _open(dispute)
        row.credit_note = credits.credit_line(
            _charge_of(row.line), amount_minor, Invoice.Reason.DISPUTE, f"dispute {row.pk}: {text}"[:300], by, now
        )
        _answer(row, State.ACCEPTED, text, by, now)
    return row


def reject(dispute: Dispute, text: str, by: str, now: datetime) -> Dispute:
    """The line stands, for this reason. Raises InvoiceError."""
    with transaction.atomic():
        row = _open(dispute)
        _answer(row, State.REJECTED, text, by, now)
    return row


def withdraw(dispute: Dispute, by: str, now: datetime) -> Dispute:
    """The customer takes it back. Raises InvoiceError."""
    with transaction.atomic():
        row = _open(dispute)
        _answer(row, State.WITHDRAWN, "", by, now)
    return row


def close_all_of(invoice: Invoice, by: str, now: datetime) -> None:
    """The invoice is void, so there is nothing left to object to. Call it in a transaction that holds the customer's row."""
    for row in Dispute.objects.filter(line__invoice=invoice, state=State.OPEN).select_related("line__invoice"):
        _answer(row, State.WITHDRAWN, "the invoice was taken back; what replaces it can be disputed anew", by, now)


def _open(dispute: Dispute) -> Dispute:
    # The customer's row first, as everybody does who writes money.
    Customer.objects.select_for_update(no_key=True).get(pk=dispute.customer_id)
    row = Dispute.objects.select_for_update(of=("self",)).select_related("line__invoice").get(pk=dispute.pk)
    if row.state != State.OPEN:
        raise InvoiceError(f"the dispute is {row.state} already")
    return row


def _answer(row: Dispute, state: str, text: str, by: str, now: datetime) -> None:
    row.state, row.answer, row.answered_by, row.answered_at = state, text, by, now
    row.save(update_fields=["state", "answer", "answered_by", "answered_at", "credit_note"])
    said = f": {text[:200]}" if text else ""
    _tell(row, state, f"The dispute of {row.line.invoice.number}, line {row.line.position} is {state}{said}", by)


def _charge_of(line: InvoiceLineItem) -> InvoiceLineItem:
    if line.kind != InvoiceLineItem.Kind.COVER:
        return line
    charges = line.invoice.lines.exclude(kind=InvoiceLineItem.Kind.COVER)

    def distance(charge: InvoiceLineItem) -> tuple[bool, bool, bool, int]:
        return (
            charge.service_id != line.service_id, charge.path != line.path, charge.cdn != line.cdn, charge.position
        )  # fmt: skip

    found = min(charges, key=distance, default=None)
    if found is None:
        raise InvoiceError("the invoice has no charge that could be credited")
    return found


def _tell(row: Dispute, what: str, summary: str, by: str) -> None:
    Event.record(
        f"dispute.{what}", row, summary, customer_id=row.customer_id, line=row.line_id, by=by,
        credit_note=row.credit_note.number if row.credit_note else None,
    )  # fmt: skip
