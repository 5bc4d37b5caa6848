"""What cover would pay if a CDN failed now. Amounts are worked out in the comments."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from billing import credits, exposure, invoicing
from billing.exposure import Exposure, Stake
from billing.models import Contract, Invoice, UsageSnapshot
from services.models import Cdn, Service, Target
from tests import factories
from tests.billing.story import APRIL_3, GB, MARCH, at, billed_customer, use
from tests.tranche_site import console_rows as rows

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 4, 15, 10, 30, tzinfo=UTC)
TOP = NOW.replace(minute=0)


def insured(gb_an_hour: int = 10, primary: Cdn | None = None, backup: Cdn | None = None, **terms: Any) -> Service:
    """A service with an armed policy, so much primary traffic an hour for a week, and a contract: backup at 0.20 a GB, of
    which we bear half.
    """
    terms = {"merge_gap_seconds": 0} | terms
    domain = factories.domain()
    service = domain.service
    path = factories.target(domain=domain, cdn=primary or factories.cdn())
    factories.target("backup", domain=domain, cdn=backup or factories.cdn())
    factories.policy(service=service, max_coverage_factor=Decimal(10))
    factories.contract(customer=service.customer, **terms)
    traffic(path, gb_an_hour)
    return service


def traffic(path: Target, gb_an_hour: int, hours: int = 7 * 24) -> None:
    assert path.domain
    UsageSnapshot.objects.bulk_create(
        UsageSnapshot(
            customer=path.domain.customer, service=path.domain.service, target=path, bytes=gb_an_hour * GB, requests=1,
            window_start=TOP - timedelta(hours=n), window_end=TOP - timedelta(hours=n - 1),
        )
        for n in range(1, hours + 1)
    )  # fmt: skip


def found() -> Exposure:
    return exposure.exposure(NOW)


def stake() -> Stake:
    (only,) = found().stakes
    return only


def test_traffic_is_moved_to_the_backup_at_its_price() -> None:
    service = insured(10)
    only = stake()
    cdn = Target.objects.get(domain__service=service, role="primary").cdn
    assert cdn and (only.cdn, only.currency, only.services, only.bytes_an_hour) == (cdn.name, "USD", 1, 10 * GB)
    # 10 GB × 0.20 × ½ an hour.
    assert only.at_stake == {1: 1_00, 6: 6_00, 24: 24_00}
    assert found().left_out == {}


def test_services_of_one_cdn_add_up_and_currencies_do_not() -> None:
    cdn = factories.cdn(name="Edgeline")
    insured(10, cdn)
    insured(30, cdn)
    insured(50, cdn, rate_card=factories.rate_card(currency="EUR"))
    insured(1)
    told = [(s.cdn, s.currency, s.services, s.at_stake[1]) for s in found().stakes if s.cdn == "Edgeline"]
    assert told == [("Edgeline", "EUR", 1, 5_00), ("Edgeline", "USD", 2, 4_00)]


@pytest.mark.parametrize(
    ("terms", "at_stake"),
    [
        ({"waiting_seconds": 3600}, {1: 0, 6: 5_00, 24: 23_00}),
        ({"waiting_seconds": 3600, "waiting_mode": "franchise"}, {1: 1_00, 6: 6_00, 24: 24_00}),
        ({"hours_clause_seconds": 3 * 3600}, {1: 1_00, 6: 3_00, 24: 3_00}),
        ({"aggregate_seconds": 5400}, {1: 1_00, 6: 1_50, 24: 1_50}),
        ({"max_coverage_factor": Decimal("0.5")}, {1: 50, 6: 3_00, 24: 12_00}),
        ({"discount_rate": Decimal("0.8"), "max_coverage_factor": Decimal(5)}, {1: 2_00, 6: 12_00, 24: 48_00}),
        (
            {"discount_rate": Decimal("0.8"), "max_coverage_factor": Decimal(5), "coverage_mode": "cap"},
            {1: 1_60, 6: 9_60, 24: 38_40},
        ),
        # 2.00 an hour: nothing below 5.00, then half up to 25.00.
        ({"layers": [{"attachment": "5", "limit": "20", "share": "0.5"}]}, {1: 0, 6: 3_50, 24: 10_00}),
    ],
)
def test_the_terms_of_cover_count(terms: dict[str, Any], at_stake: dict[int, int]) -> None:
    insured(10, **terms)
    assert stake().at_stake == at_stake


def test_the_policys_own_factor_lowers_it() -> None:
    service = insured(10)
    service.policies.update(max_coverage_factor=Decimal("0.1"))
    assert stake().at_stake[24] == 2_40


@pytest.mark.parametrize(
    ("aggregate_seconds", "at_stake"),
    # Two of ten hours are left; and of 20.00 there are 15.00.
    [(10 * 3600, {1: 2_00, 6: 4_00, 24: 4_00}), (None, {1: 2_00, 6: 12_00, 24: 15_00})],
)
def test_what_was_used_in_the_policy_year_is_gone(aggregate_seconds: int | None, at_stake: dict[int, int]) -> None:
    layers = [{"attachment": "0", "limit": "20", "share": "1"}]
    service = insured(10, layers=layers, aggregate_seconds=aggregate_seconds)
    contract = Contract.objects.get()
    for start, state in ((at(1), "void"), (at(1), "open"), (datetime(2025, 3, 1, tzinfo=UTC), "open")):
        Invoice.objects.create(
            customer=service.customer, contract=contract, prices=contract.rate_card.versions.get(), currency="USD",
            period_start=start, period_end=start + timedelta(days=31), as_of=start, formula="F", state=state,
            number=f"INV-{state}-{start.year}", finalized_at=start, covered_cost=Decimal(5),
            cover_used={str(service.pk): 8 * 3600 * 10**6},
        )  # fmt: skip
    assert stake().at_stake == at_stake


def test_a_cdn_with_prices_of_its_own() -> None:
    dear = factories.cdn(slug="dear")
    tiers = [{"up_to": "15", "per_unit": "1"}, {"up_to": None, "per_unit": "0.5"}]
    card = factories.rate_card(cdn_tiers={"dear": {"backup": tiers}})
    insured(10, backup=dear, rate_card=card)
    # 10 GB at 1; 60 GB: 15 at 1 and 45 at 0.50; of which the half.
    assert (stake().at_stake[1], stake().at_stake[6]) == (5_00, 18_75)


def test_the_first_other_backup_takes_it() -> None:
    cdn = factories.cdn()
    service = insured(10, primary=cdn, backup=cdn)
    (reasons,) = found().left_out.values()
    assert reasons == {"no backup on another CDN": 1} and found().stakes == []
    domain = service.domains.get()
    factories.target("backup", domain=domain, rank=3)
    assert stake().services == 1


def test_who_is_hit_and_not_insured_is_counted() -> None:
    cdn = factories.cdn(name="Edgeline")
    insured(10, cdn)
    insured(10, cdn).policies.update(mode="watch_only")
    Contract.objects.filter(customer=insured(10, cdn).customer).update(valid_until=NOW - timedelta(minutes=30))
    gone = insured(10, cdn)
    gone.deleted_at = NOW
    gone.save()
    assert found().left_out == {"Edgeline": {"no armed policy": 1, "no contract with prices": 1}}
    assert stake().services == 1


def test_the_mean_is_of_seven_days_or_of_what_there_is() -> None:
    service = insured(0)
    path = Target.objects.get(domain__service=service, role="primary")
    UsageSnapshot.objects.all().delete()
    traffic(path, 10, hours=3)
    assert stake().bytes_an_hour == 10 * GB
    UsageSnapshot.objects.all().delete()
    traffic(path, 10, hours=200)
    UsageSnapshot.objects.filter(window_start__lt=TOP - timedelta(days=7)).update(bytes=999 * GB)
    UsageSnapshot.objects.create(
        customer=service.customer, service=service, target=path, bytes=999 * GB, requests=1, window_start=TOP,
        window_end=TOP + timedelta(hours=1),
    )  # fmt: skip
    assert stake().bytes_an_hour == 10 * GB


def test_premium_and_cover_of_the_last_year() -> None:
    customer, service = billed_customer(premium=Decimal(50))
    use(service, "primary", at(2), 1000 * GB)
    (draft,) = invoicing.draft(customer, MARCH, APRIL_3)
    issued = invoicing.finalize(draft, APRIL_3)
    (ledger,) = found().ledgers
    assert (ledger.premium_minor, ledger.collected_minor, ledger.cover_minor) == (50_00, 0, 0)
    credits.credit_line(issued.lines.get(kind="usage"), 5_00, "goodwill", "sorry", "ann", APRIL_3)
    credits.credit_line(issued.lines.get(kind="usage"), 7_00, "cover", "beyond", "ann", APRIL_3)
    Invoice.objects.filter(pk=issued.pk).update(state="paid")
    (ledger,) = found().ledgers
    assert (ledger.premium_minor, ledger.collected_minor, ledger.cover_minor) == (50_00, 50_00, 7_00)
    assert exposure.exposure(NOW + timedelta(days=400)).ledgers == []


def test_it_costs_the_same_for_many_services() -> None:
    def queries(services: int) -> int:
        for _ in range(services):
            insured(1, layers=[{"attachment": "0", "limit": None, "share": "1"}])
        with CaptureQueriesContext(connection) as captured:
            found()
        return len(captured)

    assert queries(1) == queries(10)


# --- the page -------------------------------------------------------------------------------------------------------


def client_with(*permissions: str) -> Client:
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(clerk)
    return client


def test_the_page_draws_a_bar_for_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    cdn = factories.cdn(name="Edgeline")
    insured(10, cdn)
    insured(10, cdn).policies.update(mode="watch_only")
    monkeypatch.setattr("django.utils.timezone.now", lambda: NOW)
    client = Client()
    client.force_login(rows.operator())
    html = client.get(reverse("admin:exposure")).content.decode()
    assert 'aria-label="Edgeline: 1.00 USD after 1 h, 6.00 USD after 6 h, 24.00 USD after 24 h"' in html
    assert 'width="1000.0"' in html and 'width="41.7"' in html
    assert "no armed policy" in html
    assert reverse("admin:exposure") in client.get(reverse("admin:index")).content.decode()


def test_the_page_is_for_those_who_may_see_invoices() -> None:
    assert client_with("view_contract").get(reverse("admin:exposure")).status_code == 403
    assert Client().get(reverse("admin:exposure")).status_code == 302


def test_with_nothing_at_stake_it_says_so() -> None:
    assert "Nothing is at stake" in client_with("view_invoice").get(reverse("admin:exposure")).content.decode()
