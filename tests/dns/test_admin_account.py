"""The account's page: credentials that nobody ever sees again, external ids of our own choosing, and what is the matter."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.core import serializers
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from rest_framework.test import APIClient

from customers.models import Event
from dns import accounts
from dns.admin.account import CREDENTIALS, calls_left
from dns.models import DnsAccount, RecordSet
from dns.providers import VENDORS
from dns.providers.contract import ProviderError, Trouble
from tests import factories
from tests.tranche_site import console_rows as rows
from tranche_site.floor import sealed

pytestmark = pytest.mark.django_db

CANARY = "canary-of-a-secret-4711-wxyz"
KEY_ID = "AKIA-canary-of-a-key-id"


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


def posted(vendor: str = "route53", **kw: Any) -> dict[str, Any]:
    fields = {
        "name": "theirs", "customer": "", "vendor": vendor, "options": "{}", "fencing": "read_back",
        "calls_per_second": "5", "burst_calls": "50", "initial-options": "{}",
    }  # fmt: skip
    return fields | kw


def add(console: Client, **kw: Any) -> Any:
    return console.post(reverse("admin:dns_dnsaccount_add"), posted(**kw))


def change(console: Client, account: DnsAccount, **kw: Any) -> Any:
    return console.post(reverse("admin:dns_dnsaccount_change", args=[account.pk]), posted(**kw))


def page(console: Client, account: DnsAccount) -> str:
    return console.get(reverse("admin:dns_dnsaccount_change", args=[account.pk])).content.decode()


# --- credentials ----------------------------------------------------------------------------------------------------


def test_what_is_typed_is_sealed_and_shown_as_a_fingerprint_alone(console: Client) -> None:
    answer = add(console, access_key_id=KEY_ID, secret_access_key=CANARY)
    account = DnsAccount.objects.get()
    assert answer.headers["Location"] == reverse("admin:dns_dnsaccount_change", args=[account.pk])
    assert account.credentials() == {"access_key_id": KEY_ID, "secret_access_key": CANARY}
    assert account.sealed_credentials.startswith("v1.") and CANARY not in account.sealed_credentials
    html = page(console, account)
    assert sealed.fingerprint(CANARY) in html
    assert f"sealed with the key “{sealed.current_key_id()}”" in html
    assert CANARY not in html and KEY_ID not in html


def test_a_secret_is_nowhere_else(
    console: Client, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Saved, refused, saved again and in trouble: then every page of DNS, the API, events, the audit log, the log."""
    caplog.set_level(logging.DEBUG)
    rows.everything()
    owner = RecordSet.objects.select_related("domain__service").get()
    refused = add(console, name="", access_key_id=KEY_ID, secret_access_key=CANARY)
    assert refused.status_code == 200 and CANARY not in refused.content.decode()
    half = add(console, secret_access_key=CANARY)
    assert "give all of them" in half.content.decode() and CANARY not in half.content.decode()
    add(console, customer=owner.customer_id, access_key_id=KEY_ID, secret_access_key=CANARY)
    account = DnsAccount.objects.get(name="theirs")
    RecordSet.objects.update(account=account, zone="example.com", zone_id="Z1")
    change(console, account, access_key_id=KEY_ID, secret_access_key=CANARY)
    accounts.note_trouble(account, ProviderError("AccessDenied", permanent=True, trouble=Trouble.ACCESS))

    seen = {}
    for model in apps.get_app_config("dns").get_models():
        if model in admin.site._registry:
            name = f"admin:dns_{model._meta.model_name}"
            seen[name] = console.get(reverse(f"{name}_changelist")).content.decode()
            for row in model._default_manager.all():
                for view in ("change", "history"):
                    path = reverse(f"{name}_{view}", args=[row.pk])
                    seen[path] = console.get(path).content.decode()
    for path in ("/admin/", "/admin/plan", "/admin/plan?show=all", "/admin/search/?extended=1&s=theirs"):
        seen[path] = console.get(path).content.decode()
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {factories.api_key(owner.customer)}")
    for path in ("routing", "weight-changes", "steering-terms", "drills", "break-glass", "openapi.json"):
        seen[path] = client.get(f"/v1/{path}").content.decode()
    seen["events"] = serializers.serialize("json", Event.objects.all())
    seen["audit"] = serializers.serialize("json", LogEntry.objects.all())
    seen["rows"] = serializers.serialize("json", DnsAccount.objects.all())
    seen["log"] = caplog.text + "".join(capsys.readouterr())
    assert len(seen) > 30
    assert "theirs" in seen["rows"] and "theirs" in seen["audit"]
    assert [place for place, text in seen.items() if CANARY in text or KEY_ID in text] == []


