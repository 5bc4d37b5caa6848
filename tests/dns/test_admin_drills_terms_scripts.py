"""Drills, steering terms and break-glass scripts in the console."""

from __future__ import annotations

import base64
import html
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from dns import breakglass
from dns.models import BreakGlassScript, Drill, SteeringTerms
from tests import factories
from tests.tranche_site import console_rows as rows

pytestmark = pytest.mark.django_db

CONFIRM = {"_form_submitted": "True", "reason": "seen on the graphs"}


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


def post(console: Client, model: str, data: dict[str, Any]) -> str:
    return html.unescape(console.post(reverse(f"admin:dns_{model}_add"), data, follow=True).content.decode())


# --- drills ---------------------------------------------------------------------------------------------------------


def drill(service: int, **kw: Any) -> dict[str, Any]:
    return {
        "service": service, "percent": "3", "minutes": "20", "scheduled_at_0": "2026-03-01", "scheduled_at_1": "10:00:00",
        "reason": "a new backup",
    } | kw  # fmt: skip


def test_a_drill_is_asked_for_by_hand_and_called_off(console: Client) -> None:
    service = rows.protected_domain().service
    post(console, "drill", drill(service.pk))
    made = Drill.objects.get()
    assert (made.customer, made.percent, made.state) == (service.customer, 3, "scheduled")
    assert made.created_by == User.objects.get()
    assert "This service has a drill that is not over." in post(console, "drill", drill(service.pk))
    url = reverse("admin:dns_drill_cancel", args=[made.pk])
    assert console.post(url, CONFIRM).status_code == 302
    made.refresh_from_db()
    assert (made.state, made.outcome) == ("cancelled", "cancelled by operator")
    assert console.post(url, CONFIRM).status_code == 403
    change = reverse("admin:dns_drill_change", args=[made.pk])
    assert console.post(change, drill(service.pk)).status_code == 403


@pytest.mark.parametrize("wrong", [{"percent": "6"}, {"percent": "0"}, {"minutes": "0"}, {"scheduled_at_0": "soon"}])
def test_a_drill_is_small_and_short(console: Client, wrong: dict[str, str]) -> None:
    post(console, "drill", drill(rows.protected_domain().service.pk, **wrong))
    assert not Drill.objects.exists()


def test_what_is_not_steered_is_not_drilled(console: Client) -> None:
    assert "None of its domains is steered" in post(console, "drill", drill(factories.service().pk))


# --- terms ----------------------------------------------------------------------------------------------------------


def terms(service: int, **kw: Any) -> dict[str, Any]:
    return {
        "service": service, "failback": "automatic", "spread": "rank", "standing_percent": "0", "window_start": "",
        "window_seconds": "", "time_zone": "UTC", "drill_every_days": "0", "drill_percent": "2", "drill_minutes": "15",
        "parity_paths": "",
    } | kw  # fmt: skip


def test_terms_are_kept_as_they_are_written(console: Client) -> None:
    service = factories.service()
    post(
        console, "steeringterms",
        terms(
            service.pk, failback="window", window_start="02:00", window_seconds="7200", time_zone="Europe/Berlin",
            window_weekdays=["mon", "tue"], parity_paths="/\n/robots.txt\n\n /a \n/b\n/c", standing_percent="3",
        ),
    )  # fmt: skip
    made = SteeringTerms.objects.get()
    assert (made.customer, made.window_weekdays) == (service.customer, ["mon", "tue"])
    assert made.parity_paths == ["/", "/robots.txt", "/a", "/b", "/c"]
    page = html.unescape(console.get(reverse("admin:dns_steeringterms_change", args=[made.pk])).content.decode())
    assert "/\n/robots.txt\n/a\n/b\n/c" in page
    listed = console.get(reverse("admin:dns_steeringterms_changelist")).content.decode()
    assert "in its window" in listed and "by rank" in listed and "by hand" in listed


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"failback": "window"}, "Failback in its window needs a window."),
        ({"window_start": "02:00"}, "A window has a start and a length"),
        ({"standing_percent": "6"}, "less than or equal to 5"),
        ({"parity_paths": "/a\n/b"}, "Five paths at least"),
        ({"parity_paths": "a\nb\nc\nd\ne"}, "A list of paths that begin with a slash."),
        ({"time_zone": "Mars/Olympus"}, "Mars/Olympus"),
    ],
)  # fmt: skip
def test_terms_of_no_sense_are_refused_at_their_field(console: Client, wrong: dict[str, str], said: str) -> None:
    assert said in post(console, "steeringterms", terms(factories.service().pk, **wrong))
    assert not SteeringTerms.objects.exists()


def test_a_service_has_one_row_of_terms(console: Client) -> None:
    service = factories.service()
    SteeringTerms.objects.create(customer=service.customer, service=service)
    assert "already exists" in post(console, "steeringterms", terms(service.pk))


# --- break-glass ----------------------------------------------------------------------------------------------------


def test_a_script_is_shown_and_downloaded_with_its_signature(console: Client) -> None:
    record_set = rows.protected_domain().record_set
    text = "#!/usr/bin/env bash\n# it’s that\nexit 0\n"
    script = BreakGlassScript.objects.create(
        customer=record_set.customer, record_set=record_set, direction="shift", text=text,
        signature=breakglass.sign(text),
    )  # fmt: skip
    page = html.unescape(console.get(reverse("admin:dns_breakglassscript_change", args=[script.pk])).content.decode())
    assert "it’s that" in page and script.signature in page and "BEGIN PUBLIC KEY" in page

    def fetched(view: str) -> tuple[bytes, str]:
        answer = console.get(reverse(f"admin:dns_breakglassscript_{view}", args=[script.pk]))
        return answer.content, answer.headers["Content-Disposition"]

    body, name = fetched("download")
    assert name == f'attachment; filename="shift-{record_set.domain.hostname}.sh"'
    signature, _ = fetched("download_signature")
    key, _ = fetched("download_key")
    assert signature == base64.b64decode(script.signature)
    load_pem_public_key(key).verify(signature, body)  # type: ignore[union-attr,call-arg]
    assert body.decode() == text


def test_a_script_that_can_not_be_made_says_so(console: Client) -> None:
    record_set = rows.protected_domain().record_set
    script = BreakGlassScript.objects.create(customer=record_set.customer, record_set=record_set, direction="shift")
    page = console.get(reverse("admin:dns_breakglassscript_change", args=[script.pk])).content.decode()
    assert "can’t be made" in page
    assert console.get(reverse("admin:dns_breakglassscript_download", args=[script.pk])).status_code == 403
