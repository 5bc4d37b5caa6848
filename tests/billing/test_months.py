"""Months in the customer's time zone: none too long, none too short, and every minute of usage on exactly one invoice."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from billing import invoicing, segments
from billing.models import Contract, Invoice, Prices
from billing.problems import InvoiceError
from billing.segments import Month, Segment
from customers.models import Customer
from services.models import Service
from tests import factories
from tests.billing.story import APRIL_3, GB, MARCH, add_paths, amounts, at, billed_customer, storm, use

MINUTE = timedelta(minutes=1)
ZONES = [
    "UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata", "Asia/Kathmandu",
    "Pacific/Kiritimati", "Pacific/Pago_Pago", "America/St_Johns", "Africa/Casablanca",
]  # fmt: skip
MONTHS = [Month(2025 + n // 12, n % 12 + 1) for n in range(10, 24)]  # November 2025 to December 2026


@pytest.mark.parametrize(
    ("zone", "month", "hours"),
    [
        ("UTC", "2026-03", 744),
        ("America/New_York", "2026-03", 743),
        ("America/New_York", "2026-11", 721),
        ("Europe/Berlin", "2026-03", 743),
        ("Europe/Berlin", "2026-10", 745),
        ("Australia/Lord_Howe", "2026-04", 720.5),
        ("Australia/Lord_Howe", "2026-10", 743.5),
        ("Asia/Kolkata", "2026-03", 744),
        ("Asia/Kathmandu", "2028-02", 696),
    ],
)
def test_hours_of_a_month(zone: str, month: str, hours: float) -> None:
    assert Month.parse(month).span(zone).length == timedelta(hours=hours)


@pytest.mark.parametrize("zone", ZONES)
def test_months_tile_time(zone: str) -> None:
    """Each begins where the one before ends, at midnight there; its first and last minute are of it, the next is not."""
    spans = [month.span(zone) for month in MONTHS]
    assert all(a.end == b.start for a, b in pairwise(spans))
    assert [month.following for month in MONTHS[:-1]] == MONTHS[1:]
    assert [month.before for month in MONTHS[1:]] == MONTHS[:-1]
    for month, span in zip(MONTHS, spans, strict=True):
        local = span.start.astimezone(ZoneInfo(zone))
        assert (local.year, local.month, local.day, local.hour, local.minute) == (month.year, month.month, 1, 0, 0)
        assert Month.at(span.start, zone) == Month.at(span.end - MINUTE, zone) == month
        assert Month.at(span.end, zone) == month.following
        assert span.start.timestamp() % 900 == 0  # usage in quarters of an hour is never cut


@pytest.mark.django_db
@pytest.mark.parametrize("zone", ZONES)
def test_usage_in_the_first_and_last_minute_goes_to_the_right_month(zone: str) -> None:
    """1 GB in the first minute of each of fourteen months, 2 GB in the last: every month bills 3 GB, and none twice."""
    customer, service = billed_customer(time_zone=zone, valid_from=datetime(2025, 1, 1, tzinfo=UTC))
    for month in MONTHS:
        span = month.span(zone)
        use(service, "primary", span.start, GB)
        use(service, "primary", span.end - MINUTE, 2 * GB)
    later = datetime(2027, 3, 1, tzinfo=UTC)
    for month in MONTHS:
        [invoice] = invoicing.draft(customer, month, later)
        assert (invoice.period_start, invoice.period_end) == (month.span(zone).start, month.span(zone).end)
        assert [line.bytes for line in invoice.lines.all()] == [3 * GB], month
    assert Invoice.objects.count() == len(MONTHS)
    issued, problems = invoicing.finalize_due(later)
    assert (len(issued), problems) == (len(MONTHS), [])
    assert Counter(invoice.total_minor for invoice in issued) == {30: len(MONTHS)}


@pytest.mark.django_db
@pytest.mark.parametrize("zone", ["America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
def test_a_storm_across_the_end_of_a_month_pays_each_byte_once(zone: str) -> None:
    """Ten minutes before the month's end to ten after, 10 GB a minute: 100 GB in each month, half of 20.00 in each."""
    customer, service = billed_customer(time_zone=zone)
    end = MARCH.span(zone).end
    for minute in range(-20, 20):
        use(service, "backup", end + minute * MINUTE, 10 * GB)
    storm(service, end - 10 * MINUTE, end + 10 * MINUTE)
    use(service, "primary", end - timedelta(days=1), 100_000 * GB)
    later = end + timedelta(days=40)
    first, second = (invoicing.draft(customer, month, later)[0] for month in (MARCH, MARCH.following))
    paid = [invoice.lines.get(kind="cover").bytes for invoice in (first, second)]
    # What was normal is exact, by whole quarters: 50 GB of 100,050 GB before the storm.
    normal = Fraction(50, 100_050)
    assert paid == [int(100 * GB * (1 - normal))] * 2


