"""Months before the last one that still owe an invoice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from billing import audit, invoicing, leftovers
from billing.models import Contract, Invoice
from billing.segments import Month
from customers.models import Customer
from tests.billing.story import APRIL_3, GB, MARCH, billed_customer, use

pytestmark = pytest.mark.django_db
JANUARY = Month(2026, 1)


def on(month: int, day: int, hour: int = 0) -> datetime:
    return datetime(2026, month, day, hour, tzinfo=UTC)


def drafts() -> list[tuple[int, int]]:
    return [(row.period_start.month, row.total_minor) for row in Invoice.objects.drafts().order_by("period_start")]


def issued(customer: Customer, month: Month, now: datetime = APRIL_3) -> Invoice:
    [draft] = invoicing.draft(customer, month, now)
    return invoicing.finalize(draft, now)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles"])
def test_what_was_voided_is_billed_again_however_old(zone: str) -> None:
    customer, service = billed_customer(time_zone=zone)
    use(service, "primary", on(1, 5), 100 * GB)
    invoicing.void(issued(customer, JANUARY), "the wrong price", "ann", APRIL_3)
    assert leftovers.draft_voided(APRIL_3) == []
    [(_, total)] = drafts()
    assert total == 10_00
    assert invoicing.finalize_due(APRIL_3)[1] == []
    assert leftovers.draft_voided(APRIL_3) == [] and drafts() == []


def test_a_month_whose_first_logs_come_late_is_billed() -> None:
    customer, service = billed_customer()
    use(service, "primary", on(3, 5), 10 * GB)
    issued(customer, MARCH)
    use(service, "primary", on(1, 5), 100 * GB)
    assert leftovers.draft_late(APRIL_3) == []
    assert drafts() == [(1, 10_00)]
    Invoice.objects.drafts().delete()
    assert leftovers.draft_late(APRIL_3 + timedelta(days=4)) == [] and drafts() == []  # it was seen in time


def test_usage_without_terms_is_told() -> None:
    customer, service = billed_customer(valid_from=on(2, 1))
    use(service, "primary", on(1, 5), 100 * GB)
    [problem] = leftovers.draft_late(APRIL_3)
    assert str(customer) in problem and "no contract with prices" in problem


def test_a_correction_that_nothing_can_carry_is_told_by_the_audit() -> None:
    customer, service = billed_customer()
    use(service, "primary", on(3, 5), 100 * GB)
    march = issued(customer, MARCH)
    Contract.objects.update(valid_until=on(4, 1))
    Invoice.objects.filter(pk=march.pk).update(stale_at=APRIL_3)
    assert [said for said in audit.unsummed(APRIL_3 + timedelta(days=39)) if "corrected since" in said] == []
    [said] = [said for said in audit.unsummed(APRIL_3 + timedelta(days=41)) if "corrected since" in said]
    assert str(march.number) in said
