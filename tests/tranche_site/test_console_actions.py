"""Every action of the console asks first and for a reason, and those that are dangerous are marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from dns.models import Freeze, Pin
from tests import factories
from tests.tranche_site import console_rows as rows
from tranche_site.console import plan_page

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOKS = {
    "dns.recordset.check_now", "dns.dnsaccount.try_again",
    "tranche_site.page.acknowledge", "tranche_site.pagingchannel.try_it",
}  # fmt: skip
"""What machines do every day by themselves, done sooner; and answering a call, which at 3 a.m. is one click."""
DANGEROUS = {
    "customers.apikey.revoke", "customers.customer.issue_key", "auth.user.reset_second_factor", "axes.accessattempt.let_in",
    "storms.stormevent.declare", "storms.stormevent.finish", "storms.cdnincident.confirm",
    "dns.weightchange.approve", "dns.weightchange.reject", "dns.weightchange.approve_selected",
    "dns.weightchange.reject_selected", "dns.pin.end_now", "dns.freeze.lift",
    "dns.recordset.adopt", "dns.recordset.release", "dns.recordset.arm_data_plane", "dns.recordset.disarm_data_plane",
    "billing.invoice.finalize", "billing.invoice.approve", "billing.invoice.void", "billing.invoice.give_up",
    "billing.invoice.credit", "billing.invoice.pay", "billing.dispute.accept",
    "billing.contract.amend", "billing.contract.withdraw", "billing.contract.retire", "billing.prices.next_version",
}  # fmt: skip


def actions() -> Iterator[tuple[str, Any]]:
    for model, page in admin.site._registry.items():
        groups = [page.actions, page.actions_detail, page.actions_list]  # type: ignore[attr-defined]
        for name in {name for group in groups for name in page._extract_action_names(group)}:  # type: ignore[attr-defined]
            yield f"{model._meta.label_lower}.{name}", getattr(page, name)


def test_every_dialog_asks_for_a_reason() -> None:
    without = {
        name
        for name, action in actions()
        if hasattr(action, "dialog") and not {"reason", "text"} & set(action.dialog["form_class"].base_fields)
    }
    assert without == LOOKS


def test_what_moves_traffic_or_money_is_marked_as_dangerous() -> None:
    assert {name for name, action in actions() if getattr(action, "is_dangerous", False)} == DANGEROUS
    assert plan_page.pin.is_dangerous and plan_page.freeze.is_dangerous
    adding = {model._meta.label_lower for model, page in admin.site._registry.items() if page.writing_is_dangerous}  # type: ignore[attr-defined]
    assert adding == {
        "dns.pin", "dns.freeze", "dns.drill", "dns.dnsaccount", "dns.recordset", "dns.steeringterms", "billing.coverruling",
        "billing.contract", "billing.prices", "billing.ratecard", "billing.usagesource", "services.target",
        "services.vantagepoint", "services.maintenancewindow", "storms.stormpolicy", "tranche_site.pagingchannel", "auth.user",
        "auth.group", "django_celery_beat.periodictask",
    }  # fmt: skip


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


ONE_WORD = [
    ("customers_apikey", "revoke"), ("services_maintenancewindow", "lift"), ("services_service", "delete_softly"),
    ("storms_stormevent", "acknowledge"), ("storms_stormevent", "finish"), ("dns_pin", "end_now"),
    ("dns_freeze", "lift"), ("dns_drill", "cancel"), ("dns_weightchange", "reject"), ("dns_weightchange", "approve"),
]  # fmt: skip


@pytest.mark.django_db
def test_without_a_reason_nothing_is_done_and_with_one_it_is_kept(console: Client) -> None:
    rows.everything()
    for name, action in ONE_WORD:
        app, model = name.split("_")
        page = next(page for found, page in admin.site._registry.items() if found._meta.label_lower == f"{app}.{model}")
        row = page.model._default_manager.order_by("pk")[0]
        if action == "approve":
            row = rows.weight_change(rows.protected_domain().record_set, "held")
        if action == "finish":
            row = factories.storm(service=factories.service(), kind="manual", attribution="manual")
        url = reverse(f"admin:{name}_{action}", args=[row.pk])
        before = LogEntry.objects.count()
        refused = console.post(url, {"_form_submitted": "True", "reason": " "})
        assert "This field is required" in refused.content.decode(), url
        assert LogEntry.objects.count() == before
        assert console.post(url, {"_form_submitted": "True", "reason": "by request 4711"}).status_code == 302, url
        entry = LogEntry.objects.latest("pk")
        assert entry.object_id == str(row.pk)
        assert "by request 4711" in entry.change_message, url


@pytest.mark.django_db
def test_what_is_added_by_hand_says_why_in_the_audit_log(console: Client) -> None:
    service = rows.protected_domain().service
    now = timezone.now()
    at = {"scheduled_at_0": f"{now:%Y-%m-%d}", "scheduled_at_1": f"{now:%H:%M:%S}"}
    console.post(reverse("admin:dns_freeze_add"), {"service": service.pk, "customer": "", "reason": "their migration"})
    assert LogEntry.objects.latest("pk").change_message == "Added: their migration"
    drill = {"service": service.pk, "percent": 2, "minutes": 15, **at}
    assert "This field is required" in console.post(reverse("admin:dns_drill_add"), drill).content.decode()
    console.post(reverse("admin:dns_drill_add"), drill | {"reason": "new backup"})
    assert LogEntry.objects.latest("pk").change_message == "Added: new backup"
    asked = {"_form_submitted": "True", "percent": "5", "hours": "1", "reason": "a trial"}
    console.post(reverse("admin:plan_pin", args=[service.pk]), asked)
    assert LogEntry.objects.latest("pk").change_message == "Added: a trial"


@pytest.mark.django_db
def test_a_pin_is_taken_off_and_a_freeze_lifted(console: Client) -> None:
    rows.everything()
    for row, action in ((Pin.objects.get(), "end_now"), (Freeze.objects.get(), "lift")):
        url = reverse(f"admin:dns_{row._meta.model_name}_{action}", args=[row.pk])
        console.post(url, {"_form_submitted": "True", "reason": "over"})
    assert not Pin.objects.filter(expires_at__gt=timezone.now()).exists()
    assert not Freeze.objects.filter(lifted_at__isnull=True).exists()
