"""Runs that are doubled, killed and rolled back: one invoice a period, the same to the byte, numbers without a hole.

RUN_CASES says how many customers are issued at once; 1,000 is the full run.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import Model

from billing import corrections, credits, drafting, invoicing, metering
from billing.models import (
    Contract,
    Invoice,
    InvoiceCounter,
    InvoiceLineItem,
    Payment,
    Prices,
    UsageSnapshot,
)
from billing.segments import Month
from customers.models import Customer, Event
from services.models import Service
from tests import forked
from tests.billing.story import APRIL_3, GB, MARCH, at, billed_customer, storm, use
from tests.together import run_together
from tranche_site.floor import faults

CUSTOMERS = int(os.environ.get("RUN_CASES", "24"))
FEBRUARY = Month(2026, 2)
POINTS = ["billing.drafted", "billing.numbered", "billing.finalized"]


class Killed(BaseException):
    """Stands for a SIGKILL."""


@pytest.fixture(autouse=True)
def _end() -> Iterator[None]:
    yield
    faults.disarm()
    forked.end_all()


def stormy(**terms: Any) -> tuple[Customer, Service]:
    """Usage on both paths in February and March, and a storm in March: cover, fee, tax and a line for each path."""
    fee = {"fixed_fee": Decimal("9.99"), "tax_rates": {"delivery": "0.19"}}
    customer, service = billed_customer(**fee | terms)
    use(service, "primary", datetime(2026, 2, 10, tzinfo=UTC), 333 * GB)
    use(service, "primary", at(2), 1000 * GB)
    use(service, "backup", at(5, 10), 50 * GB)
    storm(service, at(5, 9), at(5, 11))
    return customer, service


def said() -> list[str]:
    """All that invoices say, without what a run can't know beforehand: their ids and the moments that they were made at."""
    told = []
    for row in Invoice.objects.order_by("customer", "kind", "period_start", "pk"):
        lines = InvoiceLineItem.objects.filter(invoice=row).values(
            "position", "kind", "service", "path", "cdn", "description", "bytes", "amount_minor", "details", "claim",
        )  # fmt: skip
        own = {
            f: getattr(row, f)
            for f in ("customer_id", "period_start", "inputs", "extras", "decisions", "taxes", "sha256")
        }
        sums = (row.subtotal_minor, row.discount_minor, row.tax_minor, row.total_minor)
        told.append(json.dumps([own, sums, list(lines)], sort_keys=True, default=str))
    return told


def numbers(series: str = "INV") -> list[str]:
    return sorted(Invoice.objects.filter(number__startswith=series).values_list("number", flat=True))


def gapless(series: str = "INV") -> bool:
    """From 1 on without a hole, and the counter stands at the last one."""
    found = numbers(series)
    last = InvoiceCounter.objects.filter(series=series).values_list("last_number", flat=True).first() or 0
    return found == [f"{series}-{n:06d}" for n in range(1, last + 1)]


def sum_again() -> None:
    """What the meter does when an object of these hours is delivered once more with the same content."""
    hours = set(UsageSnapshot.objects.values_list("customer_id", "service_id", "target_id", "window_start"))
    with transaction.atomic(), connection.cursor() as cursor:
        metering.sum_hours(cursor, hours, APRIL_3)


# --- many at once ---------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_fifty_runs_at_once_make_one_invoice_a_period_with_the_same_bytes() -> None:
    customers = [stormy()[0] for _ in range(4)]
    expected = {
        (customer.pk, month): drafting.compute(month, APRIL_3, [customer], {}).drafts[0].sha256
        for customer in customers
        for month in (FEBRUARY, MARCH)
    }
    jobs: list[Callable[[], object]] = [
        lambda: invoicing.draft_all(MARCH, APRIL_3),
        lambda: invoicing.draft_all(FEBRUARY, APRIL_3),
        lambda: invoicing.finalize_due(APRIL_3),
        lambda: invoicing.draft(customers[2], MARCH, APRIL_3),
        sum_again,
    ]
    run_together(*(jobs * 10))
    run_together(*[lambda: invoicing.finalize_due(APRIL_3)] * 2)
    rows = Invoice.objects.all()
    assert {(row.customer_id, Month.at(row.period_start)): row.sha256 for row in rows} == expected
    assert len(rows) == len(expected) and {row.state for row in rows} == {"open"}
    assert gapless() and len(numbers()) == 8
    assert Event.objects.filter(kind="invoice.finalized").count() == 8
    run_together(*[lambda: corrections.credit_all(APRIL_3)] * 4)  # summed again is not changed: nothing to correct
    assert Invoice.objects.count() == 8 and not Invoice.objects.exclude(stale_at=None).exists()


