from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from rest_framework.test import APIClient

from customers.models import Customer
from services.models import MaintenanceWindow, Service
from tests import factories
from tests.answers import assert_problem, queries_of
from tests.tranche_site import console_rows as rows

pytestmark = pytest.mark.django_db
URL = "/v1/maintenance-windows"


@pytest.fixture
def service() -> Service:
    return factories.service()


@pytest.fixture
def client(service: Service, client_of: Callable[[Customer], APIClient]) -> APIClient:
    return client_of(service.customer)


def body(service: Service, **kw: Any) -> dict[str, Any]:
    return {
        "service": service.pk, "first_day": "2099-03-02", "local_time": "02:30", "duration_seconds": 3600,
        "reason": "an upgrade",
    } | kw  # fmt: skip


# --- API ------------------------------------------------------------------------------------------------------------


def test_a_window_is_made_read_and_lifted(client: APIClient, service: Service) -> None:
    made = client.post(URL, body(service, time_zone="Europe/Berlin", recurrence="weekly", weekdays=["sun", "mon"]))
    assert made.status_code == 201, made.content
    window = made.json()
    assert window == {
        "id": window["id"],
        "service": service.pk,
        "first_day": "2099-03-02",
        "local_time": "02:30:00",
        "time_zone": "Europe/Berlin",
        "duration_seconds": 3600,
        "recurrence": "weekly",
        "weekdays": ["mon", "sun"],
        "until": None,
        "reason": "an upgrade",
        "next": {"start": "2099-03-02T01:30:00Z", "end": "2099-03-02T02:30:00Z"},
        "created_at": window["created_at"],
    }
    row = MaintenanceWindow.objects.get()
    assert (row.customer, row.over_at) == (service.customer, None)

    url = f"{URL}/{window['id']}"
    assert client.get(url).json() == window
    assert client.get(URL).json() == client.get(f"{URL}?service={service.pk}").json() == [window]
    assert_problem(client.patch(url, {"reason": "another"}), 405)

    assert client.delete(url).status_code == 204
    assert_problem(client.get(url), 404)
    assert_problem(client.delete(url), 404)
    assert client.get(URL).json() == []
    row.refresh_from_db()
    assert row.lifted_at is not None


def test_what_is_over_has_no_next(client: APIClient, service: Service) -> None:
    window = client.post(URL, body(service, first_day="2026-03-02")).json()
    assert (window["next"], window["recurrence"], window["time_zone"], window["weekdays"]) == (None, "none", "UTC", [])


def test_a_cdns_window_is_not_a_customers(client: APIClient, service: Service) -> None:
    path = factories.target(domain=factories.domain(service=service))
    window = factories.maintenance_window(cdn=path.cdn)
    assert client.get(URL).json() == []
    assert_problem(client.get(f"{URL}/{window.pk}"), 404)
    assert_problem(client.delete(f"{URL}/{window.pk}"), 404)
    assert_problem(client.post(URL, body(service, cdn=window.cdn_id)), 400, "cdn")
    alone = {name: value for name, value in body(service).items() if name != "service"}
    assert_problem(client.post(URL, alone), 400, "service")
    assert_problem(client.post(URL, body(service) | {"service": None}), 400, "service")


def test_a_deleted_service_has_none(client: APIClient, service: Service) -> None:
    client.post(URL, body(service))
    client.delete(f"/v1/services/{service.pk}")
    assert client.get(URL).json() == []
    assert_problem(client.post(URL, body(service)), 400, "service")


@pytest.mark.parametrize(
    ("kw", "field"),
    [
        ({"first_day": "2026-02-30"}, "first_day"),
        ({"first_day": "1999-01-01"}, "first_day"),
        ({"first_day": "9999-12-31"}, "first_day"),
        ({"local_time": "24:00"}, "local_time"),
        ({"local_time": "02:30+02:00"}, "local_time"),
        ({"local_time": "02:30Z"}, "local_time"),
        ({"time_zone": "Europe/Atlantis"}, "time_zone"),
        ({"time_zone": "Europe"}, "time_zone"),
        ({"time_zone": "../UTC"}, "time_zone"),
        ({"time_zone": "localtime"}, "time_zone"),
        ({"time_zone": "+02:00"}, "time_zone"),
        ({"duration_seconds": 59}, "duration_seconds"),
        ({"duration_seconds": 7 * 86_400 + 1}, "duration_seconds"),
        ({"recurrence": "monthly"}, "recurrence"),
        ({"recurrence": "weekly"}, "weekdays"),
        ({"recurrence": "daily", "weekdays": ["mon"]}, "weekdays"),
        ({"weekdays": ["mon"]}, "weekdays"),
        ({"until": "2099-04-01"}, "until"),
        ({"recurrence": "daily", "until": "2099-03-01"}, "until"),
        ({"recurrence": "daily", "until": "9999-12-31"}, "until"),
        ({"reason": ""}, "reason"),
        ({"lifted_at": None}, "lifted_at"),
        ({"next": None}, "next"),
    ],
)
def test_bad_windows_are_refused_by_field(client: APIClient, service: Service, kw: dict[str, Any], field: str) -> None:
    assert_problem(client.post(URL, body(service, **kw)), 400, field)
    assert not MaintenanceWindow.objects.exists()


