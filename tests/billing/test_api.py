from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from billing import credits, invoicing, packs
from billing.models import Contract, Dispute, Invoice, InvoiceLineItem, Payment, Prices, SpendAlert, UsageSnapshot
from customers.models import Customer
from services.models import Target
from tests import factories
from tests.answers import assert_problem, queries_of
from tests.billing import story
from tests.billing.story import APRIL_3, GB, at, billed_customer, storm, use

ClientOf = Callable[[Customer], APIClient]

MARCH = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def contract(db: None) -> Contract:
    return factories.contract()


@pytest.fixture
def client(contract: Contract, client_of: Callable[[Customer], APIClient]) -> APIClient:
    return client_of(contract.customer)


def usage(path: Target, hour: int = 0) -> UsageSnapshot:
    assert path.domain
    start = MARCH + timedelta(hours=hour)
    return UsageSnapshot.objects.create(
        customer=path.domain.customer, service=path.domain.service, target=path,
        window_start=start, window_end=start + timedelta(hours=1), bytes=10**12, requests=7,
    )  # fmt: skip


def path_of(contract: Contract) -> Target:
    return factories.target(domain=factories.domain(service=factories.service(customer=contract.customer)))


def drafted(**terms: Any) -> Invoice:
    """Backup for 20.00, of which cover pays the half, and primary for 100.00."""
    customer, service = billed_customer(**terms)
    use(service, "primary", at(2), 1000 * GB)
    use(service, "backup", at(5, 10), 100 * GB)
    storm(service, at(5, 9), at(5, 11))
    (draft,) = invoicing.draft(customer, story.MARCH, APRIL_3)
    return draft


def issued(**terms: Any) -> Invoice:
    return invoicing.finalize(drafted(**terms), APRIL_3)


def test_usage_is_told_by_path_and_window(client: APIClient, contract: Contract) -> None:
    snapshot = usage(path_of(contract))
    [told] = client.get("/v1/usage-snapshots").json()
    assert told["id"] == snapshot.pk
    assert (told["bytes"], told["requests"], told["grade"]) == (10**12, 7, "E2")
    assert (told["target"], told["role"]) == (snapshot.target_id, "primary")
    assert (told["window_start"], told["window_end"]) == ("2026-03-01T00:00:00Z", "2026-03-01T01:00:00Z")


def test_usage_is_filtered_by_service_and_time(client: APIClient, contract: Contract) -> None:
    path = path_of(contract)
    first, second, third = (usage(path, hour) for hour in range(3))
    usage(path_of(contract), 5)

    def ids(query: str) -> list[int]:
        return [row["id"] for row in client.get(f"/v1/usage-snapshots?{query}").json()]

    assert path.domain
    service = f"service={path.domain.service_id}"
    assert ids(service) == [third.pk, second.pk, first.pk]
    assert ids(f"{service}&from=2026-03-01T01:00:00Z") == [third.pk, second.pk]
    assert ids(f"{service}&to=2026-03-01T02:00:00Z") == [second.pk, first.pk]
    assert ids(f"{service}&from=2026-03-01T01:00:00Z&to=2026-03-01T02:00:00Z") == [second.pk]
    assert ids("from=2026-03-01T05:00:00%2B05:00&to=2026-03-01T01:00:00Z") == [first.pk]


@pytest.mark.parametrize("field", ["from", "to"])
@pytest.mark.parametrize("value", ["yesterday", "2026-13-01T00:00:00Z", "0000-01-01", "%00", "1e9", "-1"])
def test_bad_times_are_refused(client: APIClient, field: str, value: str) -> None:
    response = client.get(f"/v1/usage-snapshots?{field}={value}")
    assert response.status_code == 400
    assert [error["parameter"] for error in response.json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("2026-03-01T00:00:00%2B23:59", 200),
        ("0001-01-01T00:00:00Z", 200),
        ("0001-01-01T00:00:00%2B23:59", 400),
        ("9999-12-31T23:59:59Z", 200),
        ("9999-12-31T23:59:59-23:59", 400),
    ],
)
def test_moments_at_the_edge_of_the_calendar_break_nothing(client: APIClient, value: str, status: int) -> None:
    assert client.get(f"/v1/usage-snapshots?from={value}").status_code == status


