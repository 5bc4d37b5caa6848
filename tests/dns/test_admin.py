from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from dns.models import Freeze, Pin, WeightChange
from tests import factories
from tests.tranche_site import console_rows as rows

pytestmark = pytest.mark.django_db
CONFIRM = {"_form_submitted": "True", "reason": "seen on the graphs"}


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


@pytest.fixture
def held() -> WeightChange:
    return rows.weight_change(rows.protected_domain().record_set, "held", held_reason="blast radius")


def act(console: Client, action: str, row: WeightChange | Pin | Freeze) -> int:
    model = row._meta.model_name
    status = console.post(reverse(f"admin:dns_{model}_{action}", args=[row.pk]), CONFIRM).status_code
    row.refresh_from_db()
    return status


def test_approving_lets_the_plan_go_in_the_operators_name(console: Client, held: WeightChange) -> None:
    assert act(console, "approve", held) == 302
    assert (held.state, held.approved_by) == ("wanted", User.objects.get(username="operator"))


def test_rejecting_ends_the_plan(console: Client, held: WeightChange) -> None:
    act(console, "reject", held)
    assert held.state == "superseded"


def test_a_look_decides_nothing(console: Client, held: WeightChange) -> None:
    assert console.get(reverse("admin:dns_weightchange_approve", args=[held.pk])).status_code == 200
    held.refresh_from_db()
    assert held.state == "held"


def test_only_held_plans_can_be_decided(console: Client) -> None:
    change = rows.weight_change(rows.protected_domain().record_set, "observed")
    assert act(console, "approve", change) == 403
    page = console.get(reverse("admin:dns_weightchange_change", args=[change.pk])).content.decode()
    assert f"/{change.pk}/approve/" not in page


def test_staff_without_the_permission_can_not_decide(held: WeightChange) -> None:
    clerk = User.objects.create_user("clerk", password="a long enough word", is_staff=True)
    client = Client()
    client.force_login(clerk)
    assert act(client, "approve", held) == 403
    assert held.state == "held"


def test_many_are_approved_at_once(console: Client, held: WeightChange) -> None:
    other = rows.weight_change(rows.protected_domain().record_set, "held")
    data = {"action": "approve_selected", "_selected_action": [held.pk, other.pk]}
    page = console.post(reverse("admin:dns_weightchange_changelist"), data)
    assert [change.state for change in WeightChange.objects.all()] == ["held", "held"], "it asks first"
    asked = re.findall(r'name="(_selected_action|action|select_across)" value="([^"]*)"', page.content.decode())
    assert ("_selected_action", str(other.pk)) in asked and ("action", "approve_selected") in asked
    answer = console.post(reverse("admin:dns_weightchange_changelist"), data | CONFIRM | {"reason": ""})
    assert "This field is required" in answer.content.decode()
    console.post(reverse("admin:dns_weightchange_changelist"), data | CONFIRM)
    assert set(LogEntry.objects.values_list("change_message", flat=True)) == {"Approved: seen on the graphs"}
    assert set(WeightChange.objects.values_list("state", flat=True)) == {"wanted"}


def test_a_pin_has_a_reason_and_an_author_and_is_ended_not_edited(console: Client) -> None:
    service = factories.service()
    later = timezone.now() + timedelta(hours=2)
    data = {
        "service": service.pk, "backup_percent": 20, "reason": "maintenance",
        "expires_at_0": f"{later:%Y-%m-%d}", "expires_at_1": f"{later:%H:%M:%S}",
    }  # fmt: skip
    assert console.post(reverse("admin:dns_pin_add"), data).status_code == 302
    pin = Pin.objects.get()
    assert (pin.customer, pin.created_by) == (service.customer, User.objects.get())
    assert console.post(reverse("admin:dns_pin_change", args=[pin.pk]), {"backup_percent": 90}).status_code == 403
    assert act(console, "end_now", pin) == 302
    assert pin.expires_at <= timezone.now()


def test_a_pin_in_the_past_is_refused(console: Client) -> None:
    data = {
        "service": factories.service().pk, "backup_percent": 20, "reason": "late",
        "expires_at_0": "2020-01-01", "expires_at_1": "00:00:00",
    }  # fmt: skip
    assert "Choose a time to come" in console.post(reverse("admin:dns_pin_add"), data).content.decode()


def test_a_freeze_is_lifted(console: Client) -> None:
    service = factories.service()
    console.post(reverse("admin:dns_freeze_add"), {"service": service.pk, "customer": "", "reason": "their migration"})
    freeze = Freeze.objects.get()
    assert (freeze.customer, freeze.created_by) == (service.customer, User.objects.get())
    assert act(console, "lift", freeze) == 302
    assert freeze.lifted_at is not None
    assert act(console, "lift", freeze) == 403


def test_a_freeze_of_everything_needs_only_a_reason(console: Client) -> None:
    console.post(reverse("admin:dns_freeze_add"), {"service": "", "customer": "", "reason": "we are blind"})
    assert str(Freeze.objects.get()) == "freeze of everything"
    assert "everything" in console.get("/admin/dashboard/live").content.decode()
