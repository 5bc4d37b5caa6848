from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from storms.models import StormPolicy
from tests import factories
from tests.tranche_site import console_rows as rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


def terms(**kw: Any) -> dict[str, Any]:
    defaults = {term: getattr(StormPolicy(), term) for term in StormPolicy.TERMS}
    return {**defaults, **kw}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("threshold_avail", "1.5", "less than or equal to 1"),
        ("threshold_avail", "0", "greater than or equal to 0.0001"),
        ("window_seconds", "0", "greater than or equal to 1"),
        ("window_seconds", "3601", "less than or equal to 3600"),
        ("max_coverage_factor", "-0.5", "greater than or equal to 0"),
        ("holdoff_max_seconds", "1", "holdoff_max_seconds must not be below holdoff_seconds."),
        ("min_vantages", "0", "greater than or equal to 1"),
        ("kind", "manual", "not one of the available choices"),
    ],
)
def test_what_is_wrong_stands_at_its_field(console: Client, field: str, value: str, said: str) -> None:
    data = terms(service=factories.service().pk, **{field: value})
    answer = console.post(reverse("admin:storms_stormpolicy_add"), data)
    errors = answer.context["adminform"].form.errors
    assert set(errors) == {field}
    assert said in errors[field][0]


def test_a_second_policy_of_a_kind_is_refused_at_the_kind(console: Client) -> None:
    policy = factories.policy()
    answer = console.post(reverse("admin:storms_stormpolicy_add"), terms(service=policy.service.pk))
    assert answer.context["adminform"].form.errors == {"kind": ["This service has a policy of this kind."]}


def test_the_page_tells_what_each_version_changed(console: Client) -> None:
    policy = factories.policy()
    page = reverse("admin:storms_stormpolicy_change", args=[policy.pk])
    management = {"versions-TOTAL_FORMS": 0, "versions-INITIAL_FORMS": 0}
    assert console.post(page, terms(window_seconds=120) | management).status_code == 302
    policy.refresh_from_db()
    assert (policy.version, policy.window_seconds) == (2, 120)
    assert "window_seconds 60 → 120" in console.get(page).content.decode()


def test_a_deleted_policy_makes_room_for_another(console: Client) -> None:
    policy = factories.policy()
    console.post(reverse("admin:storms_stormpolicy_delete_softly", args=[policy.pk]), {"_form_submitted": "True"})
    console.post(reverse("admin:storms_stormpolicy_add"), terms(service=policy.service.pk))
    assert StormPolicy.objects.count() == 2
    assert StormPolicy.objects.live().count() == 1


@pytest.mark.parametrize(("state", "expected"), [("open", 2), ("raging", 1), ("ended", 1), ("closed", 1), ("", 3)])
def test_storms_by_state(console: Client, state: str, expected: int) -> None:
    now = timezone.now()
    factories.storm()
    factories.storm(started_at=now, ended_at=now)
    factories.storm(started_at=now, ended_at=now, closed_at=now)
    url = reverse("admin:storms_stormevent_changelist") + (f"?state={state}" if state else "")
    assert console.get(url).content.decode().count("field-state_label") == expected
