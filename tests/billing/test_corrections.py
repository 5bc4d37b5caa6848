"""Late and corrected usage of issued periods: booked once, on the line it belongs to, and no issued document changes.

CORRECTION_CASES says how many random stories are told; 500 is the full run. Amounts are worked out in the comments.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import pytest
from django.db import connection

from billing import corrections, credits, invoicing, metering
from billing.models import (
    Contract,
    CoverRuling,
    Invoice,
    InvoiceLineItem,
    LogObject,
    UsageBucket,
    UsageSource,
)
from billing.problems import InvoiceError
from billing.segments import Month
from customers.models import Customer
from services.models import Service, ServiceDomain, Target
from storms.models import CdnIncident, StormEvent
from tests import factories
from tests.billing.log_lines import logpush, write
from tests.billing.story import APRIL_3, GB, MARCH, add_paths, at, billed_customer, storm, use

pytestmark = pytest.mark.django_db
CASES = int(os.environ.get("CORRECTION_CASES", "10"))
JANUARY, FEBRUARY, APRIL = Month(2026, 1), Month(2026, 2), Month(2026, 4)
MAY_3 = datetime(2026, 5, 3, tzinfo=UTC)


def on(month: int, day: int, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


def issue(customer: Customer, month: Month, now: datetime = APRIL_3) -> Invoice:
    [draft] = invoicing.draft(customer, month, now)
    return invoicing.finalize(draft, now)


def lines(invoice: Invoice) -> list[tuple[str, str, int]]:
    return list(invoice.lines.values_list("kind", "path", "amount_minor"))


def notes(invoice: Invoice) -> list[int]:
    return list(
        Invoice.objects.filter(corrects=invoice)
        .exclude(state="void")
        .order_by("pk")
        .values_list("total_minor", flat=True)
    )


def recount(bucket: UsageBucket, size: int) -> None:
    """The object was delivered again, and says this."""
    bucket.bytes = size
    bucket.save()
    hour = bucket.minute_at.replace(minute=0)
    with connection.cursor() as cursor:
        metering.sum_hours(cursor, {(bucket.customer_id, bucket.service_id, bucket.target_id, hour)}, APRIL_3)


def settle(now: datetime) -> None:
    """What the hourly task does."""
    corrections.mark_ruled(now - timedelta(days=400))
    invoicing.finalize_due(now)
    corrections.credit_all(now)


# --- more to pay ----------------------------------------------------------------------------------------------------


def test_late_usage_is_a_line_on_the_next_invoice_and_says_of_what() -> None:
    customer, service = billed_customer()
    use(service, "primary", at(2), 100 * GB)
    march = issue(customer, MARCH)
    use(service, "primary", at(3), 50 * GB)
    use(service, "primary", on(4, 2), 10 * GB)
    april = issue(customer, APRIL, MAY_3)
    assert lines(april) == [("usage", "primary", 1_00), ("correction", "primary", 5_00)]
    line = april.lines.get(kind="correction")
    assert line.corrects == march.lines.get()
    assert line.description == f"Correction of INV-000001 (2026-03): {march.lines.get().description}"
    assert line.details["invoice"] == "INV-000001"
    assert [datetime.fromisoformat(moment) for moment in line.details["period"]] == [
        march.period_start,
        march.period_end,
    ]
    assert notes(march) == [] and corrections.credit_all(MAY_3) == []
    march.refresh_from_db()
    assert march.stale_at is None
    assert issue(customer, APRIL, MAY_3).lines.count() == 2  # twice is once
    use(service, "primary", on(5, 2), 10 * GB)
    assert lines(issue(customer, Month(2026, 5), on(6, 3))) == [("usage", "primary", 1_00)]


def test_a_correction_waits_for_the_earliest_month_that_is_not_issued() -> None:
    customer, service = billed_customer()
    use(service, "primary", on(2, 2), 100 * GB)
    issue(customer, FEBRUARY)
    use(service, "primary", at(2), 10 * GB)
    use(service, "primary", on(4, 2), 10 * GB)
    use(service, "primary", on(2, 3), 50 * GB)
    [march], [april] = (invoicing.draft(customer, month, MAY_3) for month in (MARCH, APRIL))
    assert (march.total_minor, april.total_minor) == (6_00, 1_00)
    issued, _ = invoicing.finalize_due(MAY_3)
    assert [row.total_minor for row in issued] == [6_00, 1_00]


def test_corrections_of_corrections() -> None:
    """The same period once more, after its correction was issued: only what is new is booked."""
    customer, service = billed_customer()
    use(service, "primary", at(2), 100 * GB)
    march = issue(customer, MARCH)
    use(service, "primary", at(3), 50 * GB)
    use(service, "primary", on(4, 2), 10 * GB)
    issue(customer, APRIL, MAY_3)
    use(service, "primary", at(4), 20 * GB)  # + 2.00
    use(service, "primary", on(5, 2), 10 * GB)
    may = issue(customer, Month(2026, 5), on(6, 3))
    assert lines(may) == [("usage", "primary", 1_00), ("correction", "primary", 2_00)]
    recount(UsageBucket.objects.get(minute_at=at(3)), 10 * GB)  # − 4.00 of the 5.00
    corrections.credit_all(on(6, 4))
    assert notes(march) == [4_00]


def test_a_cents_worth_is_booked_once_it_is_a_cent() -> None:
    """Ten times 0.2 c: nothing is dropped on the way, and 2 c are booked in the end."""
    customer, service = billed_customer()
    use(service, "primary", at(2), 100 * GB)
    issue(customer, MARCH)
    for n in range(10):
        use(service, "primary", at(3, n), GB // 50)
        use(service, "primary", on(4, 2, n), 10 * GB)
    april = issue(customer, APRIL, MAY_3)
    booked = sum(amount for kind, _, amount in lines(april) if kind == "correction")
    assert booked == 2


# --- less to pay ----------------------------------------------------------------------------------------------------


def test_an_object_that_is_delivered_again_with_less_is_a_credit_note(tmp_path: Path) -> None:
    """Real files: 100 GB in two objects are counted and billed; one comes again with another content, the other is gone."""
    customer, service = billed_customer(tax_rates={"delivery": "0.19"})
    primary = Target.objects.get(domain__service=service, role="primary")
    host = ServiceDomain.objects.get(service=service).hostname
    source = UsageSource.objects.create(
        name="logs", cdn=primary.cdn, kind="directory", format="cloudflare_logpush", location=str(tmp_path)
    )

    def deliver(name: str, gigabytes: int, version: int) -> None:
        seconds = int(at(2, 10).timestamp())
        row = logpush(ClientRequestHost=host, EdgeResponseBytes=gigabytes * GB, EdgeStartTimestamp=seconds * 10**9)
        path = write(tmp_path / name, row + "\n")
        os.utime(path, ns=(0, seconds * 10**9 + version))
        metering.collect(source, apply=True, now=APRIL_3)

    deliver("a.log", 60, 1)
    deliver("b.log", 40, 1)
    march = issue(customer, MARCH)
    assert march.subtotal_minor == 10_00
    kept = _frozen()
    for _ in range(3):  # the same once more is nothing new
        deliver("a.log", 60, 1)
        assert corrections.credit_all(APRIL_3) == []
    deliver("a.log", 30, 2)
    [note] = corrections.credit_all(APRIL_3)
    assert (note.number, note.subtotal_minor, note.tax_minor, note.corrects) == ("CN-000001", 3_00, 57, march)
    assert corrections.credit_all(APRIL_3) == []
    deliver("a.log", 60, 3)  # it was right at first
    use(service, "primary", on(4, 2), 10 * GB)
    april = issue(customer, APRIL, MAY_3)
    assert lines(april) == [("usage", "primary", 1_00), ("correction", "primary", 3_00)]
    assert april.tax_minor == 76
    assert LogObject.objects.filter(state="replaced").count() == 2 and _unchanged(kept)


def _frozen() -> dict[int, Any]:
    """All that issued documents say."""
    free = {"state", "paid_minor", "credited_minor", "settled_at", "state_reason", "reminders", "stale_at"}
    return {
        row["id"]: (
            {key: value for key, value in row.items() if key not in free},
            [
                line | {"claim": None}
                for line in InvoiceLineItem.objects.filter(invoice=row["id"]).order_by("pk").values()
            ],
        )
        for row in Invoice.objects.exclude(state="draft").values()
    }


def _unchanged(before: dict[int, Any]) -> bool:
    now = _frozen()
    return all(now[pk] == was for pk, was in before.items())


@pytest.mark.parametrize("how", ["incident", "ruling"])
def test_a_witness_who_comes_late_is_a_credit_note(how: str) -> None:
    customer, service = billed_customer()
    use(service, "backup", at(5, 10), 50 * GB)
    row = storm(service, at(5, 9), at(5, 11), incident=None)
    march = issue(customer, MARCH)
    assert (march.subtotal_minor, march.discount_minor) == (10_00, 0)
    settle(APRIL_3)
    assert notes(march) == []
    if how == "incident":
        row.incident = factories.incident(
            cdn=row.cdn, started_at=at(5, 9), confirmed_at=APRIL_3, witnesses=["three customers"]
        )
        row.save()
    else:
        CoverRuling.objects.create(
            customer=customer, storm=row, is_covered=True, reason="they said so", ruled_by="ann", ruled_at=APRIL_3
        )
    for _ in range(3):
        settle(APRIL_3)
    assert notes(march) == [5_00]


def test_a_ruling_against_cover_that_was_given_is_billed_with_the_next_invoice() -> None:
    customer, service = billed_customer()
    use(service, "backup", at(5, 10), 50 * GB)
    row = storm(service, at(5, 9), at(5, 11))
    issue(customer, MARCH)
    CoverRuling.objects.create(
        customer=customer, storm=row, is_covered=False, reason="their own doing", ruled_by="ann", ruled_at=APRIL_3
    )
    use(service, "primary", on(4, 2), 10 * GB)
    corrections.mark_ruled(APRIL_3 - timedelta(days=1))
    assert lines(issue(customer, APRIL, MAY_3)) == [("usage", "primary", 1_00), ("correction", "backup", 5_00)]


def test_late_usage_that_tells_what_was_normal_changes_the_cover_of_the_next_period() -> None:
    """Usage of 28 March on the backup halves what a storm of 2 April covers, though April was issued before it came."""
    customer, service = billed_customer()
    use(service, "primary", at(27), 10 * GB)
    use(service, "backup", on(4, 2, 10), 50 * GB)  # 10.00, of which 5.00 are borne
    storm(service, on(4, 2, 9), on(4, 2, 11))
    issue(customer, MARCH, MAY_3)
    april = issue(customer, APRIL, MAY_3)
    assert april.discount_minor == 5_00
    use(service, "backup", at(28), 10 * GB)
    use(service, "primary", on(5, 2), 10 * GB)
    may = issue(customer, Month(2026, 5), on(6, 3))
    booked = {
        line.corrects.invoice.period_start.month: line.amount_minor
        for line in may.lines.filter(kind="correction").select_related("corrects__invoice")
    }
    assert booked == {3: 2_00, 4: 2_50}


def test_nothing_changed_is_nothing_booked() -> None:
    """Re-rated by what it was rated by, whatever became of prices, contract and policy meanwhile."""
    customer, service = billed_customer(fixed_fee=Decimal(5), minimum_commitment=Decimal(50), tax_rates={"fee": "0.19"})
    policy = factories.policy(service=service, max_coverage_factor=Decimal("0.5"))
    use(service, "backup", at(5, 10), 50 * GB)
    storm(service, at(5, 9), at(5, 11), policy=policy, policy_version=1)
    march = issue(customer, MARCH)
    policy.max_coverage_factor = Decimal(9)
    policy.save()
    old = Contract.objects.get()
    Contract.objects.update(valid_until=on(4, 1))
    factories.contract(
        customer=customer, rate_card=factories.rate_card(), valid_from=on(4, 1), discount_rate=Decimal(1)
    )
    Invoice.objects.filter(pk=march.pk).update(stale_at=APRIL_3)
    assert corrections.differences(corrections._stale(), APRIL_3) == []
    assert march.contract == old


# --- taxes, commitment, limits ----------------------------------------------------------------------------------------


def test_a_correction_bears_the_tax_of_its_period() -> None:
    customer, service = billed_customer(tax_rates={"delivery": "0.16"}, valid_until=on(4, 1))
    card = Contract.objects.get().rate_card
    factories.contract(customer=customer, rate_card=card, valid_from=on(4, 1), tax_rates={"delivery": "0.19"})
    use(service, "primary", at(2), 100 * GB)
    issue(customer, MARCH)
    use(service, "primary", at(3), 100 * GB)
    use(service, "primary", on(4, 2), 100 * GB)
    april = issue(customer, APRIL, MAY_3)
    assert april.tax_minor == 1_90 + 1_60


def test_late_usage_below_the_commitment_changes_nothing_in_sum() -> None:
    customer, service = billed_customer(minimum_commitment=Decimal(50), tax_rates={"delivery": "0.19"})
    use(service, "primary", at(2), 100 * GB)
    march = issue(customer, MARCH)
    use(service, "primary", at(3), 100 * GB)
    use(service, "primary", on(4, 2), 500 * GB)
    april = issue(customer, APRIL, MAY_3)
    corrections.credit_all(MAY_3)
    more = sum(line.amount_minor for line in april.lines.filter(kind="correction"))
    assert more - sum(Invoice.objects.filter(corrects=march).values_list("subtotal_minor", flat=True)) == 0


def test_credit_line_gives_back_no_more_than_is_left_of_the_line() -> None:
    customer, service = billed_customer(tax_rates={"delivery": "0.1"})
    use(service, "primary", at(2), 100 * GB)
    line = issue(customer, MARCH).lines.get()
    for amount in (0, -1, 10_01):
        with pytest.raises(InvoiceError, match=r"at most 10\.00 USD"):
            credits.credit_line(line, amount, "goodwill", "x", "ann", APRIL_3)
    note = credits.credit_line(line, 4_00, "goodwill", "x", "ann", APRIL_3)
    assert (note.subtotal_minor, note.tax_minor, note.number) == (4_00, 40, "CN-000001")
    with pytest.raises(InvoiceError, match=r"at most 6\.00 USD"):
        credits.credit_line(line, 6_01, "goodwill", "x", "ann", APRIL_3)
    with pytest.raises(InvoiceError, match="neither storm cover nor a credit note"):
        credits.credit_line(note.lines.get(), 1, "goodwill", "x", "ann", APRIL_3)
    credits.credit_line(line, 6_00, "goodwill", "x", "ann", APRIL_3)
    line.invoice.refresh_from_db()
    assert (line.invoice.credited_minor, line.invoice.state, line.invoice.due_minor) == (11_00, "paid", 0)


def test_credit_never_exceeds_what_the_customer_was_billed() -> None:
    """Backup 10.00, cover 5.00: the line can be given back as far as it was paid."""
    customer, service = billed_customer()
    use(service, "backup", at(5, 10), 50 * GB)
    storm(service, at(5, 9), at(5, 11))
    march = issue(customer, MARCH)
    with pytest.raises(InvoiceError, match=r"at most 5\.00 USD"):
        credits.credit_line(march.lines.get(kind="usage"), 10_00, "goodwill", "x", "ann", APRIL_3)


def test_tax_is_given_back_once_however_many_notes_it_takes() -> None:
    """0.15 at 10 % bore 0.02 of tax; three notes of 0.05 give back 0.01, 0.00 and 0.01, or the like, and 0.02 together."""
    customer, service = billed_customer(tax_rates={"delivery": "0.1"})
    use(service, "primary", at(2), 3 * GB // 2)
    march = issue(customer, MARCH)
    assert (march.subtotal_minor, march.tax_minor) == (15, 2)
    for _ in range(3):
        credits.credit_line(march.lines.get(), 5, "goodwill", "x", "ann", APRIL_3)
    march.refresh_from_db()
    assert march.credited_minor == march.total_minor == 17


def test_what_a_person_gave_back_is_not_given_back_again() -> None:
    customer, service = billed_customer()
    use(service, "primary", at(2), 100 * GB)
    march = issue(customer, MARCH)
    credits.credit_line(march.lines.get(), 8_00, "dispute", "they are right", "ann", APRIL_3)
    recount(UsageBucket.objects.get(), 0)
    corrections.credit_all(APRIL_3)
    march.refresh_from_db()
    assert march.credited_minor == march.total_minor == 10_00
    assert corrections.credit_all(APRIL_3) == []


# --- void and bill again ----------------------------------------------------------------------------------------------


def test_void_and_billed_again_with_what_came_meanwhile() -> None:
    customer, service = billed_customer()
    use(service, "primary", at(2), 100 * GB)
    march = issue(customer, MARCH)
    use(service, "primary", at(3), 50 * GB)
    invoicing.void(march, "wrong address", "ann", APRIL_3)
    again = issue(customer, MARCH)
    assert (again.number, lines(again)) == ("INV-000002", [("usage", "primary", 15_00)])
    use(service, "primary", on(4, 2), 10 * GB)
    assert lines(issue(customer, APRIL, MAY_3)) == [("usage", "primary", 1_00)]


def test_a_correction_on_an_invoice_that_is_void_is_billed_again() -> None:
    customer, service = billed_customer()
    use(service, "primary", at(2), 100 * GB)
    issue(customer, MARCH)
    use(service, "primary", at(3), 50 * GB)
    use(service, "primary", on(4, 2), 10 * GB)
    april = issue(customer, APRIL, MAY_3)
    corrections.credit_all(MAY_3)
    invoicing.void(april, "wrong address", "ann", MAY_3)
    again = issue(customer, APRIL, MAY_3)
    assert lines(again) == lines(april) == [("usage", "primary", 1_00), ("correction", "primary", 5_00)]


def test_what_was_corrected_can_not_be_voided() -> None:
    customer, service = billed_customer()
    use(service, "primary", at(2), 100 * GB)
    march = issue(customer, MARCH)
    use(service, "primary", at(3), 50 * GB)
    use(service, "primary", on(4, 2), 10 * GB)
    issue(customer, APRIL, MAY_3)
    with pytest.raises(InvoiceError, match="a later invoice corrects"):
        invoicing.void(march, "x", "ann", MAY_3)


# --- the customer pays its CDNs itself ----------------------------------------------------------------------------------


def own_cdn(**terms: Any) -> tuple[Customer, Service]:
    """A fee of 1.00 with 19 % tax, and 5.00 of cover."""
    told = {"kind": "own_cdn", "fixed_fee": Decimal(1), "tax_rates": {"fee": "0.19"}} | terms
    customer, service = billed_customer(**told)
    use(service, "backup", at(5, 10), 50 * GB)
    storm(service, at(5, 9), at(5, 11))
    return customer, service


def test_cover_beyond_the_charges_is_a_credit_note_without_tax() -> None:
    customer, _ = own_cdn()
    march = issue(customer, MARCH)
    assert [line for line in lines(march) if line[2]] == [("fixed_fee", "", 1_00), ("cover", "backup", 1_00)]
    [note] = Invoice.objects.filter(corrects=march)
    assert (note.reason, note.total_minor, note.tax_minor) == ("cover", 4_00, 0)


def test_cover_beyond_the_charges_is_not_corrected_when_nothing_changed() -> None:
    customer, _ = own_cdn()
    march = issue(customer, MARCH)
    Invoice.objects.filter(pk=march.pk).update(stale_at=APRIL_3)
    assert corrections.differences(corrections._stale(), APRIL_3) == []


@pytest.mark.parametrize("fee", ["1", "100"])
def test_late_cover_is_paid_without_the_fees_tax(fee: str) -> None:
    customer, service = own_cdn(fixed_fee=Decimal(fee))
    march = issue(customer, MARCH)
    before = sum(notes(march))
    use(service, "backup", at(5, 10, 1), 50 * GB)
    [note] = corrections.credit_all(APRIL_3)
    assert (note.subtotal_minor, note.tax_minor) == (5_00, 0)
    assert sum(notes(march)) - before == 5_00


def test_cover_is_paid_where_nothing_is_charged() -> None:
    customer, _ = own_cdn(fixed_fee=Decimal(0))
    march = issue(customer, MARCH)
    assert march.total_minor == 0 and notes(march) == [5_00]


# --- limits of a policy year --------------------------------------------------------------------------------------------


def two_months(**terms: Any) -> tuple[Customer, Service]:
    """6.00 of covered cost in January and in February, issued."""
    customer, service = billed_customer(**terms)
    for month in (1, 2):
        use(service, "backup", on(month, 5, 9), 30 * GB)
        storm(service, on(month, 5, 8), on(month, 5, 10))
    issue(customer, JANUARY)
    issue(customer, FEBRUARY)
    return customer, service


LIMIT = [{"attachment": "0", "limit": "10", "share": "1"}]


def test_a_limit_holds_when_usage_of_the_first_month_comes_late() -> None:
    """6.00 and 4.00 of a limit of 10.00. Then January has 12.00: it takes all 10.00, and February gives 4.00 back."""
    customer, service = two_months(layers=LIMIT)
    assert [row.discount_minor for row in Invoice.objects.order_by("period_start")] == [6_00, 4_00]
    use(service, "backup", on(1, 5, 9, 1), 30 * GB)
    use(service, "primary", at(2), 10 * GB)
    march = issue(customer, MARCH)
    corrections.credit_all(APRIL_3)
    # January: + 6.00 − 4.00 of cover; February: + 4.00; cover is 10.00 in all
    assert sum(line.amount_minor for line in march.lines.filter(kind="correction")) == 6_00
    assert Invoice.objects.filter(kind="credit_note").count() == 0


def test_months_between_two_that_are_rated_again_count() -> None:
    customer, service = two_months(layers=[{"attachment": "10", "limit": None, "share": "1"}])
    use(service, "backup", at(5, 9), 30 * GB)
    storm(service, at(5, 8), at(5, 10))
    issue(customer, MARCH)
    Invoice.objects.filter(period_start__month__in=[1, 3]).update(stale_at=APRIL_3)
    assert corrections.differences(corrections._stale(), APRIL_3) == []


def test_a_policy_that_changed_between_two_months_changes_neither() -> None:
    """Whichever invoices are rated again together: each by the factor that its own storms began under."""
    customer, service = billed_customer()
    policy = factories.policy(service=service, max_coverage_factor=Decimal(1))
    for month, version, factor in ((1, 1, "0.1"), (3, 2, "1")):
        use(service, "backup", on(month, 5, 9), 50 * GB)
        storm(service, on(month, 5, 8), on(month, 5, 10), policy=policy, policy_version=version)
        issue(customer, Month(2026, month))
        policy.max_coverage_factor = Decimal(factor)
        policy.save()
    Invoice.objects.update(stale_at=APRIL_3)
    assert corrections.differences(corrections._stale(), APRIL_3) == []


# --- random stories -----------------------------------------------------------------------------------------------------


class Story:
    """One customer for three months, and what may happen to it in any order."""

    def __init__(self, dice: Random) -> None:
        self.dice, self.now, self.kept = dice, APRIL_3, dict[int, Any]()
        terms: dict[str, Any] = {"tax_rates": {"delivery": dice.choice(["0", "0.19"])}}
        if dice.random() < 0.3:
            terms["minimum_commitment"] = Decimal(dice.choice([3, 30]))
        if dice.random() < 0.3:
            terms |= {"fixed_fee": Decimal("7.77"), "premium": Decimal(3)}
        self.customer, self.service = billed_customer(**terms)
        for month in (1, 2, 3):
            use(self.service, "primary", on(month, 3), dice.randrange(1, 100) * GB)
            confirmed = dice.choice([on(month, 10, 9), None])
            cdn = Target.objects.get(domain__service=self.service, role="primary").cdn
            witnesses = ["a reference site"] if confirmed else []
            incident = factories.incident(
                cdn=cdn,
                started_at=on(month, 10, 9),
                ended_at=on(month, 10, 11),
                confirmed_at=confirmed,
                witnesses=witnesses,
            )
            storm(self.service, on(month, 10, 9), on(month, 10, 11), incident=incident)

    def moment(self) -> datetime:
        """In a storm, in the week before one, or anywhere, the last minute of a month included."""
        dice, month = self.dice, self.dice.choice([1, 2, 3])
        return dice.choice(
            [
                on(month, 10, 9, dice.randrange(60)),
                on(month, dice.randint(4, 9), dice.randrange(24)),
                on(month, 28, 23, 59),
            ]
        )

    def size(self) -> int:
        return self.dice.choice([0, 1, self.dice.randrange(GB), self.dice.randrange(90) * GB])

    def late_usage(self) -> None:
        use(self.service, self.dice.choice(["primary", "backup"]), self.moment(), self.size(), now=self.now)

    def corrected_usage(self) -> None:
        recount(self.dice.choice(list(UsageBucket.objects.filter(customer=self.customer))), self.size())

    def late_witness(self) -> None:
        row = self.dice.choice(list(StormEvent.objects.filter(customer=self.customer)))
        CdnIncident.objects.filter(pk=row.incident_id).update(confirmed_at=self.now, witnesses=["three customers"])

    def ruling(self) -> None:
        row = self.dice.choice(list(StormEvent.objects.filter(customer=self.customer)))
        CoverRuling.objects.update_or_create(
            storm=row,
            defaults={
                "customer": self.customer, "is_covered": self.dice.random() < 0.5, "reason": "so", "ruled_by": "ann",
                "ruled_at": self.now,
            },
        )  # fmt: skip

    def draft(self) -> None:
        invoicing.draft_all(self.dice.choice([JANUARY, FEBRUARY, MARCH]), self.now, [self.customer])

    def hourly(self) -> None:
        settle(self.now)

    def credit(self) -> None:
        corrections.credit_all(self.now)

    def void(self) -> None:
        issued = list(Invoice.objects.filter(customer=self.customer, state="open", kind="invoice"))
        if issued:
            row = self.dice.choice(issued)
            try:
                invoicing.void(row, "a mistake", "ann", self.now)
            except InvoiceError:
                return
            self.kept.pop(row.pk, None)

    def tell(self) -> None:
        acts: list[tuple[Callable[[], None], int]] = [
            (self.late_usage, 6), (self.corrected_usage, 4), (self.late_witness, 1), (self.ruling, 1), (self.draft, 3),
            (self.hourly, 4), (self.credit, 2), (self.void, 1),
        ]  # fmt: skip
        for act in self.dice.choices(
            [act for act, _ in acts], [weight for _, weight in acts], k=self.dice.randint(6, 16)
        ):
            self.now += timedelta(minutes=1)
            act()
            assert _unchanged(self.kept)
            self.kept |= {
                pk: was
                for pk, was in _frozen().items()
                if was[0]["customer_id"] == self.customer.pk and pk not in self.kept
            }

    def end(self) -> None:
        """The three months are issued, and April, which carries what is still to be billed."""
        use(self.service, "primary", on(4, 20), GB, now=MAY_3)
        self.now = max(self.now, MAY_3)
        for month in (JANUARY, FEBRUARY, MARCH, APRIL):
            invoicing.draft_all(month, self.now, [self.customer])
            settle(self.now)
        settle(self.now)

    def booked(self) -> dict[int, int]:
        """By month, all that its documents say together, before tax."""
        sums = defaultdict[int, int](int)
        rows = InvoiceLineItem.objects.filter(customer=self.customer).exclude(invoice__state__in=["draft", "void"])
        for line in rows.select_related("invoice", "corrects__invoice"):
            of = line.corrects.invoice if line.corrects else line.invoice
            sums[of.period_start.month] += line.amount_minor * (-1 if line.kind in ("cover", "credit") else 1)
        return dict(sums)

    def at_once(self) -> dict[int, int]:
        """The same from the final usage, as if every log had come in time."""
        sums = {}
        for month in (JANUARY, FEBRUARY, MARCH, APRIL):
            [draft] = invoicing.preview(self.customer, month, self.now).drafts
            corrected = sum(c.amount_minor for c in draft.charges.corrections)
            sums[month.month] = draft.bill.subtotal_minor - draft.bill.discount_minor - corrected
        return sums


@pytest.mark.parametrize("number", range(CASES))
def test_in_the_end_all_documents_say_what_one_bill_of_the_final_usage_says(number: int) -> None:
    story = Story(Random(number))
    story.tell()
    story.end()
    assert not Invoice.objects.exclude(stale_at=None).exclude(state="void").exists()
    assert story.booked() == story.at_once()
    before = story.booked(), Invoice.objects.count()
    story.hourly()
    story.credit()
    assert (story.booked(), Invoice.objects.count()) == before  # however often it is run
    assert _unchanged(story.kept)
    _documents_add_up()


def _documents_add_up() -> None:
    """Each by itself; and tax is off by half a cent at most: of an invoice in each category, of all its notes together."""
    taxed = defaultdict[Any, list[int]](lambda: [0, 0])
    for row in Invoice.objects.exclude(state="draft").prefetch_related("lines"):
        covers = sum(line.amount_minor for line in row.lines.all() if line.kind == "cover")
        added = sum(line.amount_minor for line in row.lines.all() if line.kind != "cover")
        assert (row.subtotal_minor, row.discount_minor) == (added, covers)
        assert row.total_minor == added - covers + row.tax_minor >= 0
        assert row.tax_minor == sum(tax["tax_minor"] for tax in row.taxes)
        for tax in row.taxes:
            of = row.pk if row.kind == "invoice" else -(row.corrects_id or 0)
            for n, key in enumerate(("taxable_minor", "tax_minor")):
                taxed[of, tax["category"], tax["rate"]][n] += tax[key]
    for (_, _, rate), (taxable, tax_minor) in taxed.items():
        assert abs(tax_minor - taxable * Fraction(rate)) * 2 <= 1
    for row in Invoice.objects.filter(kind="invoice").exclude(state="draft"):
        assert row.credited_minor == sum(notes(row))
    for series in ("INV", "CN"):
        found = sorted(Invoice.objects.filter(number__startswith=series).values_list("number", flat=True))
        assert found == [f"{series}-{n:06d}" for n in range(1, len(found) + 1)]


# --- what must not get lost, and not go to the wrong place ------------------------------------------------------------


def deliver_again(bucket: UsageBucket, **kw: int) -> None:
    """The log is delivered again and tells other figures."""
    UsageBucket.objects.filter(pk=bucket.pk).update(**kw)
    hour = bucket.minute_at.replace(minute=0)
    with connection.cursor() as cursor:
        metering.sum_hours(cursor, {(bucket.customer_id, bucket.service_id, bucket.target_id, hour)}, APRIL_3)


def test_requests_that_were_billed_in_excess_are_given_back_on_their_own_line() -> None:
    card = factories.rate_card(
        primary_tiers=[{"up_to": None, "per_unit": "0.01"}], per_10k_requests={"primary": "0.01"}
    )
    customer, service = billed_customer(rate_card=card)
    use(service, "primary", at(5, 9), 100 * GB, requests=100_000_000)
    march = issue(customer, MARCH)
    assert lines(march) == [("usage", "primary", 100), ("requests", "primary", 100_00)]
    deliver_again(UsageBucket.objects.get(), requests=10_000_000)
    [note] = corrections.credit_all(APRIL_3)
    assert note.total_minor == 90_00
    assert [line.corrects.kind for line in note.lines.all() if line.corrects] == ["requests"]
    assert corrections.credit_all(APRIL_3) == [] and not Invoice.objects.filter(stale_at__isnull=False).exists()


def test_a_limit_of_the_policy_year_is_not_paid_twice() -> None:
    customer, service = billed_customer(layers=[{"attachment": "0", "limit": "10", "share": "1"}])
    for month in (1, 2):
        use(service, "backup", on(month, 5, 9), 30 * GB)  # costs 6.00
    january = storm(service, on(1, 5, 8), on(1, 5, 10), incident=None)
    storm(service, on(2, 5, 8), on(2, 5, 10))
    assert [issue(customer, month).discount_minor for month in (JANUARY, FEBRUARY)] == [0, 6_00]
    CoverRuling.objects.create(
        customer=customer, storm=january, is_covered=True, reason="seen", ruled_by="ann", ruled_at=APRIL_3
    )
    corrections.mark_ruled(APRIL_3 - timedelta(days=1))
    assert [note.total_minor for note in corrections.credit_all(APRIL_3)] == [6_00]
    # January's 6.00 leave 4.00 of the year's 10.00: February was paid 2.00 too much, whatever is looked at meanwhile.
    corrections.credit_all(APRIL_3)
    use(service, "primary", at(2), 10 * GB)
    assert lines(issue(customer, MARCH)) == [("usage", "primary", 1_00), ("correction", "backup", 2_00)]


def test_a_month_issued_after_a_correction_counts_what_that_used_of_the_limit() -> None:
    customer, service = billed_customer(layers=[{"attachment": "0", "limit": "10", "share": "1"}])
    for month in (1, 3):
        use(service, "backup", on(month, 5, 9), 30 * GB)
    january = storm(service, on(1, 5, 8), on(1, 5, 10), incident=None)
    storm(service, on(3, 5, 8), on(3, 5, 10))
    assert issue(customer, JANUARY).discount_minor == 0
    CoverRuling.objects.create(
        customer=customer, storm=january, is_covered=True, reason="seen", ruled_by="ann", ruled_at=APRIL_3
    )
    corrections.mark_ruled(APRIL_3 - timedelta(days=1))
    assert [note.total_minor for note in corrections.credit_all(APRIL_3)] == [6_00]
    march = issue(customer, MARCH)
    assert march.discount_minor == 6_00  # by what January's invoice said
    corrections.mark_limited(APRIL_3 - timedelta(days=1))
    corrections.credit_all(APRIL_3)
    use(service, "primary", on(4, 2), 10 * GB)
    assert lines(issue(customer, APRIL, MAY_3)) == [("usage", "primary", 1_00), ("correction", "backup", 2_00)]


def test_late_usage_of_another_currency_waits_for_an_invoice_in_it() -> None:
    customer = factories.customer()
    service = factories.service(customer=customer)
    add_paths(service)
    yen = factories.rate_card(currency="JPY", primary_tiers=[{"up_to": None, "per_unit": "15"}])
    factories.contract(customer=customer, rate_card=yen, valid_until=at(1))
    dollars = factories.contract(customer=customer, rate_card=factories.rate_card(currency="USD"), valid_from=at(1))
    use(service, "primary", on(2, 5, 9), 1000 * GB)
    assert issue(customer, FEBRUARY).total_minor == 15_000
    use(service, "primary", on(2, 5, 9, 1), 1000 * GB)
    use(service, "primary", at(5, 9), 10 * GB)
    assert lines(issue(customer, MARCH)) == [("usage", "primary", 1_00)]
    [difference] = corrections.differences(corrections._affected([customer.pk]), APRIL_3)
    assert (difference.invoice.currency, difference.amount_minor) == ("JPY", 15_000)
    Contract.objects.filter(pk=dollars.pk).update(valid_until=on(4, 1))
    factories.contract(customer=customer, rate_card=yen, valid_from=on(4, 1))
    assert lines(issue(customer, APRIL, MAY_3)) == [("correction", "primary", 15_000)]


@pytest.mark.parametrize("is_more", [True, False])
def test_what_only_samples_tell_waits_for_a_person(is_more: bool) -> None:
    customer, service = billed_customer()
    use(service, "primary", at(5, 9), 100 * GB)
    march = issue(customer, MARCH)
    bucket = UsageBucket.objects.get()
    UsageBucket.objects.update(grade="E4")
    deliver_again(bucket, bytes=200 * GB if is_more else 50 * GB)
    use(service, "primary", on(4, 2), 10 * GB)
    assert corrections.credit_all(MAY_3) == []
    [april] = invoicing.draft(customer, APRIL, MAY_3)
    assert ("grade E4" in april.problem) is is_more
    march.refresh_from_db()
    assert march.stale_at is not None
    if is_more:
        assert invoicing.finalize_due(MAY_3)[0] == []
        assert ("correction", "primary", 10_00) in lines(invoicing.finalize(april, MAY_3, approved_by="ann"))


def test_a_customer_whose_rows_nobody_foresaw_keeps_no_other_from_its_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = (billed_customer() for _ in range(2))
    for customer, service in (bad, good):
        use(service, "primary", at(5, 9), 100 * GB)
        issue(customer, MARCH)
    for bucket in UsageBucket.objects.all():
        deliver_again(bucket, bytes=50 * GB)
    real = corrections.differences

    def broken(invoices: Any, as_of: datetime) -> Any:
        if any(invoice.customer_id == bad[0].pk for invoice in invoices):
            raise ValueError("a row that nobody foresaw")
        return real(invoices, as_of)

    monkeypatch.setattr(corrections, "differences", broken)
    assert [note.customer for note in corrections.credit_all(APRIL_3)] == [good[0]]
