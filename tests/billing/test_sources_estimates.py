"""Estimates: what Cloudflare's and Fastly's statistics tell, asked within their limits, and set beside what was metered."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from billing import estimating
from billing.models import UsageEstimate, UsageSnapshot, UsageSource
from billing.sources import Access, HostHour, SourceUnavailable
from billing.sources.cloudflare_graphql import CloudflareGraphql
from billing.sources.fastly_stats import FastlyStats
from customers.models import Customer
from services.models import Cdn, Target
from tests import factories
from tests.billing.fake_api import Reply, as_json
from tests.billing.fake_cloudflare import FakeCloudflare, Zone
from tests.billing.fake_fastly import FakeFastly

NOW = datetime(2026, 3, 2, 12, 30, tzinfo=UTC)
TO = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ZONE = "023e105f4ecef8ad9ca31a8372d0c353"


class Period(NamedTuple):
    start: datetime
    end: datetime


DAY = Period(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 3, tzinfo=UTC))


def zone_id(number: int) -> str:
    return f"{number:032x}"


@pytest.fixture
def cloudflare() -> Iterator[FakeCloudflare]:
    with FakeCloudflare(NOW) as api:
        api.zones[ZONE] = Zone()
        yield api


@pytest.fixture
def fastly() -> Iterator[FakeFastly]:
    with FakeFastly(NOW) as api:
        yield api


def asking(api: FakeCloudflare, zones: dict[str, str] | None = None) -> CloudflareGraphql:
    options = {"zones": zones or {ZONE: "example.com"}}
    return CloudflareGraphql(Access(endpoint_url=api.url, secret=api.TOKEN, options=options), NOW)


def by_host(rows: Iterator[HostHour]) -> dict[tuple[str, datetime], tuple[int, int]]:
    found = [((row.host, row.hour), (row.requests, row.bytes)) for row in rows]
    assert len(found) == len(dict(found)), "an hour of a host came twice"
    return dict(found)


# --- Cloudflare: one query ----------------------------------------------------------------------------------------


def test_only_visitors_requests_count(cloudflare: FakeCloudflare) -> None:
    cloudflare.put(ZONE, "www.example.com", TO - HOUR, 3, 3000)
    cloudflare.put(ZONE, "www.example.com", TO - HOUR, 90, 9_000_000, source="edgeWorkerFetch")
    rows = by_host(asking(cloudflare).hours({"www.example.com"}, TO - HOUR, TO))
    assert rows == {("www.example.com", TO - HOUR): (3, 3000)}


def test_the_fake_counts_workers_where_visitors_are_not_asked_for(
    cloudflare: FakeCloudflare, monkeypatch: pytest.MonkeyPatch
) -> None:
    from billing.sources import cloudflare_graphql

    cloudflare.put(ZONE, "www.example.com", TO - HOUR, 90, 9_000_000, source="edgeWorkerFetch")
    without = cloudflare_graphql.USAGE.replace('requestSource: "eyeball",', "")
    monkeypatch.setattr(cloudflare_graphql, "USAGE", without)
    rows = by_host(asking(cloudflare).hours({"www.example.com"}, TO - HOUR, TO))
    assert rows == {("www.example.com", TO - HOUR): (90, 9_000_000)}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("sum { edgeResponseBytes }\n", "sum { bytes }\n"), ("datetimeHour ", "hour "), ("datetime_geq", "datetime_ge")],
)
def test_a_wrong_field_is_refused_and_said(
    cloudflare: FakeCloudflare, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from billing.sources import cloudflare_graphql

    assert right in cloudflare_graphql.USAGE
    monkeypatch.setattr(cloudflare_graphql, "USAGE", cloudflare_graphql.USAGE.replace(right, wrong))
    with pytest.raises(SourceUnavailable, match=f"Cloudflare: .*{wrong.strip('sum {}').split()[0]}"):
        by_host(asking(cloudflare).hours({"www.example.com"}, TO - HOUR, TO))


def test_hours_beyond_the_question_are_left_out_and_hours_without_traffic_are_told(cloudflare: FakeCloudflare) -> None:
    for hour in range(-3, 4):
        cloudflare.put(ZONE, "www.example.com", TO + hour * HOUR, 1, 10 + hour)
    rows = by_host(asking(cloudflare).hours({"www.example.com", "quiet.example.com"}, TO, TO + 2 * HOUR))
    assert rows == {
        ("www.example.com", TO): (1, 10), ("www.example.com", TO + HOUR): (1, 11),
        ("quiet.example.com", TO): (0, 0), ("quiet.example.com", TO + HOUR): (0, 0),
    }  # fmt: skip


def test_a_sample_has_its_interval(cloudflare: FakeCloudflare) -> None:
    cloudflare.sampling = 10
    cloudflare.put(ZONE, "www.example.com", TO, 100, 100_000)
    (row,) = asking(cloudflare).hours({"www.example.com"}, TO, TO + HOUR)
    assert row == HostHour("www.example.com", TO, 97_000, 100, 87_000, 107_000, 10.0)
    cloudflare.has_confidence = False
    (row,) = asking(cloudflare).hours({"www.example.com"}, TO, TO + HOUR)
    assert (row.low_bytes, row.high_bytes) == (None, None)


# --- Cloudflare: within its limits --------------------------------------------------------------------------------


def test_at_most_ten_zones_are_asked_at_once(cloudflare: FakeCloudflare) -> None:
    zones = {zone_id(number): f"z{number}.example" for number in range(23)}
    for number, zone in enumerate(zones):
        cloudflare.put(zone, f"www.z{number}.example", TO, 1, number)
    hosts = {f"www.z{number}.example" for number in range(23)}
    rows = by_host(asking(cloudflare, zones).hours(hosts, TO, TO + HOUR))
    assert rows == {(f"www.z{number}.example", TO): (1, number) for number in range(23)}
    assert [len(asked["zones"]) for asked in cloudflare.usage_variables] == [10, 10, 3]
    assert sorted(len(asked["hosts"]) for asked in cloudflare.usage_variables) == [3, 10, 10]


def test_spans_and_pages_keep_to_what_each_zone_allows(cloudflare: FakeCloudflare) -> None:
    narrow = zone_id(7)
    cloudflare.zones[narrow] = Zone(max_duration=2 * 3600 + 59, max_page_size=50)
    hosts = {f"h{number}.example.com" for number in range(10)}
    for host in hosts:
        for hour in range(6):
            cloudflare.put(ZONE, host, TO + hour * HOUR, 1, 1)
    rows = by_host(asking(cloudflare, {ZONE: "example.com", narrow: "example.com"}).hours(hosts, TO, TO + 6 * HOUR))
    assert sum(size for _, size in rows.values()) == 60
    assert {asked["limit"] for asked in cloudflare.usage_variables} == {50}
    assert len(cloudflare.usage_variables) == 3


@pytest.mark.parametrize(("page", "least"), [(13, (6, 1)), (10, (3, 1)), (4, (1, 1))])
def test_a_full_page_is_split_until_nothing_is_cut_off(
    cloudflare: FakeCloudflare, page: int, least: tuple[int, int]
) -> None:
    """The hour before the span takes places on the page too, so that it is full though it seemed to suffice."""
    cloudflare.zones[ZONE] = Zone(max_page_size=page)
    hosts = {f"h{number}.example.com" for number in range(6)}
    expected = {}
    for number, host in enumerate(sorted(hosts)):
        for hour in range(-2, 9):
            cloudflare.put(ZONE, host, TO + hour * HOUR, number, 1000 * number + hour + 2)
            if 0 <= hour < 8:
                expected[host, TO + hour * HOUR] = (number, 1000 * number + hour + 2)
    assert by_host(asking(cloudflare).hours(hosts, TO, TO + 8 * HOUR)) == expected
    spans = [
        datetime.fromisoformat(asked["until"]) - datetime.fromisoformat(asked["since"])
        for asked in cloudflare.usage_variables
    ]
    assert (min(len(asked["hosts"]) for asked in cloudflare.usage_variables), min(spans) // HOUR) == least


@hypothesis_settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_limits_every_byte_is_told_once(cloudflare: FakeCloudflare, data: st.DataObject) -> None:
    limits = Zone(
        max_page_size=data.draw(st.integers(4, 60)), max_duration=data.draw(st.integers(3600, 50_000)),
        not_older_than=data.draw(st.integers(4 * 3600, 90_000)),
    )  # fmt: skip
    cloudflare.zones = {ZONE: limits, zone_id(2): Zone()}
    cloudflare.budget = 10_000  # one fake serves every example; what happens when it is used up is another test's
    chance = random.Random(data.draw(st.integers(0, 999)))
    since, until = TO - 20 * HOUR, TO
    expected: dict[tuple[str, datetime], tuple[int, int]] = {}
    hosts = {f"h{number}.example.com" for number in range(chance.randrange(1, 9))}
    for zone in cloudflare.zones:
        for host in hosts:
            for hour in range(-22, 2):
                requests, size = chance.randrange(100), chance.randrange(10**9)
                if chance.random() < 0.7:
                    cloudflare.put(zone, host, TO + hour * HOUR, requests, size)
                    before = expected.get((host, TO + hour * HOUR), (0, 0))
                    expected[host, TO + hour * HOUR] = before[0] + requests, before[1] + size
    zones = {ZONE: "example.com", zone_id(2): "*"}
    rows = by_host(asking(cloudflare, zones).hours(hosts, since, until))
    oldest = NOW - timedelta(seconds=limits.not_older_than)
    assert all(since <= hour < until and hour >= oldest for _, hour in rows)
    assert {hour for _, hour in rows} >= {TO - HOUR, TO - 2 * HOUR}
    assert rows == {key: expected.get(key, (0, 0)) for key in rows}
    assert {host for host, _ in rows} == hosts


def test_a_zone_that_is_not_enabled_or_not_seen_is_said(cloudflare: FakeCloudflare) -> None:
    with pytest.raises(SourceUnavailable, match=r"Cloudflare: zone 0+9 does not have access"):
        by_host(asking(cloudflare, {zone_id(9): "example.com"}).hours({"www.example.com"}, TO, TO + HOUR))
    cloudflare.zones[ZONE].enabled = False
    with pytest.raises(SourceUnavailable, match=r"is not enabled for example\.com"):
        by_host(asking(cloudflare).hours({"www.example.com"}, TO, TO + HOUR))


@pytest.mark.parametrize(
    "document",
    [
        [], {}, {"data": None}, {"data": {"viewer": {"zones": None}}}, {"data": {"viewer": {"zones": [{}]}}},
        {"data": {"viewer": {"zones": [{"zoneTag": ZONE, "settings": {"httpRequestsAdaptiveGroups": None}}]}}},
    ],
)  # fmt: skip
def test_an_answer_of_another_shape_is_said(cloudflare: FakeCloudflare, document: Any) -> None:
    cloudflare.next = [as_json(200, document)]
    with pytest.raises(SourceUnavailable, match=r"^Cloudflare: "):
        by_host(asking(cloudflare).hours({"www.example.com"}, TO, TO + HOUR))


@pytest.mark.parametrize(
    "change",
    [
        {"count": "5"}, {"count": -1}, {"count": 1.5}, {"count": 10**19}, {"count": True}, {"sum": None}, {"sum": {}},
        {"dimensions": {"datetimeHour": "2026-03-02T12:30:00Z", "clientRequestHTTPHost": "www.example.com"}},
        {"dimensions": {"datetimeHour": "yesterday", "clientRequestHTTPHost": "www.example.com"}},
        {"dimensions": {"datetimeHour": "2026-03-02T12:00:00Z", "clientRequestHTTPHost": None}},
    ],
)  # fmt: skip
def test_a_row_that_cant_be_read_is_said(cloudflare: FakeCloudflare, change: dict[str, Any]) -> None:
    settings = {"enabled": True, "maxDuration": 3600, "maxPageSize": 100, "notOlderThan": 86400}
    row = {
        "count": 1, "sum": {"edgeResponseBytes": 1},
        "dimensions": {"datetimeHour": "2026-03-02T12:00:00Z", "clientRequestHTTPHost": "www.example.com"},
    } | change  # fmt: skip
    zones: list[dict[str, Any]] = [
        {"zoneTag": ZONE, "settings": {"httpRequestsAdaptiveGroups": settings}},
        {"zoneTag": ZONE, "httpRequestsAdaptiveGroups": [row]},
    ]
    cloudflare.next = [as_json(200, {"data": {"viewer": {"zones": [zone]}}, "errors": None}) for zone in zones]
    with pytest.raises(SourceUnavailable, match="can’t be read"):
        by_host(asking(cloudflare).hours({"www.example.com"}, TO, TO + HOUR))


@pytest.mark.parametrize(
    ("reply", "text", "seconds"),
    [
        (as_json(429, {"errors": [{"message": "slow down"}]}, {"Retry-After": "137"}), "429 .too many calls.", 137),
        (as_json(429, {}, {"Retry-After": "999999999"}), "429", 3600),
        (as_json(429, {}, {"Retry-After": "soon"}), "429", 0),
        (
            as_json(200, {"data": None, "errors": [{"message": "Rate limiter budget depleted. Try after 5 minutes."}]}),
            "budget depleted",
            300,
        ),
        (Reply(500, b"<html>no</html>"), "500$", 0),
        (Reply(302, b"", {"Location": "http://169.254.169.254/"}), "redirects are not followed", 0),
        (Reply(200, b"{" * 100_000), "can’t be read", 0),
        (Reply(200, b"{}", is_cut=True), "Cloudflare: /graphql: ", 0),
    ],
)
def test_a_refusal_says_why_and_how_long_to_wait(
    cloudflare: FakeCloudflare, reply: Reply, text: str, seconds: int
) -> None:
    cloudflare.next = [reply]
    with pytest.raises(SourceUnavailable, match=text) as caught:
        by_host(asking(cloudflare).hours({"www.example.com"}, TO, TO + HOUR))
    assert caught.value.retry_seconds == seconds
    assert len(cloudflare.calls) == 1


# --- Fastly -------------------------------------------------------------------------------------------------------


def stats(api: FakeFastly, services: dict[str, str]) -> FastlyStats:
    return FastlyStats(Access(endpoint_url=api.url, secret=api.KEY, options={"service_ids": services}), NOW)


def test_fastly_is_asked_by_the_hour_with_epochs(fastly: FakeFastly) -> None:
    fastly.services["abc"] = {TO - hour * HOUR: (hour, hour * 1000) for hour in range(6)}
    fastly.shield_bytes = 77
    rows = by_host(stats(fastly, {"abc": "www.example.com"}).hours({"www.example.com"}, TO - 4 * HOUR, TO - HOUR))
    assert rows == {("www.example.com", TO - hour * HOUR): (hour, hour * 1000) for hour in (4, 3, 2)}
    (call,) = fastly.calls
    assert call.query == {
        "from": str(int((TO - 4 * HOUR).timestamp())), "to": str(int((TO - HOUR).timestamp())), "by": "hour",
    }  # fmt: skip


def test_of_a_service_without_edge_columns_all_of_its_bytes_count(fastly: FakeFastly) -> None:
    row = {"start_time": int(TO.timestamp()), "bandwidth": 5, "requests": 2}
    fastly.next = [as_json(200, {"status": "success", "data": [row]})]
    rows = by_host(stats(fastly, {"abc": "www.example.com"}).hours({"www.example.com"}, TO, TO + HOUR))
    assert rows == {("www.example.com", TO): (2, 5)}


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (as_json(200, {"status": "error", "msg": "bad from"}), "bad from"),
        (as_json(200, {"status": "success", "meta": {"by": "day"}, "data": []}), "by day"),
        (as_json(200, {"status": "success", "data": {}}), ""),
        (
            as_json(200, {"status": "success", "data": [{"start_time": 1, "bandwidth": 1, "requests": 1}]}),
            "can’t be read",
        ),
        (as_json(200, {"status": "success", "data": [{"start_time": 10**17}]}), "can’t be read"),
        (as_json(200, {"status": "success", "data": [None]}), "can’t be read"),
    ],
)
def test_what_fastly_does_not_tell_is_said(fastly: FakeFastly, reply: Reply, text: str) -> None:
    fastly.next = [reply]
    asked = stats(fastly, {"abc": "www.example.com"}).hours({"www.example.com"}, TO, TO + HOUR)
    if not text:  # an object is empty as a list is
        assert by_host(asked) == {("www.example.com", TO): (0, 0)}
        return
    with pytest.raises(SourceUnavailable, match=f"^Fastly: /stats/service/abc: .*{text}"):
        by_host(asked)


def test_a_service_that_fastly_does_not_know_is_said(fastly: FakeFastly) -> None:
    with pytest.raises(SourceUnavailable, match="404: Record not found"):
        by_host(stats(fastly, {"abc": "www.example.com"}).hours({"www.example.com"}, TO, TO + HOUR))


# --- what is stored -----------------------------------------------------------------------------------------------


@pytest.fixture
def cdn(db: None) -> Cdn:
    return factories.cdn(name="Cloudflare")


@pytest.fixture
def path(cdn: Cdn) -> Target:
    return factories.target(domain=factories.domain(hostname="www.example.com"), cdn=cdn)


def cloudflare_source(api: FakeCloudflare, cdn: Cdn, **more: Any) -> UsageSource:
    options = {"zones": {ZONE: "example.com"}}
    fields = {"name": "analytics", "kind": "cloudflare_graphql", "options": options, "endpoint_url": api.url}
    return sealed_source(api.TOKEN, cdn=cdn, **fields | more)


def fastly_source(api: FakeFastly, cdn: Cdn, services: dict[str, str], **more: Any) -> UsageSource:
    options = {"service_ids": services}
    fields = {"name": "stats", "kind": "fastly_stats", "options": options, "endpoint_url": api.url}
    return sealed_source(api.KEY, cdn=cdn, **fields | more)


def sealed_source(secret: str, **fields: Any) -> UsageSource:
    source = UsageSource.objects.create(**fields)
    source.full_clean()
    source.seal(secret)
    source.save()
    return source


def stored() -> dict[tuple[str, datetime], tuple[int, int]]:
    return {
        (row.target.host, row.window_start): (row.requests, row.bytes)
        for row in UsageEstimate.objects.select_related("target__domain")
    }


def test_a_first_turn_asks_for_a_day_of_complete_hours(cloudflare: FakeCloudflare, cdn: Cdn, path: Target) -> None:
    for hour in range(-30, 3):
        cloudflare.put(ZONE, "www.example.com", TO + hour * HOUR, 1, 1000 + hour)
    source = cloudflare_source(cloudflare, cdn)
    report = estimating.estimate(source, NOW)
    assert (report.error, report.stored, report.since, report.until) == ("", 24, TO - 24 * HOUR, TO)
    assert stored() == {("www.example.com", TO - hour * HOUR): (1, 1000 - hour) for hour in range(1, 25)}
    row = UsageEstimate.objects.latest("window_start")
    assert path.domain is not None
    assert (row.grade, row.customer_id, row.service_id, row.target_id) == (
        "E4", path.domain.customer_id, path.domain.service_id, path.pk,
    )  # fmt: skip
    assert (row.window_end, row.updated_at, row.sample_interval) == (TO, NOW, 1.0)
    source.refresh_from_db()
    assert (source.cursor, source.listed_at, source.last_error, source.note) == (TO.isoformat(), NOW, "", "")
    assert source.newest_usage_at == TO - timedelta(minutes=1)
    assert source.lag(NOW) == timedelta(minutes=31)


def test_a_later_turn_asks_again_for_the_last_hours_and_replaces_them(
    cloudflare: FakeCloudflare, cdn: Cdn, path: Target
) -> None:
    for hour in range(-24, 2):
        cloudflare.put(ZONE, "www.example.com", TO + hour * HOUR, 1, 10)
    source = cloudflare_source(cloudflare, cdn)
    estimating.estimate(source, NOW)
    cloudflare.usage_variables.clear()
    cloudflare.put(ZONE, "www.example.com", TO - HOUR, 2, 20)
    del cloudflare.zones[ZONE].traffic["www.example.com", TO - 2 * HOUR, "eyeball"]
    estimating.estimate(source, NOW + HOUR)
    assert [asked["since"] for asked in cloudflare.usage_variables] == ["2026-03-02T09:00:00Z"]
    found = stored()
    assert len(found) == 25
    assert found["www.example.com", TO - HOUR] == (2, 20)
    assert found["www.example.com", TO - 2 * HOUR] == (0, 0)
    assert found["www.example.com", TO] == (1, 10)


def test_asking_twice_changes_nothing(cloudflare: FakeCloudflare, cdn: Cdn, path: Target) -> None:
    cloudflare.put(ZONE, "www.example.com", TO - HOUR, 3, 30)
    source = cloudflare_source(cloudflare, cdn)
    estimating.estimate(source, NOW)
    before = stored(), set(UsageEstimate.objects.values_list("pk", flat=True))
    UsageSource.objects.update(cursor="no time at all")
    source.refresh_from_db()
    estimating.estimate(source, NOW)
    assert (stored(), set(UsageEstimate.objects.values_list("pk", flat=True))) == before


def test_a_turn_that_breaks_off_keeps_what_it_has_and_goes_on_from_there(
    cloudflare: FakeCloudflare, cdn: Cdn, path: Target
) -> None:
    source = cloudflare_source(cloudflare, cdn)
    cloudflare.budget = 3  # the limits, and two spans
    (report,) = estimating.estimate_all(NOW)
    assert "429 (too many calls): more than 300 queries" in report.error
    assert len(stored()) == 12
    source.refresh_from_db()
    assert source.cursor == (TO - 12 * HOUR).isoformat()
    assert source.last_error == report.error
    assert source.next_look_at == NOW + timedelta(seconds=137)
    assert source.listed_at is None
    assert estimating.estimate_all(NOW + timedelta(seconds=136)) == []
    cloudflare.budget = 300
    (report,) = estimating.estimate_all(NOW + timedelta(seconds=137))
    assert (report.error, report.since, len(stored())) == ("", TO - 15 * HOUR, 24)


def test_a_source_is_asked_every_quarter_of_an_hour_by_one_run(
    cloudflare: FakeCloudflare, cdn: Cdn, path: Target
) -> None:
    source = cloudflare_source(cloudflare, cdn)
    assert source.claim_look(NOW)
    assert not source.claim_look(NOW)
    assert estimating.estimate_all(NOW + timedelta(seconds=899)) == []
    assert len(estimating.estimate_all(NOW + timedelta(seconds=900))) == 1


def test_one_that_cant_be_asked_holds_up_no_other(
    cloudflare: FakeCloudflare, fastly: FakeFastly, cdn: Cdn, path: Target
) -> None:
    cloudflare_source(cloudflare, cdn, name="0 comes first", endpoint_url="http://127.0.0.1:1")
    cloudflare_source(cloudflare, cdn, name="1 has no secret").seal("")
    UsageSource.objects.filter(name="1 has no secret").update(sealed_credentials="")
    UsageSource.objects.create(name="2 is of logs", kind="directory", format="cloudfront", cdn=cdn, location="/nowhere")
    cloudflare_source(cloudflare, cdn, name="3 is off", enabled=False)
    fastly.services["abc"] = {TO - HOUR: (5, 50)}
    fastly_source(fastly, cdn, {"abc": "www.example.com"}, name="4 works")
    reports = estimating.estimate_all(NOW)
    assert [(report.source, bool(report.error), report.stored) for report in reports] == [
        ("0 comes first", True, 0), ("1 has no secret", True, 0), ("4 works", False, 24),
    ]  # fmt: skip
    assert stored()["www.example.com", TO - HOUR] == (5, 50)


def test_a_long_pause_is_caught_up_with_over_turns(
    cloudflare: FakeCloudflare, cdn: Cdn, path: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    from billing.sources import cloudflare_graphql

    source = cloudflare_source(cloudflare, cdn, cursor=(TO - 40 * HOUR).isoformat())
    monkeypatch.setattr(cloudflare_graphql, "_MOST_QUERIES", 3)
    ends = []
    for _ in range(6):
        ends.append(estimating.estimate(source, NOW).until)
    assert ends == [TO - 31 * HOUR, TO - 22 * HOUR, TO - 13 * HOUR, TO - 4 * HOUR, TO, TO]
    assert len(stored()) == 43


# --- whose it is --------------------------------------------------------------------------------------------------


def test_a_customers_source_tells_of_no_others_hostname(cloudflare: FakeCloudflare, cdn: Cdn, path: Target) -> None:
    other = factories.target(domain=factories.domain(hostname="shop.example.com"), cdn=cdn)
    assert path.domain is not None and other.domain is not None
    for host in ("www.example.com", "shop.example.com"):
        cloudflare.put(ZONE, host, TO - HOUR, 1, 10)
    source = cloudflare_source(cloudflare, cdn, customer=path.domain.customer)
    report = estimating.estimate(source, NOW)
    reason = "the hostname belongs to another customer than this source"
    assert report.left_out == {"shop.example.com": reason}
    assert set(UsageEstimate.objects.values_list("customer", flat=True)) == {path.domain.customer_id}
    assert all(asked["hosts"] == ["www.example.com"] for asked in cloudflare.usage_variables)
    source.refresh_from_db()
    assert source.note == f"left out: shop.example.com: {reason}"


def test_a_source_of_all_tells_each_customer_its_own(cloudflare: FakeCloudflare, cdn: Cdn, path: Target) -> None:
    other = factories.target(domain=factories.domain(hostname="shop.example.com"), cdn=cdn)
    cloudflare.put(ZONE, "www.example.com", TO - HOUR, 1, 10)
    cloudflare.put(ZONE, "shop.example.com", TO - HOUR, 2, 20)
    estimating.estimate(cloudflare_source(cloudflare, cdn), NOW)
    rows = UsageEstimate.objects.filter(window_start=TO - HOUR).order_by("bytes")
    assert [(row.customer, row.target, row.bytes) for row in rows] == [
        (path.customer, path, 10), (other.customer, other, 20),
    ]  # fmt: skip


def test_a_fastly_service_of_anothers_hostname_is_left_out_and_not_asked(
    fastly: FakeFastly, cdn: Cdn, path: Target
) -> None:
    factories.target(domain=factories.domain(hostname="shop.example.com"), cdn=cdn)
    factories.target(domain=factories.domain(hostname="elsewhere.example.com"))
    assert path.domain is not None
    hosts = ("www", "shop", "elsewhere", "unknown")
    services = {host: f"{host}.example.com" for host in hosts}
    fastly.services = {host: {TO - HOUR: (1, 10)} for host in hosts}
    report = estimating.estimate(fastly_source(fastly, cdn, services, customer=path.domain.customer), NOW)
    theirs = "the hostname belongs to another customer than this source"
    assert report.left_out == {
        "shop.example.com": theirs, "elsewhere.example.com": theirs,
        "unknown.example.com": "no verified domain has this hostname",
    }  # fmt: skip
    assert {host for host, _ in stored()} == {"www.example.com"}
    assert {call.path for call in fastly.calls} == {"/stats/service/www"}


def test_rows_of_hosts_that_nobody_asked_for_are_left_out(
    cloudflare: FakeCloudflare, cdn: Cdn, path: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeCloudflare, "_passes", lambda *_: True)
    factories.target(domain=factories.domain(hostname="shop.other.test"), cdn=cdn)
    cloudflare.put(ZONE, "shop.other.test", TO - HOUR, 1, 10)
    report = estimating.estimate(cloudflare_source(cloudflare, cdn), NOW)
    assert report.left_out == {"shop.other.test": "nobody asked for this host"}
    assert {host for host, _ in stored()} == {"www.example.com"}


def test_an_hour_in_which_a_hostname_changed_hands_is_nobodys(
    cloudflare: FakeCloudflare, cdn: Cdn, path: Target
) -> None:
    assert path.domain is not None
    for hour in range(-24, 0):
        cloudflare.put(ZONE, "www.example.com", TO + hour * HOUR, 1, 10)
    path.domain.deleted_at = TO - 5 * HOUR + timedelta(minutes=20)
    path.domain.save()
    at = TO - 3 * HOUR + timedelta(seconds=1)
    successor = factories.target(domain=factories.domain(hostname="www.example.com", verified_at=at), cdn=cdn)
    estimating.estimate(cloudflare_source(cloudflare, cdn), NOW)
    whose = dict(UsageEstimate.objects.values_list("window_start", "customer"))
    assert path.domain.customer_id != successor.customer_id
    assert {hour for hour, customer in whose.items() if customer == successor.customer_id} == {TO - 2 * HOUR, TO - HOUR}
    assert max(hour for hour, customer in whose.items() if customer == path.domain.customer_id) == TO - 6 * HOUR
    assert len(whose) == 24 - 3


def test_an_estimate_follows_its_path(cloudflare: FakeCloudflare, cdn: Cdn, path: Target) -> None:
    """What was stored for a path that is another one now is not kept beside it."""
    cloudflare.put(ZONE, "www.example.com", TO - HOUR, 1, 10)
    source = cloudflare_source(cloudflare, cdn)
    estimating.estimate(source, NOW)
    Target.objects.filter(pk=path.pk).update(enabled=False)
    successor = factories.target(domain=path.domain, cdn=cdn)
    estimating.estimate(source, NOW)
    hours = UsageEstimate.objects.filter(window_start__gte=TO - 3 * HOUR).values_list("target", "window_start")
    assert sorted(hours) == [(successor.pk, TO - hour * HOUR) for hour in (3, 2, 1)]
    assert UsageEstimate.objects.count() == 24


# --- what differs -------------------------------------------------------------------------------------------------


def metered(target: Target, hour: datetime, size: int) -> None:
    assert target.domain is not None
    UsageSnapshot.objects.create(
        customer=target.domain.customer, service=target.domain.service, target=target, window_start=hour,
        window_end=hour + HOUR, bytes=size, requests=1,
    )  # fmt: skip


def estimated(source: UsageSource, target: Target, hour: datetime, size: int, **more: int) -> None:
    assert target.domain is not None
    UsageEstimate.objects.create(
        source=source, customer=target.domain.customer, service=target.domain.service, target=target,
        window_start=hour, window_end=hour + HOUR, bytes=size, requests=1, **more,
    )  # fmt: skip


@pytest.fixture
def source(cdn: Cdn) -> UsageSource:
    return UsageSource.objects.create(
        name="analytics", kind="cloudflare_graphql", cdn=cdn, options={"zones": {ZONE: "example.com"}}
    )


@pytest.mark.parametrize(
    ("size", "estimate", "share", "is_alarm", "reason"),
    [
        (1000, 1000, Fraction(0), False, "the same"),
        (990, 1000, Fraction(1, 100), False, "1.00% less was metered than analytics estimates"),
        (989, 1000, Fraction(11, 1000), True, "1.10% less was metered than analytics estimates"),
        (1000, 980, Fraction(1, 50), True, "2.00% more was metered than analytics estimates"),
        (1000, 0, Fraction(1), True, "100.00% more was metered than analytics estimates"),
        (None, 1000, Fraction(1), True, "100.00% less was metered than analytics estimates"),
        (None, 0, Fraction(0), False, "the same"),
    ],
)
def test_more_than_a_hundredth_is_an_alarm(
    source: UsageSource, path: Target, size: int | None, estimate: int, share: Fraction, is_alarm: bool, reason: str
) -> None:
    if size is not None:
        metered(path, TO, size)
    estimated(source, path, TO, estimate)
    (found,) = estimating.differences(None, DAY)
    assert (found.metered_bytes, found.estimated_bytes) == (size or 0, estimate)
    assert (found.share, found.is_alarm, found.reason) == (share, is_alarm, reason)
    assert (found.path, found.source) == ("primary over Cloudflare", "analytics")
    assert (found.start, found.end) == (TO.replace(hour=0), TO.replace(hour=0) + timedelta(days=1))


def test_what_sampling_leaves_open_is_no_alarm(source: UsageSource, path: Target) -> None:
    metered(path, TO, 1050)
    estimated(source, path, TO, 1000, low_bytes=900, high_bytes=1100)
    (found,) = estimating.differences(None, DAY, "hour")
    assert (found.start, found.end, found.is_alarm) == (TO, TO + HOUR, False)
    assert found.reason.endswith("which is within what sampling leaves open")
    UsageEstimate.objects.update(high_bytes=1040)
    assert estimating.differences(None, DAY, "hour")[0].is_alarm


def test_only_hours_with_an_estimate_are_compared(source: UsageSource, path: Target, cdn: Cdn) -> None:
    sibling = factories.target(
        domain=factories.domain(service=path.domain.service, hostname="static.example.com"), cdn=cdn  # type: ignore[union-attr]
    )  # fmt: skip
    elsewhere = factories.target("backup", domain=path.domain)
    for target in (path, sibling, elsewhere):
        for hour in (0, 1, 2):
            metered(target, TO + hour * HOUR, 100)
    estimated(source, path, TO, 100)
    estimated(source, path, TO + HOUR, 100)
    estimated(source, path, DAY.end, 7)  # of another period
    (found,) = estimating.differences(None, DAY)
    assert (found.metered_bytes, found.estimated_bytes) == (200, 200)
    assert [d.metered_bytes for d in estimating.differences(None, DAY, "hour")] == [100, 100]


def test_a_fastly_service_stands_for_all_hosts_of_ours(path: Target, cdn: Cdn) -> None:
    fastly = UsageSource.objects.create(
        name="stats", kind="fastly_stats", cdn=cdn, options={"service_ids": {"a": "www.example.com"}}
    )
    sibling = factories.target(
        domain=factories.domain(service=path.domain.service, hostname="static.example.com"), cdn=cdn  # type: ignore[union-attr]
    )  # fmt: skip
    for target in (path, sibling, factories.target("backup", domain=path.domain)):
        metered(target, TO, 100)
    estimated(fastly, path, TO, 200)
    (found,) = estimating.differences(None, DAY)
    assert (found.metered_bytes, found.estimated_bytes, found.is_alarm) == (200, 200, False)
    estimated(fastly, sibling, TO, 300)  # of another service of Fastly's: nothing of ours is counted twice
    (found,) = estimating.differences(None, DAY)
    assert (found.metered_bytes, found.estimated_bytes) == (200, 500)


def test_usage_that_moved_to_another_path_of_the_host_is_found(source: UsageSource, path: Target, cdn: Cdn) -> None:
    metered(path, TO, 100)
    Target.objects.filter(pk=path.pk).update(enabled=False)
    estimated(source, factories.target(domain=path.domain, cdn=cdn), TO, 100)
    (found,) = estimating.differences(None, DAY)
    assert (found.metered_bytes, found.estimated_bytes) == (100, 100)


def test_each_customer_sees_its_own_largest_first(source: UsageSource, path: Target, cdn: Cdn) -> None:
    other = factories.target(domain=factories.domain(hostname="shop.example.com"), cdn=cdn)
    for target, size in ((path, 98), (other, 50)):
        metered(target, TO, size)
        estimated(source, target, TO, 100)
    customers = [d.customer_id for d in estimating.differences(None, DAY)]
    assert customers == [other.customer_id, path.customer_id]
    assert [d.customer_id for d in estimating.differences(path.customer, DAY)] == [path.customer_id]
    assert estimating.differences(Customer.objects.create(name="nobody"), DAY) == []
