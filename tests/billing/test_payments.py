"""What came in is counted once, and never more than is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from billing import credits, invoicing, payments
from billing.models import Invoice, Payment
from billing.problems import InvoiceError
from customers.models import Event
from tests import factories
from tests.billing.story import APRIL_3, GB, MARCH, at, billed_customer, storm, use
from tests.together import run_together

pytestmark = pytest.mark.django_db
MAY = datetime(2026, 5, 1, tzinfo=UTC)
RECEIVED = datetime(2020, 5, 1, tzinfo=UTC)


def issued(gigabytes: int = 1000) -> Invoice:
    """Of 0.10 a GB."""
    customer, service = billed_customer()
    use(service, "primary", at(2), gigabytes * GB)
    (draft,) = invoicing.draft(customer, MARCH, APRIL_3)
    return invoicing.finalize(draft, APRIL_3)


def pay(invoice: Invoice, amount_minor: int, reference: str = "R-1") -> Payment:
    return payments.record(invoice, amount_minor, reference, RECEIVED, "ann")


def refused(invoice: Invoice, amount_minor: int, reference: str = "R-1") -> str:
    before = list(Invoice.objects.values()), list(Payment.objects.values()), Event.objects.count()
    with pytest.raises(InvoiceError) as caught:
        pay(invoice, amount_minor, reference)
    assert (list(Invoice.objects.values()), list(Payment.objects.values()), Event.objects.count()) == before
    return str(caught.value)


def test_an_invoice_is_paid_when_nothing_is_left() -> None:
    invoice = issued()
    pay(invoice, 40_00, "R-1")
    invoice.refresh_from_db()
    assert (invoice.state, invoice.paid_minor, invoice.due_minor) == ("open", 40_00, 60_00)
    payment = pay(invoice, 60_00, "R-2")
    invoice.refresh_from_db()
    assert (invoice.state, invoice.paid_minor, invoice.due_minor) == ("paid", 100_00, 0)
    assert invoice.settled_at is not None
    assert (payment.received_at, payment.recorded_by, payment.customer_id) == (RECEIVED, "ann", invoice.customer_id)
    assert Event.objects.filter(kind="invoice.paid").count() == 1
    assert [e.payload["amount_minor"] for e in Event.objects.filter(kind="payment.recorded").order_by("id")] == [
        40_00,
        60_00,
    ]


def test_what_was_credited_need_not_be_paid() -> None:
    invoice = issued()
    credits.credit_line(invoice.lines.get(), 25_00, "goodwill", "sorry", "ann", MAY)
    assert "at most 75.00 USD" in refused(invoice, 75_01)
    pay(invoice, 75_00)
    invoice.refresh_from_db()
    assert invoice.state == "paid"


def test_the_same_again_is_the_first_one() -> None:
    invoice, other = issued(), issued()
    first = pay(invoice, 40_00)
    assert pay(invoice, 40_00, " R-1 ").pk == first.pk
    assert "R-1 was recorded already, as 40.00 USD for INV-000001" in refused(invoice, 41_00)
    invoice.refresh_from_db()
    assert invoice.paid_minor == 40_00
    assert pay(other, 40_00).pk != first.pk  # another customer's bank may say the same


def test_a_reference_counts_for_all_invoices_of_a_customer() -> None:
    customer, service = billed_customer()
    use(service, "primary", at(2), 1000 * GB)
    (draft,) = invoicing.draft(customer, MARCH, APRIL_3)
    march = invoicing.finalize(draft, APRIL_3)
    use(service, "primary", datetime(2026, 4, 2, tzinfo=UTC), 1000 * GB)
    (draft,) = invoicing.draft(customer, MARCH.following, MAY)
    april = invoicing.finalize(draft, MAY)
    pay(march, 40_00)
    assert "was recorded already" in refused(april, 40_00)


def test_a_paid_invoice_gives_its_payment_back_and_takes_no_other() -> None:
    invoice = issued()
    first = pay(invoice, 100_00)
    assert pay(invoice, 100_00).pk == first.pk
    assert "at most 0.00 USD" in refused(invoice, 1, "R-2")


@pytest.mark.parametrize(("amount", "said"), [(0, "more than 0"), (-5, "more than 0"), (100_01, "at most 100.00 USD")])
def test_too_much_and_too_little_are_refused(amount: int, said: str) -> None:
    assert said in refused(issued(), amount)


@pytest.mark.parametrize("reference", ["", "   ", "x" * 101])
def test_a_payment_needs_a_reference(reference: str) -> None:
    assert "reference: give" in refused(issued(), 1, reference)


def test_a_day_to_come_is_refused() -> None:
    with pytest.raises(InvoiceError, match="lies in the future"):
        payments.record(issued(), 1, "R-1", timezone.now() + timedelta(days=2), "ann")


def test_drafts_void_ones_and_credit_notes_are_not_paid() -> None:
    customer, service = billed_customer()
    use(service, "primary", at(2), 1000 * GB)
    (draft,) = invoicing.draft(customer, MARCH, APRIL_3)
    assert "is draft" in refused(draft, 1)
    void = invoicing.void(invoicing.finalize(draft, APRIL_3), "a test", "ann", APRIL_3)
    assert "is void" in refused(void, 1)
    note = credits.credit_line(issued().lines.get(), 1_00, "goodwill", "sorry", "ann", MAY)
    assert "is a credit note" in refused(note, 1)


def test_what_was_given_up_is_open_again_by_a_payment() -> None:
    invoice = issued()
    invoicing.give_up(invoice, "gone", "ann", MAY)
    pay(invoice, 40_00)
    invoice.refresh_from_db()
    assert (invoice.state, invoice.due_minor, invoice.settled_at) == ("open", 60_00, None)


def test_a_payment_can_not_be_changed_or_deleted() -> None:
    payment = pay(issued(), 40_00)
    for act in (lambda: Payment.objects.update(amount_minor=1), payment.delete):
        with pytest.raises(IntegrityError, match="it can not change"), transaction.atomic():
            act()


@pytest.mark.django_db(transaction=True)
def test_many_at_once_never_pay_too_much() -> None:
    invoice = issued()

    def some(n: int) -> None:
        try:
            pay(invoice, 60_00, f"R-{n // 2}")  # each reference twice
        except InvoiceError:
            return

    run_together(*[lambda n=n: some(n) for n in range(8)])  # type: ignore[misc]
    invoice.refresh_from_db()
    assert (invoice.paid_minor, Payment.objects.count()) == (60_00, 1)


def test_an_invoice_whose_credit_note_is_taken_back_is_due_again() -> None:
    invoice = issued(100)
    note = credits.credit_line(invoice.lines.get(), invoice.total_minor, "billing_error", "oops", "ann", APRIL_3)
    invoice.refresh_from_db()
    assert (invoice.state, invoice.due_minor) == ("paid", 0)
    invoicing.void(note, "it was right", "ann", APRIL_3)
    invoice.refresh_from_db()
    assert (invoice.state, invoice.due_minor, invoice.settled_at) == ("open", 10_00, None)
    assert list(
        Event.objects.filter(kind__in=["invoice.paid", "invoice.reopened"])
        .order_by("id")
        .values_list("kind", flat=True)
    ) == [
        "invoice.paid",
        "invoice.reopened",
    ]
    assert invoicing.remind(APRIL_3 + timedelta(days=60)) == 3
    pay(invoice, 10_00)
    invoice.refresh_from_db()
    assert invoice.state == "paid"


def test_an_invoice_over_nothing_is_paid_at_once_and_nobody_is_asked_for_it() -> None:
    free = [{"up_to": "1000", "per_unit": "0"}, {"up_to": None, "per_unit": "0.1"}]
    customer, service = billed_customer(rate_card=factories.rate_card(primary_tiers=free))
    use(service, "primary", at(5, 9), 100 * GB)
    [draft] = invoicing.draft(customer, MARCH, APRIL_3)
    invoice = invoicing.finalize(draft, APRIL_3)
    assert (invoice.state, invoice.total_minor) == ("paid", 0)
    assert invoicing.remind(APRIL_3 + timedelta(days=60)) == 0


def test_cover_is_taken_off_usage_alone() -> None:
    card = factories.rate_card(per_10k_requests={"backup": "1"})
    customer, service = billed_customer(rate_card=card)
    use(service, "backup", at(5, 9, 30), 100 * GB, requests=100_000)
    storm(service, at(5, 9), at(5, 10))
    [draft] = invoicing.draft(customer, MARCH, APRIL_3)
    lines = {line.kind: line for line in invoicing.finalize(draft, APRIL_3).lines.all()}
    assert {kind: line.amount_minor for kind, line in lines.items()} == {
        "usage": 20_00,
        "requests": 10_00,
        "cover": 10_00,
    }
    assert (credits.left_of(lines["usage"]), credits.left_of(lines["requests"])) == (10_00, 10_00)
