from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery import current_app
from django.db import OperationalError
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from tranche_site import health
from tranche_site.floor import seen


def test_healthz_asks_nobody() -> None:
    # Without the db mark, a query would fail this test.
    response = Client().get("/healthz")
    assert (response.status_code, response.content, response["Content-Type"]) == (200, b"ok", "text/plain")
    assert Client().post("/healthz").status_code == 405


@pytest.fixture(autouse=True)
def nobody_seen() -> Iterator[None]:
    """No worker has spoken; afterwards none either."""
    with seen.broker_client() as client:
        client.delete(seen.KEY)
        yield
        client.delete(seen.KEY)


def _checks(response: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = response.json()["checks"]
    return found


def test_ready_when_database_and_broker_answer(db: None) -> None:
    response = Client().get("/readyz")
    assert response.status_code == 200
    assert response.json()["status"] == "ready"
    assert response["Cache-Control"] == "no-store"
    states = {name: check["state"] for name, check in _checks(response).items()}
    assert states == {
        "database": "ok", "broker": "ok", "beat": "unseen", "worker": "unseen", "credential_key": "ok"
    }  # fmt: skip
    assert all(0 <= check["ms"] < 2000 for check in _checks(response).values())
    assert sum(check["ms"] for check in _checks(response).values()) > 0
    assert _checks(response)["worker"]["detail"] == "no worker of default, storms, dns"


def test_the_age_of_beat_is_told(db: None) -> None:
    every = IntervalSchedule.objects.create(every=10, period=IntervalSchedule.SECONDS)
    for name, seconds in (("older", 99), ("newer", 5)):
        task = PeriodicTask.objects.create(name=name, task="x", interval=every)
        PeriodicTask.objects.filter(pk=task.pk).update(last_run_at=timezone.now() - timedelta(seconds=seconds))
    beat = _checks(Client().get("/readyz"))["beat"]
    assert (beat["state"], 5 <= beat["age_seconds"] < 30) == ("ok", True)
    PeriodicTask.objects.update(last_run_at=timezone.now() - timedelta(seconds=99))
    response = Client().get("/readyz")
    # Told, not judged: the console is needed most when beat is dead.
    assert (response.status_code, _checks(response)["beat"]["state"]) == (200, "late")


def test_workers_are_seen_by_their_queues(db: None) -> None:
    with seen.broker_client() as client:
        seen.note(client, ["default", "storms", "dns"])
        assert _checks(Client().get("/readyz"))["worker"]["state"] == "ok"
        client.hset(seen.KEY, "dns", int(time.time()) - 200)
        worker = _checks(Client().get("/readyz"))["worker"]
        assert (worker["state"], worker["age_seconds"] >= 199) == ("late", True)


def test_not_ready_without_a_broker(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(current_app.conf, "broker_read_url", "redis://127.0.0.1:1/0")
    response = Client().get("/readyz")
    assert response.status_code == 503
    assert response.json()["status"] == "not ready"
    assert _checks(response)["broker"]["state"] == "down"
    assert _checks(response)["database"]["state"] == "ok"
    assert _checks(response)["worker"]["state"] == "unknown"


def test_a_broker_that_hangs_is_given_up(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(current_app.conf, "broker_read_url", f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        began = time.monotonic()
        response = Client().get("/readyz")
    assert (response.status_code, _checks(response)["broker"]["state"]) == (503, "down")
    assert time.monotonic() - began < 2


def test_not_ready_without_a_database(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused:
        def cursor(self) -> None:
            raise OperationalError("connection refused")

    monkeypatch.setattr(health, "connection", Refused())
    response = Client().get("/readyz")
    assert response.status_code == 503
    assert _checks(response)["database"]["state"] == "down"
    assert _checks(response)["broker"]["state"] == "ok"
    assert _checks(response)["beat"]["state"] == "unknown"


def test_a_database_older_than_the_code_is_not_ready(db: None) -> None:
    MigrationRecorder.Migration.objects.filter(app="dns").delete()
    response = Client().get("/readyz")
    assert response.status_code == 503
    assert _checks(response)["database"]["state"] == "behind"
    assert _checks(response)["database"]["detail"].startswith("not applied: dns.")


def test_a_key_of_credentials_that_is_not_there_or_none(db: None, settings: Any) -> None:
    settings.EMBEDDED_POSTGRES = False
    settings.CREDENTIAL_KEYS = []
    assert _checks(Client().get("/readyz"))["credential_key"]["state"] == "missing"
    settings.CREDENTIAL_KEYS = ["k:short"]
    assert _checks(Client().get("/readyz"))["credential_key"]["state"] == "invalid"


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
