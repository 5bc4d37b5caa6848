from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from rest_framework.test import APIClient

from customers.models import Customer
from services.models import Service
from storms import evidence
from storms.models import Finding, PathVerdict, StormEvent, StormPolicy
from storms.watch import watch
from tests import factories
from tests.answers import assert_problem, queries_of
from tests.storms.test_watch import NOW, Site


@pytest.fixture
def service(db: None) -> Service:
    return factories.service()


@pytest.fixture
def client(service: Service, client_of: Callable[[Customer], APIClient]) -> APIClient:
    return client_of(service.customer)


# --- policies ------------------------------------------------------------------------------------------------------


def test_a_policy_has_the_defaults_of_the_model(client: APIClient, service: Service) -> None:
    made = client.post("/v1/storm-policies", {"service": service.pk})
    assert made.status_code == 201
    policy = made.json()
    assert policy == {
        "id": policy["id"],
        "service": service.pk,
        "kind": "http_availability",
        "mode": "armed",
        "threshold_avail": "0.9000",
        "window_seconds": 60,
        "cooldown_seconds": 300,
        "max_coverage_factor": "1.0000",
        "min_samples": 6,
        "min_failures": 3,
        "min_vantages": 2,
        "minimum_seconds": 600,
        "closing_samples": 10,
        "holdoff_seconds": 600,
        "holdoff_max_seconds": 3600,
        "domain_share": "0.0000",
        "region_share": "0.0000",
        "slow_ms": 1800,
        "version": 1,
        "created_at": policy["created_at"],
    }
    assert StormPolicy.objects.get().customer == service.customer
    assert client.get("/v1/storm-policies").json() == [policy]


def test_a_change_of_terms_is_a_new_version(client: APIClient, service: Service) -> None:
    policy = client.post("/v1/storm-policies", {"service": service.pk}).json()
    url = f"/v1/storm-policies/{policy['id']}"
    assert client.patch(url, {"threshold_avail": "0.95"}).json() == policy | {"threshold_avail": "0.9500", "version": 2}
    assert client.patch(url, {"threshold_avail": "0.95"}).json()["version"] == 2
    assert client.get(url).json()["version"] == 2


def test_a_deleted_policy_makes_room_for_another(client: APIClient, service: Service) -> None:
    policy = factories.policy(service=service)
    assert_problem(client.post("/v1/storm-policies", {"service": service.pk}), 409, "kind", "service")
    assert client.post("/v1/storm-policies", {"service": service.pk, "kind": "tls"}).status_code == 201
    assert client.delete(f"/v1/storm-policies/{policy.pk}").status_code == 204
    assert_problem(client.get(f"/v1/storm-policies/{policy.pk}"), 404)
    assert client.post("/v1/storm-policies", {"service": service.pk}).status_code == 201


BAD_TERMS = [
    ("window_seconds", 0),
    ("window_seconds", -1),
    ("window_seconds", 3601),
    ("window_seconds", 2**31),
    ("window_seconds", "soon"),
    ("window_seconds", None),
    ("threshold_avail", "1.0001"),
    ("threshold_avail", "2"),
    ("threshold_avail", "0"),
    ("threshold_avail", "-0.5"),
    ("threshold_avail", "0.90005"),
    ("threshold_avail", "NaN"),
    ("cooldown_seconds", -1),
    ("cooldown_seconds", 86_401),
    ("max_coverage_factor", "-1"),
    ("max_coverage_factor", "10.1"),
    ("min_samples", 0),
    ("min_failures", 0),
    ("min_vantages", 0),
    ("closing_samples", 0),
    ("kind", "manual"),
    ("kind", "flood"),
    ("mode", "off"),
    ("version", 7),
]


