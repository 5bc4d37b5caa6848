from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from services import partitions, samples
from services.models import Service, Target, VantagePoint
from services.seen_api import Cursor
from tests import factories
from tests.samples import record, times
from tests.services.test_samples import ROW

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
AROUND_NOON = {"from": "2026-11-23T11:00:00Z", "to": "2026-11-23T13:00:00Z"}


@pytest.fixture
def path() -> Target:
    return factories.target()


@pytest.fixture
def point() -> VantagePoint:
    return factories.vantage_point(name="ams-1", region="eu")


@pytest.fixture
def client(path: Target) -> APIClient:
    return client_of(path)


def client_of(target: Target) -> APIClient:
    client = APIClient()
    assert target.customer
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {factories.api_key(target.customer)}")
    return client


def service_of(target: Target) -> Service:
    assert target.domain
    return target.domain.service


def seen(target: Target, point: VantagePoint, slot_at: datetime = NOON, **kw: Any) -> None:
    row = replace(
        ROW, slot_at=slot_at, at=slot_at, target_id=target.pk, vantage_point_id=point.pk,
        service_id=service_of(target).pk, customer_id=target.customer_id,
    )  # fmt: skip
    samples.write([replace(row, **kw)])


def get(client: APIClient, **query: Any) -> Any:
    return client.get(f"/v1/samples?{urlencode(AROUND_NOON | query)}")


def link(answer: Any, rel: str = "next") -> str:
    found = re.search(rf'<([^>]+)>; rel="{rel}"', answer.headers.get("Link", ""))
    return found[1] if found else ""


def pages(client: APIClient, answer: Any, rel: str = "next") -> Iterator[list[Any]]:
    yield answer.json()
    while url := link(answer, rel):
        answer = client.get(url)
        assert answer.status_code == 200
        yield answer.json()


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["slot_at"], row["path"], row["vantage_point"], row["attempt"]


def test_a_sample_tells_everything(client: APIClient, path: Target, point: VantagePoint) -> None:
    seen(
        path, point, at=NOON + 0.25 * SECOND, attempt=2, outcome="http_5xx", status=503, dns_ms=1.0, connect_ms=2.0,
        tls_ms=3.0, first_byte_ms=4.5, total_ms=5.5, certificate_expires_at=NOON + 24 * HOUR,
        certificate_issuer="CN = CA", protocol="HTTP/2", remote_address="2001:db8::1", reason="status 503",
        is_blind=True, is_late=True, in_maintenance=True,
    )  # fmt: skip
    answer = get(client)
    assert answer.status_code == 200
    assert "Link" not in answer.headers
    assert answer.json() == [
        {
            "path": path.pk, "facet": "", "hostname": path.host, "vantage_point": "ams-1", "region": "eu",
            "at": "2026-11-23T12:00:00.250000Z", "slot_at": "2026-11-23T12:00:00Z", "attempt": 2, "outcome": "http_5xx",
            "status": 503, "dns_ms": 1.0, "connect_ms": 2.0, "tls_ms": 3.0, "first_byte_ms": 4.5, "total_ms": 5.5,
            "remote_address": "2001:db8::1", "protocol": "HTTP/2", "certificate_expires_at": "2026-11-24T12:00:00Z",
            "certificate_issuer": "CN = CA", "reason": "status 503", "is_blind": True, "is_late": True,
            "in_maintenance": True,
        }
    ]  # fmt: skip


def test_the_last_hour_unless_told_newest_first(client: APIClient, path: Target, point: VantagePoint) -> None:
    now = timezone.now()
    for ago in (61, 59, 1):
        seen(path, point, now - timedelta(minutes=ago), status=200 + ago)
    assert [row["status"] for row in client.get("/v1/samples").json()] == [201, 259]


def test_the_time_is_half_open(client: APIClient, path: Target, point: VantagePoint) -> None:
    for slot_at in (NOON - SECOND, NOON, NOON + SECOND):
        seen(path, point, slot_at)
    found = get(client, **{"from": NOON.isoformat(), "to": (NOON + SECOND).isoformat()}).json()
    assert [row["slot_at"] for row in found] == ["2026-11-23T12:00:00Z"]


# --- whose ---------------------------------------------------------------------------------------------------------


def test_an_outsider_sees_nothing_and_learns_nothing(path: Target, point: VantagePoint) -> None:
    seen(path, point)
    outsider = client_of(factories.target())
    assert get(outsider).json() == []
    for name, pk in (("service", service_of(path).pk), ("path", path.pk)):
        foreign, absent = get(outsider, **{name: pk}), get(outsider, **{name: 10**12})
        assert (foreign.status_code, foreign.json()) == (absent.status_code, absent.json()) == (200, [])


