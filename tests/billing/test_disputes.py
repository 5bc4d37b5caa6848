"""Objections to lines: one open at a time, answered once, settled by a credit note."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from billing import credits, disputes, invoicing
from billing.models import Dispute, Invoice, InvoiceLineItem
from billing.problems import InvoiceError
from customers.models import Event
from tests.billing.story import APRIL_3, GB, MARCH, at, billed_customer, storm, use
from tests.together import run_together

pytestmark = pytest.mark.django_db


def issued() -> Invoice:
    """Backup for 20.00, of which cover pays the half."""
    customer, service = billed_customer(tax_rates={"delivery": "0.10"})
    use(service, "backup", at(5, 10), 100 * GB)
    storm(service, at(5, 9), at(5, 11))
    (draft,) = invoicing.draft(customer, MARCH, APRIL_3)
    return invoicing.finalize(draft, APRIL_3)


def line(kind: str = "usage") -> InvoiceLineItem:
    return issued().lines.get(kind=kind)


def opened(of: InvoiceLineItem) -> Dispute:
    return disputes.open_on(of, "we had no such traffic", "key trk_1", APRIL_3)


def test_accepted_it_is_settled_by_a_credit_note() -> None:
    of = line()
    dispute = disputes.accept(opened(of), 5_00, "you are right", "ann", APRIL_3)
    note = dispute.credit_note
    assert note is not None
    assert (dispute.state, dispute.answer, dispute.answered_by) == ("accepted", "you are right", "ann")
    assert (note.kind, note.reason, note.corrects, note.total_minor) == ("credit_note", "dispute", of.invoice, 5_50)
    assert note.lines.get().corrects == of
    kinds = list(Event.objects.filter(kind__startswith="dispute").order_by("id").values_list("kind", flat=True))
    assert kinds == ["dispute.opened", "dispute.accepted"]
    assert Event.objects.get(kind="dispute.accepted").payload["credit_note"] == note.number


def test_cover_that_was_too_low_is_given_back_on_its_charge() -> None:
    of = line("cover")
    note = disputes.accept(opened(of), 5_00, "the storm was longer", "ann", APRIL_3).credit_note
    assert note is not None
    assert note.lines.get().corrects == of.invoice.lines.get(kind="usage")


def test_more_than_is_left_of_the_line_is_refused_and_it_stays_open() -> None:
    # 20.00 were charged, of which cover paid 10.00 already.
    dispute = opened(line())
    with pytest.raises(InvoiceError, match=r"at most 10\.00 USD"):
        disputes.accept(dispute, 10_01, "yes", "ann", APRIL_3)
    dispute.refresh_from_db()
    assert (dispute.state, dispute.credit_note) == ("open", None)
    assert Invoice.objects.filter(kind="credit_note").count() == 0


@pytest.mark.parametrize(
    ("settle", "state"),
    [
        (lambda d: disputes.reject(d, "the logs say so", "ann", APRIL_3), "rejected"),
        (lambda d: disputes.withdraw(d, "key trk_1", APRIL_3), "withdrawn"),
    ],
)
def test_rejected_or_withdrawn_it_is_over_and_another_can_follow(
    settle: Callable[[Dispute], Dispute], state: str
) -> None:
    of = line()
    dispute = opened(of)
    with pytest.raises(InvoiceError, match="this line has an open dispute"):
        opened(of)
    assert settle(dispute).state == state
    assert Invoice.objects.filter(kind="credit_note").count() == 0
    assert Event.objects.filter(kind=f"dispute.{state}").count() == 1
    for again in (
        lambda: disputes.accept(dispute, 1_00, "yes", "ann", APRIL_3),
        lambda: disputes.reject(dispute, "no", "ann", APRIL_3),
        lambda: disputes.withdraw(dispute, "ann", APRIL_3),
    ):
        with pytest.raises(InvoiceError, match=f"the dispute is {state} already"):
            again()
    assert opened(of).pk != dispute.pk


def test_only_lines_of_issued_invoices_are_disputed() -> None:
    customer, service = billed_customer()
    use(service, "primary", at(2), GB)
    (draft,) = invoicing.draft(customer, MARCH, APRIL_3)
    void = invoicing.void(issued(), "a test", "ann", APRIL_3)
    note = disputes.accept(opened(line()), 1_00, "yes", "ann", APRIL_3).credit_note
    assert note is not None
    for row in (draft, void, note):
        with pytest.raises(InvoiceError, match="only a line of an issued invoice"):
            opened(row.lines.order_by("position")[0])
    assert Dispute.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_many_at_once_open_one_and_settle_once() -> None:
    of = line()

    run_together(*[lambda: _try(lambda: opened(of))] * 4)
    dispute = Dispute.objects.get()
    run_together(*[lambda: _try(lambda: disputes.accept(dispute, 5_00, "yes", "ann", APRIL_3))] * 4)
    assert Invoice.objects.filter(kind="credit_note").count() == 1


def test_what_is_taken_back_has_no_disputes_and_no_credit_notes() -> None:
    invoice = issued()
    usage = invoice.lines.get(kind="usage")
    dispute = opened(usage)
    invoicing.void(invoice, "the wrong price", "ann", APRIL_3)
    dispute.refresh_from_db()
    assert (dispute.state, dispute.answered_by) == ("withdrawn", "ann")
    assert "can be disputed anew" in dispute.answer
    with pytest.raises(InvoiceError, match="withdrawn already"):
        disputes.accept(dispute, 1_00, "ok", "ann", APRIL_3)
    with pytest.raises(InvoiceError, match="is void"):
        credits.credit_line(usage, 1_00, "goodwill", "never mind", "ann", APRIL_3)
    assert not Invoice.objects.filter(kind="credit_note").exists()


@pytest.mark.django_db(transaction=True)
def test_a_dispute_is_accepted_or_its_invoice_taken_back_and_never_both() -> None:
    invoice = issued()
    dispute = opened(invoice.lines.get(kind="usage"))
    run_together(
        lambda: _try(lambda: disputes.accept(dispute, 1_00, "ok", "ann", APRIL_3)),
        lambda: _try(lambda: invoicing.void(invoice, "the wrong price", "bob", APRIL_3)),
    )
    dispute.refresh_from_db()
    invoice.refresh_from_db()
    notes = Invoice.objects.filter(kind="credit_note").count()
    assert (dispute.state, invoice.state, notes) in [("accepted", "open", 1), ("withdrawn", "void", 0)]


def _try(act: Callable[[], object]) -> None:
    with contextlib.suppress(InvoiceError):
        act()
