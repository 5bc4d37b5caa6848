"""Terms change by versions, with notice, and never while something of the customer's is open."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing import amending, invoicing
from billing.models import Contract, Invoice, Prices
from billing.segments import Segment, cut
from customers.models import Event
from services.models import Target
from tests import factories
from tests.billing.story import APRIL_3, GB, MARCH, at, billed_customer, use
from tests.together import run_together

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 10, 10, 7, 30, tzinfo=UTC)
SOON = datetime(2026, 3, 10, 10, 15, tzinfo=UTC)
NOTICED = datetime(2026, 3, 24, 10, 15, tzinfo=UTC)  # 14 days after NOW, at the next quarter of an hour


def amend(
    contract: Contract, changes: dict[str, Any], effective_at: datetime = NOTICED, now: datetime = NOW
) -> Contract:
    return amending.amend(contract, changes, effective_at, "ann", "renewal", now)


def errors(contract: Contract, changes: dict[str, Any], effective_at: datetime = NOTICED) -> dict[str, list[str]]:
    before = list(Contract.objects.values())
    with pytest.raises(ValidationError) as caught:
        amend(contract, changes, effective_at)
    assert list(Contract.objects.values()) == before
    error = caught.value
    return error.message_dict if hasattr(error, "error_dict") else {"": error.messages}


def test_the_version_in_force_ends_where_the_next_begins() -> None:
    old = factories.contract(discount_rate=Decimal("0.5"), layers=[{"attachment": "0", "limit": None, "share": "0.5"}])
    new = amend(old, {"discount_rate": Decimal("0.75"), "premium": Decimal("99")})
    old.refresh_from_db()
    assert (old.valid_until, new.valid_from, new.valid_until) == (NOTICED, NOTICED, None)
    assert (new.version, new.discount_rate, new.premium, new.reason) == (2, Decimal("0.75"), Decimal("99"), "renewal")
    assert (new.layers, new.rate_card, old.discount_rate) == (old.layers, old.rate_card, Decimal("0.5"))
    event = Event.objects.get(kind="contract.amended")
    assert (event.customer_id, event.payload["by"]) == (old.customer_id, "ann")
    assert event.payload["changes"] == {"discount_rate": ["0.5000", "0.75"], "premium": ["0.000000", "99"]}


def test_policy_years_go_on_over_an_amendment() -> None:
    old = factories.contract(valid_from=datetime(2025, 11, 5, tzinfo=UTC))
    new = amend(old, {"discount_rate": Decimal("0.75")})
    (segment,) = cut(new, list(old.rate_card.versions.all()), MARCH)
    assert segment.policy_year.start == datetime(2025, 11, 5, tzinfo=UTC)
    assert segment.policy_year == Segment(old, segment.prices, at(1), NOTICED, segment.month_share).policy_year


def test_cover_needs_notice_and_other_terms_none() -> None:
    contract = factories.contract(notice_days=14)
    said = errors(contract, {"waiting_seconds": 60}, NOTICED - amending.QUARTER)
    assert said == {"effective_at": ["The earliest is 2026-03-24 10:15 UTC. A change of cover needs 14 days' notice."]}
    assert errors(contract, {"policy_from": at(1)}, SOON)["effective_at"]
    assert amend(contract, {"premium": Decimal(5)}, SOON).valid_from == SOON


@pytest.mark.parametrize("field", Contract.COVER_FIELDS)
def test_every_field_of_cover_needs_it(field: str) -> None:
    contract = factories.contract()
    other: dict[str, Any] = {
        "coverage_mode": "cap", "waiting_mode": "franchise", "kind": "own_cdn", "discount_rate": Decimal("0.1"),
        "max_coverage_factor": Decimal("0.1"), "layers": [{"attachment": "0", "limit": None, "share": "1"}],
        "policy_from": SOON,
    }  # fmt: skip
    assert set(errors(contract, {field: other.get(field, 17)}, SOON)) == {"effective_at"}


@pytest.mark.parametrize(
    ("changes", "effective_at", "field", "said"),
    [
        ({"valid_from": SOON}, NOTICED, "valid_from", "can't be amended"),
        ({"customer": 1, "nonsense": 1}, NOTICED, "nonsense", "can't be amended"),
        ({"premium": Decimal(5)}, SOON + timedelta(minutes=1), "effective_at", "such as 2026-03-10 10:30 UTC"),
        (
            {"premium": Decimal(5)},
            SOON - timedelta(minutes=15),
            "effective_at",
            "The earliest is 2026-03-10 10:15 UTC.",
        ),
        ({"premium": Decimal(-1)}, NOTICED, "premium", "greater than or equal to 0"),
        ({"time_zone": "Mars/Olympus"}, NOTICED, "time_zone", "time zone"),
        ({"layers": [{"attachment": 1}]}, NOTICED, "layers", "name “attachment”, “limit” and “share”"),
        ({"tax_rates": {"delivery": "2"}}, NOTICED, "tax_rates", "from 0 to 1"),
        ({"premium": Decimal(0)}, NOTICED, "", "Nothing is changed"),
        ({}, NOTICED, "", "Nothing is changed"),
    ],
)
def test_what_is_wrong_is_told_at_its_field(
    changes: dict[str, Any], effective_at: datetime, field: str, said: str
) -> None:
    told = errors(factories.contract(), changes, effective_at)
    assert said in " ".join(told[field])


def test_one_amendment_at_a_time_and_only_of_the_version_in_force() -> None:
    contract = factories.contract()
    new = amend(contract, {"premium": Decimal(5)})
    (said,) = errors(contract, {"premium": Decimal(6)})[""]
    assert said == "Version 2 begins 2026-03-24 10:15 UTC already: withdraw it first."
    later = NOTICED + timedelta(days=1)
    with pytest.raises(ValidationError, match="This version is over"):
        amend(contract, {"premium": Decimal(6)}, later, now=NOTICED)
    assert amend(new, {"premium": Decimal(6)}, later, now=NOTICED).version == 3


def test_an_end_stays_the_end() -> None:
    ends = datetime(2026, 6, 1, tzinfo=UTC)
    contract = factories.contract(valid_until=ends)
    assert "The contract ends 2026-06-01" in errors(contract, {"premium": Decimal(5)}, ends)["effective_at"][0]
    assert amend(contract, {"premium": Decimal(5)}).valid_until == ends


def test_another_rate_card_needs_prices_and_the_same_currency() -> None:
    contract = factories.contract()
    euros = factories.rate_card(currency="EUR")
    assert "retire this contract" in errors(contract, {"rate_card": euros})["rate_card"][0]
    late = factories.rate_card(valid_from=NOTICED + timedelta(days=1))
    assert "no prices for 2026-03-24 10:15 UTC" in errors(contract, {"rate_card": late})["rate_card"][0]
    assert amend(contract, {"rate_card": factories.rate_card()}).version == 2


def test_an_amendment_that_has_not_begun_can_be_withdrawn() -> None:
    contract = factories.contract(valid_until=datetime(2026, 6, 1, tzinfo=UTC))
    new = amend(contract, {"premium": Decimal(5)})
    with pytest.raises(ValidationError, match="has not begun"):
        amending.withdraw(contract, "ann", "a mistake", NOW)
    with pytest.raises(ValidationError, match="has not begun"):
        amending.withdraw(new, "ann", "a mistake", NOTICED)
    amending.withdraw(new, "ann", "a mistake", NOW)
    assert Contract.objects.get().valid_until == datetime(2026, 6, 1, tzinfo=UTC)
    assert Event.objects.filter(kind="contract.amendment_withdrawn").count() == 1


def test_drafts_do_not_keep_an_amendment_from_being_withdrawn() -> None:
    customer, _ = billed_customer(premium=Decimal(100))
    new = amending.amend(Contract.objects.get(), {"premium": Decimal(50)}, at(20), "ann", "less", at(10))
    invoicing.draft_all(MARCH, at(10))
    assert Invoice.objects.drafts().filter(contract=new).exists()
    amending.withdraw(new, "ann", "a mistake", at(11))
    invoicing.draft_all(MARCH, at(11))
    assert [draft.total_minor for draft in Invoice.objects.filter(customer=customer)] == [100_00]


def test_a_contract_retires_with_notice() -> None:
    contract = factories.contract()
    with pytest.raises(ValidationError, match="The earliest is 2026-03-24 10:15 UTC"):
        amending.retire(contract, SOON, "ann", "left us", NOW)
    assert amending.retire(contract, NOTICED, "ann", "left us", NOW).valid_until == NOTICED
    assert Event.objects.get(kind="contract.retired").payload["reason"] == "left us"


@pytest.mark.django_db(transaction=True)
def test_many_amendments_at_once_are_one() -> None:
    contract = factories.contract()

    def one() -> None:
        with pytest.raises(ValidationError):
            while True:
                amend(contract, {"premium": Decimal(5)})

    run_together(*[one] * 4)
    assert Contract.objects.count() == 2
    assert Event.objects.filter(kind="contract.amended").count() == 1


def test_a_month_is_billed_by_both_versions() -> None:
    customer, service = billed_customer()
    use(service, "primary", at(2), 100 * GB)
    use(service, "primary", at(25), 100 * GB)
    amend(Contract.objects.get(), {"fixed_fee": Decimal(31)})
    drafts = invoicing.draft(customer, MARCH, APRIL_3)
    assert [(d.contract.version, d.period_end) for d in drafts] == [(1, NOTICED), (2, datetime(2026, 4, 1, tzinfo=UTC))]
    # Usage 10.00 each, and a fee of 31.00 a month for the 183.75 hours of 7 days and a little that are left: 7.66.
    assert [d.total_minor for d in drafts] == [10_00, 17_57]


# --- never during an incident ---------------------------------------------------------------------------------------


def insured(changes: dict[str, Any] | None = None) -> tuple[Target, Contract]:
    """A primary path, and the amendment of its customer's contract that begins on NOTICED."""
    primary = factories.target()
    assert primary.customer
    return primary, amend(factories.contract(customer=primary.customer), changes or {"waiting_seconds": 60})


