from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from rest_framework.test import APIClient

from billing.models import Contract, Invoice, InvoiceLineItem, UsageSnapshot
from customers.models import Customer
from services.models import Target
from tests import factories
from tests.answers import assert_problem, queries_of

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


def invoice(contract: Contract, months: int = 0) -> Invoice:
    """A draft with one usage line and one cover line."""
    start = MARCH + timedelta(days=31 * months)
    draft = Invoice.objects.create(
        customer=contract.customer, contract=contract, currency="USD", period_start=start,
        period_end=start + timedelta(days=31), as_of=start, subtotal_minor=1000, discount_minor=250, total_minor=750,
        formula="F1",
    )  # fmt: skip
    service = factories.service(customer=contract.customer)
    for position, (kind, amount) in enumerate([("usage", 1000), ("cover", 250)], start=1):
        InvoiceLineItem.objects.create(
            customer=contract.customer, invoice=draft, position=position, kind=kind, service=service, path="backup",
            description=kind, bytes=10**9, amount_minor=amount, details={"units": "1"},
        )  # fmt: skip
    return draft


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


def test_an_invoice_comes_with_its_lines(client: APIClient, contract: Contract) -> None:
    draft = invoice(contract)
    [told] = client.get("/v1/invoices").json()
    assert (told["id"], told["number"], told["state"]) == (draft.pk, None, "draft")
    assert (told["subtotal_minor"], told["discount_minor"], told["total_minor"]) == (1000, 250, 750)
    assert [(line["position"], line["kind"], line["amount_minor"]) for line in told["lines"]] == [
        (1, "usage", 1000),
        (2, "cover", 250),
    ]
    assert told["lines"][0]["details"] == {"units": "1"}
    assert client.get(f"/v1/invoices/{draft.pk}").json() == told
    assert client.get("/v1/invoices?state=paid").json() == []
    assert client.get("/v1/invoices?state=lost").status_code == 400


def test_money_is_read_only(client: APIClient, contract: Contract) -> None:
    draft = invoice(contract)
    assert_problem(client.post("/v1/invoices", {}), 405)
    assert_problem(client.patch(f"/v1/invoices/{draft.pk}", {"total_minor": 0}), 405)
    assert_problem(client.delete(f"/v1/invoices/{draft.pk}"), 405)


@pytest.mark.parametrize(("path", "queries"), [("usage-snapshots", 2), ("invoices", 3)])
def test_a_list_costs_the_same_however_long(client: APIClient, contract: Contract, path: str, queries: int) -> None:
    def make(number: int) -> None:
        usage(path_of(contract))
        invoice(contract, number)

    make(0)
    one = queries_of(client, f"/v1/{path}")
    for number in range(1, 20):
        make(number)
    assert len(client.get(f"/v1/{path}").json()) == 20
    assert queries_of(client, f"/v1/{path}") == one == queries
