"""What staff do with money in the console: each with its right, its question, its entry in the audit log."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing import amending, disputes, invoicing
from billing.models import (
    Contract,
    CoverRuling,
    Dispute,
    Invoice,
    InvoiceLineItem,
    Payment,
    Prices,
    RateCard,
    UsageBucket,
    UsageSnapshot,
)
from billing.money import format_minor
from customers.models import Event
from tests import factories
from tests.billing.story import APRIL_3, GB, MARCH, at, billed_customer, storm, use
from tests.tranche_site import console_rows as rows

pytestmark = pytest.mark.django_db
CONFIRM = {"_form_submitted": "True"}


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


def staff(*permissions: str) -> Client:
    """Somebody who may do nothing else."""
    user = User.objects.create_user(f"clerk {User.objects.count()}", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="billing", codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def url(row: Any, page: str = "change") -> str:
    return reverse(f"admin:billing_{row._meta.model_name}_{page}", args=[row.pk])


def text_of(console: Client, path: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", console.get(path).content.decode())))


def do(console: Client, row: Any, action: str, **asked: Any) -> str:
    """Answer the question of an action; what the page says afterwards."""
    answer = console.post(url(row, action), CONFIRM | asked, follow=True)
    assert answer.status_code == 200
    return " ".join(str(message) for message in answer.context["messages"]) if answer.context else ""


def audited() -> str:
    return str(LogEntry.objects.latest("id").change_message)


def drafted(**terms: Any) -> Invoice:
    """Backup for 20.00, of which cover pays the half, and primary for 100.00."""
    customer, service = billed_customer(**terms)
    use(service, "primary", at(2), 1000 * GB)
    use(service, "backup", at(5, 10), 100 * GB)
    storm(service, at(5, 9), at(5, 11))
    (draft,) = invoicing.draft(customer, MARCH, APRIL_3)
    return draft


def issued(**terms: Any) -> Invoice:
    return invoicing.finalize(drafted(**terms), timezone.now())


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


# --- invoices -------------------------------------------------------------------------------------------------------


def test_finalizing_asks_first_and_only_for_drafts(console: Client) -> None:
    draft = drafted()
    assert "never changes again" in console.get(url(draft, "finalize")).content.decode()
    draft.refresh_from_db()
    assert draft.state == "draft"
    assert "This field is required" in console.post(url(draft, "finalize"), CONFIRM).content.decode()
    said = do(console, draft, "finalize", reason="looked through")
    assert said == "Finalized as INV-000001: looked through" == audited()
    assert console.post(url(draft, "finalize"), CONFIRM | {"reason": "x"}).status_code == 403
    page = text_of(console, url(draft))
    assert "110.00 USD" in page and "Record payment" in page
    assert url(draft, "finalize") not in console.get(url(draft)).content.decode()


def test_why_it_can_not_be_finalized_is_told(console: Client) -> None:
    draft = drafted()
    storm(draft.lines.filter(service__isnull=False)[0].service, at(30), None, seen=False)  # type: ignore[arg-type]
    assert "Not finalized: storm" in (said := do(console, draft, "finalize", reason="x")) and "still rages" in said
    draft.refresh_from_db()
    assert draft.state == "draft"
    assert LogEntry.objects.count() == 0


def test_a_draft_with_a_problem_needs_somebody_who_answers_for_it(console: Client) -> None:
    customer, service = billed_customer()
    use(service, "primary", at(2), 1000 * GB)
    for model in (UsageBucket, UsageSnapshot):
        model.objects.update(grade="E4")
    (draft,) = invoicing.draft(customer, MARCH, APRIL_3)
    assert console.post(url(draft, "finalize"), CONFIRM | {"reason": "x"}).status_code == 403
    assert "This field is required" in console.post(url(draft, "approve"), CONFIRM).content.decode()
    assert "sampled logs" in do(console, draft, "approve", reason="checked with the CDN")
    draft.refresh_from_db()
    assert draft.number == "INV-000001"
    assert Event.objects.get(kind="invoice.finalized").payload["approved_by"] == "operator"
    assert "checked with the CDN" in audited()


def test_voiding_and_giving_up_want_a_reason(console: Client) -> None:
    invoice, other = issued(), issued()
    assert "This field is required" in console.post(url(invoice, "void"), CONFIRM).content.decode()
    assert do(console, invoice, "void", reason="wrong customer") == "INV-000001 is void: wrong customer" == audited()
    assert do(console, other, "give_up", reason="bankrupt") == "INV-000002 is uncollectible: bankrupt"
    states = Invoice.objects.filter(number__isnull=False).order_by("number").values_list("state", "state_reason")
    assert list(states) == [("void", "wrong customer"), ("uncollectible", "bankrupt")]
    for action in ("void", "give_up", "credit", "pay"):
        assert console.post(url(invoice, action), CONFIRM).status_code in (200, 403)
    assert Payment.objects.count() == 0 and Invoice.objects.filter(kind="credit_note").count() == 0
    credited = issued()
    line = credited.lines.get(path="primary")
    do(console, credited, "credit", line=line.pk, amount="1", reason="goodwill", text="sorry")
    assert "has credit notes" in do(console, credited, "void", reason="too late")


def test_a_line_is_credited_by_a_note_of_its_own(console: Client) -> None:
    invoice = issued(tax_rates={"delivery": "0.10"})
    line, cover = invoice.lines.get(path="primary"), invoice.lines.get(kind="cover")
    form = console.get(url(invoice, "credit")).content.decode()
    assert f'value="{line.pk}"' in form and f'value="{cover.pk}"' not in form
    asked = {"line": line.pk, "amount": "12.34", "reason": "billing_error", "text": "a price was wrong"}
    assert do(console, invoice, "credit", **asked) == "CN-000001 credits 13.57 USD: a price was wrong" == audited()
    note = Invoice.objects.get(kind="credit_note")
    assert (note.corrects, note.reason, note.subtotal_minor) == (invoice, "billing_error", 12_34)
    assert "-13.57 USD" in text_of(console, url(invoice))
    assert "Nothing credited: amount: more than 0 and at most 87.66 USD" in do(
        console, invoice, "credit", **asked | {"amount": "87.67"}
    )
    foreign = issued().lines.get(path="primary")
    refused = console.post(url(invoice, "credit"), CONFIRM | asked | {"line": foreign.pk})
    assert "Select a valid choice" in refused.content.decode()
    assert (
        "USD has 2 decimals."
        in console.post(url(invoice, "credit"), CONFIRM | asked | {"amount": "1.005"}).content.decode()
    )
    assert Invoice.objects.filter(kind="credit_note").count() == 1


def test_payments_are_recorded_until_nothing_is_due(console: Client) -> None:
    invoice = issued()
    assert 'value="110.00"' in console.get(url(invoice, "pay")).content.decode()
    asked = {"amount": "100.00", "reference": "R-1", "received_on": "2026-04-10", "reason": "on the statement"}
    assert do(console, invoice, "pay", **asked) == "Recorded 100.00 USD, reference R-1: on the statement" == audited()
    assert "at most 10.00 USD" in do(console, invoice, "pay", **asked | {"reference": "R-2"})
    do(console, invoice, "pay", **asked | {"reference": "R-2", "amount": "10"})
    invoice.refresh_from_db()
    assert (invoice.state, invoice.paid_minor) == ("paid", 110_00)
    payment = Payment.objects.get(reference="R-1")
    assert (payment.received_at, payment.recorded_by) == (datetime(2026, 4, 10, tzinfo=UTC), "operator")
    assert console.post(url(invoice, "pay"), CONFIRM | asked).status_code == 403


def test_lists_show_what_is_due_and_overdue(console: Client) -> None:
    late, soon, draft = invoicing.finalize(drafted(), APRIL_3), issued(), drafted()
    Invoice.objects.filter(pk=late.pk).update(stale_at=timezone.now())
    listing = reverse("admin:billing_invoice_changelist")

    def shown(query: str) -> set[str]:
        return set(re.findall(r"INV-\d+|draft \d+", text_of(console, f"{listing}?{query}")))

    assert {late.number, soon.number} == shown("payment=due")
    assert shown("payment=overdue") == {late.number}
    assert shown("payment=late%20usage") == {late.number}
    assert f"draft {draft.pk}" in shown("state__exact=draft")


DOWNLOADS = [
    ("pdf", "application/pdf", b"%PDF"),
    ("csv", "text/csv", b"BillingAccountId"),
    ("inputs", "application/json", b"{"),
]


@pytest.mark.parametrize(("action", "content_type", "begins"), DOWNLOADS)
def test_documents_are_downloaded(console: Client, action: str, content_type: str, begins: bytes) -> None:
    answer = console.get(url(issued(), action))
    assert answer["Content-Type"] == content_type and answer.content.startswith(begins)
    assert 'filename="INV-000001' in answer["Content-Disposition"]
    assert url(Invoice.objects.get(), action) in console.get(url(Invoice.objects.get())).content.decode()
    assert console.get(url(drafted(), action)).status_code == 200


def test_evidence_is_downloaded_of_usage_and_cover_lines(console: Client) -> None:
    invoice = issued(premium=Decimal(5))
    cover, fee = invoice.lines.get(kind="cover"), invoice.lines.get(kind="premium")
    pack = json.loads(console.get(url(cover, "evidence")).content)
    assert pack["line"]["id"] == cover.pk and pack["sha256"]
    assert console.get(url(fee, "evidence")).status_code == 403


# Action, the right that it takes, and what is answered.
RIGHTS = [
    ("finalize", "change_invoice", {}),
    ("approve", "change_invoice", {"reason": "x"}),
    ("void", "change_invoice", {"reason": "x"}),
    ("give_up", "change_invoice", {"reason": "x"}),
    ("credit", "change_invoice", {}),
    ("pay", "add_payment", {"amount": "1", "reference": "R-1", "received_on": "2026-04-10"}),
]


@pytest.mark.parametrize(("action", "right", "asked"), RIGHTS)
def test_every_action_takes_its_right(action: str, right: str, asked: dict[str, str]) -> None:
    invoice = drafted() if action in ("finalize", "approve") else issued()
    rights = {right for _, right, _ in RIGHTS}
    before = list(Invoice.objects.values("state", "paid_minor", "credited_minor"))
    for client in (staff("view_invoice"), staff("view_invoice", *rights - {right})):
        assert client.get(url(invoice, action)).status_code == 403
        assert client.post(url(invoice, action), CONFIRM | asked).status_code == 403
        assert f"/{action.replace('_', '-')}" not in client.get(url(invoice)).content.decode()
    assert list(Invoice.objects.values("state", "paid_minor", "credited_minor")) == before
    assert Client().post(url(invoice, action), CONFIRM | asked).status_code == 302
    assert staff("view_invoice", right).get(url(invoice, action)).status_code in (200, 403)


@pytest.mark.parametrize("page", ["document", "pdf", "csv", "inputs"])
def test_documents_are_for_those_who_may_see_invoices(page: str) -> None:
    assert staff("view_contract").get(url(issued(), page)).status_code in (403, 404)
    assert Client().get(url(Invoice.objects.get(), page)).status_code == 302


# --- disputes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def dispute() -> Dispute:
    return disputes.open_on(issued().lines.get(path="primary"), "not ours", "API key trk_1", timezone.now())


def test_a_dispute_is_accepted_with_a_credit_note(console: Client, dispute: Dispute) -> None:
    assert "at most 100.00 USD" in do(console, dispute, "accept", amount="100.01", text="yes")
    assert do(console, dispute, "accept", amount="40", text="you are right") == "The dispute is accepted by CN-000001."
    dispute.refresh_from_db()
    assert (dispute.state, dispute.answered_by, dispute.answer) == ("accepted", "operator", "you are right")
    assert audited() == "Accepted by CN-000001: you are right"
    for action in ("accept", "reject"):
        answer = console.post(url(dispute, action), CONFIRM | {"amount": "1", "text": "no"})
        assert answer.status_code == 403


def test_a_dispute_is_rejected_in_words(console: Client, dispute: Dispute) -> None:
    assert "This field is required" in console.post(url(dispute, "reject"), CONFIRM).content.decode()
    assert do(console, dispute, "reject", text="the logs say so") == "The dispute is rejected."
    assert "the logs say so" in text_of(console, url(dispute))
    assert Invoice.objects.filter(kind="credit_note").count() == 0


def test_who_may_answer_may_not_yet_credit(dispute: Dispute) -> None:
    clerk = staff("view_dispute", "change_dispute")
    assert clerk.post(url(dispute, "accept"), CONFIRM | {"amount": "1", "text": "yes"}).status_code == 403
    assert staff("view_dispute").post(url(dispute, "reject"), CONFIRM | {"text": "no"}).status_code == 403
    assert clerk.post(url(dispute, "reject"), CONFIRM | {"text": "no"}).status_code == 302


# --- prices ---------------------------------------------------------------------------------------------------------


def split(moment: datetime, name: str = "effective_at") -> dict[str, str]:
    return {f"{name}_0": f"{moment:%Y-%m-%d}", f"{name}_1": f"{moment:%H:%M:%S}"}


def priced(card: RateCard, tiers: Any, **kw: Any) -> dict[str, Any]:
    good = json.dumps([{"up_to": None, "per_unit": "0.2"}])
    return {
        "rate_card": card.pk, **split(datetime(2026, 1, 1, tzinfo=UTC), "valid_from"), "tier_mode": "graduated",
        "primary_tiers": json.dumps(tiers), "backup_tiers": good, "cdn_tiers": "{}", "per_10k_requests": "{}",
    } | kw  # fmt: skip


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
    card = RateCard.objects.create(name="Card")
    answer = console.post(reverse("admin:billing_prices_add"), priced(card, tiers))
    errors = answer.context["adminform"].form.errors
    assert set(errors) == {"primary_tiers"}
    assert said in errors["primary_tiers"][0]


def test_prices_that_overlap_are_refused_in_words(console: Client) -> None:
    card = factories.rate_card()
    answer = console.post(reverse("admin:billing_prices_add"), priced(card, [{"up_to": None, "per_unit": "0.1"}]))
    assert answer.context["adminform"].form.errors == {"valid_from": ["The card has prices for part of this time."]}


def test_prices_in_force_are_followed_by_a_new_version(console: Client) -> None:
    old = factories.rate_card().versions.get()
    assert console.post(url(old), priced(old.rate_card, [{"up_to": None, "per_unit": "9"}])).status_code == 403
    page = console.get(url(old, "next_version"))
    first = page.context["form"].fields["effective_at"].initial
    assert first >= timezone.now() and first.minute % 15 == 0
    dear = [{"up_to": None, "per_unit": "0.11"}]
    asked = priced(old.rate_card, dear, backup_tiers=json.dumps(old.backup_tiers), reason="list of 2026")
    late = console.post(url(old, "next_version"), asked | split(timezone.now() - timedelta(hours=1)))
    assert "effective_at" in late.context["form"].errors
    console.post(url(old, "next_version"), asked | split(first))
    new = Prices.objects.get(version=2)
    assert (new.primary_tiers, new.backup_tiers, new.valid_from) == (dear, old.backup_tiers, first)
    assert audited().startswith("Version 2 holds from ") and audited().endswith("list of 2026")
    assert "Save" in text_of(console, url(new)), "what has not begun is still edited"


def test_currency_and_unit_of_a_card_stay(console: Client) -> None:
    card = factories.rate_card()
    console.post(url(card), {"name": "Renamed", "currency": "EUR", "unit": "GiB"})
    card.refresh_from_db()
    assert (card.name, card.currency, card.unit) == ("Renamed", "USD", "GB")


# --- contracts ------------------------------------------------------------------------------------------------------


def amended(contract: Contract, effective_at: datetime, **kw: Any) -> dict[str, Any]:
    """The page as it is sent with these fields changed."""
    data = {
        name: getattr(contract, name)
        for name in amending.AMENDABLE
        if name not in ("layers", "tax_rates", "policy_from")
    }
    if contract.policy_from:
        data |= {
            "policy_from_0": f"{contract.policy_from:%Y-%m-%d}",
            "policy_from_1": f"{contract.policy_from:%H:%M:%S}",
        }
    data |= {"layers": json.dumps(contract.layers), "tax_rates": json.dumps(contract.tax_rates)}
    data |= {"rate_card": contract.rate_card_id, "reason": "renewal", **split(effective_at)} | kw
    return {name: value for name, value in data.items() if value is not None and value is not False}


def test_a_contract_in_force_is_read_and_amended(console: Client) -> None:
    contract = factories.contract()
    assert "Save" not in text_of(console, url(contract))
    assert console.post(url(contract), {"premium": "1"}).status_code == 403
    page = console.get(url(contract, "amend"))
    first = page.context["form"].fields["effective_at"].initial
    assert timedelta(days=14) <= first - timezone.now() <= timedelta(days=14, minutes=15)
    answer = console.post(url(contract, "amend"), amended(contract, first, discount_rate="0.75", premium="99"))
    new = Contract.objects.get(version=2)
    assert answer.headers["Location"] == url(new)
    assert (new.discount_rate, new.premium, new.reason, new.valid_from) == (
        Decimal("0.75"), Decimal(99), "renewal", first
    )  # fmt: skip
    assert set(Event.objects.get(kind="contract.amended").payload["changes"]) == {"discount_rate", "premium"}
    assert audited() == "Amended by version 2: renewal"


def test_what_is_wrong_with_an_amendment_is_told_at_its_field(console: Client) -> None:
    contract = factories.contract()
    soon = amending.quarter_after(timezone.now() + timedelta(minutes=1))

    def errors(effective_at: datetime, **kw: Any) -> dict[str, list[str]]:
        answer = console.post(url(contract, "amend"), amended(contract, effective_at, **kw))
        assert Contract.objects.count() == 1
        return dict(answer.context["form"].errors)

    assert "needs 14 days" in errors(soon, waiting_seconds="60")["effective_at"][0]
    assert "quarter of an hour" in errors(soon + timedelta(minutes=1), premium="1")["effective_at"][0]
    assert set(errors(soon, premium="-1")) == {"premium"}
    assert set(errors(soon, reason="", premium="1")) == {"reason"}
    assert "Nothing is changed" in errors(soon)["__all__"][0]
    euros = factories.rate_card(currency="EUR")
    assert "EUR" in errors(soon, rate_card=euros.pk)["rate_card"][0]


def test_an_amendment_is_no_page_to_edit_but_to_withdraw(console: Client) -> None:
    contract = factories.contract()
    when = amending.first_allowed(contract, timezone.now())
    new = amending.amend(contract, {"premium": Decimal(5)}, when, "ann", "renewal", timezone.now())
    assert console.post(url(new), {"premium": "1"}).status_code == 403
    assert console.get(url(new, "amend")).status_code == 403
    assert console.post(url(contract, "withdraw"), CONFIRM | {"reason": "x"}).status_code == 403
    assert do(console, new, "withdraw", reason="a mistake") == "Version 2 is withdrawn."
    contract.refresh_from_db()
    assert contract.valid_until is None and Contract.objects.count() == 1


def test_a_contract_is_retired_with_notice(console: Client) -> None:
    contract = factories.contract()
    tomorrow = amending.quarter_after(timezone.now() + timedelta(days=1))
    assert "The earliest is" in do(console, contract, "retire", reason="left us", **split(tomorrow, "ends_at"))
    later = tomorrow + timedelta(days=14)
    assert "It ends" in do(console, contract, "retire", reason="left us", **split(later, "ends_at"))
    contract.refresh_from_db()
    assert contract.valid_until == later


@pytest.mark.parametrize("action", ["amend", "withdraw", "retire"])
def test_terms_are_changed_by_those_who_may(action: str) -> None:
    contract = factories.contract()
    if action == "withdraw":
        when = amending.first_allowed(contract, timezone.now())
        contract = amending.amend(contract, {"premium": Decimal(5)}, when, "ann", "renewal", timezone.now())
    assert staff("view_contract").get(url(contract, action)).status_code == 403
    assert staff("view_contract", "change_contract").get(url(contract, action)).status_code == 200


def test_contracts_that_overlap_are_refused_in_words(console: Client) -> None:
    contract = factories.contract()
    data = amended(contract, at(1)) | split(datetime(2026, 6, 1, tzinfo=UTC), "valid_from")
    data |= {"customer": contract.customer.pk}
    answer = console.post(reverse("admin:billing_contract_add"), data)
    said = ["This customer has a contract for part of this time."]
    assert answer.context["adminform"].form.errors == {"valid_from": said}
    Contract.objects.update(valid_until=datetime(2026, 6, 1, tzinfo=UTC))
    assert console.post(reverse("admin:billing_contract_add"), data).status_code == 302
    assert Contract.objects.get(valid_until=None).version == 2


def test_a_contract_that_has_not_begun_is_edited(console: Client) -> None:
    contract = factories.contract(valid_from=datetime(2050, 1, 1, tzinfo=UTC))
    data = amended(contract, at(1), premium="7") | split(contract.valid_from, "valid_from")
    assert console.post(url(contract), data).status_code == 302
    contract.refresh_from_db()
    assert (contract.premium, contract.version) == (Decimal(7), 1)


# --- rulings --------------------------------------------------------------------------------------------------------


def test_a_persons_word_on_a_storm_is_added_and_never_changed(console: Client) -> None:
    row = factories.storm()
    add = reverse("admin:billing_coverruling_add")
    assert "required" in str(console.post(add, {"storm": row.pk, "reason": "seen"}).context["adminform"].form.errors)
    console.post(add, {"storm": row.pk, "is_covered": "yes", "reason": "their status page says so"})
    ruling = CoverRuling.objects.get()
    assert (ruling.customer_id, ruling.is_covered, ruling.ruled_by) == (row.customer_id, True, "operator")
    assert Event.objects.get(kind="cover.ruled").payload == {"is_covered": True, "by": "operator"}
    assert console.post(url(ruling), {"is_covered": "no", "reason": "x"}).status_code == 403
    assert console.post(url(ruling, "delete"), {"post": "yes"}).status_code == 403
    answer = console.post(add, {"storm": row.pk, "is_covered": "no", "reason": "no"})
    assert set(answer.context["adminform"].form.errors) == {"storm"}
    assert CoverRuling.objects.get().is_covered


@pytest.mark.parametrize("kw", [{"is_armed": False}, {"kind": "manual", "attribution": "manual"}])
def test_no_word_makes_a_storm_pay_that_no_policy_declared(console: Client, kw: dict[str, Any]) -> None:
    asked = {"storm": factories.storm(**kw).pk, "is_covered": "yes", "reason": "please"}
    answer = console.post(reverse("admin:billing_coverruling_add"), asked)
    assert "no word makes it pay" in answer.context["adminform"].form.errors["storm"][0]


def test_rulings_are_for_those_who_may() -> None:
    asked = {"storm": factories.storm().pk, "is_covered": "yes", "reason": "seen"}
    assert staff("view_coverruling").post(reverse("admin:billing_coverruling_add"), asked).status_code == 403
    assert CoverRuling.objects.count() == 0


def test_lines_are_listed_without_their_documents(console: Client, django_assert_max_num_queries: Any) -> None:
    for _ in range(3):
        issued()
    with django_assert_max_num_queries(12):
        console.get(reverse("admin:billing_invoicelineitem_changelist"))
    assert InvoiceLineItem.objects.count() == 9
