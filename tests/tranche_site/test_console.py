"""Every page of the console, generated from the registry, and the operations room."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from dns import accounts
from dns.models import DnsAccount, RecordSet
from dns.providers.contract import ProviderError, Trouble
from services.models import Service, VantagePoint
from storms.models import PathVerdict
from tests import factories
from tests.tranche_site import console_rows as rows
from tranche_site.console import menu
from tranche_site.floor.console_admin import ModelAdmin, ReadOnly

if TYPE_CHECKING:
    from django.db.models import Model

pytestmark = pytest.mark.django_db

REGISTERED = sorted(admin.site._registry, key=lambda model: model._meta.label)
OURS = {"customers", "services", "storms", "dns", "billing"}
LIVE = "/admin/dashboard/live"


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


def url(model: type[Model], page: str, *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def label(model: type[Model]) -> str:
    return model._meta.label


def test_every_model_is_in_the_console_but_samples_and_entries() -> None:
    from django.apps import apps

    missing = {m._meta.label for app in OURS for m in apps.get_app_config(app).get_models()} - {
        label(model) for model in REGISTERED
    }
    # Their keys are composite: Django's admin can't show them.
    samples = {"services.ProbeSample", "services.SampleMinute", "services.SampleHour", "storms.StormSample"}
    # Lines of a timeline say nothing by themselves: they are read on their storm's, incident's and delivery's page.
    lines = {"storms.StormEntry", "storms.IncidentEntry", "customers.DeliveryAttempt"}
    assert missing == samples | lines | {"customers.IdempotentRequest"}  # for a day, and for machines


def test_every_admin_has_our_base_class() -> None:
    assert [label(model) for model in REGISTERED if not isinstance(admin.site._registry[model], ModelAdmin)] == []


@pytest.mark.parametrize("model", REGISTERED, ids=label)
def test_list_add_and_change_answer(model: type[Model], console: Client) -> None:
    rows.everything()
    user = User.objects.get()
    LogEntry.objects.create(user=user, object_repr="it", action_flag=2, change_message="Changed.")
    row = model._default_manager.all()[:1].get()
    assert console.get(url(model, "changelist")).status_code == 200
    assert console.get(url(model, "changelist") + "?q=a").status_code == 200
    assert console.get(url(model, "change", row.pk)).status_code == 200
    may_add = admin.site._registry[model].has_add_permission(_request_of(user))
    assert console.get(url(model, "add")).status_code == (200 if may_add else 403)


@pytest.mark.parametrize(
    "model", [m for m in REGISTERED if isinstance(admin.site._registry[m], ReadOnly)], ids=label
)  # fmt: skip
def test_what_machines_write_nobody_else_does(model: type[Model], console: Client) -> None:
    rows.everything()
    row = model._default_manager.first()
    if row is not None:
        assert console.post(url(model, "change", row.pk), {}).status_code == 403
        assert console.post(url(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    assert console.post(url(model, "add"), {}).status_code == 403


@pytest.mark.parametrize("model", [m for m in REGISTERED if m._meta.app_label in OURS], ids=label)
def test_an_empty_list_says_what_to_do(model: type[Model], console: Client) -> None:
    hint = admin.site._registry[model].empty_hint  # type: ignore[attr-defined]
    assert hint
    assert hint in console.get(url(model, "changelist")).content.decode()


@pytest.mark.parametrize("model", [m for m in REGISTERED if m._meta.app_label in OURS], ids=label)
def test_a_list_asks_no_more_for_more_rows(
    model: type[Model], console: Client, django_assert_max_num_queries: Any
) -> None:
    rows.everything()
    for _ in range(3):
        domain = rows.protected_domain()
        rows.weight_change(domain.record_set)
        factories.policy(service=domain.service)
        factories.storm(service=domain.service, incident=factories.incident())
    console.get("/admin/")  # the first page of a session notes when it began
    with django_assert_max_num_queries(14):
        console.get(url(model, "changelist"))


def _request_of(user: User) -> Any:
    from django.test import RequestFactory

    request = RequestFactory().get("/")
    request.user = user
    return request


# --- the operations room ------------------------------------------------------------------------------------------------------


def text_of(console: Client, path: str = LIVE) -> str:
    html = console.get(path).content.decode()
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def a_seeing_vantage_point() -> VantagePoint:
    return factories.vantage_point(last_probe_at=timezone.now())


def test_with_nothing_in_place_it_says_how_to_begin(console: Client) -> None:
    assert "Nothing is protected yet." in text_of(console)


def test_calm_says_so(console: Client) -> None:
    rows.protected_domain()
    a_seeing_vantage_point()
    for n in (1, 2):
        factories.target("canary", hostname=f"canary-{n}.test", network=f"AS{n}")
    factories.target("canary", hostname="canary-3.test", network="AS2")
    assert "Canaries stand on 2 of the 3 networks" in text_of(console)
    factories.target("canary", hostname="canary-4.test", network="AS4")
    text = text_of(console)
    assert "No alarm" in text and "1 service had no good drill in 30 days" in text
    rows.good_drill(Service.objects.get())
    text = text_of(console)
    assert "Nothing is wrong." in text
    assert "2 paths UP" in text
    assert "No storm." in text


def test_storm_verdicts_and_plans_are_told(console: Client) -> None:
    a_seeing_vantage_point()
    storm = rows.everything()
    PathVerdict.objects.filter(target__role="primary").update(verdict="DOWN", availability=0.25)
    text = text_of(console)
    assert "Nothing is wrong" not in text
    for said in (
        "1 storm is raging", "1 path is DOWN", "1 plan waits for an operator", "1 finding is open", "1 freeze is in force",
        storm.reason, "25.0% good", "certificate 40 d", "100 → 0 %", "0 → 100 %", "blast radius",
    ):  # fmt: skip
        assert said in text


def test_open_incidents_of_cdns_come_first(console: Client) -> None:
    now = timezone.now()
    factories.incident(cdn=factories.cdn(name="Nimbus"))
    edgeline = factories.cdn(name="Edgeline")
    incident = factories.incident(cdn=edgeline, confirmed_at=now, witnesses=["reference site ref.example is DOWN"])
    storm = factories.storm(cdn=edgeline, incident=incident)
    factories.incident(cdn=factories.cdn(name="Long ago"), started_at=now, ended_at=now)
    text = text_of(console)
    said = [
        "Something is wrong", "2 CDN incidents are open", "1 storm is raging", "Edgeline", "3 of 12 services, eu na",
        "reference site ref.example is DOWN", "confirmed", "Nimbus", "No witness beyond", "suspected", "Open storms",
        storm.reason,
    ]  # fmt: skip
    assert [text.index(part) for part in said] == sorted(text.index(part) for part in said)
    assert "Long ago" not in text
    assert reverse("admin:storms_cdnincident_change", args=[incident.pk]) in console.get(LIVE).content.decode()


def test_an_old_verdict_is_unknown(console: Client) -> None:
    rows.protected_domain()
    a_seeing_vantage_point()
    PathVerdict.objects.update(evaluated_at=timezone.now() - timedelta(minutes=10))
    text = text_of(console)
    assert "2 paths are UNKNOWN" in text
    assert "Nothing is wrong" not in text


def test_what_is_the_matter_with_dns_is_counted(console: Client) -> None:
    a_seeing_vantage_point()
    for n in range(12):
        domain = rows.protected_domain()
        rows.good_drill(domain.service, ended_at=timezone.now() - timedelta(days=n * 4))
        factories.policy(service=domain.service, mode="armed" if n else "watch_only")
    RecordSet.objects.filter(pk__in=RecordSet.objects.order_by("pk").values("pk")[:11]).update(
        is_held=True, armed_at=None, unarmed_reason="zone: no such zone"
    )
    account = DnsAccount.objects.first()
    assert account
    accounts.note_trouble(account, ProviderError("AccessDenied", permanent=True, trouble=Trouble.ACCESS))
    text = text_of(console)
    for said in (
        "1 DNS account is in trouble", "11 record sets are left alone: people edit them",
        "10 domains of armed policies are not armed", "4 services had no good drill in 30 days",
    ):  # fmt: skip
        assert said in text
    RecordSet.objects.update(released_at=timezone.now())
    text = text_of(console)
    for gone in ("left alone", "not armed", "no good drill"):
        assert gone not in text


@pytest.mark.parametrize(
    "fields",
    [{"last_probe_at": None}, {"blind_since": timezone.now(), "blind_reason": "canaries fail"}],
    ids=["silent", "blind"],
)  # fmt: skip
def test_a_vantage_point_in_the_dark_is_told(console: Client, fields: dict[str, Any]) -> None:
    rows.protected_domain()
    factories.vantage_point(**{"last_probe_at": timezone.now()} | fields)
    assert "1 vantage point is blind or silent" in text_of(console)


def test_seconds_from_wanted_to_observed(console: Client) -> None:
    rows.weight_change(rows.protected_domain().record_set)
    assert "12.5 s to observed" in text_of(console)


def test_queries_are_bounded_whatever_there_is(console: Client, django_assert_max_num_queries: Any) -> None:
    rows.everything()
    for _ in range(25):
        domain = rows.protected_domain()
        rows.weight_change(domain.record_set)
        factories.storm(service=domain.service, incident=factories.incident())
    console.get(LIVE)  # the first page of a session notes when it began
    for path in (LIVE, "/admin/"):
        with django_assert_max_num_queries(10):
            html = console.get(path).content.decode()
        assert html.count('class="tr-service"') == 10


def test_every_link_of_the_room_leads_somewhere(console: Client) -> None:
    rows.everything()
    html = console.get(LIVE).content.decode()
    links = {link.replace("&amp;", "&") for link in re.findall(r'href="([^"]+)"', html)}
    assert len(links) > 15
    assert {link: code for link in links if (code := console.get(link).status_code) != 200} == {}


def test_no_page_asks_another_host(console: Client) -> None:
    rows.everything()
    invoice_page = reverse("admin:billing_invoice_document", args=[_first("billing", "Invoice").pk])
    for path in ("/admin/", LIVE, invoice_page, reverse("admin:services_service_changelist")):
        html = console.get(path).content.decode()
        assert re.findall(r'(?:src|href|action|hx-get)="(?:https?:)?//[^"]*', html) == []


def _first(app: str, name: str) -> Any:
    from django.apps import apps

    return apps.get_model(app, name)._default_manager.first()


def test_outsiders_see_nothing(console: Client) -> None:
    rows.everything()
    answer = Client().get(LIVE)
    assert answer.status_code == 401
    assert answer.headers["HX-Refresh"] == "true"  # the browser comes to the log-in page
    assert answer.content == b""
    member = Client()
    member.force_login(User.objects.create_user("member", password="a long enough word"))
    assert member.get(LIVE).status_code == 401
    assert member.get("/admin/").status_code == 302


def test_staff_sees_only_what_it_may(console: Client) -> None:
    rows.everything()
    clerk = User.objects.create_user("clerk", password="a long enough word", is_staff=True)
    clerk.user_permissions.add(Permission.objects.get(codename="view_invoice"))
    client = Client()
    client.force_login(clerk)
    text = text_of(client)
    assert "1 draft is past its grace period" in text
    assert "Open storms" not in text
    assert "storm is raging" not in text
    assert "CDN incident" not in text
    assert client.get(reverse("admin:storms_stormevent_changelist")).status_code == 403


def test_log_in_leads_to_the_room() -> None:
    rows.operator()
    client = Client()
    answer = client.post("/admin/login/", {"username": "operator", "password": "a long enough word"})
    assert answer.headers["Location"] == "/admin/"
    assert "tr-head" in client.get("/admin/").content.decode()


# --- menu and search ------------------------------------------------------------------------------------------------


def test_menu_is_in_the_order_of_the_apps(console: Client) -> None:
    titles = [group.get("title") for group in menu.navigation(_request_of(User.objects.get()))]
    assert titles == [None, "Customers", "Services", "Storms", "DNS", "Billing", "System"]
    page = console.get(reverse("admin:exposure")).content.decode()
    assert page.count("/admin/django_celery_beat/periodictask/") == 1


def test_search_finds_a_few_rows_by_name(console: Client) -> None:
    for number in range(20):
        factories.customer(name=f"Findable {number}")
    html = console.get("/admin/search/?extended=1&s=findable").content.decode()
    assert "Found 8 results" in html


def test_search_finds_incidents_by_their_cdn(console: Client) -> None:
    incident = factories.incident(cdn=factories.cdn(name="Edgeline"))
    html = console.get("/admin/search/?extended=1&s=edgeline").content.decode()
    assert reverse("admin:storms_cdnincident_change", args=[incident.pk]) in html
