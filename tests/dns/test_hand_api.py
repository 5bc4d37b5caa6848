"""A customer's own pins and freezes, beside those of our operators."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from rest_framework.test import APIClient

from dns.models import Freeze, Pin
from services.models import Service
from tests import factories
from tests.answers import assert_problem


@pytest.fixture
def service(db: None) -> Service:
    return factories.service()


@pytest.fixture
def client(service: Service) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {factories.api_key(service.customer)}")
    return client


def pin(service: Service, **kw: Any) -> dict[str, Any]:
    until = (timezone.now() + timedelta(hours=2)).isoformat()
    return {"service": service.pk, "backup_percent": 50, "reason": "sale", "expires_at": until} | kw


def test_a_pin_is_made_seen_and_ended(client: APIClient, service: Service) -> None:
    made = client.post("/v1/pins", pin(service))
    assert made.status_code == 201 and made.json()["made_by"] == "customer"
    row = Pin.objects.get()
    assert (row.customer, row.backup_percent, row.is_in_force(timezone.now())) == (service.customer, 50, True)
    assert [found["id"] for found in client.get("/v1/pins?state=in_force").json()] == [row.pk]
    assert client.delete(f"/v1/pins/{row.pk}").status_code == 204
    row.refresh_from_db()
    assert not row.is_in_force(timezone.now())
    assert client.get("/v1/pins?state=in_force").json() == []
    assert len(client.get("/v1/pins?state=over").json()) == 1
    assert client.delete(f"/v1/pins/{row.pk}").status_code == 204  # it is over already


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"backup_percent": 101}, "backup_percent"), ({"backup_percent": -1}, "backup_percent"), ({"reason": ""}, "reason"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"), ({"expires_at": "2099-01-01T00:00:00Z"}, "expires_at"),
        ({"created_by": 1}, "created_by"), ({"made_by": "operator"}, "made_by"), ({"made_with": None}, "made_with"),
    ],
)  # fmt: skip
def test_bad_pins_are_refused_by_field(client: APIClient, service: Service, change: dict[str, Any], field: str) -> None:
    assert_problem(client.post("/v1/pins", pin(service, **change)), 400, field)
    assert Pin.objects.count() == 0


def test_a_freeze_of_one_service_or_of_the_account(client: APIClient, service: Service) -> None:
    for body in ({"service": service.pk, "reason": "migration"}, {"reason": "all of it"}):
        assert client.post("/v1/freezes", body).status_code == 201
    other = factories.service()
    for freeze in Freeze.objects.all():
        assert freeze.covers(service) and not freeze.covers(other)
        assert client.delete(f"/v1/freezes/{freeze.pk}").status_code == 204
    assert not Freeze.objects.filter(lifted_at=None).exists()


def test_what_an_operator_made_is_seen_and_not_ended(client: APIClient, service: Service) -> None:
    ann = User.objects.create(username="ann")
    mine: dict[str, Any] = {"customer": service.customer, "service": service, "reason": "hold", "created_by": ann}
    freeze = Freeze.objects.create(**mine)
    held = Pin.objects.create(**mine, backup_percent=0, expires_at=timezone.now() + timedelta(days=1))
    Freeze.objects.create(reason="everything", created_by=ann)  # nobody's in particular
    assert [row["made_by"] for row in client.get("/v1/freezes").json()] == ["operator"]
    assert_problem(client.delete(f"/v1/freezes/{freeze.pk}"), 409)
    assert_problem(client.delete(f"/v1/pins/{held.pk}"), 409)
    freeze.refresh_from_db(), held.refresh_from_db()
    assert freeze.lifted_at is None and held.is_in_force(timezone.now())


def test_it_takes_the_scope_to_steer(service: Service) -> None:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {factories.api_key(service.customer, ('read', 'write'))}")
    assert client.post("/v1/pins", pin(service)).status_code == 403
    assert client.post("/v1/freezes", {"reason": "x"}).status_code == 403
    assert client.get("/v1/pins").status_code == 200
