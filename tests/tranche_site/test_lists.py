"""Lists of the console: taken along as CSV, and their filters kept under a name."""

from __future__ import annotations

import csv
import io

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from services.models import Service
from tests import factories
from tests.tranche_site import console_rows as rows
from tranche_site.models import SavedView

pytestmark = pytest.mark.django_db

SERVICES = "/admin/services/service/"
MODELS = sorted(admin.site._registry, key=lambda model: model._meta.label)


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


def csv_of(client: Client, url: str) -> list[list[str]]:
    answer = client.get(url)
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    return list(csv.reader(io.StringIO(b"".join(answer.streaming_content).decode())))


# --- CSV ------------------------------------------------------------------------------------------------------------


def test_the_file_has_the_columns_and_the_rows_that_the_list_shows(console: Client) -> None:
    acme = factories.customer(name="Acme")
    factories.service(customer=acme, name="shop", interval_seconds=20)
    factories.service(customer=acme, name="app")
    factories.service(name="elsewhere")
    head, *found = csv_of(console, f"{SERVICES}?q=acme&_csv=1&o=0")
    assert head == ["id", "name", "customer", "domains", "probe", "every", "created (UTC)"]
    assert [row[1:6] for row in found] == [
        ["app", "Acme", "0", "GET /", "10 s"],
        ["shop", "Acme", "0", "GET /", "20 s"],
    ]
    assert len(csv_of(console, f"{SERVICES}?_csv=1")) == 4


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "＝1+1"])
def test_no_cell_is_a_formula(console: Client, name: str) -> None:
    factories.service(name=name)
    _, row = csv_of(console, f"{SERVICES}?_csv=1")
    assert row[1] == "'" + " ".join(name.split()) if not name.startswith("\t") else row[1].startswith("'")


def test_what_the_list_shows_as_more_than_text_is_text_there(console: Client) -> None:
    domain = rows.protected_domain()
    factories.storm(service=domain.service)
    rows.weight_change(domain.record_set)
    for label in ("storms_stormevent", "dns_weightchange", "services_servicedomain"):
        text = str(csv_of(console, f"{reverse(f'admin:{label}_changelist')}?_csv=1"))
        assert "<" not in text and "&#" not in text and "&quot;" not in text


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label)
def test_every_list_can_be_taken_along(console: Client, model: type[Model]) -> None:
    rows.everything()
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    head, *found = csv_of(console, f"{url}?_csv=1")
    assert head[0] == "id"
    assert all(len(row) == len(head) for row in found)
    assert len(found) == len(list(admin.site._registry[model].get_queryset(console.get(url).wsgi_request)))


def test_it_takes_the_right_to_look_and_no_more_memory_for_more(console: Client) -> None:
    clerk = User.objects.create_user("clerk", password="a long enough word", is_staff=True)
    client = Client()
    client.force_login(clerk)
    assert client.get(f"{SERVICES}?_csv=1").status_code == 403
    customer = factories.customer()
    Service.objects.bulk_create(Service(customer=customer, name=f"s{n}") for n in range(2500))
    answer = console.get(f"{SERVICES}?_csv=1")
    assert answer.streaming
    assert sum(1 for _ in answer.streaming_content) == 2501


# --- kept views -----------------------------------------------------------------------------------------------------


def keep(client: Client, name: str, query: str, **kw: str) -> str:
    data = {"list": "services.service", "name": name, "query": query, **kw}
    return client.post(reverse("admin:saved_view_save"), data, follow=True).content.decode()


def test_a_view_is_kept_shown_and_let_go_of(console: Client) -> None:
    factories.service(name="shop")
    page = keep(console, "Ours", "q=shop&p=3&_csv=1")
    view = SavedView.objects.get()
    assert (view.query, view.list) == ("q=shop", "services.service")
    assert 'href="?q=shop" aria-current="true"' in page and "The view “Ours” is kept." in page
    keep(console, "Ours", "q=app")
    assert SavedView.objects.get().query == "q=app"  # the same name: the newest
    assert "Ours" not in console.get("/admin/services/cdn/").content.decode()
    console.post(reverse("admin:saved_view_drop", args=[view.pk]))
    assert not SavedView.objects.exists()


def test_others_see_what_is_shared_and_drop_nothing(console: Client) -> None:
    keep(console, "Mine", "q=a")
    keep(console, "Everybody's", "q=b", is_shared="1")
    other = Client()
    other.force_login(User.objects.create_superuser("boss", password="a long enough word"))
    page = other.get(SERVICES).content.decode()
    assert "Everybody&#x27;s" in page and "Mine" not in page
    for view in SavedView.objects.all():
        assert other.post(reverse("admin:saved_view_drop", args=[view.pk])).status_code == 404
    assert SavedView.objects.count() == 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"name": "x" * 41}, "at most 40 letters"),
        ({"name": "", "query": "q=a"}, "at most 40 letters"),
        ({"query": ""}, "nothing to keep"),
        ({"query": "p=2"}, "nothing to keep"),
    ],
)
def test_what_can_not_be_kept_is_said(console: Client, data: dict[str, str], said: str) -> None:
    fields = {"list": "services.service", "name": "a view", "query": "q=a"} | data
    assert said in console.post(reverse("admin:saved_view_save"), fields, follow=True).content.decode()
    assert not SavedView.objects.exists()


def test_views_are_of_lists_that_one_may_see(console: Client) -> None:
    assert (
        console.post(reverse("admin:saved_view_save"), {"list": "no.such", "name": "x", "query": "q=a"}).status_code
        == 403
    )
    client = Client()
    client.force_login(User.objects.create_user("clerk", password="a long enough word", is_staff=True))
    assert (
        client.post(
            reverse("admin:saved_view_save"), {"list": "services.service", "name": "x", "query": "q=a"}
        ).status_code
        == 403
    )
    assert client.get(reverse("admin:saved_view_save")).status_code == 405


def test_a_name_is_no_markup(console: Client) -> None:
    page = keep(console, "<img src=x onerror=alert(1)>", 'q="><script>alert(1)</script>')
    assert "<img src=x" not in page and "<script>alert" not in page