def test_what_is_left_empty_stays_and_what_is_forgotten_goes(console: Client) -> None:
    add(console, access_key_id=KEY_ID, secret_access_key=CANARY)
    account = DnsAccount.objects.get()
    change(console, account, name="renamed")
    account.refresh_from_db()
    assert (account.name, account.credentials()["secret_access_key"]) == ("renamed", CANARY)
    both = change(console, account, access_key_id="a", secret_access_key="b", forget="on")
    assert "Either give new credentials" in both.content.decode()
    change(console, account, forget="on")
    account.refresh_from_db()
    assert account.sealed_credentials == ""


def test_new_credentials_are_tried_at_once(console: Client) -> None:
    account = factories.dns_account("powerdns", name="theirs")
    domain = rows.protected_domain()
    RecordSet.objects.update(account=account, is_restless=False)
    later = timezone.now() + timedelta(minutes=5)
    failed = rows.weight_change(domain.record_set, "failed", next_attempt_at=later)
    change(console, account, name="other")
    failed.refresh_from_db()
    assert failed.next_attempt_at == later
    change(console, account, api_key=CANARY)
    failed.refresh_from_db()
    assert failed.next_attempt_at <= timezone.now()
    assert RecordSet.objects.get().is_restless


def test_another_vendors_credentials_are_refused(console: Client) -> None:
    text = add(console, vendor="log", api_key=CANARY).content.decode()
    assert "An account at “log” has no such credentials" in text
    assert not DnsAccount.objects.exists()


def test_without_a_key_nothing_is_kept_and_the_page_says_so(console: Client, settings: Any) -> None:
    settings.CREDENTIAL_KEYS, settings.EMBEDDED_POSTGRES = [], False
    text = add(console, access_key_id=KEY_ID, secret_access_key=CANARY).content.decode()
    assert "There is no key to seal credentials with" in text
    assert not DnsAccount.objects.exists()


def test_what_can_not_be_opened_is_said(console: Client) -> None:
    one, other = factories.dns_account("powerdns"), factories.dns_account("powerdns")
    one.seal({"api_key": CANARY})
    DnsAccount.objects.filter(pk=other.pk).update(sealed_credentials=one.sealed_credentials)
    html = page(console, other)
    assert "can’t be opened" in html and "sealed for another row" in html


def test_only_the_vendors_own_fields_are_offered(console: Client) -> None:
    html = page(console, factories.dns_account("powerdns"))
    assert 'name="api_key"' in html and 'name="secret_access_key"' not in html
    assert 'type="password"' in html
    html = page(console, factories.dns_account("log"))
    assert 'type="password"' not in html and "“log” needs none" in html
    assert set(CREDENTIALS) <= set(VENDORS)


# --- options --------------------------------------------------------------------------------------------------------


def test_an_external_id_is_made_once_and_kept(console: Client) -> None:
    add(console, options='{"role_arn": "arn:aws:iam::1:role/tranche"}')
    account = DnsAccount.objects.get()
    own = account.options["external_id"]
    assert len(own) == 32
    assert own in page(console, account)
    change(console, account, options='{"role_arn": "arn:aws:iam::1:role/other"}')
    account.refresh_from_db()
    assert account.options == {"role_arn": "arn:aws:iam::1:role/other", "external_id": own}
    add(console, name="second", options='{"role_arn": "arn:aws:iam::2:role/tranche"}')
    assert DnsAccount.objects.get(name="second").options["external_id"] != own


def test_another_accounts_external_id_is_refused(console: Client) -> None:
    add(console)
    own = DnsAccount.objects.get().options["external_id"]
    text = add(console, name="second", options=f'{{"external_id": "{own}"}}').content.decode()
    assert "another account has this one" in text
    second = factories.dns_account("route53", name="second", options={"external_id": "of the second"})
    assert change(console, second, name="second", options=f'{{"external_id": "{own}"}}').status_code == 200
    second.refresh_from_db()
    assert second.options == {"external_id": "of the second"}


