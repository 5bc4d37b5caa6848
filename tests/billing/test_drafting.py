"""A month in which terms change: each segment by its own, and no time between them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from billing import amending, corrections, invoicing
from billing.models import Contract, Invoice
from billing.segments import Month
from tests import factories
from tests.billing.story import APRIL_3, GB, MARCH, add_paths, at, billed_customer, storm, use

pytestmark = pytest.mark.django_db


def on(month: int, day: int, hour: int = 0) -> datetime:
    return datetime(2026, month, day, hour, tzinfo=UTC)


def test_a_longer_drain_holds_from_its_own_day_on() -> None:
    customer, service = billed_customer(drain_seconds=0)
    use(service, "backup", at(5, 9, 30), 100 * GB)
    use(service, "backup", at(5, 10, 10), 100 * GB)  # ten minutes after failback
    storm(service, at(5, 9), at(5, 10))
    assert [invoice.discount_minor for invoice in invoicing.draft(customer, MARCH, at(15))] == [10_00]
    amending.amend(Contract.objects.get(), {"drain_seconds": 1800}, at(25), "ann", "as agreed", at(10))
    use(service, "primary", at(26), 10 * GB)
    drafts = invoicing.draft(customer, MARCH, APRIL_3)
    assert [invoice.discount_minor for invoice in drafts] == [10_00, 0]
    for draft in drafts:
        invoicing.finalize(draft, APRIL_3)
    Invoice.objects.update(stale_at=APRIL_3)
    assert corrections.differences(Invoice.objects.filter(period_start=at(1)), APRIL_3) == []


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
def test_who_moves_within_a_month_is_billed_for_all_of_it(zone: str) -> None:
    _, service = billed_customer()
    amending.amend(Contract.objects.get(), {"time_zone": zone}, on(3, 15), "ann", "moved", on(3, 10))
    for moment in (on(3, 5), on(3, 20), on(3, 31, 20), on(4, 1, 3), on(4, 20)):
        use(service, "primary", moment, 10 * GB)
    for month in (MARCH, Month(2026, 4)):
        assert invoicing.draft_all(month, on(6, 20))[1] == []
    issued, problems = invoicing.finalize_due(on(6, 20))
    assert problems == []
    assert sum(invoice.total_minor for invoice in issued) == 5_00


def test_layers_are_filled_in_their_own_currency() -> None:
    customer = factories.customer()
    service = factories.service(customer=customer)
    add_paths(service)
    yen = factories.rate_card(currency="JPY", backup_tiers=[{"up_to": None, "per_unit": "30"}])
    terms = {"customer": customer, "merge_gap_seconds": 0, "drain_seconds": 0}
    layers = [{"attachment": "0", "limit": "1000", "share": "1"}]
    factories.contract(**terms, rate_card=yen, valid_until=at(1), layers=[{**layers[0], "limit": "100000"}])
    dollars = factories.rate_card(currency="USD")
    factories.contract(**terms, rate_card=dollars, valid_from=at(1), policy_from=on(1, 1), layers=layers)
    for month in (2, 3):
        use(service, "backup", on(month, 5, 9), 50 * GB)
        storm(service, on(month, 5, 8), on(month, 5, 10))
    found = []
    for month in (Month(2026, 2), MARCH):
        [draft] = invoicing.draft(customer, month, APRIL_3)
        found.append((draft.currency, invoicing.finalize(draft, APRIL_3).discount_minor))
    # 50 GB at 30 yen, and at 20 cents: all of it is within the first layer.
    assert found == [("JPY", 1500), ("USD", 10_00)]