def test_an_outsiders_cursor_leads_to_its_own(client: APIClient, path: Target, point: VantagePoint) -> None:
    other = factories.target()
    for n in range(3):
        seen(path, point, NOON + n * SECOND)
        seen(other, point, NOON + n * SECOND)
    foreign = link(get(client, limit=1))
    assert {row["path"] for row in client_of(other).get(foreign).json()} == {other.pk}


def test_those_of_a_deleted_service_are_gone(client: APIClient, path: Target, point: VantagePoint) -> None:
    seen(path, point)
    Service.objects.update(deleted_at=timezone.now())
    assert get(client).json() == []


def test_reference_sites_are_nobodys(client: APIClient, path: Target, point: VantagePoint) -> None:
    site = factories.target(Target.Role.REFERENCE)
    samples.write([replace(ROW, slot_at=NOON, target_id=site.pk, service_id=None, customer_id=None)])
    assert get(client).json() == get(client, path=site.pk).json() == []


# --- filters -------------------------------------------------------------------------------------------------------


def test_each_filter(client: APIClient, path: Target, point: VantagePoint) -> None:
    other = factories.target(domain=factories.domain(service=factories.service(customer=path.customer)))
    second = factories.vantage_point(name="fra-1")
    seen(path, point)
    seen(path, second, outcome="timeout")
    seen(other, second)
    assert len(get(client).json()) == 3
    assert {row["path"] for row in get(client, service=service_of(other).pk).json()} == {other.pk}
    assert [row["vantage_point"] for row in get(client, path=path.pk).json()] == ["fra-1", "ams-1"]
    assert [row["path"] for row in get(client, vantage_point="ams-1").json()] == [path.pk]
    assert [row["vantage_point"] for row in get(client, outcome="timeout").json()] == ["fra-1"]
    assert get(client, vantage_point="nowhere").json() == []
    assert get(client, service=service_of(other).pk, path=path.pk).json() == []
    assert len(get(client, path=path.pk, vantage_point="fra-1", outcome="timeout").json()) == 1
    assert get(client, path=path.pk, unheard_of="x").status_code == 400


def test_facets_are_paths_too(client: APIClient, path: Target, point: VantagePoint) -> None:
    service = service_of(path)
    service.uncacheable_path, service.probe_ipv6 = "/alive", True
    service.save()
    facets = list(path.facets.order_by("facet"))
    for target in (path, *facets):
        seen(target, point)
    assert {row["facet"] for row in get(client).json()} == {"", "ipv6", "uncacheable"}
    for facet in facets:
        (row,) = get(client, path=facet.pk).json()
        assert (row["path"], row["facet"], row["hostname"]) == (facet.pk, facet.facet, path.host)


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("service", {"service": "app"}),
        ("path", {"path": "first"}),
        ("path", {"path": "0"}),
        ("path", {"path": 2**63}),
        ("path", {"path": "9" * 5000}),
        ("vantage_point", {"vantage_point": "a\x00b"}),
        ("vantage_point", {"vantage_point": ""}),
        ("outcome", {"outcome": "fine"}),
        ("limit", {"limit": "0"}),
        ("limit", {"limit": "101"}),
        ("limit", {"limit": "all"}),
        ("from", {"from": "yesterday"}),
        ("from", {"from": "2026-11-23T13:00:00Z"}),
        ("from", {"from": "2026-10-23T12:59:59Z"}),
        ("to", {"to": "soon"}),
        ("to", {"to": "2026-13-01T00:00:00Z"}),
        ("to", {"to": "0001-01-01T00:00:00+14:00"}),
        ("cursor", {"cursor": ""}),
        ("cursor", {"cursor": "1"}),
        ("cursor", {"cursor": "=" * 36}),
        ("cursor", {"cursor": "é" * 36}),
        ("cursor", {"cursor": base64.b64encode(b"\0\x7f" + 25 * b"\0").decode()}),  # a time past the calendar
        ("cursor", {"cursor": "A" * 35}),
        ("cursor", {"cursor": "A" * 40}),
        ("cursor", {"cursor": "A" * 35 + "\x00"}),
    ],
)
def test_a_bad_value_is_named(client: APIClient, name: str, query: dict[str, Any]) -> None:
    answer = get(client, **query)
    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"
    assert {error["parameter"] for error in answer.json()["errors"]} == {name}


def test_the_earliest_and_the_last_times_can_be_asked_for(client: APIClient) -> None:
    assert get(client, **{"from": "2026-10-23T13:00:00Z"}).status_code == 200
    assert get(client, **{"from": "0001-01-01T00:00:00Z", "to": "0001-01-02T00:00:00Z"}).json() == []
    assert get(client, **{"from": "9999-12-31T00:00:00Z", "to": "9999-12-31T23:59:59.999999Z"}).json() == []


# --- pages ---------------------------------------------------------------------------------------------------------


