"""What a month costs so far and by its end, and who is told. Amounts are worked out in the comments."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing import amending, invoicing, spending
from billing.models import Contract, Invoice, SpendAlert, UsageEstimate, UsageSource
from billing.spending import Spend, fire_alerts
from customers.models import Customer, Event
from services.models import Service, Target
from tests import factories
from tests.billing.story import GB, MARCH, add_paths, at, billed_customer, storm, use
from tests.together import run_together

pytestmark = pytest.mark.django_db
APRIL = datetime(2026, 4, 1, tzinfo=UTC)
MID = APRIL + timedelta(days=15)  # half of April


def april(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 4, day, hour, tzinfo=UTC)


def spend(customer: Customer, now: datetime = MID) -> Spend:
    (only,) = spending.spend(customer, now)
    return only


def test_usage_so_far_and_by_the_months_end() -> None:
    customer, service = billed_customer(fixed_fee=Decimal(10), tax_rates={"delivery": "0.10"})
    use(service, "primary", april(3), 1000 * GB)  # 100.00
    found = spend(customer)
    assert (found.month, found.start, found.end, found.elapsed_share) == (
        "2026-04",
        APRIL,
        april(30) + timedelta(days=1),
        0.5,
    )
    assert (found.so_far.subtotal_minor, found.so_far.tax_minor, found.so_far.total_minor) == (110_00, 10_00, 120_00)
    assert found.projected
    # Twice the traffic, and the fee once.
    assert (found.projected.subtotal_minor, found.projected.total_minor) == (210_00, 230_00)
    assert Invoice.objects.count() == 0


def test_tiers_requests_and_commitments_count_by_the_months_end() -> None:
    card = factories.rate_card(
        primary_tiers=[{"up_to": "1000", "per_unit": "0.10"}, {"up_to": None, "per_unit": "0.05"}],
        per_10k_requests={"primary": "1"},
    )
    customer, service = billed_customer(rate_card=card, minimum_commitment=Decimal(170))
    use(service, "primary", april(3), 1000 * GB, requests=100_000)  # 100.00 and 10.00
    found = spend(customer)
    assert found.so_far.total_minor == 170_00
    assert found.projected and found.projected.total_minor == 100_00 + 50_00 + 20_00
    use(service, "primary", april(4), 1000 * GB, requests=0)  # 50.00
    found = spend(customer)
    assert found.projected and found.projected.total_minor == 100_00 + 150_00 + 20_00


def test_storms_are_not_projected() -> None:
    customer, service = billed_customer(layers=[{"attachment": "0", "limit": "15", "share": "1"}])
    use(service, "backup", april(5, 10), 100 * GB)  # 20.00, of which 15.00 are covered
    storm(service, april(5, 9), april(5, 11))
    found = spend(customer)
    assert found.so_far.total_minor == 5_00
    assert found.projected == found.so_far


def test_a_part_of_the_month_to_come_is_projected_by_its_own_terms() -> None:
    customer, service = billed_customer()
    use(service, "primary", april(3), 1000 * GB)
    dear = factories.rate_card(primary_tiers=[{"up_to": None, "per_unit": "0.20"}])
    amending.amend(Contract.objects.get(), {"rate_card": dear}, MID, "ann", "dearer", april(2))
    now = april(11)
    found = spend(customer, now)
    # 1,000 GB in 10 days: 500 GB in the next 5 at 0.10, and 1,500 GB in the last 15 at 0.20.
    assert found.so_far.total_minor == 100_00
    assert found.projected and found.projected.total_minor == 100_00 + 50_00 + 300_00


def test_it_is_too_early_to_project_and_without_a_contract_there_is_nothing() -> None:
    customer, service = billed_customer()
    use(service, "primary", APRIL, GB)
    assert spend(customer, APRIL + timedelta(minutes=59)).projected is None
    assert spend(customer, APRIL + timedelta(hours=1)).projected is not None
    assert spending.spend(customer, datetime(2025, 12, 31, tzinfo=UTC)) == []
    assert spending.spend(factories.customer(), MID) == []


def test_the_month_is_the_contracts() -> None:
    customer, service = billed_customer(time_zone="America/New_York")
    use(service, "primary", april(1, 3), 1000 * GB)  # still 31 March there
    assert spend(customer, april(1, 3) + timedelta(minutes=30)).month == "2026-03"
    found = spend(customer)
    assert (found.month, found.start, found.so_far.total_minor) == ("2026-04", april(1, 4), 0)


def test_what_is_used_of_the_years_cover() -> None:
    layers = [{"attachment": "0", "limit": "15", "share": "0.5"}, {"attachment": "15", "limit": None, "share": "1"}]
    customer, service = billed_customer(layers=layers, aggregate_seconds=36_000)
    use(service, "backup", at(5, 10), 100 * GB)  # 20.00 in March
    storm(service, at(5, 9), at(5, 11))
    invoicing.draft(customer, MARCH, at(31))
    use(service, "backup", april(5, 10), 50 * GB)  # 10.00 in April
    storm(service, april(5, 9), april(5, 10) + timedelta(minutes=30))
    cover = spend(customer).cover
    assert (cover.start, cover.end) == (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    assert (cover.covered_cost, cover.aggregate_seconds) == ("30", 36_000)
    assert cover.used_seconds == sum(cover.used_seconds_by_service.values()) == 7200 + 5400
    assert [(layer.used, layer.left) for layer in cover.layers] == [("15", "0"), ("15", None)]


def test_estimates_stand_beside_what_was_metered() -> None:
    customer, service = billed_customer()
    use(service, "primary", april(3, 10), 100 * GB)
    target = Target.objects.get(domain__service=service, role="primary")
    source = UsageSource.objects.create(name="statistics", cdn=target.cdn, kind="fastly_stats")
    for hour in (10, 11):
        UsageEstimate.objects.create(
            customer=customer, service=service, target=target, source=source, window_start=april(3, hour),
            window_end=april(3, hour + 1), bytes=101 * GB, requests=1,
        )  # fmt: skip
    (estimate,) = spend(customer).estimates
    assert (estimate.service_id, estimate.source) == (service.pk, "statistics")
    assert (estimate.metered_bytes, estimate.estimated_bytes) == (100 * GB, 202 * GB)
    assert spend(customer).so_far.total_minor == 10_00


def test_spend_costs_the_same_for_many_services() -> None:
    def queries(services: int) -> int:
        customer, service = billed_customer()
        for _ in range(services):
            use(service, "primary", april(3), GB)
            storm(service, april(5, 9), april(5, 11))
            service = factories.service(customer=customer)
            add_paths(service)
        with CaptureQueriesContext(connection) as captured:
            spend(customer)
        return len(captured)

    assert queries(1) == queries(6)


# --- alerts ---------------------------------------------------------------------------------------------------------


def watched(*thresholds: int) -> tuple[Customer, Service]:
    customer, service = billed_customer()
    for threshold in thresholds:
        SpendAlert.objects.create(customer=customer, threshold_minor=threshold, created_at=at(1))
    return customer, service


def told() -> list[tuple[int, int, str]]:
    rows = Event.objects.filter(kind="alert.triggered").order_by("id")
    return [(e.payload["threshold_minor"], e.payload["spent_minor"], e.payload["month"]) for e in rows]


def test_an_alert_is_told_once_a_month() -> None:
    customer, service = watched(50_00, 150_00)
    use(service, "primary", april(3), 1000 * GB)
    invoicing.draft(customer, MARCH.following, MID)
    assert fire_alerts(MID) == 1
    assert told() == [(50_00, 100_00, "2026-04-01T00:00:00+00:00")]
    assert Event.objects.get(kind="alert.triggered").subject_id == SpendAlert.objects.get(threshold_minor=50_00).pk
    use(service, "primary", april(4), 1000 * GB)
    invoicing.draft(customer, MARCH.following, MID)
    assert (fire_alerts(MID), fire_alerts(MID)) == (1, 0)
    assert told()[1][:2] == (150_00, 200_00)
    use(service, "primary", datetime(2026, 5, 2, tzinfo=UTC), 600 * GB)
    later = datetime(2026, 5, 3, tzinfo=UTC)
    invoicing.draft(customer, MARCH.following.following, later)
    assert fire_alerts(later) == 1
    assert told()[2] == (50_00, 60_00, "2026-05-01T00:00:00+00:00")


def test_the_last_month_is_watched_while_late_logs_come() -> None:
    customer, service = watched(50_00)
    use(service, "primary", april(30), 1000 * GB)
    now = datetime(2026, 5, 1, 2, tzinfo=UTC)
    invoicing.draft(customer, MARCH.following, now)
    assert fire_alerts(now) == 1
    SpendAlert.objects.create(customer=customer, threshold_minor=60_00, created_at=now)
    assert fire_alerts(now) == 0  # nobody watched April then
    use(service, "primary", now, 1000 * GB)
    invoicing.draft(customer, MARCH.following.following, now)
    assert fire_alerts(now) == 2


def test_parts_of_a_month_are_one_sum_and_void_ones_and_others_none() -> None:
    customer, service = watched(150_00)
    other, elsewhere = billed_customer()
    use(elsewhere, "primary", april(3), 9000 * GB)
    invoicing.draft(other, MARCH.following, MID)
    use(service, "primary", april(3), 1000 * GB)
    use(service, "primary", april(20), 1000 * GB)
    amending.amend(Contract.objects.get(customer=customer), {"premium": Decimal(1)}, april(10), "ann", "x", april(2))
    drafts = invoicing.draft(customer, MARCH.following, april(21))
    assert len(drafts) == 2
    void = invoicing.void(invoicing.finalize(drafts[0], april(21)), "x", "ann", april(21))
    assert fire_alerts(april(21)) == 0
    invoicing.draft(customer, MARCH.following, april(21))
    assert Invoice.objects.filter(customer=customer).exclude(pk=void.pk).count() == 2
    assert fire_alerts(april(21)) == 1


def test_months_are_the_contracts() -> None:
    customer, service = billed_customer(time_zone="America/New_York")
    SpendAlert.objects.create(customer=customer, threshold_minor=1, created_at=at(1))
    use(service, "primary", april(5), 1000 * GB)
    invoicing.draft(customer, MARCH.following, MID)
    assert fire_alerts(MID) == 1
    assert told()[0][2] == "2026-04-01T04:00:00+00:00"


@pytest.mark.django_db(transaction=True)
def test_many_at_once_tell_once() -> None:
    customer, service = watched(*range(1, 11))
    use(service, "primary", april(3), 1000 * GB)
    invoicing.draft(customer, MARCH.following, MID)
    run_together(*[lambda: fire_alerts(MID)] * 4)
    assert len(told()) == 10


def test_alerts_cost_the_same_for_many() -> None:
    def queries(customers: int) -> int:
        for _ in range(customers):
            customer, service = watched(1)
            use(service, "primary", april(3), 1000 * GB)
            invoicing.draft(customer, MARCH.following, MID)
        with CaptureQueriesContext(connection) as captured:
            assert fire_alerts(MID) == customers
        return len(captured)

    assert queries(1) == queries(5)