@pytest.mark.parametrize(("field", "value"), BAD_TERMS)
def test_bad_terms_are_refused_by_field(client: APIClient, service: Service, field: str, value: Any) -> None:
    assert_problem(client.post("/v1/storm-policies", {"service": service.pk, field: value}), 400, field)
    assert not StormPolicy.objects.exists()
    policy = factories.policy(service=service)
    assert_problem(client.patch(f"/v1/storm-policies/{policy.pk}", {field: value}), 400, field)


def test_the_longest_holdoff_is_not_below_the_first(client: APIClient, service: Service) -> None:
    body = {"service": service.pk, "holdoff_seconds": 600, "holdoff_max_seconds": 599}
    errors = assert_problem(client.post("/v1/storm-policies", body), 400, "holdoff_seconds", "holdoff_max_seconds")
    assert errors[0]["detail"] == "holdoff_max_seconds must not be below holdoff_seconds."


@pytest.mark.parametrize(
    "change",
    [
        "window_seconds = 0",
        "window_seconds = 3601",
        "threshold_avail = 0",
        "threshold_avail = 1.0001",
        "cooldown_seconds = -1",
        "max_coverage_factor = -0.1",
        "min_samples = 0",
        "min_vantages = 0",
        "holdoff_max_seconds = holdoff_seconds - 1",
    ],
)
def test_the_database_refuses_bad_terms_by_itself(service: Service, change: str) -> None:
    factories.policy(service=service)
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE storm_policies SET {change}")


def test_a_policy_keeps_its_service(client: APIClient, service: Service) -> None:
    policy = factories.policy(service=service)
    assert_problem(client.patch(f"/v1/storm-policies/{policy.pk}", {"service": service.pk}), 400, "service")


def test_a_policy_is_not_made_for_somebody_elses_service(client: APIClient) -> None:
    foreign = factories.service()
    [error] = assert_problem(client.post("/v1/storm-policies", {"service": foreign.pk}), 400, "service")
    assert error["code"] == "does_not_exist"


# --- storms and findings -------------------------------------------------------------------------------------------


def test_storms_are_told_newest_first_and_filtered(client: APIClient, service: Service) -> None:
    now = timezone.now()
    closed = factories.storm(
        service=service, started_at=now - timedelta(hours=2), ended_at=now - timedelta(hours=1), closed_at=now
    )
    raging = factories.storm(service=service, cdn=factories.cdn(), regions=["eu"])
    other = factories.storm(service=factories.service(customer=service.customer), kind="tls")

    def ids(query: str = "") -> list[int]:
        return [row["id"] for row in client.get(f"/v1/storms?{query}").json()]

    assert ids() == [other.pk, raging.pk, closed.pk]
    assert ids(f"service={service.pk}") == [raging.pk, closed.pk]
    assert ids("state=open") == [other.pk, raging.pk]
    assert ids("state=closed") == [closed.pk]
    assert ids("kind=tls") == [other.pk]

    told = client.get(f"/v1/storms/{raging.pk}").json()
    assert raging.cdn is not None
    assert told["state"] == "raging"
    assert told["cdn"] == raging.cdn.slug
    assert told["regions"] == ["eu"]
    assert told["ended_at"] is None
    assert client.get(f"/v1/storms/{closed.pk}").json()["state"] == "closed"


def test_storms_are_read_only(client: APIClient, service: Service) -> None:
    storm = factories.storm(service=service)
    for method, path in (("post", "storms"), ("patch", f"storms/{storm.pk}"), ("delete", f"storms/{storm.pk}")):
        assert_problem(getattr(client, method)(f"/v1/{path}", {}), 405)


@pytest.mark.parametrize("query", ["state=raging", "state=", "kind=flood", "kind=%00"])
def test_bad_filters_are_refused(client: APIClient, query: str) -> None:
    response = client.get(f"/v1/storms?{query}")
    assert response.status_code == 400
    assert [error["parameter"] for error in response.json()["errors"]] == [query.partition("=")[0]]