@pytest.mark.parametrize("weekdays", [["Mon"], [0], [["mon"]], "mon", {"mon": 1}])
def test_weekdays_are_a_list_of_names(client: APIClient, service: Service, weekdays: object) -> None:
    assert client.post(URL, body(service, recurrence="weekly", weekdays=weekdays)).status_code == 400


def test_a_service_has_so_many_and_no_more(client: APIClient, service: Service) -> None:
    factories.maintenance_window(service=service, first_day=date(2026, 1, 1))  # over: not counted
    for _ in range(MaintenanceWindow.MAXIMUM):
        factories.maintenance_window(service=service)
    assert_problem(client.post(URL, body(service)), 400, "service")
    window = MaintenanceWindow.objects.since(timezone.now()).first()
    assert window
    client.delete(f"{URL}/{window.pk}")
    assert client.post(URL, body(service)).status_code == 201


def test_a_list_costs_the_same_for_many(client: APIClient, service: Service) -> None:
    factories.maintenance_window(service=service)
    one = queries_of(client, URL)
    for _ in range(5):
        factories.maintenance_window(service=service)
    assert queries_of(client, URL) == one


# --- database -------------------------------------------------------------------------------------------------------


def test_the_database_wants_a_service_with_its_customer_or_a_cdn_without(service: Service) -> None:
    cdn = factories.cdn()
    for wrong in (
        {"service": service, "cdn": cdn},
        {"service": service, "customer": None},
        {"cdn": cdn, "customer": service.customer},
        {"service": None, "customer": None},
        {"service": service, "duration_seconds": 59},
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            MaintenanceWindow.objects.create(
                **{"first_day": date(2026, 1, 1), "local_time": datetime(2026, 1, 1).time(), "duration_seconds": 60}  # noqa: DTZ001
                | ({"customer": service.customer} if wrong.get("service") and "cdn" not in wrong else {})
                | wrong
            )


# --- console --------------------------------------------------------------------------------------------------------


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


def form(**kw: Any) -> dict[str, Any]:
    return {
        "reason": "an upgrade", "first_day": "2099-03-02", "local_time": "02:30", "time_zone": "Europe/Berlin",
        "duration_seconds": 3600, "recurrence": "weekly", "weekdays": ["sun", "tue"],
    } | kw  # fmt: skip


def test_staff_add_a_cdns_window_and_lift_it(console: Client) -> None:
    cdn = factories.cdn()
    answer = console.post(reverse("admin:services_maintenancewindow_add"), form(cdn=cdn.pk))
    assert answer.status_code == 302, answer.context["adminform"].form.errors
    window = MaintenanceWindow.objects.get()
    assert (window.cdn, window.customer, window.weekdays) == (cdn, None, ["tue", "sun"])
    page = reverse("admin:services_maintenancewindow_change", args=[window.pk])
    assert "2099-03-03 01:30:00" in console.get(page).content.decode()
    console.post(page, form(cdn=cdn.pk, reason="another"))
    window.refresh_from_db()
    assert window.reason == "an upgrade"
    lift = reverse("admin:services_maintenancewindow_lift", args=[window.pk])
    console.post(lift, {"_form_submitted": "True", "reason": "done early"})
    window.refresh_from_db()
    assert window.lifted_at is not None
    assert console.post(lift, {"_form_submitted": "True", "reason": "done early"}).status_code == 403
    assert "lifted" in console.get(page).content.decode()


def test_staff_add_a_services_window_for_its_customer(console: Client, service: Service) -> None:
    console.post(reverse("admin:services_maintenancewindow_add"), form(service=service.pk))
    assert MaintenanceWindow.objects.get().customer == service.customer


def test_neither_and_both_are_refused_in_words(console: Client, service: Service) -> None:
    for kw in ({}, {"service": service.pk, "cdn": factories.cdn().pk}):
        answer = console.post(reverse("admin:services_maintenancewindow_add"), form(**kw))
        assert "Choose a service or a CDN." in str(answer.context["adminform"].form.errors)
    assert not MaintenanceWindow.objects.exists()


def test_the_services_page_marks_what_is_under_maintenance(console: Client, service: Service) -> None:
    path = factories.target(domain=factories.domain(service=service))
    page = reverse("admin:services_service_change", args=[service.pk])
    assert "none" in console.get(page).content.decode()
    now = timezone.now()
    factories.maintenance_window(now - timedelta(days=1), service=service, reason="yesterday’s")
    factories.maintenance_window(cdn=path.cdn, reason="the CDN’s")
    factories.maintenance_window(reason="somebody else’s")
    factories.maintenance_window(service=service, reason="lifted").lift(now)
    html = console.get(page).content.decode()
    assert "yesterday’s" in html and "the CDN’s (now)" in html
    assert "somebody else’s" not in html and ": lifted" not in html
    answer = console.get(reverse("admin:services_service_add_maintenance", args=[service.pk]))
    assert answer.headers["Location"].endswith(f"?service={service.pk}")