@pytest.mark.parametrize("options", ["[]", "7", '"text"', '{"external_id": 7}', "{"])
def test_options_of_no_sense_are_refused(console: Client, options: str) -> None:
    assert add(console, options=options).status_code == 200
    assert not DnsAccount.objects.exists()


def test_no_options_are_an_empty_object(console: Client) -> None:
    add(console, vendor="log", options="")
    assert DnsAccount.objects.get().options == {}


def test_a_page_saves_what_it_edits_and_nothing_else(console: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker notes trouble between the page's read and its write."""
    account = factories.dns_account("log", name="theirs")
    save = DnsAccount.save

    def late(self: DnsAccount, *args: Any, **kw: Any) -> None:
        DnsAccount.objects.filter(pk=self.pk).update(calls_left=3, trouble="throttled")
        save(self, *args, **kw)

    monkeypatch.setattr(DnsAccount, "save", late)
    change(console, account, vendor="log", name="renamed")
    account.refresh_from_db()
    assert (account.name, account.calls_left, account.trouble) == ("renamed", 3, "throttled")


# --- what is the matter ---------------------------------------------------------------------------------------------


def test_trouble_is_told_and_tried_again(console: Client) -> None:
    account = factories.dns_account("powerdns")
    accounts.note_trouble(account, ProviderError("403: key unknown", permanent=True, trouble=Trouble.ACCESS))
    html = page(console, account)
    assert "access denied" in html and "403: key unknown" in html
    assert "access denied" in console.get(reverse("admin:dns_dnsaccount_changelist")).content.decode()
    assert "theirs" not in console.get(reverse("admin:dns_dnsaccount_changelist") + "?state=well").content.decode()
    url = reverse("admin:dns_dnsaccount_try_again", args=[account.pk])
    assert console.post(url, {"_form_submitted": "True"}).status_code == 302
    accounts.recover(DnsAccount.objects.get())
    assert console.post(url, {"_form_submitted": "True"}).status_code == 403


def test_calls_left_are_those_of_now() -> None:
    now = timezone.now()
    account = DnsAccount(vendor="route53", calls_left=-4, calls_left_at=now, calls_per_second=5, burst_calls=50)
    assert [calls_left(account, now + timedelta(seconds=s)) for s in (0, 1, 2, 10, 60)] == [0, 1, 6, 46, 50]


def test_permissions_are_words_for_the_accounts_zones_and_call_nobody(
    console: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = factories.dns_account("route53", options={"role_arn": "arn:aws:iam::1:role/t", "external_id": "x1"})
    assert "Add its record sets first" in page(console, account)
    monkeypatch.setattr("dns.providers.route53.clients._client", lambda *a: pytest.fail("called"))
    factories.record_set(account=account, zone="example.com", zone_id="Z123")
    lost = factories.record_set(account=account)
    gone = factories.record_set(account=account, released_at=timezone.now())
    html = page(console, account)
    assert "arn:aws:route53:::hostedzone/Z123" in html and "sts:ExternalId" in html
    assert "hostedzone/ZONE_ID" in html and lost.domain.hostname in html
    assert gone.domain.hostname not in html


def test_permissions_that_can_not_be_told_say_why(console: Client) -> None:
    account = factories.dns_account("powerdns", sealed_credentials="v1.gone.AAAA")
    factories.record_set(account=account, zone="example.com")
    html = page(console, account)
    assert "access denied" in html


def test_a_clerk_may_look_and_sees_no_field(console: Client) -> None:
    from django.contrib.auth.models import Permission, User

    account = factories.dns_account("powerdns")
    account.seal({"api_key": CANARY})
    account.save()
    clerk = User.objects.create_user("clerk", password="a long enough word", is_staff=True)
    clerk.user_permissions.add(Permission.objects.get(codename="view_dnsaccount"))
    client = Client()
    client.force_login(clerk)
    html = page(client, account)
    assert sealed.fingerprint(CANARY) in html
    assert CANARY not in html and 'type="password"' not in html
    assert change(client, account, api_key="other").status_code == 403