def test_findings_are_told_and_filtered(client: APIClient, service: Service) -> None:
    now = timezone.now()
    about = {"customer": service.customer, "service": service, "first_seen_at": now, "last_seen_at": now}
    resolved = Finding.objects.create(**about, kind="blocked", reason="403 everywhere", resolved_at=now)
    target = factories.target(domain=factories.domain(service=service))
    seen = Finding.objects.create(**about, kind="backup_unfit", reason="no samples", target=target)

    assert [row["id"] for row in client.get("/v1/findings").json()] == [seen.pk, resolved.pk]
    assert [row["id"] for row in client.get("/v1/findings?state=resolved").json()] == [resolved.pk]
    assert [row["id"] for row in client.get("/v1/findings?kind=backup_unfit").json()] == [seen.pk]
    told = client.get(f"/v1/findings/{seen.pk}").json()
    assert (told["reason"], told["target"], told["resolved_at"]) == ("no samples", target.pk, None)


# --- verdicts ------------------------------------------------------------------------------------------------------


def test_a_path_tells_what_the_probes_think_of_it(client: APIClient, service: Service) -> None:
    path = factories.target(domain=factories.domain(service=service))
    url = f"/v1/cdn-paths/{path.pk}"
    assert client.get(url).json()["verdict"] is None
    now = timezone.now()
    PathVerdict.objects.create(
        customer=service.customer,
        target=path,
        verdict="DOWN",
        availability=0.25,
        reason="3 of 4",
        since=now,
        evaluated_at=now,
    )
    verdict = client.get(url).json()["verdict"]
    assert (verdict["verdict"], verdict["availability"], verdict["reason"]) == ("DOWN", 0.25, "3 of 4")
    assert set(verdict) == {"verdict", "availability", "reason", "since", "evaluated_at"}


# --- cost ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["storm-policies", "storms", "findings", "cdn-paths"])
def test_a_list_costs_the_same_however_long(client: APIClient, service: Service, path: str) -> None:
    def make() -> None:
        now = timezone.now()
        own = factories.service(customer=service.customer)
        target = factories.target(domain=factories.domain(service=own))
        common = {"customer": own.customer, "target": target, "reason": "made by a test"}
        factories.storm(service=own, policy=factories.policy(service=own), policy_version=1, cdn=target.cdn)
        Finding.objects.create(**common, service=own, kind="blocked", first_seen_at=now, last_seen_at=now)
        PathVerdict.objects.create(**common, verdict="UP", since=now, evaluated_at=now)

    make()
    one = queries_of(client, f"/v1/{path}")
    for _ in range(19):
        make()
    assert len(client.get(f"/v1/{path}").json()) == 20
    assert queries_of(client, f"/v1/{path}") == one == 2


def test_a_storms_evidence_is_one_document_that_replays(service: Service, client: APIClient) -> None:
    site = Site.build()
    site.fail()
    watch(NOW)
    storm = site.storm
    answer = client.get(f"/v1/storms/{storm.pk}/evidence")
    assert answer.status_code == 404  # somebody else's
    StormEvent.objects.update(customer=service.customer)
    pack = client.get(f"/v1/storms/{storm.pk}/evidence").json()
    assert (pack["type"], pack["storm"]["id"], len(pack["entries"])) == ("storm", storm.pk, 1)
    assert evidence.replay(pack) == []


def test_storms_from_a_time_on_and_before_another(client: APIClient, service: Service) -> None:
    at = datetime(2026, 3, 5, 10, tzinfo=UTC)
    ids = []
    for hours in (0, 1, 2):
        begin = at + timedelta(hours=hours)
        end = begin + timedelta(minutes=5)
        ids.append(factories.storm(service=service, started_at=begin, ended_at=end, closed_at=end).pk)
    query = "since=2026-03-05T12:00:00%2B01:00&until=2026-03-05T12:00:00Z"
    assert [row["id"] for row in client.get(f"/v1/storms?{query}").json()] == ids[1:2]
    assert client.get("/v1/storms?since=yesterday").status_code == 400