def _halves(cut: datetime, **second: object) -> tuple[Customer, Service]:
    customer, service = billed_customer(valid_until=cut)
    card = second.pop("rate_card", None) or Contract.objects.get(customer=customer).rate_card
    factories.contract(
        customer=customer, rate_card=card, valid_from=cut, merge_gap_seconds=0, drain_seconds=0, **second
    )
    return customer, service


@pytest.mark.django_db
def test_a_contract_that_changes_in_the_month_makes_two_invoices_of_the_whole() -> None:
    cut = at(11, 6, 15)
    customer, service = _halves(cut, fixed_fee=Decimal(31))
    Contract.objects.filter(valid_from=at(1) - timedelta(days=59)).update(fixed_fee=Decimal(31))
    for moment in (at(1), cut - MINUTE, cut, at(31, 23, 59)):
        use(service, "primary", moment, 10 * GB)
    first, second = sorted(invoicing.draft(customer, MARCH, APRIL_3), key=lambda row: row.period_start)
    assert first.period_end == second.period_start == cut
    assert [row.lines.get(kind="usage").bytes for row in (first, second)] == [20 * GB, 20 * GB]
    assert [row.contract.version for row in (first, second)] == [1, 2]
    # 10 days, 6 hours and a quarter of 31 days at 31.00: 10.26; the other part 20.74
    assert [row.lines.get(kind="fixed_fee").amount_minor for row in (first, second)] == [10_26, 20_74]
    issued, problems = invoicing.finalize_due(APRIL_3)
    assert ([row.number for row in issued], problems) == (["INV-000001", "INV-000002"], [])


@pytest.mark.django_db
def test_prices_that_change_in_the_month_make_two_invoices() -> None:
    customer, service = billed_customer()
    Prices.objects.update(valid_until=at(11))
    factories.prices(
        rate_card=Contract.objects.get().rate_card,
        valid_from=at(11),
        primary_tiers=[{"up_to": None, "per_unit": "0.3"}],
    )
    use(service, "primary", at(11) - MINUTE, 10 * GB)
    use(service, "primary", at(11), 10 * GB)
    drafts = sorted(invoicing.draft(customer, MARCH, APRIL_3), key=lambda row: row.period_start)
    assert [row.total_minor for row in drafts] == [1_00, 3_00]


@pytest.mark.django_db
def test_a_currency_that_changes_makes_an_invoice_in_each() -> None:
    cut = at(16)
    customer, service = _halves(
        cut, rate_card=factories.rate_card(currency="JPY", primary_tiers=[{"up_to": None, "per_unit": "15"}])
    )
    use(service, "primary", cut - MINUTE, 10 * GB)
    use(service, "primary", cut, 10 * GB)
    drafts = invoicing.draft(customer, MARCH, APRIL_3)
    assert {row.currency: row.total_minor for row in drafts} == {"USD": 1_00, "JPY": 150}


@pytest.mark.django_db
def test_a_gap_between_contracts_is_said_and_nothing_is_issued() -> None:
    customer, service = billed_customer(valid_until=at(10))
    card = Contract.objects.get().rate_card
    factories.contract(customer=customer, rate_card=card, valid_from=at(11))
    use(service, "primary", at(5), GB)
    use(service, "primary", at(20), GB)
    assert len(invoicing.draft(customer, MARCH, APRIL_3)) == 2  # a gap without usage harms nobody
    use(service, "primary", at(10, 12), GB)
    drafts, [problem] = invoicing.draft_all(MARCH, APRIL_3)
    assert "2026-03-10 12:00 UTC" in problem and len(drafts) == 2  # the rest is drafted, for people to see
    for row in drafts:
        with pytest.raises(InvoiceError, match="no contract with prices"):
            invoicing.finalize(row, APRIL_3)
    issued, problems = invoicing.finalize_due(APRIL_3)
    assert (issued, problems) == ([], [problem])
    assert not Invoice.objects.exclude(number=None).exists()


@pytest.mark.django_db
def test_a_contract_that_ends_with_its_month_leaves_no_gap_in_the_next() -> None:
    """The month is New York's; what came in its last hours is of March, and no problem of April's."""
    customer, service = billed_customer(time_zone="America/New_York", valid_until=MARCH.span("America/New_York").end)
    use(service, "primary", datetime(2026, 4, 1, 2, tzinfo=UTC), GB)
    assert len(invoicing.draft(customer, MARCH, APRIL_3)) == 1
    assert invoicing.draft_all(MARCH.following, datetime(2026, 5, 3, tzinfo=UTC)) == ([], [])


@pytest.mark.django_db
@pytest.mark.parametrize(("before", "after"), [("UTC", "America/New_York"), ("Asia/Kathmandu", "Pacific/Pago_Pago")])
def test_a_time_zone_that_changes_with_the_contract_loses_no_minute(before: str, after: str) -> None:
    """The new months begin later: the hours between are on an invoice of their own, with the month that they are in."""
    cut = MARCH.span(before).end
    customer, service = billed_customer(time_zone=before, valid_until=cut)
    card = Contract.objects.get().rate_card
    factories.contract(customer=customer, rate_card=card, valid_from=cut, time_zone=after)
    moments = [cut - MINUTE, cut, MARCH.span(after).end - MINUTE, MARCH.span(after).end]
    for moment in moments:
        use(service, "primary", moment, GB)
    later = datetime(2026, 5, 3, tzinfo=UTC)
    drafts = [row for month in (MARCH, MARCH.following) for row in invoicing.draft(customer, month, later)]
    assert [row.lines.get(kind="usage").bytes for row in sorted(drafts, key=lambda d: d.period_start)] == [
        GB,
        2 * GB,
        GB,
    ]


