"""Changes of what is configured are events, whoever makes them."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from customers.models import Customer, Event
from services.models import ServiceDomain, Target
from tests import factories
from tests.tranche_site import console_rows as rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def owner() -> Customer:
    return factories.customer()


@pytest.fixture
def client(owner: Customer) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {factories.api_key(owner)}", HTTP_IF_MATCH="*")
    return client


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


def told(**kw: Any) -> list[tuple[str, Any]]:
    found = Event.objects.filter(**kw).exclude(kind__startswith="api_key").order_by("id")
    return [(event.kind, event.payload.get("changed")) for event in found]


def test_what_a_tool_changes_by_the_api_is_told(client: APIClient, owner: Customer) -> None:
    cdn = factories.cdn()
    service = client.post("/v1/services", {"name": "shop"}).json()["id"]
    client.patch(f"/v1/services/{service}", {"name": "our shop", "interval_seconds": 10})
    client.patch(f"/v1/services/{service}", {"name": "our shop"})  # changes nothing
    domain = client.post("/v1/domains", {"service": service, "hostname": "www.example.com"}).json()["id"]
    path = client.post(
        "/v1/cdn-paths", {"domain": domain, "role": "primary", "cdn": cdn.slug, "address": "edge.example"}
    ).json()["id"]
    client.patch(f"/v1/cdn-paths/{path}", {"capacity_percent": 50})
    policy = client.post("/v1/storm-policies", {"service": service}).json()["id"]
    client.patch(f"/v1/storm-policies/{policy}", {"cooldown_seconds": 77})
    for url in (f"storm-policies/{policy}", f"cdn-paths/{path}", f"domains/{domain}", f"services/{service}"):
        assert client.delete(f"/v1/{url}").status_code == 204
    assert told(customer=owner) == [
        ("service.created", None),
        ("service.updated", ["name"]),
        ("domain.created", None),
        ("cdn_path.created", None),
        ("cdn_path.updated", ["capacity_percent"]),
        ("storm_policy.created", None),
        ("storm_policy.updated", ["cooldown_seconds"]),
        ("storm_policy.deleted", None),
        ("cdn_path.deleted", None),
        ("domain.deleted", None),
        ("service.deleted", None),
    ]


def test_what_is_refused_is_not_told(client: APIClient, owner: Customer) -> None:
    assert client.post("/v1/services", {"name": ""}).status_code == 400
    client.post("/v1/services", {"name": "shop"})
    assert client.post("/v1/services", {"name": "Shop"}).status_code in (400, 409)
    assert told(customer=owner) == [("service.created", None)]


def test_what_staff_change_is_told_to_the_owner_alone(console: Client, owner: Customer) -> None:
    service = factories.service(customer=owner)
    console.post(reverse("admin:services_servicedomain_add"), {"service": service.pk, "hostname": "www.example.org"})
    domain = ServiceDomain.objects.get()
    page = reverse("admin:services_servicedomain_change", args=[domain.pk])
    empty = {"targets-TOTAL_FORMS": "1", "targets-INITIAL_FORMS": "0"}
    path = {"role": "primary", "rank": "1", "cdn": factories.cdn().pk, "address": "edge.example", "port": "443",
            "capacity_percent": "100", "enabled": "on"}  # fmt: skip
    console.post(page, {**empty, **{f"targets-0-{name}": value for name, value in path.items()}})
    assert Target.objects.filter(domain=domain).exists()
    console.post(
        reverse("admin:services_servicedomain_delete_softly", args=[domain.pk]),
        {"_form_submitted": "True", "reason": "x"},
    )
    assert told(customer=owner) == [("domain.created", None), ("cdn_path.created", None), ("domain.deleted", None)]
    assert told(customer=None) == []


def test_our_own_targets_and_work_on_cdns_are_nobodys(console: Client) -> None:
    data = {"role": "canary", "rank": "1", "hostname": "canary.example", "network": "AS1", "address": "192.0.2.1",
            "port": "443", "capacity_percent": "100", "enabled": "on"}  # fmt: skip
    console.post(reverse("admin:services_target_add"), data)
    assert Target.objects.filter(role="canary").exists()
    assert told() == []