# --- invoices -------------------------------------------------------------------------------------------------------


def test_an_invoice_comes_with_its_lines_and_says_how_it_follows(client_of: ClientOf) -> None:
    invoice = issued(tax_rates={"delivery": "0.10"})
    client = client_of(invoice.customer)
    [told] = client.get("/v1/invoices").json()
    assert (told["id"], told["number"], told["kind"], told["state"]) == (invoice.pk, "INV-000001", "invoice", "open")
    assert (told["subtotal_minor"], told["discount_minor"], told["tax_minor"], told["total_minor"]) == (
        120_00, 10_00, 11_00, 121_00
    )  # fmt: skip
    assert (told["due_minor"], told["due_at"], told["paid_minor"]) == (121_00, "2026-05-03T00:00:00Z", 0)
    assert told["taxes"] == [{"category": "delivery", "rate": "0.1", "taxable_minor": 110_00, "tax_minor": 11_00}]
    assert [(line["position"], line["kind"], line["path"], line["amount_minor"]) for line in told["lines"]] == [
        (1, "usage", "primary", 100_00), (2, "usage", "backup", 20_00), (3, "cover", "backup", 10_00),
    ]  # fmt: skip
    assert told["lines"][0]["details"]["units"] == "1000"
    assert [d["is_covered"] for d in told["decisions"]["storms"]] == [True]
    assert "inputs" not in told
    assert client.get(f"/v1/invoices/{invoice.pk}").json() == told
    assert client.get("/v1/invoices?state=paid").json() == []
    assert client.get("/v1/invoices?state=lost").status_code == 400


def test_credit_notes_are_among_them(client_of: ClientOf) -> None:
    invoice = issued()
    credits.credit_line(invoice.lines.get(path="primary"), 5_00, "goodwill", "sorry", "ann", APRIL_3)
    client = client_of(invoice.customer)
    [note] = client.get("/v1/invoices?kind=credit_note").json()
    assert (note["number"], note["corrects"], note["reason"], note["total_minor"]) == (
        "CN-000001", invoice.pk, "goodwill", 5_00
    )  # fmt: skip
    assert note["due_minor"] == 0 and note["lines"][0]["corrects"] == invoice.lines.get(path="primary").pk
    [told] = client.get("/v1/invoices?kind=invoice").json()
    assert (told["credited_minor"], told["due_minor"]) == (5_00, 105_00)
    assert [row["id"] for row in client.get(f"/v1/invoices?corrects={invoice.pk}").json()] == [note["id"]]


def test_money_is_read_only(client_of: ClientOf) -> None:
    draft = drafted()
    client = client_of(draft.customer)
    assert_problem(client.post("/v1/invoices", {}), 405)
    assert_problem(client.patch(f"/v1/invoices/{draft.pk}", {"total_minor": 0}), 405)
    assert_problem(client.delete(f"/v1/invoices/{draft.pk}"), 405)
    assert_problem(client.patch(f"/v1/contracts/{draft.contract_id}", {"discount_rate": "1"}), 405)
    assert_problem(client.post("/v1/payments", {}), 405)


@pytest.mark.parametrize(
    ("ending", "content_type", "begins"),
    [
        ("html", "text/html", b"<!DOCTYPE html>"),
        ("pdf", "application/pdf", b"%PDF"),
        ("csv", "text/csv", b"BillingAccount"),
    ],
)
def test_an_invoice_is_a_document(client_of: ClientOf, ending: str, content_type: str, begins: bytes) -> None:
    invoice = issued()
    client = client_of(invoice.customer)
    for accept in ("*/*", content_type):
        answer = client.get(f"/v1/invoices/{invoice.pk}/document.{ending}", HTTP_ACCEPT=accept)
        assert answer.status_code == 200 and answer["Content-Type"].startswith(content_type)
        assert answer.content.lstrip().startswith(begins)
        refused = client.get(f"/v1/invoices/{10**12}/document.{ending}", HTTP_ACCEPT=accept)
        assert_problem(refused, 404)


