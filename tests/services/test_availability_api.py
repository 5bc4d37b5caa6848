from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from services.models import SampleMinute, Target
from tests import factories

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def path() -> Target:
    return factories.target()


@pytest.fixture
def client(path: Target) -> APIClient:
    client = APIClient()
    assert path.customer
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {factories.api_key(path.customer)}")
    return client


def minute(target: Target, at: datetime, **kw: Any) -> None:
    SampleMinute.objects.create(minute_at=at, target_id=target.pk, vantage_point_id=1, **kw)


def get(client: APIClient, **query: Any) -> Any:
    return client.get(f"/v1/availability?{urlencode(query)}")


def test_a_bare_array_of_points(client: APIClient, path: Target) -> None:
    assert path.domain
    minute(path, NOON, good=3, bad=1)
    minute(path, NOON + timedelta(minutes=5), blind=1)
    answer = get(
        client, service=path.domain.service_id, to="2026-11-23T13:00:00Z", step=300, **{"from": "2026-11-23T12:00:00Z"}
    )
    assert answer.status_code == 200
    assert answer.json() == [
        {"path": path.pk, "at": "2026-11-23T12:00:00Z", "good": 3, "bad": 1, "availability": 0.75},
        {"path": path.pk, "at": "2026-11-23T12:05:00Z", "good": 0, "bad": 0, "availability": None},
    ]


def test_the_last_day_unless_told(client: APIClient, path: Target) -> None:
    now = timezone.now().replace(second=0, microsecond=0)
    minute(path, now - timedelta(minutes=1), good=1)
    minute(path, now - timedelta(hours=25), good=1)
    assert len(get(client).json()) == 1
    earlier = get(client, to=(now - timedelta(hours=24)).isoformat()).json()
    assert [point["good"] for point in earlier] == [1]


def test_one_service_alone(client: APIClient, path: Target) -> None:
    assert path.customer and path.domain
    other = factories.target(domain=factories.domain(service=factories.service(customer=path.customer)))
    now = timezone.now().replace(second=0, microsecond=0) - timedelta(minutes=2)
    for target in (path, other):
        minute(target, now, good=1)
    assert {point["path"] for point in get(client).json()} == {path.pk, other.pk}
    assert {point["path"] for point in get(client, service=path.domain.service_id).json()} == {path.pk}


def test_somebody_elses_service_is_like_none(client: APIClient) -> None:
    other = factories.target()
    assert other.domain
    minute(other, timezone.now() - timedelta(minutes=5), good=1)
    for service in (other.domain.service_id, 10**12):
        assert get(client, service=service).json() == []


def test_paths_come_in_pages(client: APIClient, path: Target) -> None:
    second = factories.target("backup", domain=path.domain)
    now = timezone.now().replace(second=0, microsecond=0) - timedelta(minutes=2)
    for target in (path, second):
        minute(target, now, good=1)
    answer = get(client, limit=1)
    assert [point["path"] for point in answer.json()] == [path.pk]
    assert 'rel="next"' in answer["Link"] and f"after={path.pk}" in answer["Link"]
    assert [point["path"] for point in get(client, limit=1, after=path.pk).json()] == [second.pk]


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("step", {"step": "59"}),
        ("step", {"step": "86460"}),
        ("step", {"step": "90"}),
        ("step", {"step": "soon"}),
        ("step", {"step": "9" * 5000}),
        ("from", {"from": "yesterday"}),
        ("from", {"from": "2026-11-23T12:00:00Z", "to": "2026-11-23T12:00:00Z"}),
        ("from", {"from": "2026-11-23T12:00:00Z", "to": "2026-11-22T12:00:00Z"}),
        ("from", {"from": "9999-12-31T23:59:59Z"}),
        ("to", {"to": "2026-13-01T00:00:00Z"}),
        ("to", {"to": "0001-01-01T00:00:00Z"}),
        ("to", {"to": "0001-01-01T00:00:00+14:00"}),
        ("step", {"from": "2026-11-01T00:00:00Z", "to": "2026-11-23T00:00:00Z"}),
        ("step", {"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T00:00:00Z", "step": "86400"}),
        ("service", {"service": "app"}),
    ],
)
def test_a_bad_value_is_named(client: APIClient, name: str, query: dict[str, str]) -> None:
    answer = get(client, **query)
    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"
    assert [error["parameter"] for error in answer.json()["errors"]] == [name]


def test_just_so_many_points_are_allowed(client: APIClient) -> None:
    start = NOON - timedelta(minutes=1500)
    query = {"from": start.isoformat(), "step": 60}
    assert get(client, to=NOON.isoformat(), **query).status_code == 200
    assert get(client, to=(NOON + timedelta(seconds=1)).isoformat(), **query).status_code == 400


def test_queries_do_not_grow_with_paths(client: APIClient, path: Target, django_assert_max_num_queries: Any) -> None:
    for rank in range(1, 6):
        factories.target("backup", domain=path.domain, rank=rank)
    with django_assert_max_num_queries(5):
        assert get(client).status_code == 200
