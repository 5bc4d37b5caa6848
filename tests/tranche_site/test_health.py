from __future__ import annotations

from datetime import timedelta

import pytest
from celery import current_app
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from tranche_site import health


def test_healthz_asks_nobody() -> None:
    # Without the db mark, a query would fail this test.
    response = Client().get("/healthz")
    assert (response.status_code, response.content, response["Content-Type"]) == (200, b"ok", "text/plain")
    assert Client().post("/healthz").status_code == 405


def test_ready_when_database_and_broker_answer(db: None) -> None:
    response = Client().get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"database": "ok", "broker": "ok", "beat_age_seconds": None}


def test_the_age_of_beat_is_told(db: None) -> None:
    every = IntervalSchedule.objects.create(every=10, period=IntervalSchedule.SECONDS)
    for name, seconds in (("older", 99), ("newer", 5)):
        task = PeriodicTask.objects.create(name=name, task="x", interval=every)
        PeriodicTask.objects.filter(pk=task.pk).update(last_run_at=timezone.now() - timedelta(seconds=seconds))
    assert 5 <= Client().get("/readyz").json()["beat_age_seconds"] < 30


def test_not_ready_without_a_broker(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(current_app.conf, "broker_read_url", "redis://127.0.0.1:1/0")
    response = Client().get("/readyz")
    assert response.status_code == 503
    assert response.json()["broker"] == "down"
    assert response.json()["database"] == "ok"


def test_not_ready_without_a_database(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused:
        def cursor(self) -> None:
            raise OperationalError("connection refused")

    monkeypatch.setattr(health, "connection", Refused())
    response = Client().get("/readyz")
    assert response.status_code == 503
    assert response.json() == {"database": "down", "broker": "ok", "beat_age_seconds": None}


def test_the_root_leads_to_the_console(db: None) -> None:
    response = Client().get("/")
    assert (response.status_code, response["Location"]) == (302, "/admin/")


def test_browsers_find_a_favicon() -> None:
    assert Client().get("/favicon.ico").status_code == 204


def test_unknown_pages_outside_the_api_are_pages(db: None) -> None:
    response = Client().get("/nothing")
    assert response.status_code == 404
    assert response["Content-Type"].startswith("text/html")


def test_errors_of_ours_are_json_in_the_api(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr("customers.authentication._find", fail)
    client = Client(raise_request_exception=False, headers={"authorization": "Bearer x"})
    response = client.get("/v1/services")
    assert response.status_code == 500
    assert response["Content-Type"] == "application/problem+json"
    assert response.json()["title"] == "Internal Server Error"
    assert b"secret" not in response.content