def test_a_document_says_nothing_of_the_console(client_of: ClientOf) -> None:
    invoice = issued()
    assert b"/admin" not in client_of(invoice.customer).get(f"/v1/invoices/{invoice.pk}/document.html").content


def test_evidence_of_a_line_replays(client_of: ClientOf) -> None:
    invoice = issued(premium=Decimal(5))
    client = client_of(invoice.customer)
    for line in invoice.lines.filter(kind__in=["usage", "cover"]):
        answer = client.get(f"/v1/invoices/{invoice.pk}/lines/{line.pk}/evidence")
        assert answer["Content-Type"] == "application/json"
        assert answer.json()["line"]["id"] == line.pk
        assert packs.replay(answer.json()) == []
    fee = invoice.lines.get(kind="premium")
    assert_problem(client.get(f"/v1/invoices/{invoice.pk}/lines/{fee.pk}/evidence"), 409)


def test_evidence_is_of_the_invoices_own_lines(client_of: ClientOf) -> None:
    mine, other = issued(), issued()
    client = client_of(mine.customer)
    foreign = other.lines.get(kind="cover").pk
    assert_problem(client.get(f"/v1/invoices/{mine.pk}/lines/{foreign}/evidence"), 404)
    assert_problem(client.get(f"/v1/invoices/{other.pk}/lines/{foreign}/evidence"), 404)


# --- payments -------------------------------------------------------------------------------------------------------

PAYMENT = {"amount_minor": 40_00, "reference": "R-1", "received_at": "2020-04-10T00:00:00Z"}