def test_a_cursor_says_where_it_goes_on() -> None:
    for is_back in (False, True):
        cursor = Cursor(is_back, NOON + timedelta(microseconds=1), 2**63 - 1, 1, 2**15 - 1)
        assert Cursor.read(str(cursor)) == cursor


def test_no_sample_is_skipped_or_repeated_while_others_come_in(
    client: APIClient, path: Target, point: VantagePoint
) -> None:
    other = factories.target(domain=factories.domain(service=factories.service(customer=path.customer)))
    points = [point, factories.vantage_point()]
    slots = times(NOON, NOON + 126 * 2 * SECOND, 4)
    record([path, other], points[:1], slots)  # two ties on every slot
    before = {key(row) for page in pages(client, get(client, limit=100)) for row in page}
    assert len(before) == 126

    answer, found = get(client, limit=20), []
    for n in range(100):
        found += [key(row) for row in answer.json()]
        # Newer ones, and late ones beside those that were seen already and those that were not.
        seen(path, points[1], NOON + HOUR / 2 + n * SECOND)
        seen(other, points[1], slots[n % len(slots)])
        if not link(answer):
            break
        answer = client.get(link(answer))
    assert len(found) == len(set(found))
    assert before <= set(found)
    assert found == sorted(found, key=lambda k: (k[0], k[1]), reverse=True)


def test_250_samples_in_pages_there_and_back(client: APIClient, path: Target, point: VantagePoint) -> None:
    record([path], [point], times(NOON, NOON + 250 * SECOND, 1))
    answer = get(client, limit=100)
    there = [*pages(client, answer)]
    assert [len(page) for page in there] == [100, 100, 50]
    slots = [row["slot_at"] for page in there for row in page]
    assert slots == sorted(set(slots), reverse=True) and len(slots) == 250

    last = client.get(link(client.get(link(answer))))
    assert last.json() == there[2] and not link(last)
    back = [*pages(client, last, "prev")]
    assert back == there[::-1]
    second = client.get(link(last, "prev"))
    assert client.get(link(second)).json() == there[2]


def test_ties_on_the_slot_are_told_apart_by_the_rest_of_the_key(
    client: APIClient, path: Target, point: VantagePoint
) -> None:
    backup = factories.target("backup", domain=path.domain)
    for target in (path, backup):
        for place in (point, factories.vantage_point()):
            for attempt in range(3):
                seen(target, place, attempt=attempt)
    one_by_one = [row for page in pages(client, get(client, limit=1)) for row in page]
    assert one_by_one == get(client).json()
    assert len({key(row) for row in one_by_one}) == 12
    assert [row["attempt"] for row in one_by_one[:3]] == [2, 1, 0]


def test_pages_keep_their_filters_and_their_times(client: APIClient, path: Target, point: VantagePoint) -> None:
    now = timezone.now()
    for ago in range(1, 5):
        seen(path, point, now - ago * SECOND, outcome="timeout" if ago % 2 else "ok")
    answer = client.get("/v1/samples?limit=1&outcome=timeout")
    seen(path, point, timezone.now() + HOUR / 60, outcome="timeout")
    assert [row["outcome"] for page in pages(client, answer) for row in page] == ["timeout", "timeout"]
    assert "from=" in link(answer) and "to=" in link(answer)


# --- what it costs -------------------------------------------------------------------------------------------------


def test_queries_do_not_grow_with_what_there_is(client: APIClient, path: Target, point: VantagePoint) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert get(client).status_code == 200
        return len(queries)

    count()
    few = count()
    for _ in range(5):
        target = factories.target(domain=factories.domain(service=factories.service(customer=path.customer)))
        record([target], [point, factories.vantage_point()], times(NOON, NOON + 20 * SECOND, 1))
    assert count() == few


def test_only_the_index_by_service_is_read(client: APIClient, path: Target, point: VantagePoint) -> None:
    """Also where all that Postgres knows of is somebody else's, so that walking back through everything looks cheap."""
    partitions.maintain(NOON)
    noisy = factories.target()
    record([noisy], [point], times(NOON, NOON + 3000 * SECOND, 1))
    with connection.cursor() as cursor:
        # Of this partition alone: that another one is empty now would be remembered when this test is rolled back, and
        # spoil the plans of tests that fill it.
        cursor.execute("ANALYZE probe_samples_20261123")
        record([path], [point], [NOON - HOUR / 2])
        with CaptureQueriesContext(connection) as queries:
            assert len(get(client).json()) == 1
        (sql,) = (query["sql"] for query in queries if "LATERAL" in query["sql"])
        cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF) {sql}")
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "probe_samples_20261123_service_id_slot_at_idx" in plan
    assert "probe_samples_20261123_pkey" not in plan and "Seq Scan on probe_samples_20261123" not in plan
    assert "Rows Removed by Filter" not in plan
