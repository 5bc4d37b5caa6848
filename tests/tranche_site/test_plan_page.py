"""The page of plans: every refusal by its name, nothing written by looking, any service found, and an operator's hand."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from dns import outbox, steering
from dns.models import Freeze, Pin, RecordSet, SteeringTerms, WeightChange
from services.models import Service, Target
from storms.models import CdnIncident
from tests import factories
from tests.dns.test_steering import newest, steered_service, storm_over, verdict
from tests.tranche_site import console_rows as rows
from tranche_site.console import plan_page

pytestmark = pytest.mark.django_db

PLAN = "/admin/plan"
CONFIRM = {"_form_submitted": "True"}


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


def steered(**kw: Any) -> Service:
    return steered_service(vendor="log", **kw)


def tick() -> None:
    now = timezone.now()
    steering.steer(now)
    outbox.submit(now)


def html_of(console: Client, query: str = "") -> str:
    answer = console.get(PLAN + query)
    assert answer.status_code == 200
    return answer.content.decode()


def text_of(console: Client, query: str = "") -> str:
    """Without the menu, whose last entry is the account."""
    page = html_of(console, query).partition("Audit seals")[2]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


# --- refusals -------------------------------------------------------------------------------------------------------


def away(service: Service, reversals: int = 0) -> None:
    """All of it is on the backup since an hour, and the primary is up again."""
    primary, backup = Target.objects.filter(domain__service=service).order_by("-role")
    record_set = RecordSet.objects.get()
    home, gone = {str(primary.pk): 100, str(backup.pk): 0}, {str(primary.pk): 0, str(backup.pk): 100}
    for n in range(2 * reversals + 1):
        is_back = bool(n % 2)
        rows.weight_change(
            record_set, weights=home if is_back else gone, previous_weights=gone if is_back else home,
            is_reversal=is_back, observed_at=timezone.now() - timedelta(minutes=10),
        )  # fmt: skip
    RecordSet.objects.update(generation=2 * reversals + 1)


def too_many(service: Service, settings: Any) -> None:
    settings.BLAST_RADIUS_FLOOR, settings.BLAST_RADIUS_SHARE = 0, 0.0
    storm_over(service)


def to_and_fro(service: Service, settings: Any) -> None:
    away(service, reversals=2)


def at_the_apex(service: Service, settings: Any) -> None:
    RecordSet.objects.update(zone=service.domains.get().hostname)


def not_proven(service: Service, settings: Any) -> None:
    service.domains.update(verified_at=None)


def edited_by_hand(service: Service, settings: Any) -> None:
    RecordSet.objects.update(is_held=True)


def not_armed(service: Service, settings: Any) -> None:
    RecordSet.objects.update(armed_at=None, unarmed_reason="delegation: the world finds it elsewhere")


def refused_probes(service: Service, settings: Any) -> None:
    primary = Target.objects.get(domain__service=service, role="primary")
    factories.finding(service=service, kind="blocked", target=primary)
    factories.incident(cdn=primary.cdn, kind=CdnIncident.Kind.BLOCKED)


def home_by_approval(service: Service, settings: Any) -> None:
    SteeringTerms.objects.create(customer=service.customer, service=service, failback="approval")
    away(service)


REFUSALS: list[tuple[Callable[[Service, Any], None], str, str]] = [
    (too_many, "blast radius", "1 domains would have moved in ten minutes; at most 0 do by themselves"),
    (to_and_fro, "reversals", "2 reversals within the last hour"),
    (at_the_apex, "apex", "is its zone's apex, where no CNAME may stand"),
    (not_proven, "unproven domain", "is not verified"),
    (edited_by_hand, "foreign record", "somebody edits its records by hand"),
    (not_armed, "not armed", "is not armed: delegation: the world finds it elsewhere"),
    (refused_probes, "blocked", "look whether visitors are refused too"),
    (home_by_approval, "failback approval", "this service comes home when a person approves"),
]


@pytest.mark.parametrize(("situation", "name", "text"), REFUSALS, ids=[name for _, name, _ in REFUSALS])
@pytest.mark.parametrize("is_stored", [False, True], ids=["before the tick", "held"])
def test_every_refusal_is_told_once_by_its_name(
    console: Client, settings: Any, situation: Callable[[Service, Any], None], name: str, text: str, is_stored: bool
) -> None:
    service = steered()
    situation(service, settings)
    if is_stored:
        steering.steer(timezone.now())
        assert newest(service).state == "held"
    page = html_of(console)
    pills = re.findall(r'tr-pill tr-refusal">([^<]+)<', page)
    assert pills == [name]
    said = text_of(console)
    assert text in said and "goes by itself" not in said
    assert ("Held 1" in said) is is_stored and ("Refused 1" in said) is not is_stored
    assert ("/approve/?next=" in page) is is_stored


# --- what it says ---------------------------------------------------------------------------------------------------


def test_with_everything_as_it_should_be_it_says_so(console: Client) -> None:
    steered()
    tick()
    RecordSet.objects.update(is_restless=False)
    assert "Every service has what its plan wants, at home." in text_of(console)


def test_a_move_that_needs_nobody_is_told_lane_by_lane(console: Client) -> None:
    service = steered()
    tick()
    storm = storm_over(service)
    said = text_of(console)
    for part in (
        service.name, str(service.customer), f"storm {storm.pk}: 100 % to backup-1", "goes by itself", "100 → 0 %",
        "0 → 100 %", "DOWN", "100% of its samples are bad", "1 of 1 domain armed", "Moves 1",
    ):  # fmt: skip
        assert part in said
    tick()
    said = text_of(console)
    assert "Away from home 1" in said and "100 % is on the backup" in said


def test_why_a_backup_is_not_fit_is_told(console: Client) -> None:
    service = steered()
    tick()
    storm_over(service)
    backup = Target.objects.get(domain__service=service, role="backup")
    verdict(backup, "DEGRADED", availability=0.9)
    said = text_of(console, f"?q={service.name}")
    assert f"{backup.address} is DEGRADED" in said
    assert "no backup is fit" in said


def test_a_frozen_service_and_a_pinned_one_are_told(console: Client) -> None:
    frozen, pinned = steered(), steered()
    tick()
    freeze = Freeze.objects.create(service=frozen, customer=frozen.customer, reason="their migration")
    pin = Pin.objects.create(
        customer=pinned.customer, service=pinned, backup_percent=30, reason="a trial",
        expires_at=timezone.now() + timedelta(hours=1),
    )  # fmt: skip
    Freeze.objects.create(reason="we are blind", customer=factories.customer(name="Elsewhere Ltd"))
    page, said = html_of(console), text_of(console)
    assert "frozen: their migration" in said and "pinned to 30 % until" in said and "pinned: backup 30 %" in said
    assert "Frozen: Elsewhere Ltd." in said
    assert reverse("admin:dns_freeze_lift", args=[freeze.pk]) in page
    assert reverse("admin:dns_pin_end_now", args=[pin.pk]) in page
    lift = reverse("admin:dns_freeze_lift", args=[freeze.pk]) + "?next=/admin/plan"
    assert console.post(lift, CONFIRM | {"reason": "over"}).headers["Location"] == PLAN


def test_domains_that_are_not_armed_are_named_by_reason(console: Client) -> None:
    service = steered(domains=5)
    RecordSet.objects.update(armed_at=None, unarmed_reason="zone: no such zone")
    first = RecordSet.objects.order_by("pk").first()
    assert first
    RecordSet.objects.filter(pk=first.pk).update(unarmed_reason="backup: there is none")
    said = text_of(console)
    names = [f"www{n}.{service.pk}.shop.test" for n in range(5)]
    assert f"0 of 5 domains armed {names[0]} : backup: there is none" in said
    assert f"{names[1]} , {names[2]} , {names[3]} and 1 more: zone: no such zone" in said


def test_what_is_on_its_way_and_what_failed_are_told(console: Client) -> None:
    going, failed = steered(), steered()
    tick()
    storm_over(going), storm_over(failed)
    steering.steer(timezone.now())
    moved = WeightChange.objects.filter(generation=2)
    moved.filter(service=going).update(state="unknown", error="it never answered", attempts=3)
    moved.filter(service=failed).update(
        state="failed",
        error="AccessDenied",
        trouble="access_denied",
        next_attempt_at=timezone.now() + timedelta(hours=1),
    )
    said = text_of(console)
    assert "Under way 1" in said and "unknown" in said and "3 attempts" in said and "it never answered" in said
    assert "Failed 1" in said and "AccessDenied" in said
    assert said.count("100 → 0 %") == 2, "what DNS shows, and what it should"


def test_the_most_urgent_come_first_and_one_state_can_be_chosen(console: Client) -> None:
    calm, moving, held = steered(name="aaa"), steered(name="bbb"), steered(name="ccc")
    tick()
    RecordSet.objects.filter(domain__service=held).update(armed_at=None, unarmed_reason="zone: gone")
    storm_over(moving), storm_over(held)
    steering.steer(timezone.now(), [held.pk])
    RecordSet.objects.filter(domain__service=calm).update(is_restless=False)
    said = text_of(console)
    assert said.index(held.name) < said.index(moving.name)
    assert calm.name not in said.split()
    only = text_of(console, "?show=held")
    assert "ccc" in only.split() and "bbb" not in only.split()


# --- any service ----------------------------------------------------------------------------------------------------


def test_any_steered_service_is_found_by_name_customer_or_hostname(console: Client) -> None:
    service = steered(name="findable", customer=factories.customer(name="Blue Whale Inc"))
    other = steered(name="other")
    factories.domain(service=factories.service(name="findable too, yet not steered"))
    tick()
    for query in ("findable", "blue whale", f"www0.{service.pk}.shop"):
        said = text_of(console, f"?q={query}")
        assert "1 service" in said and "findable" in said and "other" not in said.split()
        assert "no storm: the primary has it all" in said
    assert "No steered service matches." in text_of(console, "?q=nobody")
    assert {"findable", other.name} <= set(text_of(console, "?show=all").split())


def test_many_services_come_page_by_page(console: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_page, "PAGE", 2)
    for n in range(5):
        steered(name=f"number-{n}")
    first, last = text_of(console, "?show=all"), text_of(console, "?show=all&page=3")
    assert "5 services, page 1 of 3" in first and "number-1" in first and "number-2" not in first
    assert "number-4" in last and "number-3" not in last
    assert "page 3 of 3" in text_of(console, "?q=number&page=99")
    assert html_of(console, "?q=number").count("q=number&amp;page=2") == 1


def test_what_is_beyond_one_look_is_said(console: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_page, "MOST", 2)
    for _ in range(5):
        steered()
    assert "3 more services may want a move now" in text_of(console)


@pytest.mark.parametrize("query", ["?page=0", "?page=x&q=a", "?show=nothing", "?q=%00", "?q=" + "a" * 500, "?q=%25_'"])
def test_questions_of_no_sense_are_no_errors(console: Client, query: str) -> None:
    steered()
    html_of(console, query)


def test_looking_writes_nothing_and_costs_the_same_for_many(console: Client, settings: Any) -> None:
    settings.BLAST_RADIUS_FLOOR, settings.BLAST_RADIUS_SHARE = 0, 0.0

    def questions() -> list[str]:
        with CaptureQueriesContext(connection) as captured:
            html_of(console)
        return [query["sql"] for query in captured]

    storm_over(steered())
    steering.steer(timezone.now())
    questions()  # the first page of a session notes when it began
    one = questions()
    for n in range(6):
        storm_over(steered(domains=2))
        if n % 2:
            steering.steer(timezone.now())
    many = questions()
    assert len(many) == len(one) <= 32
    assert [sql for sql in many if re.match(r"(INSERT|UPDATE|DELETE)|.*FOR UPDATE", sql)] == []


# --- who may --------------------------------------------------------------------------------------------------------


def clerk(*permissions: str) -> Client:
    user = User.objects.create_user("clerk", password="a long enough word", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def test_without_the_permission_there_is_no_page(db: None) -> None:
    service = steered()
    client = clerk("view_recordset")
    assert client.get(PLAN).status_code == 403
    assert client.post(f"{PLAN}/{service.pk}/pin", CONFIRM).status_code == 403
    assert client.post(f"{PLAN}/{service.pk}/freeze", CONFIRM | {"reason": "no"}).status_code == 403
    assert Client().get(PLAN).status_code == 302
    assert not Freeze.objects.exists()


def test_who_may_only_look_is_offered_nothing(db: None) -> None:
    service = steered()
    service.domains.update(verified_at=None)
    steering.steer(timezone.now())
    page = html_of(clerk("view_weightchange"))
    assert "unproven domain" in page
    for offer in ("approve", "reject", "/pin", "/freeze"):
        assert f"{offer}?next" not in page and f"{offer}/?next" not in page


# --- a person's hand ------------------------------------------------------------------------------------------------


def test_a_held_plan_is_approved_from_here_and_leads_back(console: Client) -> None:
    service = steered()
    service.domains.update(verified_at=None)
    steering.steer(timezone.now())
    held = newest(service)
    [link] = re.findall(r'href="([^"]+/approve/\?next=[^"]+)"', html_of(console, "?show=held"))
    assert console.get(link).status_code == 200
    answer = console.post(link, CONFIRM | {"reason": "seen"})
    assert answer.headers["Location"] == "/admin/plan?show=held"
    held.refresh_from_db()
    assert held.state == "wanted"


def test_nobody_is_led_elsewhere(console: Client) -> None:
    service = steered()
    service.domains.update(verified_at=None)
    steering.steer(timezone.now())
    held = newest(service)
    url = reverse("admin:dns_weightchange_reject", args=[held.pk])
    answer = console.post(f"{url}?next=https://evil.example/", CONFIRM | {"reason": "no"})
    assert answer.headers["Location"] == reverse("admin:dns_weightchange_change", args=[held.pk])


def test_a_service_is_pinned_for_some_hours(console: Client) -> None:
    service = steered()
    url = f"{PLAN}/{service.pk}/pin?next=/admin/plan%3Fq%3Dx"
    assert "Pin " in console.get(url).content.decode()
    assert not Pin.objects.exists()
    for wrong in ({"percent": "101", "hours": "2", "reason": "x"}, {"percent": "10", "hours": "0", "reason": "x"}, {}):
        assert console.post(url, CONFIRM | wrong).status_code == 200
    assert not Pin.objects.exists()
    answer = console.post(url, CONFIRM | {"percent": "30", "hours": "3", "reason": "their trial"})
    assert answer.headers["Location"] == "/admin/plan?q=x"
    pin = Pin.objects.get()
    assert (pin.customer, pin.backup_percent, pin.reason) == (service.customer, 30, "their trial")
    assert pin.created_by == User.objects.get()
    assert timedelta(hours=2.9) < pin.expires_at - timezone.now() < timedelta(hours=3)
    assert LogEntry.objects.get().object_id == str(pin.pk)


def test_a_service_is_frozen_with_a_reason(console: Client) -> None:
    service = steered()
    tick()
    url = f"{PLAN}/{service.pk}/freeze"
    assert console.post(url, CONFIRM).status_code == 200
    assert not Freeze.objects.exists()
    assert console.post(url, CONFIRM | {"reason": "their migration"}).headers["Location"] == PLAN
    freeze = Freeze.objects.get()
    assert (freeze.service, freeze.customer, freeze.created_by) == (service, service.customer, User.objects.get())
    storm_over(service)
    assert "Frozen 1" in text_of(console)
    assert console.post(f"{PLAN}/999999/freeze", CONFIRM | {"reason": "x"}).status_code == 404


def test_it_is_in_the_menu(console: Client) -> None:
    assert f'href="{PLAN}"' in console.get("/admin/").content.decode()
