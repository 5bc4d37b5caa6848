from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from customers.models import ApiKey, Customer
from tests import factories
from tests.tranche_site import console_rows as rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


def page(customer: Customer) -> str:
    return reverse("admin:customers_customer_change", args=[customer.pk])


def issue(console: Client, customer: Customer, **data: object) -> str:
    url = reverse("admin:customers_customer_issue_key", args=[customer.pk])
    return console.post(url, {"name": "terraform", "scopes": ["read"]} | data).content.decode()


def test_a_new_customer_leads_to_its_page_and_the_key_action(console: Client) -> None:
    answer = console.post(reverse("admin:customers_customer_add"), {"name": "Acme", "billing_email": ""})
    customer = Customer.objects.get(name="Acme")
    assert answer.headers["Location"] == page(customer)
    assert f"/admin/customers/customer/{customer.pk}/issue-key/" in console.get(page(customer)).content.decode()


def test_a_key_is_shown_once_and_never_again(console: Client) -> None:
    customer = factories.customer()
    html = issue(console, customer)
    key = customer.api_keys.get()
    (secret,) = re.findall(r"trk_[0-9a-f]{8}_[\w-]{43}_[0-9a-f]{8}", html)
    assert (key.name, key.scopes, key.prefix) == ("terraform", ["read"], secret[:12])
    later = [
        page(customer),
        reverse("admin:customers_apikey_changelist"),
        reverse("admin:customers_apikey_change", args=[key.pk]),
        reverse("admin:customers_customer_issue_key", args=[customer.pk]),
        reverse("admin:customers_customer_history", args=[customer.pk]),
    ]
    for url in later:
        shown = console.get(url).content.decode()
        assert secret not in shown
        assert key.digest not in shown
    assert f"{key.prefix}…" in console.get(page(customer)).content.decode()
    assert secret not in " ".join(LogEntry.objects.values_list("change_message", flat=True))


def test_the_page_with_the_key_is_not_kept_by_browsers(console: Client) -> None:
    url = reverse("admin:customers_customer_issue_key", args=[factories.customer().pk])
    assert "no-store" in console.get(url).headers["Cache-Control"]


@pytest.mark.parametrize("data", [{"name": ""}, {"scopes": []}, {"scopes": ["root"]}])
def test_a_key_needs_a_name_and_known_scopes(console: Client, data: dict[str, object]) -> None:
    issue(console, factories.customer(), **data)
    assert not ApiKey.objects.exists()


def test_only_who_may_record_payments_grants_the_scope_for_it(console: Client) -> None:
    customer = factories.customer()
    clerk = Client()
    user = User.objects.create_user("clerk", is_staff=True)
    rights = ["view_customer", "add_apikey"]
    user.user_permissions.set(Permission.objects.filter(codename__in=rights))
    clerk.force_login(user)
    form = clerk.get(reverse("admin:customers_customer_issue_key", args=[customer.pk])).content.decode()
    assert 'value="write"' in form and 'value="payments"' not in form
    issue(clerk, customer, scopes=["payments"])
    assert not ApiKey.objects.exists()
    issue(console, customer, scopes=["payments"])
    assert ApiKey.objects.get().scopes == ["payments"]


def test_nobody_is_offered_it_ticked(console: Client) -> None:
    page = console.get(reverse("admin:customers_customer_issue_key", args=[factories.customer().pk]))
    assert page.context["form"]["scopes"].initial == ["read", "write"]


def test_looking_at_the_form_issues_nothing(console: Client) -> None:
    console.get(reverse("admin:customers_customer_issue_key", args=[factories.customer().pk]))
    assert not ApiKey.objects.exists()


def test_revoking_asks_first(console: Client) -> None:
    customer = factories.customer()
    factories.api_key(customer)
    key = customer.api_keys.get()
    url = reverse("admin:customers_apikey_revoke", args=[key.pk])
    console.get(url)
    key.refresh_from_db()
    assert key.revoked_at is None
    answer = console.post(url, {"_form_submitted": "True", "reason": "leaked"}, headers={"HX-Request": "true"})
    key.refresh_from_db()
    assert key.revoked_at is not None
    assert answer.headers["HX-Redirect"] == reverse("admin:customers_apikey_change", args=[key.pk])
    assert console.post(url, {"_form_submitted": "True", "reason": "leaked"}).status_code == 403  # not twice


def test_keys_are_told_apart_by_state(console: Client) -> None:
    customer = factories.customer()
    now = timezone.now()
    for fields in ({}, {"revoked_at": now}, {"expires_at": now - timedelta(days=1)}):
        factories.api_key(customer, **fields)
    for state in ("usable", "revoked", "expired"):
        html = console.get(reverse("admin:customers_apikey_changelist") + f"?state={state}").content.decode()
        assert html.count("field-shown_prefix") == 1


def delete(console: Client, customer: Customer) -> None:
    url = reverse("admin:customers_customer_delete_softly", args=[customer.pk])
    console.post(url, {"_form_submitted": "True", "reason": "leaked"})
    customer.refresh_from_db()


def test_deleting_keeps_the_row_and_revokes_the_keys(console: Client) -> None:
    customer = factories.customer(name="Gone Ltd")
    factories.api_key(customer)
    delete(console, customer)
    assert customer.deleted_at is not None
    assert customer.api_keys.get().revoked_at is not None
    changelist = reverse("admin:customers_customer_changelist")
    assert "Gone Ltd" not in console.get(changelist).content.decode().split('id="result_list"')[-1].split("<form")[0]
    assert "Gone Ltd" in console.get(changelist + "?deleted=yes").content.decode()
    assert console.get(page(customer)).status_code == 200  # to read, not to edit
    assert console.post(page(customer), {"name": "Back"}).status_code == 403


def test_a_customer_with_services_is_not_deleted(console: Client) -> None:
    customer = factories.service().customer
    delete(console, customer)
    assert customer.deleted_at is None
    assert "Delete them first" in console.get(page(customer)).content.decode()


def test_nothing_is_deleted_for_good(console: Client) -> None:
    customer = factories.customer()
    url = reverse("admin:customers_customer_delete", args=[customer.pk])
    assert console.post(url, {"post": "yes"}).status_code == 403


def test_a_name_is_taken_whatever_its_case(console: Client) -> None:
    factories.customer(name="Acme")
    html = console.post(reverse("admin:customers_customer_add"), {"name": "ACME"}).content.decode()
    assert html.count("A customer with this name exists.") == 1