@pytest.mark.django_db(transaction=True)
def test_finalized_at_once_with_every_second_run_rolled_back() -> None:
    """Runs die at random before and after they took a number; in the end every invoice is issued, from 1 to n."""
    for _ in range(CUSTOMERS):
        _, service = billed_customer()
        use(service, "primary", at(2), GB)
    invoicing.draft_all(MARCH, APRIL_3)
    died = []

    def maybe_die() -> None:
        if dice.random() < 0.4:
            died.append(1)
            raise Killed

    dice = Random(7)
    for point in POINTS:
        faults.arm(point, maybe_die)

    def worker(seed: int) -> Callable[[], None]:
        def work() -> None:
            for draft in Random(seed).sample(waiting, min(len(waiting), 20)):
                try:
                    invoicing.finalize(draft, APRIL_3)
                except Killed:
                    continue

        return work

    for attempt in range(CUSTOMERS):
        waiting = list(Invoice.objects.drafts().select_related("customer"))
        if not waiting:
            break
        run_together(*(worker(10 * attempt + n) for n in range(4)))
        assert gapless()
    assert len(numbers()) == CUSTOMERS and died


@pytest.mark.django_db(transaction=True)
def test_credit_notes_at_once_never_give_back_more_than_the_line() -> None:
    customer, service = billed_customer()
    use(service, "primary", at(2), 100 * GB)
    [draft] = invoicing.draft(customer, MARCH, APRIL_3)
    issued = invoicing.finalize(draft, APRIL_3)
    line = issued.lines.get()

    def give_back() -> None:
        try:
            credits.credit_line(line, 3_00, "goodwill", "for your patience", "ann", APRIL_3)
        except invoicing.InvoiceError:
            return

    run_together(*[give_back] * 8)
    issued.refresh_from_db()
    assert (issued.total_minor, issued.credited_minor) == (10_00, 9_00)
    assert gapless("CN") and len(numbers("CN")) == 3


@pytest.mark.django_db(transaction=True)
def test_usage_that_is_metered_while_an_invoice_is_issued_is_not_lost() -> None:
    """It waits, and marks what was issued meanwhile; or it comes first, and is on the invoice."""
    customer, service = billed_customer()
    use(service, "primary", at(2), 100 * GB)
    [draft] = invoicing.draft(customer, MARCH, APRIL_3)
    meter = threading.Thread(target=run_together, args=(lambda: use(service, "primary", at(3), 50 * GB),))

    def meanwhile() -> None:
        meter.start()
        meter.join(1)  # if it has not finished by then, it waits for this run

    faults.arm("billing.numbered", meanwhile)
    issued = invoicing.finalize(draft, APRIL_3)
    meter.join(30)
    faults.disarm()
    assert not meter.is_alive() and UsageSnapshot.objects.count() == 2
    use(service, "primary", datetime(2026, 4, 2, tzinfo=UTC), 10 * GB)
    [april] = invoicing.draft(customer, MARCH.following, datetime(2026, 5, 3, tzinfo=UTC))
    assert issued.total_minor + april.total_minor == 16_00


# --- killed ---------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("point", [*POINTS, "billing.credited"])
def test_a_worker_that_is_killed_leaves_nothing_half_done(point: str) -> None:
    """A process that dies by SIGKILL; the next run makes the same invoices and credit notes as one that was let alone."""
    stormy()
    stormy(kind="own_cdn")  # cover of 5.00 and fees of 9.99
    stormy(kind="own_cdn", fixed_fee=Decimal(2))  # less than the cover: the rest is a credit note
    invoicing.draft_all(FEBRUARY, APRIL_3)
    invoicing.draft_all(MARCH, APRIL_3)
    before = said()

    def run() -> None:
        faults.arm(point, forked.die)
        invoicing.finalize_due(APRIL_3)

    assert forked.Child(run).wait() == "killed"
    assert (said(), numbers(), numbers("CN")) == (before, numbers(), [])
    assert gapless()
    assert invoicing.finalize_due(APRIL_3)[1] == []
    assert len(numbers()) == 6 and len(numbers("CN")) == 1
    assert gapless() and gapless("CN")
    assert [row for row in said() if '"sha256": ""' not in row] == before