@pytest.mark.django_db
def test_a_service_that_was_deleted_in_the_month_is_still_billed() -> None:
    customer, service = billed_customer()
    use(service, "primary", at(5), 10 * GB)
    use(service, "backup", at(6, 10), 10 * GB)
    storm(service, at(6, 9), at(6, 11))
    Service.objects.filter(pk=service.pk).update(deleted_at=at(7))
    other = factories.service(customer=customer)
    add_paths(other)
    use(other, "primary", at(20), 10 * GB)
    assert amounts(invoicing.draft(customer, MARCH, APRIL_3)) == (4_00, 1_00, 3_00)


@pytest.mark.django_db
def test_a_storm_that_rages_at_the_cut_off_is_paid_up_to_it_and_holds_the_invoice_back() -> None:
    customer, service = billed_customer()
    for minute in range(60):
        use(service, "backup", at(31, 23, minute), GB)
    raging = storm(service, at(31, 23), None)
    assert amounts(invoicing.draft(customer, MARCH, at(31, 23, 30))) == (12_00, 3_00, 9_00)
    assert amounts(invoicing.draft(customer, MARCH, APRIL_3)) == (12_00, 6_00, 6_00)
    issued, [problem] = invoicing.finalize_due(APRIL_3)
    assert issued == [] and "still rages" in problem
    raging.ended_at = raging.closed_at = APRIL_3
    raging.save()
    [invoice], [] = invoicing.finalize_due(APRIL_3)
    assert invoice.discount_minor == 6_00


# --- policy years ---------------------------------------------------------------------------------------------------


def year_of(first: datetime, start: datetime) -> tuple[datetime, datetime]:
    contract = Contract(valid_from=first)
    year = Segment(contract, Prices(), start, start + MINUTE, Fraction(1)).policy_year
    return year.start, year.end


def day(year: int, month: int, of_month: int, hour: int = 0) -> datetime:
    return datetime(year, month, of_month, hour, tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (day(2024, 2, 29), (day(2024, 2, 29), day(2025, 3, 1))),
        (day(2025, 2, 28, 23), (day(2024, 2, 29), day(2025, 3, 1))),
        (day(2025, 3, 1), (day(2025, 3, 1), day(2026, 3, 1))),
        (day(2028, 2, 28), (day(2027, 3, 1), day(2028, 2, 29))),
        (day(2028, 2, 29), (day(2028, 2, 29), day(2029, 3, 1))),
    ],
)
def test_a_policy_year_that_began_on_a_leap_day(start: datetime, expected: tuple[datetime, datetime]) -> None:
    assert year_of(day(2024, 2, 29), start) == expected


@pytest.mark.parametrize("first", [day(2024, 2, 29), day(2024, 1, 1), day(2024, 12, 31, 23), day(2023, 6, 15, 5)])
def test_policy_years_tile_time(first: datetime) -> None:
    """Each hour for six years is in the one year that it says, and the years follow each other without a gap."""
    moment, years = first, list[tuple[datetime, datetime]]()
    while moment < first + timedelta(days=6 * 366):
        year = year_of(first, moment)
        assert year[0] <= moment < year[1]
        if not years or years[-1] != year:
            years.append(year)
        moment += timedelta(hours=11)
    assert years[0][0] == first
    assert all(a[1] == b[0] for a, b in pairwise(years))


@pytest.mark.django_db
def test_segments_of_a_month_share_it_exactly() -> None:
    """Whatever contracts and prices change when: no gap, no overlap, and the shares of the month are 1."""
    customer, _ = billed_customer(valid_until=at(4), time_zone="Europe/Berlin")
    card = Contract.objects.get().rate_card
    for start, end in ((at(4), at(9, 0, 15)), (at(9, 0, 15), None)):
        factories.contract(
            customer=customer, rate_card=card, valid_from=start, valid_until=end, time_zone="Europe/Berlin"
        )
    Prices.objects.update(valid_until=at(6))
    factories.prices(rate_card=card, valid_from=at(6), valid_until=at(20, 12))
    factories.prices(rate_card=card, valid_from=at(20, 12))
    parts = segments.of_month(MARCH, [customer.pk])[customer.pk]
    assert len(parts) == 5
    assert all(a.end == b.start for a, b in pairwise(parts))
    assert (parts[0].start, parts[-1].end) == (MARCH.span("Europe/Berlin").start, MARCH.span("Europe/Berlin").end)
    assert sum(part.month_share for part in parts) == 1
