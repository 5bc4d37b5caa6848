from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing import invoicing
from billing.models import Invoice, RateCard
from billing.money import format_minor
from tests import factories
from tests.tranche_site import console_rows as rows

pytestmark = pytest.mark.django_db
CONFIRM = {"_form_submitted": "True"}


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


def sheet(console: Client, invoice: Invoice) -> str:
    html = console.get(f"/admin/billing/invoice/{invoice.pk}/document/").content.decode()
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


@pytest.mark.parametrize(
    ("amount", "currency", "said"),
    [
        (123456, "USD", "1,234.56"),
        (123456, "JPY", "123,456"),
        (123456, "KWD", "123.456"),
        (-5, "EUR", "-0.05"),
        (0, "JPY", "0"),
        (0, "KWD", "0.000"),
        (9_223_372_036_854_775_807, "USD", "92,233,720,368,547,758.07"),
    ],
)
def test_minor_units_as_people_write_them(amount: int, currency: str, said: str) -> None:
    assert format_minor(amount, currency) == said


@pytest.mark.parametrize(
    ("currency", "subtotal", "discount", "total"),
    [
        ("USD", "1,234.56", "-34.56", "1,200.00"),
        ("JPY", "123,456", "-3,456", "120,000"),
        ("KWD", "123.456", "-3.456", "120.000"),
    ],
)
def test_the_sheet_adds_up_in_the_currencys_own_digits(
    console: Client, currency: str, subtotal: str, discount: str, total: str
) -> None:
    invoice = rows.invoice(factories.contract(), currency)
    text = sheet(console, invoice)
    assert f"Subtotal {subtotal} {currency}" in text
    assert f"Storm cover {discount} {currency}" in text
    assert f"Total {total} {currency}" in text


def test_the_sheet_explains_every_line(console: Client) -> None:
    customer = factories.customer(name="Acme", billing_email="bills@acme.example")
    text = sheet(console, rows.invoice(factories.contract(customer=customer)))
    for said in (
        "Invoice DRAFT", "Acme", "bills@acme.example", "2026-03-01 00:00 to 2026-04-01 00:00",
        "version 7", "Basic, version 3",
        "1,234,000,000,000", "1,234 GB", "tier 1 1,000 GB 0.12", "tier 2 234 GB 0.10", "1,234.56",
        "Storm 41 : 2026-03-10 10:00:00 to 2026-03-10 10:41:30 UTC, policy version 5", "-34.56",
        "discount rate 0.5", "backup charge 1,234.56",
    ):  # fmt: skip
        assert said in text


def test_a_final_sheet_bears_its_number(console: Client) -> None:
    invoice = rows.invoice(factories.contract())
    Invoice.objects.filter(pk=invoice.pk).update(number="INV-000001", state="open", finalized_at=timezone.now())
    text = sheet(console, invoice)
    assert "Invoice INV-000001" in text
    assert "DRAFT" not in text


def test_the_sheet_is_for_staff(console: Client) -> None:
    invoice = rows.invoice(factories.contract())
    assert Client().get(f"/admin/billing/invoice/{invoice.pk}/document/").status_code == 302
    assert console.get("/admin/billing/invoice/999/document/").status_code == 404


def test_finalizing_asks_first_and_only_for_drafts(console: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    invoice = rows.invoice(factories.contract())

    def finalize(row: Invoice) -> Invoice:
        row.number, row.state, row.finalized_at = "INV-000001", "open", timezone.now()
        row.save()
        return row

    monkeypatch.setattr(invoicing, "finalize", finalize)
    url = reverse("admin:billing_invoice_finalize", args=[invoice.pk])
    assert "never changes again" in console.get(url).content.decode()
    invoice.refresh_from_db()
    assert invoice.state == "draft"
    assert console.post(url, CONFIRM).status_code == 302
    invoice.refresh_from_db()
    assert invoice.number == "INV-000001"
    assert console.post(url, CONFIRM).status_code == 403


def test_why_it_can_not_be_finalized_is_told(console: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    invoice = rows.invoice(factories.contract())

    def refuse(row: Invoice) -> Invoice:
        raise invoicing.InvoiceError("storm 4 still rages")

    monkeypatch.setattr(invoicing, "finalize", refuse)
    answer = console.post(reverse("admin:billing_invoice_finalize", args=[invoice.pk]), CONFIRM, follow=True)
    assert "Not finalized: storm 4 still rages." in answer.content.decode()


def card(tiers: Any) -> dict[str, Any]:
    good = [{"up_to": None, "per_unit": "0.2"}]
    return {
        "name": "Card", "currency": "USD", "unit": "GB", "tier_mode": "graduated",
        "primary_tiers": json.dumps(tiers), "backup_tiers": json.dumps(good),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tiers", "said"),
    [
        ({}, "This field is required"),
        ([], "This field is required"),
        ("0.12", "Give a list of tiers"),
        ([{"up_to": None}], "name “up_to” and “per_unit”"),
        ([{"up_to": None, "per_unit": 0.12}], "a number in quotes"),
        ([{"up_to": None, "per_unit": "-1"}], "not below 0"),
        ([{"up_to": "10", "per_unit": "1"}], "its “up_to” is null"),
        (
            [{"up_to": "10", "per_unit": "1"}, {"up_to": "10", "per_unit": "1"}, {"up_to": None, "per_unit": "1"}],
            "above",
        ),
        ([{"up_to": "NaN", "per_unit": "1"}, {"up_to": None, "per_unit": "1"}], "above the tier before it"),
    ],
)
def test_wrong_tiers_are_told_at_their_field(console: Client, tiers: Any, said: str) -> None:
    answer = console.post(reverse("admin:billing_ratecard_add"), card(tiers))
    errors = answer.context["adminform"].form.errors
    assert set(errors) == {"primary_tiers"}
    assert said in errors["primary_tiers"][0]


def test_right_tiers_are_saved_and_a_change_is_a_new_version(console: Client) -> None:
    tiers = [{"up_to": "1000", "per_unit": "0.12"}, {"up_to": None, "per_unit": "0.10"}]
    console.post(reverse("admin:billing_ratecard_add"), card(tiers))
    saved = RateCard.objects.get()
    assert (saved.primary_tiers, saved.version) == (tiers, 1)
    page = reverse("admin:billing_ratecard_change", args=[saved.pk])
    console.post(page, card(tiers))
    assert RateCard.objects.get().version == 1
    console.post(page, card([{"up_to": None, "per_unit": "0.11"}]))
    assert RateCard.objects.get().version == 2


def test_contracts_that_overlap_are_refused_in_words(console: Client) -> None:
    contract = factories.contract()
    data = {
        "customer": contract.customer.pk, "rate_card": contract.rate_card.pk, "valid_from_0": "2026-06-01",
        "valid_from_1": "00:00:00", "discount_rate": "0.5", "max_coverage_factor": "1", "coverage_mode": "multiply",
        "waiting_seconds": 0, "merge_gap_seconds": 3600, "grace_hours": 24,
    }  # fmt: skip
    html = console.post(reverse("admin:billing_contract_add"), data).content.decode()
    assert html.count("This customer has a contract for part of this time.") == 1