def begins(contract: Contract) -> datetime:
    contract.refresh_from_db()
    before = Contract.objects.get(customer=contract.customer, version=contract.version - 1)
    assert before.valid_until == contract.valid_from
    return contract.valid_from


def test_a_change_of_cover_waits_for_an_open_incident_of_a_primary_cdn() -> None:
    primary, contract = insured()
    incident = factories.incident(cdn=primary.cdn, started_at=NOTICED - timedelta(hours=1))
    assert amending.postpone(NOTICED - timedelta(minutes=16)) == 0
    assert amending.postpone(NOTICED - timedelta(minutes=15)) == 1
    assert begins(contract) == NOTICED + timedelta(minutes=15)
    assert amending.postpone(NOTICED - timedelta(minutes=10)) == 0
    assert amending.postpone(NOTICED + timedelta(minutes=1)) == 1
    assert begins(contract) == NOTICED + timedelta(minutes=30)
    incident.ended_at = NOTICED + timedelta(minutes=2)
    incident.save()
    assert amending.postpone(NOTICED + timedelta(minutes=20)) == 0
    event = Event.objects.filter(kind="contract.postponed").latest("id")
    assert event.customer_id == contract.customer_id
    assert event.payload["cause"] == f"{incident} is open"
    assert event.payload["effective_at"] == "2026-03-24T10:45:00+00:00"