def bookkeeper(invoice: Invoice, *scopes: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {factories.api_key(invoice.customer, scopes)}")
    return client


def test_payments_are_recorded_by_a_scope_of_their_own(client_of: ClientOf) -> None:
    invoice = issued()
    path = f"/v1/invoices/{invoice.pk}/payments"
    own = client_of(invoice.customer)
    assert_problem(own.post(path, PAYMENT), 403)
    assert_problem(bookkeeper(invoice, "read", "write").post(path, PAYMENT), 403)
    assert Payment.objects.count() == 0
    staff = bookkeeper(invoice, "payments")
    answer = staff.post(path, PAYMENT)
    assert answer.status_code == 201
    payment = Payment.objects.get()
    assert answer.json() == {
        "id": payment.pk, "invoice": invoice.pk, "amount_minor": 40_00, "currency": "USD", "reference": "R-1",
        "received_at": "2020-04-10T00:00:00Z", "created_at": answer.json()["created_at"],
    }  # fmt: skip
    assert payment.recorded_by.startswith("API key trk_")
    assert staff.post(path, PAYMENT).json()["id"] == payment.pk
    assert_problem(staff.get(path), 403)
    assert own.get(path).json() == own.get("/v1/payments").json() == [answer.json()]
    assert own.get("/v1/payments?invoice=1000000").json() == []
    assert own.get(f"/v1/invoices/{invoice.pk}").json()["due_minor"] == 70_00


def test_what_can_not_be_recorded_is_told(db: None) -> None:
    invoice, other = issued(), issued()
    staff, path = bookkeeper(invoice, "payments"), f"/v1/invoices/{invoice.pk}/payments"
    assert_problem(staff.post(path, {}), 400, "amount_minor", "reference", "received_at")
    assert_problem(staff.post(path, PAYMENT | {"amount_minor": 0}), 400, "amount_minor")
    assert_problem(staff.post(path, PAYMENT | {"amount_minor": 110_01}), 409)
    staff.post(path, PAYMENT)
    assert_problem(staff.post(path, PAYMENT | {"amount_minor": 41_00}), 409)
    assert_problem(staff.post(f"/v1/invoices/{other.pk}/payments", PAYMENT), 404)
    assert Payment.objects.count() == 1


# --- disputes -------------------------------------------------------------------------------------------------------


def test_a_line_is_disputed_and_the_objection_withdrawn(client_of: ClientOf) -> None:
    invoice = issued()
    client, line = client_of(invoice.customer), invoice.lines.get(path="primary")
    answer = client.post("/v1/disputes", {"line": line.pk, "reason": "we had no such traffic"})
    assert answer.status_code == 201
    told = answer.json()
    assert (told["invoice"], told["line"], told["state"], told["credit_note"]) == (invoice.pk, line.pk, "open", None)
    assert client.get("/v1/disputes?state=open").json() == [told] == [client.get(f"/v1/disputes/{told['id']}").json()]
    assert_problem(client.post("/v1/disputes", {"line": line.pk, "reason": "again"}), 409, "line")
    assert client.post(f"/v1/disputes/{told['id']}/withdraw").json()["state"] == "withdrawn"
    assert_problem(client.post(f"/v1/disputes/{told['id']}/withdraw"), 409)
    assert Dispute.objects.get().opened_by.startswith("API key trk_")


def test_what_can_not_be_disputed(client_of: ClientOf) -> None:
    draft, foreign = drafted(), issued()
    client = client_of(draft.customer)
    line = draft.lines.get(path="primary").pk
    assert_problem(client.post("/v1/disputes", {"line": line, "reason": "why"}), 409, "line")
    assert_problem(client.post("/v1/disputes", {"line": line}), 400, "reason")
    assert_problem(client.post("/v1/disputes", {"line": line, "reason": ""}), 400, "reason")
    assert_problem(client.post("/v1/disputes", {"line": line, "reason": "x", "state": "accepted"}), 400, "state")
    stranger = foreign.lines.get(path="primary").pk
    assert_problem(client.post("/v1/disputes", {"line": stranger, "reason": "why"}), 400, "line")
    assert Dispute.objects.count() == 0


# --- terms ----------------------------------------------------------------------------------------------------------


def test_the_contract_says_what_is_paid_and_insured(client_of: ClientOf) -> None:
    contract = factories.contract(discount_rate=Decimal("0.75"), premium=Decimal(99), reason="for our eyes")
    factories.contract(customer=factories.customer(), rate_card=contract.rate_card)
    [told] = client_of(contract.customer).get("/v1/contracts").json()
    assert (told["id"], told["version"], told["discount_rate"], told["premium"]) == (
        contract.pk,
        1,
        "0.7500",
        "99.000000",
    )
    assert (told["rate_card"], told["currency"], told["unit"]) == (contract.rate_card.name, "USD", "GB")
    assert told["prices"][0]["primary_tiers"] == [{"up_to": None, "per_unit": "0.10"}]
    assert "reason" not in told and "customer" not in told


def test_prices_of_other_times_are_not_shown(client_of: ClientOf) -> None:
    ends = datetime(2026, 6, 1, tzinfo=UTC)
    contract = factories.contract(valid_until=ends)
    Prices.objects.update(valid_until=ends)
    factories.prices(rate_card=contract.rate_card, valid_from=ends)
    [told] = client_of(contract.customer).get("/v1/contracts").json()
    assert [prices["version"] for prices in told["prices"]] == [1]


# --- spend ----------------------------------------------------------------------------------------------------------


def test_spend_is_told_with_what_is_used_of_the_cover(client_of: ClientOf) -> None:
    customer, service = billed_customer(aggregate_seconds=36_000, fixed_fee=Decimal(10))
    use(service, "primary", timezone.now().replace(second=0, microsecond=0), 100 * GB)
    [told] = client_of(customer).get("/v1/spend").json()
    assert told["currency"] == "USD" and 0 <= told["elapsed_share"] <= 1
    assert told["so_far"]["total_minor"] == 20_00
    assert told["cover"]["aggregate_seconds"] == 36_000 and told["cover"]["used_seconds"] == 0
    assert client_of(factories.customer()).get("/v1/spend").json() == []


def test_alerts_are_made_changed_and_taken_away(client_of: ClientOf, db: None) -> None:
    client = client_of(factories.customer())
    made = client.post("/v1/spend-alerts", {"threshold_minor": 100_00}).json()
    assert (made["threshold_minor"], made["fired_for"]) == (100_00, None)
    assert_problem(client.post("/v1/spend-alerts", {"threshold_minor": 100_00}), 409, "threshold_minor")
    assert_problem(client.post("/v1/spend-alerts", {"threshold_minor": 0}), 400, "threshold_minor")
    assert_problem(client.post("/v1/spend-alerts", {"threshold_minor": 1, "fired_for": None}), 400, "fired_for")
    SpendAlert.objects.update(fired_for=MARCH)
    path = f"/v1/spend-alerts/{made['id']}"
    assert client.patch(path, {"threshold_minor": 100_00}).json()["fired_for"] == "2026-03-01T00:00:00Z"
    assert client.patch(path, {"threshold_minor": 200_00}).json()["fired_for"] is None
    assert client.delete(path).status_code == 204
    assert client.get("/v1/spend-alerts").json() == []


def test_alerts_are_bounded(client_of: ClientOf, db: None) -> None:
    client = client_of(factories.customer())
    for n in range(20):
        assert client.post("/v1/spend-alerts", {"threshold_minor": n + 1}).status_code == 201
    assert_problem(client.post("/v1/spend-alerts", {"threshold_minor": 21}), 409)


# --- what lists cost ------------------------------------------------------------------------------------------------


def _usage(contract: Contract, number: int) -> None:
    usage(path_of(contract))


def _invoice(contract: Contract, number: int) -> None:
    start = MARCH + timedelta(days=31 * number)
    row = Invoice.objects.create(
        customer=contract.customer, contract=contract, prices=contract.rate_card.versions.get(), currency="USD",
        period_start=start, period_end=start + timedelta(days=31), as_of=start, formula="F1",
    )  # fmt: skip
    service = factories.service(customer=contract.customer)
    line = InvoiceLineItem.objects.create(
        customer=contract.customer, invoice=row, position=1, kind="usage", service=service, path="backup",
        description="usage", amount_minor=0, details={},
    )  # fmt: skip
    Payment.objects.create(
        customer=contract.customer, invoice=row, amount_minor=1, reference=f"R-{number}", recorded_by="ann"
    )
    Dispute.objects.create(customer=contract.customer, line=line, reason="no", opened_by="key")
    SpendAlert.objects.create(customer=contract.customer, threshold_minor=number + 1)


def _contract(contract: Contract, number: int) -> None:
    start = datetime(2000 + number, 1, 1, tzinfo=UTC)
    factories.contract(customer=contract.customer, valid_from=start, valid_until=start + timedelta(days=10))


@pytest.mark.parametrize(
    ("path", "make", "queries"),
    [
        ("usage-snapshots", _usage, 2), ("invoices", _invoice, 3), ("payments", _invoice, 2), ("disputes", _invoice, 2),
        ("spend-alerts", _invoice, 2), ("contracts", _contract, 3),
    ],
)  # fmt: skip
def test_a_list_costs_the_same_however_long(
    client: APIClient, contract: Contract, path: str, make: Callable[[Contract, int], None], queries: int
) -> None:
    make(contract, 0)
    one = queries_of(client, f"/v1/{path}")
    for number in range(1, 20):
        make(contract, number)
    assert len(client.get(f"/v1/{path}").json()) >= 20
    assert queries_of(client, f"/v1/{path}") == one == queries