class _Bomb:
    """Lets `count` statements pass and dies at the next one, before it runs or, every other time, after it ran."""

    def __init__(self, count: int) -> None:
        self.left, self.is_late = count // 2, bool(count % 2)
        self.went_off = False

    def __call__(self, execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
        if "SAVEPOINT" in sql:  # of the test's own nesting: a worker's transactions begin and end without a statement
            return execute(sql, params, many, context)
        self.left -= 1
        if self.left == -1 and not self.is_late:
            self.went_off = True
            raise Killed
        result = execute(sql, params, many, context)
        if self.left == -1:
            self.went_off = True
            raise Killed
        return result


def killed_at_every_statement(work: Callable[[], object], world: Callable[[], object]) -> int:
    """Run `work` again and again, each time killed one statement later, until it comes through. Whenever it is killed,
    the world must be as it was. Returns how many statements that took.
    """
    before = world()
    for count in range(2_000):
        bomb = _Bomb(count)
        try:
            with connection.execute_wrapper(bomb), transaction.atomic():
                work()
            assert not bomb.went_off, "the kill was swallowed"
            return count // 2
        except Killed:
            assert world() == before, f"statement {count // 2}"
    raise AssertionError("it never ended")


def rows(*models: type[Model]) -> list[Any]:
    return [list(model._default_manager.order_by("pk").values()) for model in models]


def everything() -> list[Any]:
    return rows(Invoice, InvoiceLineItem, InvoiceCounter, Event, Payment)


@pytest.mark.django_db
def test_killed_at_every_statement_the_next_run_issues_the_same() -> None:
    customer, _ = stormy()
    expected = drafting.compute(MARCH, APRIL_3, [customer], {}).drafts[0].sha256
    assert killed_at_every_statement(lambda: invoicing.draft_all(MARCH, APRIL_3, [customer]), everything) > 5
    [draft] = Invoice.objects.all()
    assert killed_at_every_statement(lambda: invoicing.finalize_due(APRIL_3), everything) > 10
    [issued] = Invoice.objects.all()
    assert (issued.pk, issued.sha256, issued.number, issued.state) == (draft.pk, expected, "INV-000001", "open")
    assert gapless()
    # What it says is what it follows from, and nothing of it is left to correct.
    Invoice.objects.update(stale_at=APRIL_3)
    assert corrections.credit_all(APRIL_3) == [] and Invoice.objects.get().stale_at is None


@pytest.mark.django_db
def test_killed_at_every_statement_a_correction_is_booked_once() -> None:
    customer, service = stormy()
    invoicing.draft_all(MARCH, APRIL_3)
    invoicing.finalize_due(APRIL_3)
    use(service, "backup", at(5, 10, 1), 10 * GB)  # 2.00 and 1.00 of cover: more to pay, with the next invoice
    use(service, "primary", datetime(2026, 4, 2, tzinfo=UTC), 10 * GB)
    may = datetime(2026, 5, 3, tzinfo=UTC)
    april = MARCH.following

    def draft_and_finalize() -> None:
        invoicing.draft_all(april, may, [customer])
        invoicing.finalize_due(may)

    killed_at_every_statement(draft_and_finalize, everything)
    killed_at_every_statement(lambda: corrections.credit_all(may), everything)
    lines = InvoiceLineItem.objects.filter(kind="correction")
    assert [line.amount_minor for line in lines] == [1_00]
    assert gapless() and not Invoice.objects.exclude(stale_at=None).exists()


@pytest.mark.django_db
def test_killed_at_every_statement_a_credit_note_is_written_once() -> None:
    stormy()
    invoicing.draft_all(MARCH, APRIL_3)
    invoicing.finalize_due(APRIL_3)
    [issued] = Invoice.objects.all()
    line = issued.lines.get(path="primary")
    killed_at_every_statement(lambda: credits.credit_line(line, 10_00, "goodwill", "sorry", "ann", APRIL_3), everything)
    assert numbers("CN") == ["CN-000001"]
    issued.refresh_from_db()
    assert issued.credited_minor == 11_90
    killed_at_every_statement(
        lambda: invoicing.void(Invoice.objects.get(number="CN-000001"), "no", "ann", APRIL_3), everything
    )
    issued.refresh_from_db()
    assert issued.credited_minor == 0
    killed_at_every_statement(lambda: invoicing.void(issued, "no", "ann", APRIL_3), everything)
    assert not InvoiceLineItem.objects.exclude(claim=None).exists()


# --- the database itself refuses ----------------------------------------------------------------------------------------


FORBIDDEN = [
    "UPDATE contracts SET kind = 'own_cdn'",
    "UPDATE contracts SET layers = '[{}]'",
    "UPDATE contracts SET tax_rates = '{}'",
    "UPDATE contracts SET time_zone = 'Europe/Berlin'",
    "UPDATE contracts SET valid_from = '2026-02-01T00:00:00Z'",
    "UPDATE contracts SET valid_until = '2026-03-31T23:45:00Z'",
    "UPDATE contracts SET customer_id = customer_id + 1",
    "DELETE FROM contracts",
    "UPDATE rate_card_versions SET backup_tiers = '[]'",
    "UPDATE rate_card_versions SET cdn_tiers = '{\"x\": {}}'",
    "UPDATE rate_card_versions SET tier_mode = 'volume'",
    "UPDATE rate_card_versions SET valid_from = '2026-02-01T00:00:00Z'",
    "UPDATE rate_card_versions SET valid_until = '2026-03-15T00:00:00Z'",
    "DELETE FROM rate_card_versions",
    "UPDATE rate_cards SET unit = 'GiB'",
    "UPDATE rate_cards SET currency = 'JPY'",
    "UPDATE payments SET amount_minor = 1",
    "UPDATE payments SET reference = 'x'",
    "DELETE FROM payments",
    "UPDATE invoices SET state = 'open' WHERE state = 'void'",
    "UPDATE invoices SET state = 'draft' WHERE state = 'void'",
    "UPDATE invoices SET tax_minor = 0, total_minor = subtotal_minor - discount_minor WHERE tax_minor > 0",
    "UPDATE invoices SET taxes = '[]'",
    "UPDATE invoices SET extras = '{}'",
    "UPDATE invoices SET decisions = '{}'",
    "UPDATE invoices SET sha256 = ''",
    "UPDATE invoices SET covered_cost = 1",
    "UPDATE invoices SET cover_used = '{\"1\": 1}'",
    "UPDATE invoices SET due_at = NULL",
    "UPDATE invoices SET paid_minor = -1",
    "DELETE FROM invoices WHERE kind = 'credit_note'",
    "UPDATE invoice_line_items SET amount_minor = amount_minor + 1",
    "UPDATE invoice_line_items SET claim = NULL WHERE claim IS NOT NULL",
    "UPDATE invoice_line_items SET corrects_id = NULL WHERE kind = 'credit'",
    "UPDATE invoice_line_items SET description = '' FROM invoices WHERE invoices.id = invoice_id AND state = 'void'",
    "DELETE FROM invoice_line_items WHERE kind = 'credit'",
    "UPDATE invoice_line_items SET invoice_id = (SELECT id FROM invoices WHERE state = 'draft')",
    "UPDATE invoice_line_items SET invoice_id = (SELECT id FROM invoices WHERE kind = 'credit_note')"
    " WHERE invoice_id IN (SELECT id FROM invoices WHERE state = 'draft')",
    # a second invoice of the same month, and a second line of the same usage
    'INSERT INTO invoices SELECT (jsonb_populate_record(invoices, \'{"id": 999, "number": "INV-9"}\')).* FROM invoices'
    " WHERE kind = 'invoice' AND state = 'open'",
    "INSERT INTO invoice_line_items SELECT (jsonb_populate_record(line, jsonb_build_object('id', 999, 'position', 99,"
    " 'invoice_id', (SELECT id FROM invoices WHERE state = 'draft'), 'claim',"
    " '[2026-03-31T23:59:00Z,2026-04-02T00:00:00Z)'))).* FROM invoice_line_items AS line WHERE claim @>"
    " '2026-03-31T23:59:00Z'::timestamptz AND path = 'primary'",
]


@pytest.mark.django_db
@pytest.mark.parametrize("statement", FORBIDDEN)
def test_raw_sql_is_refused(statement: str) -> None:
    """An open invoice with a payment and a credit note, a void one before it, a draft after it."""
    customer, service = stormy()
    invoicing.draft_all(FEBRUARY, APRIL_3)
    invoicing.draft_all(MARCH, APRIL_3)
    [void, issued], [] = invoicing.finalize_due(APRIL_3)
    invoicing.void(void, "a test", "ann", APRIL_3)
    credits.credit_line(issued.lines.get(path="primary"), 1_00, "goodwill", "sorry", "ann", APRIL_3)
    use(service, "primary", datetime(2026, 4, 2, tzinfo=UTC), 10 * GB)
    invoicing.draft_all(MARCH.following, APRIL_3)
    Payment.objects.create(customer=customer, invoice=issued, amount_minor=1_00, reference="bank 1", recorded_by="ann")
    models = (Invoice, InvoiceLineItem, Payment, Contract, Prices)
    before = rows(*models)
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    assert rows(*models) == before


@pytest.mark.django_db
def test_a_void_invoice_lets_its_usage_go_and_nothing_else() -> None:
    customer, _ = stormy()
    [draft] = invoicing.draft(customer, MARCH, APRIL_3)
    issued = invoicing.finalize(draft, APRIL_3)
    before = [line | {"claim": None} for line in InvoiceLineItem.objects.filter(invoice=issued).values()]
    invoicing.void(issued, "a test", "ann", APRIL_3)
    assert list(InvoiceLineItem.objects.filter(invoice=issued).values()) == before
    [again] = invoicing.draft(customer, MARCH, APRIL_3)
    fresh = invoicing.finalize(again, APRIL_3)
    assert (fresh.number, fresh.sha256, fresh.total_minor) == ("INV-000002", issued.sha256, issued.total_minor)
    for table in ("contracts", "rate_card_versions"):  # what a void invoice was issued by stays as well
        with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {table}")
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