def test_it_waits_for_a_storm_until_that_is_closed() -> None:
    primary, contract = insured()
    assert primary.domain
    storm = factories.storm(service=primary.domain.service, started_at=NOTICED - timedelta(hours=1))
    storm.ended_at = NOTICED - timedelta(minutes=30)
    storm.save()
    assert amending.postpone(NOTICED) == 1
    assert begins(contract) == NOTICED + timedelta(minutes=15)
    storm.closed_at = NOTICED + timedelta(minutes=5)
    storm.save()
    assert amending.postpone(NOTICED + timedelta(minutes=6)) == 0


@pytest.mark.parametrize("delay", [timedelta(minutes=3), timedelta(hours=5, minutes=1)])
def test_what_a_missed_run_let_begin_is_taken_back(delay: timedelta) -> None:
    primary, contract = insured()
    factories.incident(
        cdn=primary.cdn, started_at=NOTICED - timedelta(minutes=1), ended_at=NOTICED + timedelta(minutes=2)
    )
    assert amending.postpone(NOTICED + delay) == 1
    assert begins(contract) == amending.quarter_after(NOTICED + delay)


def test_what_began_in_good_weather_stays() -> None:
    primary, contract = insured()
    assert amending.postpone(NOTICED) == 0
    factories.incident(cdn=primary.cdn, started_at=NOTICED + timedelta(minutes=1))
    assert amending.postpone(NOTICED + timedelta(minutes=5)) == 0
    assert begins(contract) == NOTICED


def test_others_incidents_and_other_terms_wait_for_nothing() -> None:
    primary, contract = insured()
    assert primary.domain
    backup = factories.target("backup", domain=primary.domain)
    for cdn in (backup.cdn, factories.cdn()):
        factories.incident(cdn=cdn, started_at=NOTICED - timedelta(hours=1))
    factories.storm(started_at=NOTICED - timedelta(hours=1))
    fees_primary, fees = insured({"premium": Decimal(5)})
    factories.incident(cdn=fees_primary.cdn, started_at=NOTICED - timedelta(hours=1))
    first = factories.contract(customer=factories.target(cdn=fees_primary.cdn).customer, valid_from=NOTICED)
    assert amending.postpone(NOTICED) == 0
    assert (begins(contract), begins(fees), first.valid_from) == (NOTICED, NOTICED, NOTICED)


def test_what_was_billed_is_not_moved_away_from_under() -> None:
    customer, service = billed_customer()
    use(service, "primary", at(2), GB)
    contract = amend(Contract.objects.get(), {"waiting_seconds": 60})
    (draft, *_) = invoicing.draft(customer, MARCH, NOTICED + timedelta(hours=1))
    invoicing.finalize(draft, NOTICED + timedelta(hours=1))
    assert Invoice.objects.get(number="INV-000001").period_end == NOTICED
    primary = Target.objects.get(domain__service=service, role="primary")
    factories.incident(cdn=primary.cdn, started_at=NOTICED - timedelta(hours=1))
    assert amending.postpone(NOTICED + timedelta(hours=2)) == 0
    assert begins(contract) == NOTICED


def test_postponing_costs_the_same_for_many() -> None:
    def queries(customers: int) -> int:
        cdn = factories.cdn()
        factories.incident(cdn=cdn, started_at=NOTICED - timedelta(hours=1))
        for _ in range(customers):
            primary = factories.target(cdn=cdn)
            assert primary.customer
            amend(factories.contract(customer=primary.customer), {"waiting_seconds": 60})
        with CaptureQueriesContext(connection) as captured:
            assert amending.postpone(NOTICED) == customers
        Contract.objects.all().delete()
        return len(captured)

    assert queries(1) == queries(12)


def test_none_of_many_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amending, "MOST_AT_ONCE", 2)
    insured_ones = [insured() for _ in range(5)]
    factories.incident(cdn=insured_ones[-1][0].cdn, started_at=NOTICED - timedelta(hours=1))
    assert amending.postpone(NOTICED) == 1
    assert begins(insured_ones[-1][1]) == NOTICED + timedelta(minutes=15)


@pytest.mark.django_db(transaction=True)
def test_postponing_many_times_at_once_moves_once() -> None:
    primary, contract = insured()
    factories.incident(cdn=primary.cdn, started_at=NOTICED - timedelta(hours=1))
    run_together(*[lambda: amending.postpone(NOTICED - timedelta(minutes=5))] * 4)
    assert begins(contract) == NOTICED + timedelta(minutes=15)
    assert Event.objects.filter(kind="contract.postponed").count() == 1


# --- prices ---------------------------------------------------------------------------------------------------------

DEAR = [{"up_to": None, "per_unit": "0.50"}]


def test_new_prices_hold_from_a_time_to_come() -> None:
    old = factories.rate_card().versions.get()
    new = amending.reprice(old, {"primary_tiers": DEAR}, SOON, NOW)
    old.refresh_from_db()
    assert (old.valid_until, new.valid_from, new.version) == (SOON, SOON, 2)
    assert (new.primary_tiers, new.backup_tiers) == (DEAR, old.backup_tiers)


@pytest.mark.parametrize(
    ("changes", "effective_at", "field", "said"),
    [
        ({"primary_tiers": DEAR}, SOON - amending.QUARTER, "effective_at", "The earliest is 2026-03-10 10:15 UTC"),
        ({"primary_tiers": DEAR}, SOON + timedelta(minutes=1), "effective_at", "a quarter of an hour"),
        ({"primary_tiers": []}, SOON, "primary_tiers", ""),
        ({"backup_tiers": [{"up_to": "5", "per_unit": "1"}]}, SOON, "backup_tiers", "The last tier is open"),
        ({"rate_card": 1}, SOON, "rate_card", "can't be changed"),
        ({}, SOON, "", "Nothing is changed"),
    ],
)
def test_wrong_prices_are_refused(changes: dict[str, Any], effective_at: datetime, field: str, said: str) -> None:
    old = factories.rate_card().versions.get()
    with pytest.raises(ValidationError) as caught:
        amending.reprice(old, changes, effective_at, NOW)
    told = caught.value.message_dict if hasattr(caught.value, "error_dict") else {"": caught.value.messages}
    assert said in " ".join(told[field])
    assert Prices.objects.get().valid_until is None


def test_only_the_last_prices_are_followed() -> None:
    old = factories.rate_card().versions.get()
    amending.reprice(old, {"primary_tiers": DEAR}, SOON, NOW)
    with pytest.raises(ValidationError, match="Later prices exist"):
        amending.reprice(old, {"backup_tiers": DEAR}, SOON, NOW)
